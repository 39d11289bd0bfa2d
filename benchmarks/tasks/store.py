"""Keep extracted arrays on disk: made once by one process while others wait, in a folder that appears whole."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock


class Stored(NamedTuple):
    """Arrays of a folder.

    Attributes:
        arrays: by the names of their files, memory-mapped.
        seconds: that making them took; None if they were there.
    """

    arrays: dict[str, np.ndarray]
    seconds: float | None


def stored(folder: Path, make: Callable[[Path], float]) -> Stored:
    """Open the NAME.npy files of a folder; if the folder is missing, make them first.

    One process makes them while it holds a lock; others wait.

    Args:
        folder: named by a hash of everything that shapes the arrays.
        make: writes the files into the folder that it is given, and returns the seconds of its work.
    """
    seconds = None
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():  # not made while this process waited
                part = folder.parent / f".{folder.name}.part"
                shutil.rmtree(part, ignore_errors=True)  # left by a killed process
                part.mkdir()
                try:
                    seconds = make(part)
                    part.rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    # Copy-on-write, because torch warns about arrays that are not writable. Nothing writes to them.
    return Stored({path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}, seconds)
