"""Features on disk: made once per key, in a folder that appears whole; whoever comes later reads it."""

import contextlib
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kdep.models.checkpoint import Checkpoint


class Stored(NamedTuple):
    """Arrays by the names of their files, memory-mapped; the seconds it took to make them, None if they were there."""

    arrays: dict[str, np.ndarray]
    seconds: float | None


def stored(cache: Path, key: dict[str, Any], make: Callable[[Path], None]) -> Stored:
    """Open the folder of a key, after `make` has written its NAME.npy files into it if there was none."""
    folder, seconds = cache / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32], None
    if not folder.is_dir():
        started = time.perf_counter()
        neighbour = cache / f".{folder.name}.{uuid.uuid4().hex}.part"
        neighbour.mkdir(parents=True)
        try:
            make(neighbour)
            seconds = time.perf_counter() - started
            with contextlib.suppress(OSError):  # another process was first; its files are the same
                neighbour.rename(folder)
        finally:
            shutil.rmtree(neighbour, ignore_errors=True)
    # Copy on write, so that torch takes it for writable; nothing here writes.
    return Stored({path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}, seconds)


def of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What of a checkpoint shapes its maps."""
    return {
        "weights": checkpoint.sha256,
        "arch": checkpoint.arch,  # two architectures can share their tensors and differ in padding
        "input": [checkpoint.resample, *checkpoint.mean, *checkpoint.std],
    }


def as_half(features: torch.Tensor, what: str) -> np.ndarray:
    """Float16, half the disk: its rounding of 0.05 % is far below what a probe sees.

    Raises:
        ValueError: features that are not finite or too large for it.
    """
    half = features.half().cpu().numpy()
    if not np.isfinite(half).all():
        raise ValueError(f"{what}: features are not finite in float16; the network diverges or its weights are broken")
    return half
