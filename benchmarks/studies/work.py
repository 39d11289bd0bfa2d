"""Do what a study lacks: banks of targets first, then each run's pretraining, then its scores.

Each of these is a job of an engine, as the cells of a suite are. A job runs one command in a process with a log, to
which each start first writes the command. Jobs wait for those whose files they need in the engine's own queue.
"""

import contextlib
import os
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdep_benchmarks.durations import duration
from kdep_benchmarks.jobs.engines.choose import choose_engine
from kdep_benchmarks.jobs.engines.engine import Engine, Lost, Slot
from kdep_benchmarks.jobs.engines.local import Local, threads_for, visible_devices
from kdep_benchmarks.jobs.engines.process import last_lines, run_module
from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.studies.plan import TO_SCORE, TO_TRAIN, Item

NOT_STARTED = -1  # in place of an exit code: what the command needs is not there


@dataclass(frozen=True)
class Step:
    """A command of a study.

    Attributes:
        what: what it does, for the terminal.
        command: of kdep.
        log: of its output.
        run: name of the run that it belongs to; empty for a bank.
        after: positions of the steps that it waits for.
        needs: whether the files that it reads are there.
    """

    what: str
    command: list[str]
    log: Path
    run: str = ""
    after: tuple[int, ...] = ()
    needs: Callable[[], bool] | None = None


def engine_for(name: str, options: Mapping[str, Any], *, jobs: int | None, folder: Path) -> Engine:
    """The engine of a study; on this machine, several runs at once have a GPU each.

    Raises:
        ValueError: as `choose_engine`.
    """
    if name != "local" or options:
        return choose_engine(name, options, jobs=jobs, device="auto", folder=folder)
    jobs = jobs or 1
    return Local(jobs, threads_for(jobs), visible_devices("auto") if jobs > 1 else ())


def work(
    study: Study, plan: Sequence[Item], runs: Path, results: Path, *, engine: Engine, after: Callable[[], None]
) -> int:
    """Do what is left of a plan; call `after` whenever a run ends. Returns how many runs failed."""
    apart = not isinstance(engine, Local)  # on a cluster every score is a job; here a process for each costs more
    banks = bank_steps(study, plan, runs)
    steps = [*banks.values(), *run_steps(study, students(plan), runs, results, [*banks], apart=apart)]
    if apart or not banks:
        return run_all(steps, engine, after)
    # Here a bank takes all cores.
    run_all(list(banks.values()), Local(1, threads_for(1)), lambda: None)
    rest = steps[len(banks) :]
    moved = [tuple(place - len(banks) for place in step.after if place >= len(banks)) for step in rest]
    return run_all([replace(step, after=own) for step, own in zip(rest, moved, strict=True)], engine, after)


def run_all(steps: Sequence[Step], engine: Engine, after: Callable[[], None]) -> int:
    """Run steps and say how each ended; call `after` at the end of each run. Returns how many runs failed."""
    left = Counter(step.run for step in steps if step.run)
    total, started, failed = len(left), time.monotonic(), set()
    jobs, waits = [partial(do_step, step) for step in steps], [step.after for step in steps]
    with contextlib.closing(engine.run(jobs, after=waits, say=say)) as ended:
        for position, returned in ended:
            step = steps[position]
            code, said = (1, f"FAILED: {step.what}: {returned.reason}") if isinstance(returned, Lost) else returned
            say(said)
            failed |= {step.run} if code and step.run else set()
            left[step.run] -= 1
            if step.run and not left[step.run]:
                done = sum(not count for run, count in left.items() if run)
                say(progress(done, total, time.monotonic() - started))
                after()
    return len(failed)


def do_step(step: Step, slot: Slot) -> tuple[int, str]:
    """Run a command, if what it needs is there; its exit code, and what to say about it."""
    if step.needs is not None and not step.needs():
        return NOT_STARTED, f"not started: {step.what}: the files that it needs are not there"
    code = run_verb(step.command, step.log, slot)
    return code, _ended(code, step.log, step.what)


def bank_steps(study: Study, plan: Sequence[Item], runs: Path) -> dict[Path, Step]:
    """Make or complete the banks of the runs to train. All arms share a bank's targets, so they are float32."""
    steps = {}
    for path, largest in banks_left(study, plan).items():
        command = ["targets", str(study.pretrain), *largest.overrides, "precision=float32"]
        steps[path] = Step(f"bank {path}", command, runs / f"{largest.name}.bank.log")
    return steps


def run_steps(
    study: Study, todo: Sequence[Item], runs: Path, results: Path, banks: Sequence[Path], *, apart: bool
) -> list[Step]:
    """Train the runs that are to train, and score their students: all tasks of a run in one step, or each `apart`.

    The steps of `banks` come before these.
    """
    from kdep.bank.read import is_complete

    steps: list[Step] = []
    for item in todo:
        name, before, needs = re.sub(r"[^\w.+-]+", "_", item.run.name), (), None
        if item.state == TO_TRAIN:
            bank = bank_of(study, item.run)
            if bank is not None and bank[0] in banks:
                before, needs = (banks.index(bank[0]),), partial(is_complete, *bank)
            command = pretrain_command(study, item.run, runs)
            steps.append(Step(f"pretrain {name}", command, runs / f"{name}.log", item.run.name, before, needs))
            before, needs = (len(banks) + len(steps) - 1,), Path(item.run.student(runs)).is_file
        for tasks in [(task,) for task in item.cells] if apart else [item.cells]:
            command = score_command(study, replace(item, cells=tasks), runs, results)
            what, log = (f"{name} {tasks[0]}", f"{name}.{tasks[0]}.log") if apart else (name, f"{name}.log")
            steps.append(Step(f"score {what}", command, results / log, item.run.name, before, needs))
    return steps


def run_verb(arguments: Sequence[str], log: Path, slot: Slot) -> int:
    """Run a kdep command to its end, below a line in its log that says it; returns its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        threads = slot.threads or os.environ.get("OMP_NUM_THREADS", "")
        output.write(f"OMP_NUM_THREADS={threads} kdep {shlex.join(arguments)}\n")
    return run_module("kdep.cli", arguments, log, slot).code


def progress(done: int, total: int, seconds: float) -> str:
    """How far a study is, and how long the rest takes at the pace so far."""
    if done == total:
        return f"[{done}/{total}] in {duration(seconds)}"
    return f"[{done}/{total}] about {duration(seconds / done * (total - done))} left"


def students(plan: Sequence[Item]) -> list[Item]:
    """What can be done, one item per student, first those to score only; a plan has a checkpoint once per seed."""
    left: dict[str, Item] = {}
    todo = (item for item in plan if item.state in (TO_SCORE, TO_TRAIN))
    for item in sorted(todo, key=lambda item: item.state == TO_TRAIN):
        known = left.get(item.run.name)
        cells = item.cells if known is None else tuple(dict.fromkeys((*known.cells, *item.cells)))
        left[item.run.name] = Item(item.run, item.state, cells)
    return list(left.values())


def bank_of(study: Study, planned: Run) -> tuple[Path, int] | None:
    """The folder of a run's bank and the views that the run reads; None for a run without a bank."""
    config = study.config(planned)
    return None if config.bank is None else (config.bank.path, config.bank.views or config.optim.epochs)


def banks_left(study: Study, plan: Sequence[Item]) -> dict[Path, Run]:
    """Banks that are missing or lack views, each with the run that needs most views.

    They are made before the runs, since two runs cannot make one bank at once. `studies.check` has made sure that the
    runs of a bank agree on everything else.
    """
    from kdep.bank.read import is_complete

    largest: dict[Path, tuple[int, Run]] = {}
    for planned in (item.run for item in plan if item.state == TO_TRAIN):
        bank = bank_of(study, planned)
        if bank is not None and bank[1] > largest.get(bank[0], (0, planned))[0]:
            largest[bank[0]] = (bank[1], planned)
    return {path: planned for path, (views, planned) in largest.items() if not is_complete(path, views)}


def pretrain_command(study: Study, planned: Run, runs: Path) -> list[str]:
    """`kdep pretrain` of a run."""
    return ["pretrain", str(study.pretrain), *planned.overrides, f"runs={runs}"]


def score_command(study: Study, item: Item, runs: Path, results: Path) -> list[str]:
    """`kdep transfer` of a run's student, on the tasks whose scores are missing."""
    score = study.score
    command = ["transfer", item.run.student(runs)]
    if score.data is not None:
        command += ["--data", str(Path(score.data).absolute()), "--tasks", ",".join(study.kinds[c] for c in item.cells)]
        command += [] if score.size is None else ["--size", str(score.size)]
    else:
        command += ["--suite", str(score.suite), "--tasks", ",".join(item.cells)]
    # A checkpoint may stand for several runs, each with a seed of its own.
    seeds = dict.fromkeys(s for run in study.runs if run.name == item.run.name for s in study.score_seeds(run))
    command += ["--seeds", ",".join(map(str, seeds))]
    command += ["--data-root", str(study.data_root), "--results", str(results)]
    for option, given in (("--budget", score.budget), ("--protocol", score.protocol), ("--arch", score.arch)):
        command += [] if given is None else [option, given]
    return command


def _ended(code: int, log: Path, what: str) -> str:
    """How a command ended; for a failed one with the last line of its log, which says why."""
    if code == 0:
        return f"done: {what}"
    said = last_lines(log).splitlines()[-1:] if log.exists() else []
    return "\n".join([f"FAILED ({code}), see {log}: {what}", *said])


def say(text: str) -> None:
    """Print to the person who started the study."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
