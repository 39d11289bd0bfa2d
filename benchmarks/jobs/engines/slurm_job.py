"""A job in Slurm's queue: how submitit calls it on a node, whether it may still run, what it returned."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic

from submitit.core.utils import pickle_load
from submitit.helpers import DelayedSubmission

from kdep_benchmarks.jobs.engines.engine import Lost, Slot, T

ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
LAST_LINES = 8
TIME_OVER = "timed-out too many times."  # the end of what submitit says when a job has used up its requeues
# Why jobs wait for their turn. With any other reason they may wait for ever, such as for a node that was drained.
PASSING = {"None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit", "Cleaning", "Licenses"}
HINTS = {
    "PartitionTimeLimit": " (--engine-option time=MINUTES is more than the partition allows)",
    "JobHeldUser": " (scontrol release starts it)",
}


@dataclass(frozen=True)
class OnNode(Generic[T]):
    """A job as submitit calls it on a node."""

    job: Callable[[Slot], T]

    def __call__(self) -> T:
        """Call the job. SIGTERM, which Slurm sends to a job that is cancelled, preempted or requeued, stops it."""
        stop, cores = threading.Event(), os.environ.get("SLURM_CPUS_PER_TASK")
        signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
        value = self.job(Slot(int(cores) if cores else None, stop=stop))
        if stop.is_set():
            sys.exit(128 + signal.SIGTERM)  # without a value, since the job may be about to start again
        return value

    def checkpoint(self) -> DelayedSubmission:
        """What a requeued job calls; submitit asks when the time is over. The same: a cell goes on where it was."""
        return DelayedSubmission(self)


def in_queue() -> dict[str, str] | None:
    """This user's jobs that may still run, with the reason of those that wait; None where the controller is silent.

    submitit asks sacct, which needs Slurm's accounting.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T %r"]
    shown = subprocess.run(command, capture_output=True, text=True)
    if shown.returncode != 0:
        return None
    lines = [f"{line}  ".split(" ", 2) for line in shown.stdout.splitlines()]
    return {job: reason.strip() if state == "PENDING" else "" for job, state, reason in lines if state not in ENDED}


def held_back(waiting: Mapping[str, str]) -> dict[str, str]:
    """A line for the user for each reason that does not pass by itself, of jobs and why they wait."""
    jobs: dict[str, list[str]] = {}
    for job, reason in waiting.items():
        if reason and reason not in PASSING:
            jobs.setdefault(reason, []).append(job)
    return {
        reason: f"Slurm does not start job {those[0]}{f' and {len(those) - 1} more' if those[1:] else ''}: {reason}"
        f"{HINTS.get(reason, '')}. More: scontrol show job {those[0]}; Ctrl-C cancels the jobs"
        for reason, those in jobs.items()
    }


def value_of(job: Any) -> Any:
    """What an ended job returned; `Lost` with its error, or the end of its log, where it returned nothing."""
    said = ""
    if job.paths.result_pickle.exists():
        outcome, value = pickle_load(job.paths.result_pickle)
        if outcome == "success":
            return value
        said = value  # the traceback, which the job writes to its log only after this file
    said = (said or job.stderr() or "no log, was the folder visible on the node?").strip().splitlines()
    hint = " Give it more --engine-option time=MINUTES, or more requeues." if said[-1].endswith(TIME_OVER) else ""
    by_slurm = [line for line in said[-LAST_LINES:] if line.startswith("slurmstepd") and "error:" in line]
    line = [said[-1], *by_slurm][-1]  # who or what ended the job; srun's own line after it tells only the exit code
    return Lost(f"Slurm's job {job.job_id} ended without a result, see {job.paths.stderr}: {line}{hint}")
