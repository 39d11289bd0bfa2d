"""Run jobs under Slurm, through submitit: arrays of jobs, requeued when their time is over or they are preempted."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from submitit import SlurmExecutor

from kdep.files import look_anew
from kdep.interrupts import held_interrupts, sigterm_interrupts
from kdep_benchmarks.jobs.engines.engine import After, Jobs, Lost, Meanwhile, Say, T
from kdep_benchmarks.jobs.engines.slurm_job import OnNode, held_back, in_queue, value_of

LOOK, LOOK_AT_QUEUE, ABSENT = 1.0, 10.0, 2  # seconds; looks that miss a job before it is lost: its result may be late
SHORTEST = 3  # minutes of a job
ARRAY = 1000  # jobs of one array: Slurm's own MaxArraySize is 1001


@dataclass(frozen=True)
class Slurm:
    """An engine that submits jobs to Slurm. Nodes must see the folders of this machine.

    Attributes:
        folder: where submitit keeps scripts, pickles and logs.
        jobs: of an array at once; None for no limit.
        options: of sbatch as submitit names them, sbatch.NAME for others, and requeues; see docs/machines.md.
    """

    folder: Path
    jobs: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    shares_folders: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.executor()  # refuses wrong options

    def executor(self, after: Sequence[str] = ()) -> SlurmExecutor:
        """An executor whose jobs wait until those of some ids have ended.

        Raises:
            ValueError: there is no Slurm here, or an option is wrong.
        """
        own = {"job_name": "kdep", "time": 240, "requeues": 10, **self.options}
        requeues, others = own.pop("requeues"), [name for name in own if name.startswith("sbatch.")]
        if type(own["time"]) is not int:
            raise ValueError(f"--engine-option time={own['time']}: expected whole minutes, such as 240")
        if own["time"] < SHORTEST:
            raise ValueError(
                f"--engine-option time={own['time']}: expected at least {SHORTEST} minutes; Slurm tells a job that its "
                "time is over 90 seconds early, and a job that has not begun by then is killed"
            )
        others = {name.partition(".")[2]: own.pop(name) for name in others}
        own |= {"additional_parameters": others, "array_parallelism": self.jobs or ARRAY}
        if "cpus_per_task" in own:  # srun of Slurm 22.05 to 23.02 does not take it from its job, and gives one core
            own["srun_args"] = [*own.get("srun_args", []), f"--cpus-per-task={own['cpus_per_task']}"]
        own |= {"dependency": f"afterany:{':'.join(after)}"} if after else {}
        try:
            executor = SlurmExecutor(self.folder, max_num_timeout=requeues)
            executor.update_parameters(**own)
        except RuntimeError as error:
            raise ValueError("--engine slurm: no srun here; start it on a machine that can submit jobs") from error
        except ValueError as error:
            known = ", ".join(re.findall(r"- (\w+) \(", str(error)))
            raise ValueError(f"--engine-option: Slurm's are {known}, requeues and sbatch.NAME; got {own}") from error
        return executor

    def run(
        self, jobs: Jobs[T], *, after: After = (), meanwhile: Meanwhile = None, say: Say = None
    ) -> Iterator[tuple[int, T | Lost]]:
        """See `Engine.run`. Jobs wait for each other in Slurm's queue, so they go on if this process is killed."""
        left: dict[int, Any] = {}
        told: set[str] = set()
        try:
            with sigterm_interrupts():
                self.submit(jobs, after or [()] * len(jobs), left)
                missing, looked = dict.fromkeys(left, 0), time.monotonic()
                while left:
                    if time.monotonic() - looked > LOOK_AT_QUEUE and (may_run := in_queue()) is not None:
                        looked = time.monotonic()
                        waits = held_back({job.job_id: may_run.get(job.job_id, "") for job in left.values()})
                        for reason in [reason for reason in waits if say is not None and reason not in told]:
                            told.add(reason)
                            say(waits[reason])
                        for position, job in left.items():
                            missing[position] = 0 if job.job_id in may_run else missing[position] + 1
                        if any(missing[position] for position in left):
                            look_anew(self.folder)  # a result that another machine wrote may be there already
                    for position, job in list(left.items()):
                        if job.paths.result_pickle.exists() or missing[position] >= ABSENT:
                            del left[position]
                            yield position, value_of(job)
                    if meanwhile is not None:
                        meanwhile()
                    time.sleep(LOOK)
        finally:
            if left:
                subprocess.run(["scancel", *sorted({job.job_id.partition("_")[0] for job in left.values()})])

    def submit(self, jobs: Jobs[T], after: After, left: dict[int, Any]) -> None:
        """Submit jobs, those that wait for the same others as one array; add them to `left`.

        Raises:
            ValueError: sbatch does not take them, such as for a partition that is not there.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for position, before in enumerate(after):
            groups.setdefault(tuple(before), []).append(position)
        for before, positions in groups.items():
            executor = self.executor([left[position].job_id for position in before])
            for start in range(0, len(positions), ARRAY):
                part = positions[start : start + ARRAY]
                with held_interrupts():  # a job whose number is not known yet could not be cancelled
                    try:
                        submitted = executor.submit_array([OnNode(jobs[place]) for place in part])
                    except RuntimeError as error:
                        said = "; ".join(str(error).splitlines())
                        raise ValueError(f"--engine slurm: sbatch refused the jobs: {said}") from error
                    left.update(zip(part, submitted, strict=True))
