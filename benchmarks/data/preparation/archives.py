"""Find or download the archives of data sets and unpack them; an interrupted download or unpacking is resumed."""

import hashlib
import http.client
import logging
import lzma
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock
from tqdm import tqdm

from kdep.files import digest_of, rename_durably, write_atomically
from kdep.guard import RefusedError, refuse_growth

LOG = logging.getLogger(__name__)
BLOCK = 1 << 20
LONGEST = 200  # bytes of a name; the file systems take 255, of which a part file needs 39
TIMEOUT = 60  # seconds without a byte
# NotImplementedError: a zip file of another version or compression; RuntimeError: an encrypted one.
OF_READING = (EOFError, zlib.error, lzma.LZMAError, OSError, NotImplementedError, RuntimeError, ValueError)
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, *OF_READING)


class NotPrepared(RuntimeError):  # noqa: N818 - user error, not a fault of the program
    """A data set cannot be prepared here; the message says which file to place where."""


@dataclass(frozen=True)
class Archive:
    """An owner's file.

    Attributes:
        name: of the file in the data root.
        page: where people get it.
        url: for a download without registration.
        md5: checked after a download; a file placed by hand is not checked.
    """

    name: str
    page: str
    url: str = ""
    md5: str = ""


class TooLarge(NotPrepared):
    """An archive expands too far; what it has written is removed."""


class Growth:
    """Count what is taken from an archive, and refuse too much of it; see `kdep.guard.max_expanded`."""

    def __init__(self, archive: Path) -> None:
        self.archive, self._size, self._taken = archive, archive.stat().st_size, 0

    def add(self, size: int) -> None:
        """Count a file in it."""
        self._taken += size
        try:
            refuse_growth(self._taken, self._size, self.archive)
        except RefusedError as error:
            raise TooLarge(str(error)) from error


class Member:
    """A file in an archive; damage is only noticed while reading."""

    def __init__(self, name: str, size: int, stream: IO[bytes], growth: Growth) -> None:
        self.name, self.size, self._stream, self._growth = name, size, stream, growth
        self._counted = False

    def count(self) -> None:
        """Count the file as taken, also where it is there already."""
        if not self._counted:
            self._counted = True
            self._growth.add(self.size)

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes, or all of the rest."""
        self.count()
        try:
            return self._stream.read(size)
        except DAMAGED as error:
            raise _damaged(self._growth.archive, error) from error


def _damaged(path: Path, error: Exception) -> NotPrepared:
    return NotPrepared(f"{path}: not an archive, or damaged ({type(error).__name__}: {error}); download it again")


def obtain(archives: tuple[Archive, ...], data_root: Path, *, show: bool) -> list[Path]:
    """Paths of archives in the data root, downloaded if missing.

    Raises:
        NotPrepared: an archive is missing and cannot be downloaded.
    """
    closed = [archive for archive in archives if not archive.url and not (data_root / archive.name).is_file()]
    if closed:
        places = "; ".join(f"{data_root / archive.name} (from {archive.page})" for archive in closed)
        raise NotPrepared(f"its owner requires registration, so place by hand: {places}; then run this again")
    return [_fetched(archive, data_root, show) for archive in archives]


def _fetched(archive: Archive, data_root: Path, show: bool) -> Path:
    path = data_root / archive.name
    if path.is_file():
        LOG.info("%s: already here", path)
        return path
    part = path.with_name(f"{archive.name}.part")
    data_root.mkdir(parents=True, exist_ok=True)
    try:
        download(archive.url, part, show=show)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NotPrepared(
            f"{archive.name} cannot be downloaded ({error}); place it at {path} (from {archive.page}), then run this "
            "again; an interrupted download is resumed"
        ) from error
    if archive.md5 and (found := md5_of(part)) != archive.md5:
        part.unlink()
        raise NotPrepared(
            f"{archive.url}: the download has md5 {found}, the owner's file {archive.md5}; run this again"
        )
    rename_durably(part, path)
    return path


def download(url: str, part: Path, *, show: bool) -> None:
    """Download a file, resuming after the bytes that `part` already holds.

    Raises:
        OSError: no connection, or it broke; `part` keeps the bytes so far.
    """
    held = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={held}-"} if held else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and held:  # range not satisfiable: the file was complete
            return
        raise
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        held = held if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = held + int(length) if length else None
        bar = tqdm(total=total, initial=held, unit="B", unit_scale=True, desc=part.stem, disable=not show)
        with bar:
            while block := answer.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"the connection broke after {part.stat().st_size} of {total} bytes")


def md5_of(path: Path) -> str:
    """A file's md5, as owners publish it."""
    with path.open("rb") as file:
        return digest_of(file, hashlib.md5(usedforsecurity=False)).hex()


def members(path: Path) -> Iterator[Member]:
    """Files of a tar, compressed or not, or of a zip, in order; read one before asking for the next.

    Raises:
        NotPrepared: not an archive, or damaged.
    """
    growth = Growth(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir():
                        with archive.open(info) as stream:
                            yield Member(info.filename, info.file_size, stream, growth)
        else:
            with tarfile.open(path) as archive:
                for entry in archive:
                    stream = archive.extractfile(entry) if entry.isfile() else None
                    if stream is not None:
                        yield Member(entry.name, entry.size, stream, growth)
    except DAMAGED as error:
        raise _damaged(path, error) from error


def unpack(path: Path, into: Path, place: Callable[[str], str | None], *, show: bool) -> int:
    """Write an archive's files below `into`, each at the path that `place` returns for its name; None skips it.

    Files that exist with their full size are kept, so that an interrupted run is resumed.

    Returns:
        The number of files placed.

    Raises:
        NotPrepared: the archive is damaged or expands too far, or a name points outside `into`.
    """
    count = 0
    for member in tqdm(members(path), desc=path.name, unit="file", mininterval=1, disable=not show):
        target = place(member.name)
        if target is None:
            continue
        parts = PurePosixPath(target).parts
        if PurePosixPath(target).is_absolute() or ".." in parts:
            raise NotPrepared(f"{path}: the name {member.name} points outside the folder")
        if "\0" in target or any(len(os.fsencode(part)) > LONGEST for part in parts):
            raise NotPrepared(f"{path}: the name {member.name[:200]!r} is too long, or no name of a file")
        count += 1
        member.count()
        file = into / target
        if not file.is_file() or file.stat().st_size != member.size:
            write_atomically(file, lambda part, member=member: _copy(member, part))
    return count


def _copy(member: Member, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(member, file, BLOCK)


def without_first(name: str) -> str:
    """A member's path without its first folder."""
    return "/".join(PurePosixPath(name).parts[1:])


def build(place: Path, archives: list[Path], make: Callable[[list[Path], Path], None]) -> None:
    """Make a folder under a hidden name and rename it when it is complete; an existing folder is kept.

    The hidden folder is kept after an interruption and belongs to its archives: with other archives a new one is made.

    Raises:
        TooLarge: an archive expands too far; the hidden folder is removed.
    """
    if filled(place):
        LOG.info("%s: already there", place)
        return
    stamps = "|".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in archives)
    stamp = hashlib.sha256(stamps.encode()).hexdigest()[:8]
    into = place.with_name(f".{place.name}.{stamp}.partial")
    for other in place.parent.glob(f".{place.name}.*.partial"):
        if other != into:
            shutil.rmtree(other)
    into.mkdir(parents=True, exist_ok=True)
    try:
        make(archives, into)
    except TooLarge:
        shutil.rmtree(into)
        raise
    except (ValueError, LookupError, TypeError, NotImplementedError) as error:  # of lists and labels in the archives
        names = ", ".join(map(str, archives))
        raise NotPrepared(f"{names}: not the owner's files, or damaged ({error}); download them again") from error
    rename_durably(into, place)  # onto an empty folder too
    LOG.info("%s: made", place)


def filled(place: Path) -> bool:
    """Whether a folder exists and is not empty."""
    return place.is_dir() and any(place.iterdir())


def make_from(
    data_root: Path, place: str, archives: tuple[Archive, ...], make: Callable[..., None], show: bool
) -> None:
    """Make a folder below the data root from archives, unless it is there.

    Raises:
        NotPrepared: an archive is missing or damaged; says which file to place where.
    """
    if filled(data_root / place):
        return
    data_root.mkdir(parents=True, exist_ok=True)
    # Two sets may have a folder in common, such as VOC 2012: of two commands at once, one makes it and the other waits.
    with FileLock(data_root / f".{place.replace('/', '-')}.lock"):
        if not filled(data_root / place):
            found = obtain(archives, data_root, show=show)
            build(data_root / place, found, lambda paths, into: make(paths, into, show=show))


def unpack_some(path: Path, into: Path, place: Callable[[str], str | None], owner: str, show: bool) -> None:
    """Unpack the files that have a place.

    Raises:
        NotPrepared: none has one; `owner` says what the owner's archive holds.
    """
    if not unpack(path, into, place, show=show):
        raise NotPrepared(f"{path}: contains nothing of the owner's {owner}; download it again")
