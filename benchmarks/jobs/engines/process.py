"""Run a module in a process of its own: its log, time limit and resources, and an end that leaves nothing running."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from kdep.cores import SHARE
from kdep_benchmarks.durations import duration
from kdep_benchmarks.jobs.engines.child import PYTHON_MODULE
from kdep_benchmarks.jobs.engines.engine import Slot

if TYPE_CHECKING:
    from kdep_benchmarks.jobs.engines.forks import Forked

LOOK = 0.1  # seconds between two looks at the time limit and at `Slot.stop`
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
LAST_LINES = 12


class Ended(NamedTuple):
    """The exit code of a process, and why this module stopped it; empty where it ended by itself."""

    code: int
    reason: str = ""


def run_module(module: str, arguments: Sequence[str], log: Path, slot: Slot, *, timeout: float | None = None) -> Ended:
    """Run `python -m MODULE ARGUMENTS` and wait for its end.

    The process ends with this one, even if this one is killed (see `kdep_benchmarks.jobs.engines.child`).

    Args:
        module: name of the module.
        arguments: of the module.
        log: where its output is appended.
        slot: the threads and the device that it may use, and the event that stops it.
        timeout: seconds that it may take; None for no limit.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = start([module, *arguments], output, slot)
    reason, began = "", time.monotonic()
    try:
        while process.poll() is None and not reason:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
            if slot.stop.is_set():
                reason = "stopped"
            elif timeout is not None and time.monotonic() - began > timeout:
                reason = f"stopped after {duration(timeout)} (--timeout)"
    finally:
        end(process)
    return Ended(process.returncode, reason)


def start(words: Sequence[str], output: IO[bytes], slot: Slot) -> "Forked | subprocess.Popen[bytes]":
    """Start `python -m WORDS`: a fork of the slot's server where it has one, else an interpreter of its own."""
    forked = slot.forks.start(words, output) if slot.forks else None
    return forked or subprocess.Popen(
        [*PYTHON_MODULE, "kdep_benchmarks.jobs.engines.child", *words],
        stdin=subprocess.PIPE,  # the child ends when this closes
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment(slot),
        start_new_session=True,  # Ctrl-C reaches this process only; the child's workers can be killed with it
    )


def environment(slot: Slot) -> dict[str, str]:
    """This process's environment with the slot's threads, cores and device."""
    own = {"OMP_NUM_THREADS": slot.threads, SHARE: slot.cores, "CUDA_VISIBLE_DEVICES": slot.device}
    return {**os.environ, **{name: str(value) for name, value in own.items() if value is not None}}


def end(process: "Forked | subprocess.Popen[bytes]") -> None:
    """End a process: SIGTERM, so that it removes half-written files, then SIGKILL for all that is left of its group."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; on macOS also: only zombies are left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()


def last_lines(log: Path) -> str:
    """The end of a log, indented; of a progress bar only its last state."""
    lines = [line.rpartition("\r")[2].rstrip() for line in log.read_text(errors="replace").split("\n")]
    return "\n".join(f"    {line}" for line in [line for line in lines if line][-LAST_LINES:])
