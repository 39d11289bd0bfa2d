"""Doing what a study lacks: banks of targets first, then run by run its pretraining and its scores, several at once.

Every command is a process of its own with a log, in which each start begins with the command as it was started.
"""

import os
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from kdep_benchmarks.durations import duration
from kdep_benchmarks.jobs.local import cores, ended_like_ctrl_c, last_lines, visible_devices
from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.studies.plan import DONE, TO_TRAIN, Item


@dataclass
class Crew:
    """Runs kdep commands, `jobs` at once; none of them outlives the study.

    Attributes:
        devices: values of CUDA_VISIBLE_DEVICES that are free, one per job; empty where commands choose for themselves.
    """

    jobs: int
    devices: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)
    _running: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    _stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, arguments: Sequence[str], log: Path, *, threads: int, device: str | None = None) -> int:
        """Run a command to its end; returns its exit code."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as output:
            output.write(f"OMP_NUM_THREADS={threads} kdep {shlex.join(arguments)}\n")
            output.flush()
            command = [sys.executable, "-m", "kdep.cli", *arguments]
            with self._lock:  # whatever starts before `stop` is ended by it, and nothing starts after it
                if self._stopped:
                    return 1
                process = subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, env=environment(threads, device)
                )
                self._running.add(process)
            code = process.wait()
        self._running.discard(process)
        return code

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
        left = list(self._running)
        for process in left:
            process.terminate()
        for process in left:
            process.wait()


def environment(threads: int, device: str | None) -> dict[str, str]:
    """A command's environment: this code, wherever the study is started from, its share of the cores, its GPU."""
    search = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(search), "OMP_NUM_THREADS": str(threads)}
    return variables | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})


def threads_for(jobs: int) -> int:
    """Each job's share of the cores; no more than OMP_NUM_THREADS, where that is set."""
    share, asked = max(1, cores() // jobs), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) > 0 else share


def work(study: Study, plan: Sequence[Item], runs: Path, results: Path, *, jobs: int, after: Callable[[], None]) -> int:
    """Do what is left of a plan; `after` is called behind every student's scores. Returns how many runs failed.

    However this function is left, no process of its own is left behind.
    """
    crew = Crew(jobs)
    for number, device in enumerate(visible_devices("auto") * jobs if jobs > 1 else ()):
        if number < jobs:
            crew.devices.put(device)
    lock, failures = threading.Lock(), []

    with ended_like_ctrl_c():
        pool = ThreadPoolExecutor(jobs)
        try:
            without_bank = make_banks(crew, study, plan, runs)
            todo = [item for item in students(plan) if item.run.name not in without_bank]
            started = time.monotonic()

            def do(item: Item) -> None:
                failed = item_done(crew, study, item, runs, results)
                with lock:
                    failures.append(failed)
                    say(progress(len(failures), len(todo), time.monotonic() - started))
                    after()

            list(pool.map(do, todo))
            return len(without_bank) + sum(failures)
        except BaseException:
            crew.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def progress(done: int, total: int, seconds: float) -> str:
    """How far a study is, and how long the rest takes at the pace so far."""
    if done == total:
        return f"[{done}/{total}] in {duration(seconds)}"
    return f"[{done}/{total}] about {duration(seconds / done * (total - done))} left"


def students(plan: Sequence[Item]) -> list[Item]:
    """What is left, one item per student: first what needs only scores. A checkpoint stands in the plan many times."""
    left: dict[str, Item] = {}
    for item in sorted((item for item in plan if item.state != DONE), key=lambda item: item.state == TO_TRAIN):
        known = left.get(item.run.name)
        cells = item.cells if known is None else tuple(dict.fromkeys((*known.cells, *item.cells)))
        left[item.run.name] = Item(item.run, item.state, cells)
    return list(left.values())


def make_banks(crew: Crew, study: Study, plan: Sequence[Item], runs: Path) -> set[str]:
    """Make or complete the banks of the runs to train; returns the names of the runs whose bank failed."""
    without = set()
    for path, largest in banks_left(study, plan).items():
        # Targets are what all arms share: exact, in whatever precision these learn.
        command = ["targets", str(study.pretrain), *largest.overrides, "precision=float32"]
        log = runs / f"{largest.name}.bank.log"
        code = crew.run(command, log, threads=threads_for(1))
        say(_ended(code, log, f"bank {path}"))
        if code:
            without |= {item.run.name for item in plan if item.state == TO_TRAIN and bank_of(study, item.run) == path}
    return without


def bank_of(study: Study, planned: Run) -> Path | None:
    """The folder of a run's bank."""
    bank = study.config(planned).bank
    return None if bank is None else bank.path


def banks_left(study: Study, plan: Sequence[Item]) -> dict[Path, Run]:
    """Banks that are not there, or not with all views: each with the run that needs most views.

    They are made before the runs, since two runs cannot make one bank at once. All else about a bank is the same in
    all its runs (`kdep_benchmarks.studies.check`).
    """
    from kdep.bank.read import Bank, missing

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
        if not (path / "bank.pt").exists() or missing(Bank(path).description, path, range(views)):
            left[path] = planned
    return left


def item_done(crew: Crew, study: Study, item: Item, runs: Path, results: Path) -> int:
    """Train a run, if need be, and score its student; 1 if one of the two failed."""
    threads, name = threads_for(crew.jobs), re.sub(r"[^\w.+-]+", "_", item.run.name)
    device = None if crew.devices.empty() else crew.devices.get()
    try:
        if item.state == TO_TRAIN:
            command, log = pretrain_command(study, item.run, runs), runs / f"{name}.log"
            code = crew.run(command, log, threads=threads, device=device)
            say(_ended(code, log, f"pretrain {name}"))
            if code:
                return 1
        command, log = score_command(study, item, runs, results), results / f"{name}.log"
        code = crew.run(command, log, threads=threads, device=device)
        say(_ended(code, log, f"score {name}"))
        return int(code != 0)
    finally:
        if device is not None:
            crew.devices.put(device)


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
    """How a command ended; of a failed one the last line that it wrote, which says why."""
    if code == 0:
        return f"done: {what}"
    said = last_lines(log).splitlines()[-1:] if log.exists() else []
    return "\n".join([f"FAILED ({code}), see {log}: {what}", *said])


def say(text: str) -> None:
    """Print to the person who started the study."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
