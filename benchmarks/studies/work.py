"""Do what a study lacks: banks of targets first, then run by run its pretraining and its scores.

Runs are jobs of an engine, as the cells of a suite are. Every command of a run is a process with a log, to which each
start first writes the command.
"""

import contextlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from kdep_benchmarks.durations import duration
from kdep_benchmarks.jobs.engine import Slot
from kdep_benchmarks.jobs.local import Local, threads_for, visible_devices
from kdep_benchmarks.jobs.process import last_lines, run_module
from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.studies.plan import DONE, TO_TRAIN, Item


def work(study: Study, plan: Sequence[Item], runs: Path, results: Path, *, jobs: int, after: Callable[[], None]) -> int:
    """Do what is left of a plan; call `after` whenever a run ends. Returns how many runs failed."""
    without_bank = make_banks(study, plan, runs)
    todo = [item for item in students(plan) if item.run.name not in without_bank]
    engine = Local(jobs, threads_for(jobs), visible_devices("auto") if jobs > 1 else ())
    started, failures, work = time.monotonic(), 0, [partial(do_item, study, item, runs, results) for item in todo]
    with contextlib.closing(engine.run(work)) as ended:
        for number, (_, (failed, said)) in enumerate(ended, 1):
            failures += failed
            say(f"{said}\n{progress(number, len(todo), time.monotonic() - started)}")
            after()
    return len(without_bank) + failures


def make_banks(study: Study, plan: Sequence[Item], runs: Path) -> set[str]:
    """Make or complete the banks of the runs to train, one after another; return the runs whose bank failed."""
    without: set[str] = set()
    left = list(banks_left(study, plan).items())
    jobs = [partial(make_bank, study, largest, runs) for _, largest in left]
    with contextlib.closing(Local(1, threads_for(1)).run(jobs)) as ended:
        for position, code in ended:
            path, largest = left[position]
            say(_ended(code, bank_log(largest, runs), f"bank {path}"))
            if code:
                without |= {i.run.name for i in plan if i.state == TO_TRAIN and bank_of(study, i.run) == path}
    return without


def make_bank(study: Study, largest: Run, runs: Path, slot: Slot) -> int:
    """Make one bank, for the run that needs most of it. All arms share its targets, so they are float32."""
    command = ["targets", str(study.pretrain), *largest.overrides, "precision=float32"]
    return run_verb(command, bank_log(largest, runs), slot)


def bank_log(largest: Run, runs: Path) -> Path:
    """The log of a bank."""
    return runs / f"{largest.name}.bank.log"


def do_item(study: Study, item: Item, runs: Path, results: Path, slot: Slot) -> tuple[bool, str]:
    """Train a run, if need be, and score its student; whether one of the two failed, and what to say about them."""
    name = re.sub(r"[^\w.+-]+", "_", item.run.name)
    steps = [(score_command(study, item, runs, results), results / f"{name}.log", f"score {name}")]
    if item.state == TO_TRAIN:
        steps.insert(0, (pretrain_command(study, item.run, runs), runs / f"{name}.log", f"pretrain {name}"))
    said, code = [], 0
    for command, log, what in steps:
        code = run_verb(command, log, slot)
        said.append(_ended(code, log, what))
        if code:
            break
    return code != 0, "\n".join(said)


def run_verb(arguments: Sequence[str], log: Path, slot: Slot) -> int:
    """Run a kdep command to its end, below a line in its log that says it; returns its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        output.write(f"OMP_NUM_THREADS={slot.threads} kdep {shlex.join(arguments)}\n")
    return run_module("kdep.cli", arguments, log, slot).code


def progress(done: int, total: int, seconds: float) -> str:
    """How far a study is, and how long the rest takes at the pace so far."""
    if done == total:
        return f"[{done}/{total}] in {duration(seconds)}"
    return f"[{done}/{total}] about {duration(seconds / done * (total - done))} left"


def students(plan: Sequence[Item]) -> list[Item]:
    """What is left, one item per student, those that need only scores first; a plan has a checkpoint once per seed."""
    left: dict[str, Item] = {}
    for item in sorted((item for item in plan if item.state != DONE), key=lambda item: item.state == TO_TRAIN):
        known = left.get(item.run.name)
        cells = item.cells if known is None else tuple(dict.fromkeys((*known.cells, *item.cells)))
        left[item.run.name] = Item(item.run, item.state, cells)
    return list(left.values())


def bank_of(study: Study, planned: Run) -> Path | None:
    """The folder of a run's bank."""
    bank = study.config(planned).bank
    return None if bank is None else bank.path


def banks_left(study: Study, plan: Sequence[Item]) -> dict[Path, Run]:
    """Banks that are missing or lack views, each with the run that needs most views.

    They are made before the runs, since two runs cannot make one bank at once. `studies.check` has made sure that the
    runs of a bank agree on everything else.
    """
    from kdep.bank.read import is_complete

    largest: dict[Path, tuple[int, Run]] = {}
    for planned in (item.run for item in plan if item.state == TO_TRAIN):
        config = study.config(planned)
        if config.bank is not None:
            views = config.bank.views or config.optim.epochs
            known = largest.get(config.bank.path)
            if known is None or views > known[0]:
                largest[config.bank.path] = (views, planned)
    left = {}
    for path, (views, planned) in largest.items():
        if not is_complete(path, views):
            left[path] = planned
    return left


def pretrain_command(study: Study, planned: Run, runs: Path) -> list[str]:
    """`kdep pretrain` of a run."""
    return ["pretrain", str(study.pretrain), *planned.overrides, f"runs={runs}"]


def score_command(study: Study, item: Item, runs: Path, results: Path) -> list[str]:
    """`kdep transfer` of a run's student, on the tasks whose scores are missing."""
    score = study.score
    command = ["transfer", item.run.student(runs), "--suite", score.suite, "--tasks", ",".join(item.cells)]
    command += ["--seeds", ",".join(str(seed) for seed in study.score_seeds)]
    command += ["--data-root", str(study.data_root), "--results", str(results)]
    return [*command, "--budget", score.budget, *([] if score.protocol is None else ["--protocol", score.protocol])]


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
