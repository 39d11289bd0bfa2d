"""Write files atomically and durably; save and read .pth files of plain tensors and values."""

import errno
import os
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any

from kdep.guard import RefusedError, refuse_bomb

BLOCK = 1 << 20  # bytes read at once
FEW = 64  # files that are flushed one by one
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_atomically(path: Path, write: Callable[[Path], object], *, overwrite: bool = True) -> None:
    """Write a temporary file beside the path, flush it to the disk and rename it; make the folder if needed.

    Readers see the old file or the whole new one, after a crash too.

    Args:
        path: the file.
        write: writes the content to the path that it is given.
        overwrite: replace an existing file; otherwise of several processes that write the same file one succeeds.

    Raises:
        FileExistsError: the file exists, and `overwrite` is not set.
        OSError: the disk is full, or the file may not be written; names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random, because two machines on one file system may share a process id.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        write(part)
        flush(part)
        if overwrite:
            part.replace(path)
        else:
            _rename_new(part, path)
        flush(path.parent)  # the new name itself
    except OSError as error:
        if (full := full_disk(error, path)) is not None:
            raise full from error
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def _rename_new(part: Path, path: Path) -> None:
    """Rename a file; fail in one step if the name is taken, also by another process."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # exFAT and many network mounts have no hard links. There the file is empty until it is replaced, and stays so
        # if the process is killed in between.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        part.replace(path)


def full_disk(error: OSError, path: Path) -> OSError | None:
    """An error of a full disk with the number and the path that numpy and the system leave out; None for others."""
    if error.errno is None and "requested and" in str(error):  # numpy's words
        return OSError(errno.ENOSPC, f"the disk is full ({error} items)", str(path))
    if error.errno in FULL and error.filename is None:
        return OSError(error.errno, error.strerror, str(path))
    return None


def digest_of(file: IO[bytes], algorithm: Any) -> bytes:
    """Feed what is left of an open file to an object of hashlib, such as `hashlib.sha256()`; return its digest."""
    while block := file.read(BLOCK):
        algorithm.update(block)
    return algorithm.digest()


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, see `write_atomically`."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file, see `write_atomically`."""
    write_atomically(path, lambda part: part.write_bytes(content))


@contextmanager
def alone_with(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Let one process at a time write files of these names, without the parts that killed ones have left.

    The folder has one lock, `.board.lock`, and is made if needed.
    """
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".board.lock"):
        for name in names:
            for part in folder.glob(f".{escape(name)}.*.part"):  # of a killed process: who writes holds the lock
                part.unlink()
        yield


def rename_durably(part: Path, place: Path) -> None:
    """Flush a file, or a folder with all that is in it, to the disk, and rename it; see `write_atomically`."""
    files = [part] if part.is_file() else [path for path in part.rglob("*") if path.is_file()]
    if len(files) <= FEW:
        for path in (*files, part):
            flush(path)
    else:
        os.sync()  # the whole disk at once: a flush for each of a hundred thousand files takes minutes
    part.rename(place)
    flush(place.parent)


def look_anew(folder: Path) -> None:
    """Let a network file system forget which names were absent in a folder; it remembers them for up to a minute.

    NFS asks its server again when the folder is opened. Call it before the absence of a file of another machine counts.
    """
    with suppress(OSError):
        os.scandir(folder).close()


def flush(path: Path) -> None:
    """Write what the system holds of a file, or of the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(content: Mapping[str, Any], path: Path) -> None:
    """Save plain tensors and values as a .pth file that `read` opens, see `write_atomically`."""
    import torch

    def write(part: Path) -> None:
        try:
            # Given a path instead of an open file, torch loses the errno of a full disk.
            with part.open("wb") as file:
                torch.save(dict(content), file)
        except RuntimeError as error:
            cause = error.__context__
            # Of a full disk, and of an interrupt while it writes, torch makes "unexpected pos".
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror) from error
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            raise

    write_atomically(path, write)


def read(path: Path) -> Any:
    """Read a .pth file of plain tensors and values on the CPU. Nothing in the file runs.

    Raises:
        ValueError: there is no such file, it is damaged, or it holds other objects.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, expected a file' if path.is_dir() else 'no such file'}")
    try:
        refuse_bomb(path, path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except RefusedError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused, it holds more than plain tensors, numbers and strings") from error
    except Exception as error:  # torch raises a dozen types for damaged files
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"{path}: not a .pth file, or a damaged one ({reason})") from error
