"""Count the CPU cores that this process may use: not those of the machine, which a job often shares."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def cores() -> int:
    """Return the least of this process's affinity, its cgroup's quota and what Slurm gave to the task."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    task = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limits = [allowed, _quota(), int(task) if task.isdigit() and int(task) > 0 else None]
    return max(1, min(limit for limit in limits if limit is not None))


def _quota() -> int | None:
    """Return what cgroups (version 2) allow, from this process's group up to the root; None without a limit."""
    try:
        name = next(line[3:] for line in OWN_CGROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    folder = CGROUPS / name.strip("/")
    found = []
    for group in (folder, *folder.parents):
        try:
            quota, period = (group / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            found.append(max(1, int(quota) // int(period)))
    return min(found, default=None)
