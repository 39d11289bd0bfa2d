"""Students in which every tensor matters, each made once in a process."""

import functools
from dataclasses import replace

import torch

from kdep.models.checkpoints.checkpoint import Checkpoint, fingerprint
from kdep.models.weights import open_checkpoint


def scrambled(arch: str) -> Checkpoint:
    """A student that may be changed, but for its tensors."""
    student = _made(arch)
    return replace(student, weights=dict(student.weights))


@functools.cache
def _made(arch: str) -> Checkpoint:
    """A fresh BatchNorm is the identity, so an export without its statistics would go unnoticed."""
    student, draw = open_checkpoint(f"random:{arch}"), torch.Generator().manual_seed(0)
    weights = student.weights
    for norm in [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]:
        for tensor in (weights[f"{norm}weight"], weights[f"{norm}running_var"]):
            tensor.uniform_(0.5, 1.5, generator=draw)
        for tensor in (weights[f"{norm}bias"], weights[f"{norm}running_mean"]):
            tensor.normal_(0, 0.3, generator=draw)
        weights[f"{norm}num_batches_tracked"].fill_(7)
    return replace(student, name=f"scrambled:{arch}", tap="post", sha256=fingerprint(weights))
