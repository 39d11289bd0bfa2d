"""Students in which every tensor matters, each made once in a process."""

import functools
from dataclasses import replace

from kdep.models.checkpoints.checkpoint import Checkpoint
from tools.checks import export

_made = functools.cache(export.scrambled)


def scrambled(arch: str) -> Checkpoint:
    """A student that may be changed, but for its tensors."""
    student = _made(arch)
    return replace(student, weights=dict(student.weights))
