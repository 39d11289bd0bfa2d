"""A file that kdep reads, how it is edited at random, and what reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.checks.faults import changes


@dataclass(frozen=True)
class Door:
    """A file, how it is edited, and what reads it."""

    kind: str
    path: Path
    edit: Callable[[bytes, changes.Draw], bytes]
    use: Callable[[], object]
