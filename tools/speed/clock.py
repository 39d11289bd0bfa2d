"""Measure wall time, CPU time and peak memory; contenders take turns, so that drift of the machine affects both."""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def interleave(contenders: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run A B A B ...; return the figures of each contender."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, measure in contenders.items():
            figures[name].append(measure())
    return figures


def medians(figures: dict[str, list[float]]) -> dict[str, float]:
    """Return the median of each contender."""
    return {name: statistics.median(values) for name, values in figures.items()}


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Measure wall time; on a GPU with two events in its stream and one synchronisation at the end."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def processor_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Limit torch to this many threads in a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resident_mb(field: str = "VmRSS") -> float:
    """Memory of this process in MB: VmRSS now, VmHWM at its peak."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) / 1024
    # No /proc: only the peak is known, in bytes on macOS and in kB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def peak_mb(work: Callable[[], Any]) -> tuple[Any, float]:
    """Result of some work, and by how much memory rose above what was in use before it, in MB.

    Meant for a child process of its own: memory that an earlier computation has left to the allocator is used again
    without showing up.
    """
    if CLEAR.exists():
        CLEAR.write_text("5")  # reset the peak, which the imports raised
    before = resident_mb()
    result = work()
    return result, max(resident_mb("VmHWM") - before, 0.01)


def in_child(function: str, **arguments: Any) -> Any:
    """Call `module:function` with plain arguments in a fresh process and return its plain result.

    Raises:
        RuntimeError: the child failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "tools.speed.child", function, json.dumps(arguments)]
    return answer(subprocess.run(command, capture_output=True, text=True, check=False, env=environment()), function)


def environment() -> dict[str, str]:
    """Return the environment with this checkout on PYTHONPATH."""
    search = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search)}


def answer(child: "subprocess.CompletedProcess[str]", name: str) -> Any:
    """The last line of a child's output, which is its result as JSON.

    Raises:
        RuntimeError: the child failed.
    """
    if child.returncode != 0:
        raise RuntimeError(f"{name} failed (exit code {child.returncode}):\n{(child.stdout + child.stderr)[-2000:]}")
    return json.loads(child.stdout.splitlines()[-1])
