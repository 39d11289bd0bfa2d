"""What an engine is: the one method by which suites and studies hand their jobs to a machine or a cluster."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from kdep_benchmarks.jobs.engines.forks import Forks

T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """The part of a machine that one job may use. The default is all of it, as under a cluster's scheduler.

    Attributes:
        threads: CPU threads; None leaves the choice to the libraries.
        cores: its share of the cores, which its decoding processes keep to; None where it is alone.
        device: the value of CUDA_VISIBLE_DEVICES; None leaves it as it is.
        stop: set when the job has to end early.
        forks: starts its processes; None where each has to import everything by itself.
    """

    threads: int | None = None
    cores: int | None = None
    device: str | None = None
    stop: threading.Event = field(default_factory=threading.Event, compare=False)
    forks: "Forks | None" = field(default=None, compare=False)


@dataclass(frozen=True)
class Lost:
    """What a cluster's engine yields for a job that ended without returning a value: cancelled, killed or refused."""

    reason: str


Jobs = Sequence[Callable[[Slot], T]]
After = Sequence[Sequence[int]]  # of each job the positions of those that it waits for
Meanwhile = Callable[[], None] | None
Say = Callable[[str], None] | None


class Engine(Protocol):
    """Where jobs run: `local.Local`, `slurm.Slurm` or `ray.Ray`.

    A job is a picklable function of a `Slot`, such as `partial(run_cell, cell)`. It takes its own locks, retries and
    writes its own result, so an engine for a cluster only submits it, to be called with a `Slot` there, and waits.

    Attributes:
        jobs: how many run at once; None where only the scheduler limits them.
        shares_folders: whether every job sees the folders of this machine. Otherwise jobs return their files.
    """

    jobs: int | None
    shares_folders: bool

    def run(
        self, jobs: Jobs[T], *, after: After = (), meanwhile: Meanwhile = None, say: Say = None
    ) -> Iterator[tuple[int, T | Lost]]:
        """Run the jobs; yield the position of each and what it returned, in the order in which they end.

        A job does not start before the jobs at the positions `after[its position]` have ended, well or not; these
        positions are all lower than its own. `meanwhile` is called about once a second while jobs run, `say` with
        one line for the user where a cluster does not start jobs and may never do so. On this machine
        an error of a job is raised here. When the iterator is closed, jobs that still run are stopped and no other
        starts.
        """
        ...
