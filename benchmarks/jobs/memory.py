"""Detect out of memory, and halve the batch of a task for the second attempt."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdep.cores import CGROUPS, OWN_CGROUP, control_groups, lines
from kdep_benchmarks.kinds import PROBES
from kdep_benchmarks.tasks.settings import SETTINGS, read_settings
from kdep_benchmarks.tasks.task import Task

# RuntimeErrors of torch's CPU allocator, and of cuBLAS and cuDNN, which allocate memory of their own. cuBLAS is "not
# initialised" and cuDNN's device allocation fails where their handles have no room. Without room for its workspace no
# engine of cuDNN can run: torch drops the error of each (aten/src/ATen/native/cudnn/Conv_v8.cpp), and says that it
# finds none. An engine may also be missing for another reason; then the second attempt fails as well.
MESSAGES = (
    "can't allocate memory",
    "DefaultCPUAllocator",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
)
KILLED_WORKER = "is killed by signal: Killed"  # a DataLoader's, whoever killed it


def is_out_of_memory(error: BaseException, *, kills_before: int) -> bool:
    """Whether an error, or its cause, says that memory ran out.

    A killed loader process proves nothing by itself: the kernel must have counted an out-of-memory kill as well.

    Args:
        error: as caught.
        kills_before: `oom_kills()` when the work began.
    """
    import torch  # not above: `run_cell`, which supervises every cell of a cluster, only counts kills

    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError):
        if any(message in str(error) for message in MESSAGES):
            return True
        if KILLED_WORKER in str(error) and oom_kills() > kills_before:
            return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__, kills_before=kills_before)


def oom_kills() -> int:
    """Processes that the kernel has killed for want of memory so far, by all counters that can be read; else 0."""
    every = (line.split() for path in counters() for line in lines(path))
    return sum(int(words[1]) for words in every if words[:1] == ["oom_kill"])


def counters() -> Iterator[Path]:
    """Files with a line `oom_kill N`: of the machine, and of this process's control groups (versions 2 and 1)."""
    yield Path("/proc/vmstat")
    yield from (group / "memory.events" for group in control_groups())
    yield CGROUPS / "memory" / "memory.oom_control"
    for _, controllers, path in (line.split(":", 2) for line in lines(OWN_CGROUP)):
        if path != "/":
            yield CGROUPS / controllers / path.lstrip("/") / "memory.oom_control"


def halve(task: Task) -> tuple[Task, dict[str, Any]]:
    """Halve the images in memory at once; return the task and what its result records about it.

    A training step keeps its batch size by accumulating over twice as many parts, except for an odd image; BatchNorm
    sees the smaller parts. A probe's score does not depend on the batch of its feature extraction.

    Raises:
        ValueError: the batch is one image already.
    """
    own = read_settings(SETTINGS[task.kind], task)
    if task.kind in PROBES:
        before, accumulate = own.batch_size, None
        changed = {"batch_size": before // 2}
    elif task.kind == "finetune":
        before, accumulate = own.batch_size // own.accumulate, 2 * own.accumulate
        changed = {"accumulate": accumulate}
    else:
        before, accumulate = own.batch_size, 2 * own.accumulate
        changed = {"batch_size": before // 2, "accumulate": accumulate}
    if before < 2:
        raise ValueError(f"{task.name}: out of memory with a batch of one image; it cannot be halved")
    said = {"images_at_once": before // 2, "before": before}
    said |= {} if accumulate is None else {"accumulate": accumulate}
    return replace(task, settings={**task.settings, **changed}), said
