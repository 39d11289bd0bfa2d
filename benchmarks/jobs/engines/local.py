"""Run jobs on this machine, several at once: the engine of suites and studies."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import ClassVar

from kdep.cores import cores
from kdep.interrupts import sigterm_interrupts
from kdep_benchmarks.jobs.engines.engine import After, Jobs, Meanwhile, Say, Slot, T
from kdep_benchmarks.jobs.engines.forks import Forks
from kdep_benchmarks.jobs.engines.process import environment

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
        self, jobs: Jobs[T], *, after: After = (), meanwhile: Meanwhile = None, say: Say = None
    ) -> Iterator[tuple[int, T]]:
        """See `Engine.run`. SIGTERM, as a cluster's scheduler sends it, ends the jobs as Ctrl-C does."""
        stop, free = threading.Event(), queue.SimpleQueue()
        forks = Forks(self.modules, environment(Slot(self.threads))) if self.modules else None
        share = share_of_cores(self.jobs) if self.jobs > 1 else None
        for number in range(self.jobs):
            device = self.devices[number % len(self.devices)] if self.devices else None
            free.put(Slot(self.threads, share, device, stop, forks))

        def run_one(job: Callable[[Slot], T]) -> T:
            slot = free.get()
            try:
                return job(slot)
            finally:
                free.put(slot)

        order = TopologicalSorter(dict(enumerate(after or [()] * len(jobs))))
        order.prepare()
        ready: list[int] = []
        running: dict[Future[T], int] = {}
        pool = ThreadPoolExecutor(self.jobs)

        def fill() -> None:
            """Start jobs in all free slots."""
            ready[:] = sorted([*ready, *order.get_ready()])
            while ready and len(running) < self.jobs:
                position = ready.pop(0)
                running[pool.submit(run_one, jobs[position])] = position

        try:
            with sigterm_interrupts():
                fill()
                while order.is_active():
                    ended, _ = wait(running, timeout=LOOK, return_when=FIRST_COMPLETED)
                    raised = {future: future.exception() is not None for future in ended}
                    places = {future: running.pop(future) for future in sorted(ended, key=raised.get)}
                    order.done(*places.values())
                    if not any(raised.values()):
                        fill()  # before the results are taken: their caller may draw or write for seconds
                    for future, position in places.items():
                        yield position, future.result()
                    if meanwhile is not None:
                        meanwhile()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
            if forks is not None:
                forks.close()


def share_of_cores(jobs: int) -> int:
    """Each job's share of the cores, at least one."""
    return max(1, cores() // jobs)


def threads_for(jobs: int) -> int:
    """Each job's share of the cores, at most OMP_NUM_THREADS where that is set."""
    share, asked = share_of_cores(jobs), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(asked)) if asked.isdigit() and int(asked) > 0 else share


def visible_devices(device: str) -> tuple[str, ...]:
    """The GPUs to share among jobs: all visible ones, where there are several and the user named none of them."""
    import torch

    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if count < 2:
        return ()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")[:count]) if named else tuple(map(str, range(count)))
