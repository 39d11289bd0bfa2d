"""Run jobs on a Ray cluster, or on a local one that is started for them."""

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import ray

from kdep.interrupts import sigterm_interrupts
from kdep_benchmarks.jobs.engines.engine import After, Jobs, Lost, Meanwhile, Say, Slot, T

LOOK, GRACE, KNOCK = 1.0, 20.0, 20.0  # seconds: between two looks; until cancelled jobs end; until a port answers


def call(job: Callable[[Slot], T], folder: str, *ended: Any) -> T:
    """Call a job in a worker of the cluster, in the folder of the same name as here, after those it waited for."""
    if Path(folder).is_dir():  # only relative paths need it
        os.chdir(folder)
    return job(Slot())


@dataclass(frozen=True)
class Ray:
    """An engine that makes every job a task of Ray. A task whose worker or node dies is started again, three times.

    Attributes:
        jobs: at once; None for as many as the cluster has room for.
        gpu: ask for a GPU per job where the cluster has any.
        options: address of a cluster, as of `ray.init`; all others are of a task: num_cpus, num_gpus and so on.
    """

    jobs: int | None = None
    gpu: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    shares_folders: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.task({})  # refuses wrong options

    def run(
        self, jobs: Jobs[T], *, after: After = (), meanwhile: Meanwhile = None, say: Say = None
    ) -> Iterator[tuple[int, T | Lost]]:
        """See `Engine.run`. Jobs get those they wait for as arguments."""
        after, folder = after or [()] * len(jobs), str(Path.cwd())
        refs: list[Any] = []
        left: dict[Any, int] = {}
        mine = self.connect()
        with sigterm_interrupts():  # after Ray's own handler of SIGTERM, which ends the process at once
            try:
                gpus = {"num_gpus": 1} if self.gpu and ray.cluster_resources().get("GPU") else {}
                task, wanted = self.task(gpus), resources({**gpus, **self.options})
                if say is not None and not any(has(node, wanted) for node in ray.nodes()):
                    asked = ", ".join(f"{value:g} {name}" for name, value in wanted.items())
                    say(f"No node of the Ray cluster has {asked}: the jobs wait until one joins; Ctrl-C cancels them")
                while left or len(refs) < len(jobs):
                    while len(refs) < len(jobs) and (self.jobs is None or len(left) < self.jobs):
                        before = [refs[position] for position in after[len(refs)]]
                        refs.append(task.remote(jobs[len(refs)], folder, *before))
                        left[refs[-1]] = len(refs) - 1
                    for ref in ray.wait([*left], num_returns=1, timeout=LOOK)[0]:
                        yield left.pop(ref), value_of(ref)
                    if meanwhile is not None:
                        meanwhile()
            finally:
                for ref in left:
                    ray.cancel(ref)
                if left:
                    ray.wait([*left], num_returns=len(left), timeout=GRACE)
                if mine:
                    ray.shutdown()

    def connect(self) -> bool:
        """Connect to the cluster, unless this process is connected already; returns whether it did."""
        if ray.is_initialized():
            return False
        ours = {name: value for name, value in os.environ.items() if name == "KDEP_DATA"}
        own, where = {"log_to_driver": False, "runtime_env": {"env_vars": ours}}, self.options.get("address")
        try:
            knock(where or os.environ.get("RAY_ADDRESS", ""))
            ray.init(where, logging_level="warning", **own)
        except OSError as error:
            raise ValueError(
                f"--engine ray: no cluster at {where or os.environ.get('RAY_ADDRESS')}: {error}"
            ) from error
        return True

    def task(self, gpus: Mapping[str, int]) -> Any:
        """`call` with this engine's options. A worker ends with its job, so that it keeps no memory of a GPU."""
        own = {name: value for name, value in self.options.items() if name != "address"}
        try:
            return ray.remote(**{"max_calls": 1, **gpus, **own})(call)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--engine-option: {error}") from error


def knock(address: str) -> None:
    """Connect to the port of an address, since Ray tries a wrong one for more than ten minutes.

    Raises:
        OSError: nobody listens there.
    """
    port = re.fullmatch(r"(?:ray://)?([^/:]+):(\d+)", address)
    if port:
        socket.create_connection((port[1], int(port[2])), KNOCK).close()


def resources(options: Mapping[str, Any]) -> dict[str, float]:
    """What a task of some options needs of one node, by Ray's names."""
    own = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0), "memory": options.get("memory", 0)}
    return {name: value for name, value in {**own, **options.get("resources", {})}.items() if value}


def has(node: Mapping[str, Any], wanted: Mapping[str, float]) -> bool:
    """Whether a node, as `ray.nodes` describes it, has what a task needs, free or not."""
    return node["Alive"] and all(node["Resources"].get(name, 0) >= value for name, value in wanted.items())


def value_of(ref: Any) -> Any:
    """What an ended job returned; `Lost` with the reason where it returned nothing."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return Lost(f"Ray's task ended without a result: {str(error).strip().splitlines()[-1]}")
