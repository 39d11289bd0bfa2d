"""Locks of files between the processes that share a folder of results; they end with the process that holds them."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

UNLOCKABLE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def take(path: Path) -> int | None:
    """Lock a file; returns the descriptor that holds the lock, or None where someone else has it.

    A process that inherits the descriptor holds it too. A file system without locks is taken to be ours alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            os.close(descriptor)
            raise
    return descriptor


def release(held: tuple[int, ...]) -> None:
    """Give locks back."""
    for descriptor in held:
        os.close(descriptor)


@contextlib.contextmanager
def suite_in(results: Path) -> Iterator[None]:
    """Be one of the suites in a folder of results; one that is alone first removes what killed ones left half-written.

    On a file system without locks nothing is removed, since nobody can know that they are alone.
    """
    results.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(results / ".suites.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_parts(results)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in UNLOCKABLE:
                raise
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def remove_parts(results: Path) -> None:
    """Remove half-written files and folders of features, as `kdep.files.write_atomically` names them."""
    for path in list(results.rglob(".*.part")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
