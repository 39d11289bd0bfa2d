"""Run jobs on this machine, several at once: the engine of suites and studies."""

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from kdep_benchmarks.jobs.engine import Slot, T

LOOK = 1.0  # seconds between two calls of `meanwhile`


@dataclass(frozen=True)
class Local:
    """An engine with a number of slots on this machine. Each job starts its own process and waits for it in a thread.

    Attributes:
        jobs: how many run at once.
        threads: CPU threads of each job; None leaves the choice to the libraries.
        devices: values of CUDA_VISIBLE_DEVICES to share among the slots; empty where jobs choose for themselves.
    """

    jobs: int = 1
    threads: int | None = None
    devices: tuple[str, ...] = ()

    def run(
        self, jobs: Sequence[Callable[[Slot], T]], *, meanwhile: Callable[[], None] | None = None
    ) -> Iterator[tuple[int, T]]:
        """See `Engine.run`. SIGTERM, as a cluster's scheduler sends it, ends the jobs as Ctrl-C does."""
        stop, free = threading.Event(), queue.SimpleQueue()
        for number in range(self.jobs):
            device = self.devices[number % len(self.devices)] if self.devices else None
            free.put(Slot(self.threads, device, stop))

        def in_slot(job: Callable[[Slot], T]) -> T:
            slot = free.get()
            try:
                return job(slot)
            finally:
                free.put(slot)

        pool = ThreadPoolExecutor(self.jobs)
        try:
            with sigterm_interrupts():
                left = {pool.submit(in_slot, job): position for position, job in enumerate(jobs)}
                while left:
                    ended, _ = wait(left, timeout=LOOK, return_when=FIRST_COMPLETED)
                    for future in sorted(ended, key=lambda future: future.exception() is not None):
                        yield left.pop(future), future.result()
                    if meanwhile is not None:
                        meanwhile()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM. Only the main thread can catch signals; elsewhere nothing changes."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(jobs: int) -> int:
    """Each job's share of the cores, at most OMP_NUM_THREADS where that is set."""
    share, asked = max(1, cores() // jobs), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) > 0 else share


def visible_devices(device: str) -> tuple[str, ...]:
    """The GPUs to share among jobs: all visible ones, where there are several and the user named none."""
    import torch

    count = torch.cuda.device_count() if device == "auto" else 0
    if count < 2:
        return ()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")[:count]) if named else tuple(map(str, range(count)))
