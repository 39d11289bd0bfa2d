"""Lock a cell, so that two suites in one results folder share the work; remove what a killed process left behind."""

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock of a file if nobody else does; yields whether it is held. The lock ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def remove_parts(folder: Path, pattern: str = ".*.part") -> None:
    """Remove half-written files below a folder, as `kdep.files.write_atomically` names them.

    Call it only while holding the lock of what the files belong to.
    """
    for place, folders, files in os.walk(folder):  # `Path.glob` fails where another cell removes a folder meanwhile
        for name in fnmatch.filter(folders, pattern):
            folders.remove(name)
            shutil.rmtree(Path(place, name), ignore_errors=True)
        for name in fnmatch.filter(files, pattern):
            Path(place, name).unlink(missing_ok=True)
