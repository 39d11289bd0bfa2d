"""Out of memory: what says so, and the one rung down that is tried then: half the batch, twice the accumulation."""

from dataclasses import replace
from typing import Any

import torch

from kdep_benchmarks.tasks.settings import KINDS, read_settings
from kdep_benchmarks.tasks.task import Task

PROBES = ("knn", "linear", "fewshot", "dense-linear", "dense-knn", "box")
# Of the CPU's allocator, of cuBLAS, which allocates for itself, and of a loader whose worker the kernel has killed.
WORDS = (
    "can't allocate memory",
    "DefaultCPUAllocator",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "is killed by signal: Killed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory did not suffice; numpy's is a MemoryError."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def halve(task: Task) -> tuple[Task, dict[str, Any]]:
    """The task with half as many images in memory at once, and what a result says of it.

    A training step keeps its number of images, up to an odd one, by twice the accumulation; BatchNorm sees the smaller
    parts. A probe's answer does not depend on how many images its features are extracted from at once.

    Raises:
        ValueError: there is one image at once already.
    """
    own = read_settings(KINDS[task.kind], task)
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
        raise ValueError(f"{task.name}: out of memory with one image at once; nothing is left to halve")
    said = {"images_at_once": before // 2, "before": before}
    said |= {} if accumulate is None else {"accumulate": accumulate}
    return replace(task, settings={**task.settings, **changed}), said
