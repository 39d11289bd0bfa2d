"""Say what of the machine this process may use: not all of it, where a job shares it."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
SHARE = "KDEP_CORES"  # the environment variable by which jobs that run at once are told their share


def cores() -> int:
    """Return the least of this process's affinity, its cgroup's quota, what Slurm gave to the task, and its share."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = [os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", SHARE)]
    return max(1, min([allowed, *_quotas(), *(int(count) for count in told if count.isdigit() and int(count) > 0)]))


def decoders() -> int:
    """Count the processes that decode images beside a GPU: one per core of this process but one, from 1 to 16.

    One process decodes less than a GPU computes. The processes of torchrun on this machine divide its cores.
    """
    return min(16, max(1, cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) - 1))


def free_memory() -> int:
    """Return the bytes of memory that are free on the machine and in the control groups; 0 where nothing says so."""
    found = [1024 * int(line.split()[1]) for line in lines(MEMINFO) if line.startswith("MemAvailable:")]
    for folder in control_groups():
        limit, used = lines(folder / "memory.max"), lines(folder / "memory.current")
        if limit and used and limit[0] != "max":
            # Files that were read count as used, but make room.
            cached = [line.split()[1] for line in lines(folder / "memory.stat") if line.startswith("inactive_file ")]
            found.append(int(limit[0]) - int(used[0]) + sum(map(int, cached)))
    return max(0, min(found, default=0))


def control_groups() -> list[Path]:
    """Folders of this process's control group (version 2) and of all above it, up to the root."""
    group = next((line[3:].strip("/") for line in lines(OWN_CGROUP) if line.startswith("0::")), "")
    return [CGROUPS / part for part in (Path(group), *Path(group).parents)]


def lines(path: Path) -> list[str]:
    """Lines of a file of the kernel; none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _quotas() -> Iterator[int]:
    for group in control_groups():
        for quota, period in (line.split() for line in lines(group / "cpu.max")):
            if quota != "max":
                yield max(1, int(quota) // int(period))
