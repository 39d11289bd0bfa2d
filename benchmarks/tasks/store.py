"""Keep extracted arrays on disk: made once by one process while others wait, in a folder that appears whole."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from kdep.files import full_disk, rename_durably
from kdep.models.checkpoints.checkpoint import Checkpoint


class Stored(NamedTuple):
    """Arrays of a folder.

    Attributes:
        arrays: by the names of their files, memory-mapped.
        seconds: that making them took; None if they were there.
    """

    arrays: dict[str, np.ndarray]
    seconds: float | None


def key_of(parts: dict[str, Any]) -> str:
    """Hash everything that shapes the arrays of a folder into its name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What of a checkpoint shapes its features, beside its tap."""
    return {
        "weights": checkpoint.sha256,
        "arch": checkpoint.arch,  # two architectures can share their tensors and differ in padding
        "input": [checkpoint.resample, *checkpoint.mean, *checkpoint.std],
        **({"code": checkpoint.code} if checkpoint.code else {}),
    }


def stored(folder: Path, make: Callable[[Path], float]) -> Stored:
    """Open the NAME.npy files of a folder; if the folder is missing, make them first.

    One process makes them while it holds a lock; others wait.

    Args:
        folder: named by `key_of`.
        make: writes the files into the folder that it is given, and returns the seconds of its work.

    Raises:
        OSError: the disk is full; names the folder.
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
                    rename_durably(part, folder)
                except OSError as error:
                    if (full := full_disk(error, folder)) is not None:
                        raise full from error
                    raise
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    # Copy-on-write, because torch warns about arrays that are not writable. Nothing writes to them.
    return Stored({path.stem: _open(path) for path in sorted(folder.glob("*.npy"))}, seconds)


def _open(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception as error:  # numpy raises a dozen types for damaged headers
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{path}: not an array ({reason}); remove {path.parent}, it is made again") from error


def new_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Make a memory-mapped .npy file with all the space that it will need.

    Raises:
        OSError: the disk is full; names the file. Without the space, writing into the map would kill the process.
    """
    try:
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return array
