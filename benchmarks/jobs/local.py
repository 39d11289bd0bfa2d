"""Run planned cells, several at once, each in a process of its own: time limit, memory, locks, and a clean end.

A cell holds a lock in its folder for as long as it runs, so that two suites in one results folder share the work, and
a probe that may have to extract features holds a lock on them, so that no second one extracts the same.
"""

import contextlib
import dataclasses
import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdep_benchmarks.durations import duration
from kdep_benchmarks.jobs.cell import OUT_OF_MEMORY, describe, protocol_of
from kdep_benchmarks.jobs.locks import release, take
from kdep_benchmarks.jobs.plan import Planned, Times, add_time, at_once, estimate
from kdep_benchmarks.jobs.progress import Row, Screen, share_done
from kdep_benchmarks.results import Result, TaskCard, read_result, write_result, write_text

COMMAND = (sys.executable, "-m", "kdep_benchmarks.jobs.cell")
TICK = 0.1  # seconds between two looks at the running cells
REDRAW = 1.0  # seconds between two drawings of the table
GRACE = 10.0  # seconds that a cell has to end by itself
WAITING_SHOWN = 5
LAST_LINES = 12
BECAUSE = {OUT_OF_MEMORY: "out of memory", -signal.SIGKILL: "killed by signal 9, as when memory runs out"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """How cells run.

    Attributes:
        jobs: cells at once.
        timeout: seconds a cell may take, None for any time.
        devices: values of CUDA_VISIBLE_DEVICES, one per cell in turn; empty where cells choose for themselves.
    """

    jobs: int = 1
    timeout: float | None = None
    devices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Running:
    """A cell's process; `held` are the descriptors of its locks."""

    planned: Planned
    process: subprocess.Popen[bytes]
    log: Path
    began: datetime.datetime
    held: tuple[int, ...]
    device: str | None

    @property
    def seconds(self) -> float:
        """Since its start."""
        return (now() - self.began).total_seconds()


def run_plan(plan: list[Planned], limits: Limits, times: Times, screen: Screen) -> list[int]:
    """Run the cells of the plan that are to run; returns their exit codes, in the order in which they ended.

    However this function is left, no process of a cell is left behind.
    """
    waiting, running, codes = [planned for planned in plan if planned.state == "to run"], [], []
    total, drawn = len(waiting), 0.0
    warm = {planned.features for planned in plan if planned.state == "done"}
    try:
        while waiting or running:
            elsewhere = fill(waiting, running, limits, warm)
            ended = [(run, *end) for run in running if (end := ending(run, limits)) is not None]
            for run, code, why in ended:
                running.remove(run)
                if code in BECAUSE and not why and not run.planned.cell.halved:
                    screen.say(f"{run.planned.title}  {BECAUSE[code]}, once more with half the batch")
                    running.append(start(once_more(run.planned, code), run.held, run.device, limits))
                    continue
                report = conclude(run, code, why, times)
                release(run.held)
                warm |= {run.planned.features} if code == 0 else set()
                codes.append(code)
                left = time_left(waiting, running, times, limits)
                screen.say(f"[{len(codes)}/{total}] {run.planned.title}  {report}  ({duration(run.seconds)}{left})")
            for planned in elsewhere:
                warm |= {planned.features}
                codes.append(0)
                screen.say(f"[{len(codes)}/{total}] {planned.title}  {outcome(planned, times)}  (by another suite)")
            if not ended and not elsewhere:
                if time.monotonic() - drawn > REDRAW:
                    drawn = time.monotonic()
                    screen.show(
                        rows(waiting, running, times),
                        f"{len(codes)} of {total} ended{time_left(waiting, running, times, limits)}",
                    )
                time.sleep(TICK)
    finally:
        stop(running)
    return codes


def fill(waiting: list[Planned], running: list[Running], limits: Limits, warm: set[str | None]) -> list[Planned]:
    """Start waiting cells while there is room, in order; returns those that another suite has finished meanwhile."""
    elsewhere = []
    for planned in list(waiting):
        if len(running) >= limits.jobs:
            break
        held = take(planned.path.with_suffix(".work") / "lock")
        if held is None:
            continue
        if planned.path.exists() and not planned.cell.force:
            os.close(held)
            elsewhere.append(planned)
        elif planned.features is None or planned.features in warm:
            running.append(start(planned, (held,), free_device(running, limits), limits))
        elif (features := take(feature_lock(planned))) is not None:
            running.append(start(planned, (held, features), free_device(running, limits), limits))
        else:
            os.close(held)
            continue
        # By identity: comparing two plans would compare the weights in them.
        waiting[:] = [other for other in waiting if other is not planned]
    return elsewhere


def feature_lock(planned: Planned) -> Path:
    """The file that is locked while features may be extracted; beside the cells of the checkpoint."""
    return planned.cell.results / planned.key.sha256[:8] / "features" / f".{planned.features}.lock"


def start(planned: Planned, held: tuple[int, ...], device: str | None, limits: Limits) -> Running:
    """Start a cell; its output goes to a log beside the result, that of a second attempt below the first's."""
    log, work = planned.path.with_suffix(".log"), planned.path.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / "cell.in.json", planned.cell.to_json())
    command = [*COMMAND, str(work / "cell.in.json"), "--of-suite"]
    with log.open("a" if planned.cell.halved else "w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # the cell ends when this closes
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(device, limits),
            start_new_session=True,  # Ctrl-C is for us; and its workers can be killed with it
            pass_fds=held,
        )
    return Running(planned, process, log, now(), held, device)


def environment(device: str | None, limits: Limits) -> dict[str, str]:
    """A cell's environment: this code, wherever the suite is started from, its share of the cores, its GPU."""
    search = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    if limits.jobs > 1:
        threads = max(1, cores() // limits.jobs)
        asked = os.environ.get("OMP_NUM_THREADS", "")
        variables["OMP_NUM_THREADS"] = str(min(threads, int(asked)) if asked.isdigit() else threads)
    return variables | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_devices(device: str) -> tuple[str, ...]:
    """GPUs to give to cells in turn: all that are visible, where there are several and none was asked for."""
    import torch

    count = torch.cuda.device_count() if device == "auto" else 0
    if count < 2:
        return ()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")[:count]) if named else tuple(map(str, range(count)))


def free_device(running: list[Running], limits: Limits) -> str | None:
    """The GPU with the fewest cells."""
    busy = [run.device for run in running]
    return min(limits.devices, key=busy.count, default=None)


def ending(run: Running, limits: Limits) -> tuple[int, str] | None:
    """Exit code of a cell that has ended, and why where it was ended by us; None while it runs."""
    code, why = run.process.poll(), ""
    if code is None and limits.timeout is not None and run.seconds > limits.timeout:
        stop([run], keep_locks=True)
        code, why = run.process.returncode, f"stopped after {duration(limits.timeout)} (--timeout)"
    if code is not None:
        kill_group(run)  # loader workers that it may have left behind
        run.process.stdin.close()
    return None if code is None else (code, why)


def once_more(planned: Planned, code: int) -> Planned:
    """The same cell with half the batch."""
    return dataclasses.replace(planned, cell=dataclasses.replace(planned.cell, halved=BECAUSE[code]))


def conclude(run: Running, code: int, why: str, times: Times) -> str:
    """Say what a cell has given; a failed one leaves a row that says so."""
    if code == 0:
        return outcome(run.planned, times)
    text = "\n".join(filter(None, [last_lines(run.log), f"    {why}" if why else ""]))
    write_result(failure(run, code, text), run.planned.cell.results)
    return f"FAILED with exit code {code}, see {run.log}\n{text}"


def outcome(planned: Planned, times: Times) -> str:
    """A finished cell's first scores."""
    result = read_result(planned.path)
    add_time(times, result)
    halved = "  (half the batch)" if "out_of_memory" in result.chosen else ""
    return "  ".join(f"{name} {value:.2f}" for name, value in list(result.metrics.items())[:3]) + halved


def failure(run: Running, code: int, text: str) -> Result:
    """A failed cell as the board shows it."""
    task = run.planned.cell.task
    halved = {"halved": run.planned.cell.halved} if run.planned.cell.halved else {}
    return Result(
        checkpoint=describe(run.planned.checkpoint),
        task=TaskCard(task.name, task.kind, task.family, task.dataset.name),
        protocol=protocol_of(task),
        data_fingerprint=run.planned.key.data_fingerprint,
        seed=run.planned.cell.seed,
        status="failed",
        started=run.began.isoformat(timespec="seconds"),
        error={"exit_code": code, "log": text, **halved},
        settings=task.plain_settings,
    )


def last_lines(log: Path) -> str:
    """The end of a log, without the progress bars' overwritten states."""
    lines = [line.rpartition("\r")[2].rstrip() for line in log.read_text(errors="replace").split("\n")]
    return "\n".join(f"    {line}" for line in [line for line in lines if line][-LAST_LINES:])


def stop(running: list[Running], *, keep_locks: bool = False) -> None:
    """End cells: ask, so that half-written files are removed, then kill them with all their processes."""
    for run in running:
        run.process.terminate()
    deadline = time.monotonic() + GRACE
    try:
        for run in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for run in running:
            kill_group(run)
            run.process.wait()
            if not keep_locks:
                release(run.held)


def kill_group(run: Running) -> None:
    """Kill what is left of a cell and of the processes that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; or, on macOS, only the dead are left
        os.killpg(run.process.pid, signal.SIGKILL)


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, as a cluster's scheduler sends it, end the suite as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can signals be caught
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def rows(waiting: list[Planned], running: list[Running], times: Times) -> list[Row]:
    """The table: all that run, and what comes next."""
    shown = []
    for run in running:
        state = "half batch" if run.planned.cell.halved else "running"
        shown.append(Row(run.planned.title, state, share_done(run.log), run.seconds, cell_left(run, times)))
    shown += [Row(planned.title, "waiting", left=estimate(planned, times)) for planned in waiting[:WAITING_SHOWN]]
    if len(waiting) > WAITING_SHOWN:
        shown.append(Row(f"{len(waiting) - WAITING_SHOWN} more", "waiting"))
    return shown


def cell_left(run: Running, times: Times) -> float | None:
    """Seconds that a running cell still needs by what such cells have taken; None where that is not known."""
    expected = estimate(run.planned, times)
    return None if expected is None else max(0.0, expected - run.seconds)


def time_left(waiting: list[Planned], running: list[Running], times: Times, limits: Limits) -> str:
    """Time for the rest by what cells have taken so far, where it is worth saying."""
    needed = [*(estimate(planned, times) for planned in waiting), *(cell_left(run, times) for run in running)]
    seconds, _ = at_once(needed, jobs=limits.jobs)
    return f", about {duration(seconds)} left" if seconds > 60 else ""


def now() -> datetime.datetime:
    """In UTC."""
    return datetime.datetime.now(datetime.timezone.utc)
