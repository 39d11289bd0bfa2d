"""Hash the contents of files once, and remember the hashes while inode, size, mtime and ctime of a file are unchanged.

Names, sizes and dates do not tell images apart: a file can be replaced by one of equal size and date. The ctime and the
inode cannot be set back, so unchanged ones vouch for the content, and a second look at a data set reads no image.

An image file that is too large to be opened is known by its size: a sparse file of a terabyte is not read.
"""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np

from kdep.cores import cores
from kdep.data.sources.names import is_image_name
from kdep.files import digest_of, write_atomically
from kdep.guard import max_expanded

logger = logging.getLogger("kdep")

MARK, HASH = 16, 16  # bytes
RECENT = 2.0  # seconds: a file changed so recently can change again within the resolution of its ctime
AT_ONCE = 256  # files per task of a thread
WORTH = 32e6  # bytes from which on hashes are remembered: fewer are hashed again in less than a tenth of a second
TOLD = 1e9  # bytes from which on the reader is told why nothing happens


def content_hashes(files: Sequence[Path]) -> np.ndarray:
    """Hash files: (N, 16) uint8, the BLAKE2b-128 of each content; zeros where there is no regular file.

    The hashes are remembered in the user's cache folder, because data folders may be read-only and several runs, suites
    and folders of results share the data. Where the cache cannot be written, files are hashed each time.
    """
    names = [os.fsencode(os.path.abspath(file)) for file in files]  # noqa: PTH100 - a link may have two names
    marks, sizes, settled = _marks(names)
    if sizes.sum() < WORTH:
        return _hashes(names)
    memory = cache_folder("contents") / f"{hashlib.sha256(b'|'.join(names)).hexdigest()[:32]}.npy"
    known = _known(memory, len(names))
    changed = np.flatnonzero((known[:, :MARK] != marks).any(1) | ~settled)
    if not len(changed):
        return known[:, MARK:]
    if (size := sizes[changed].sum()) > TOLD:
        logger.info("hashing %d files once, %.1f GB", len(changed), size / 1e9)
    known[:, :MARK] = marks * settled[:, None]
    known[changed, MARK:] = _hashes([names[index] for index in changed])
    _remember(known, memory)
    return known[:, MARK:]


def cache_folder(kind: str) -> Path:
    """The user's cache folder for hashes of contents, indices of shards, or findings of leaks."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdep" / kind


def _known(memory: Path, count: int) -> np.ndarray:
    try:
        found = np.load(memory, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or damaged: the files are hashed again
        return np.zeros((count, MARK + HASH), np.uint8)
    right = found.dtype == np.uint8 and found.shape == (count, MARK + HASH)
    return found if right else np.zeros((count, MARK + HASH), np.uint8)


def _remember(known: np.ndarray, memory: Path) -> None:
    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, known)

    try:
        write_atomically(memory, write)
    except OSError as error:
        logger.debug("%s: not written (%s)", memory, error)


def _marks(names: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Marks (N, 16) and sizes (N,) of files, and whether each is settled (N,): its mark vouches for its content."""
    marks, sizes = np.zeros((len(names), MARK), np.uint8), np.zeros(len(names), np.int64)
    settled, now, most = np.zeros(len(names), bool), time.time(), max_expanded()
    for index, name in enumerate(names):
        try:
            found = os.stat(name)  # noqa: PTH116 - a million of them: a Path takes as long again
        except OSError:
            continue
        text = f"{found.st_ino}|{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}"
        if too_large(name, found.st_size, most):  # never settled: the limit may be another next time
            continue
        marks[index] = np.frombuffer(hashlib.sha256(text.encode()).digest()[:MARK], np.uint8)
        sizes[index], settled[index] = found.st_size, found.st_ctime < now - RECENT
    return marks, sizes, settled


def _hashes(names: Sequence[bytes]) -> np.ndarray:
    parts = [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]
    with ThreadPoolExecutor(min(8, cores())) as pool:  # hashlib releases the interpreter lock
        found = [
            digest for digests in pool.map(lambda part: [_hash(name) for name in part], parts) for digest in digests
        ]
    return np.frombuffer(b"".join(found), np.uint8).reshape(len(names), HASH)


def _hash(name: bytes) -> bytes:
    if not os.path.isfile(name):  # noqa: PTH113 - as above; a named pipe would be read for ever
        return bytes(HASH)
    try:
        with open(name, "rb", buffering=0) as file:  # noqa: PTH123 - as above
            return hash_content(file, name)
    except OSError:
        return bytes(HASH)


def hash_content(file: IO[bytes], name: bytes) -> bytes:
    """Hash an open file; an image that is `too_large` by its size alone."""
    digest, size = hashlib.blake2b(digest_size=HASH), os.fstat(file.fileno()).st_size
    if too_large(name, size, max_expanded()):
        digest.update(f"an image file of {size} bytes".encode())
        return digest.digest()
    return digest_of(file, digest)


def too_large(name: bytes, size: int, most: int) -> bool:
    """Whether a file has the name of an image, and more bytes than one that is opened, see `kdep.guard.read_regular`.

    Other files, such as the Parquet files of a data set, have no limit.
    """
    return size > most and is_image_name(os.fsdecode(name))
