"""Run jobs on this machine, several at once: the engine of suites and studies."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import ClassVar

from kdep.cores import cores
from kdep.interrupts import sigterm_interrupts
from kdep_benchmarks.jobs.engine import Slot, T
from kdep_benchmarks.jobs.forks import Forks
from kdep_benchmarks.jobs.process import environment

LOOK = 1.0  # seconds between two calls of `meanwhile`


@dataclass(frozen=True)
class Local:
    """An engine with a number of slots on this machine. Each job starts its own process and waits for it in a thread.

    Attributes:
        jobs: how many run at once.
        threads: CPU threads of each job; None leaves the choice to the libraries.
        devices: values of CUDA_VISIBLE_DEVICES to share among the slots; empty where jobs choose for themselves.
        modules: imported once, by a process of which those of the jobs are forks; empty where each starts anew.
    """

    jobs: int = 1
    threads: int | None = None
    devices: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    shares_folders: ClassVar[bool] = True

    def run(
        self,
        jobs: Sequence[Callable[[Slot], T]],
        *,
        after: Sequence[Sequence[int]] = (),
        meanwhile: Callable[[], None] | None = None,
    ) -> Iterator[tuple[int, T]]:
        """See `Engine.run`. SIGTERM, as a cluster's scheduler sends it, ends the jobs as Ctrl-C does."""
        stop, free, ready = threading.Event(), queue.SimpleQueue(), Ready(after or [()] * len(jobs))
        forks = Forks(self.modules, environment(Slot(self.threads))) if self.modules else None
        for number in range(self.jobs):
            device = self.devices[number % len(self.devices)] if self.devices else None
            free.put(Slot(self.threads, device, stop, forks))

        def run_next() -> tuple[int, T]:
            position, slot = ready.take(), free.get()
            try:
                return position, jobs[position](slot)
            finally:
                free.put(slot)
                ready.ended(position)

        pool = ThreadPoolExecutor(self.jobs)
        try:
            with sigterm_interrupts():
                left = {pool.submit(run_next) for _ in jobs}
                while left:
                    ended, left = wait(left, timeout=LOOK, return_when=FIRST_COMPLETED)
                    for future in sorted(ended, key=lambda future: future.exception() is not None):
                        yield future.result()
                    if meanwhile is not None:
                        meanwhile()
        finally:
            stop.set()
            ready.close()
            pool.shutdown(cancel_futures=True)
            if forks:
                forks.close()


class Ready:
    """Positions of jobs that can start, the lowest first. Threads take them, and wait while there is none."""

    def __init__(self, after: Sequence[Sequence[int]]) -> None:
        self.queue: queue.PriorityQueue[int] = queue.PriorityQueue()
        self.lock, self.waits = threading.Lock(), [set(positions) for positions in after]
        for position, before in enumerate(self.waits):
            if not before:
                self.queue.put(position)

    def take(self) -> int:
        """Take a position.

        Raises:
            CancelledError: `close` was called.
        """
        position = self.queue.get()
        if position < 0:
            self.queue.put(position)  # for the next thread
            raise CancelledError
        return position

    def ended(self, position: int) -> None:
        """Let those start that waited only for this one."""
        with self.lock:
            for later, before in enumerate(self.waits):
                if position in before:
                    before.remove(position)
                    if not before:
                        self.queue.put(later)

    def close(self) -> None:
        """Start none any more, and wake the threads that wait."""
        self.queue.put(-1)


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
