"""Name the folder of dense features, and bring features into the form in which they are stored."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.models.checkpoint import Checkpoint


def folder_of(cache: Path, key: dict[str, Any]) -> Path:
    """The folder of everything in the key; the key is what shapes the features."""
    return cache / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


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
