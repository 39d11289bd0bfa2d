"""Open files that others made: regular files only, each folder once, and limits on what a file may expand to.

Two environment variables set the limits: KDEP_MAX_PIXELS for one image, KDEP_MAX_EXPANDED for one archive.
"""

import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

MAX_PIXELS = 2**26  # 8192 x 8192; decoding one takes up to 1 GB in each thread
MAX_EXPANDED = 2**29  # 512 MiB
Skipped = tuple[Path, str]  # a path, and why it was not followed or listed
NOT_REGULAR = "not a regular file (a pipe, a device, a socket or a folder)"


class RefusedError(ValueError):
    """A file is not opened, because it is not what its name says or exceeds a limit; says which."""


def max_pixels() -> int:
    """Return the largest number of pixels of one image, from KDEP_MAX_PIXELS."""
    return _limit("KDEP_MAX_PIXELS", MAX_PIXELS)


def max_expanded() -> int:
    """Return how many bytes an archive may grow by when it is read, from KDEP_MAX_EXPANDED.

    It is also the largest size in bytes of one image file, and of a file of text or answers.
    """
    return _limit("KDEP_MAX_EXPANDED", MAX_EXPANDED)


def _limit(name: str, default: int) -> int:
    given = os.environ.get(name)
    if not given:
        return default
    try:
        value = int(given)
    except ValueError:
        value = 0
    if value < 1:
        raise ValueError(f"{name}={given!r}: expected a whole number above 0, such as {default}")
    return value


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file for reading. Pipes and devices are refused without waiting for them, also behind a link.

    Raises:
        RefusedError: not a regular file.
        OSError: the file cannot be opened.
    """
    # O_NONBLOCK: opening a pipe for reading would wait for a writer. What is open is what is checked.
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: PTH123, SIM115 - a descriptor
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise RefusedError(NOT_REGULAR)
    return file


def read_regular(path: str | Path) -> bytes:
    """Read an image, or another file that fits into memory.

    Raises:
        RefusedError: not a regular file, or larger than `max_expanded`.
        OSError: the file cannot be opened.
    """
    with open_regular(path) as file:
        size, most = os.fstat(file.fileno()).st_size, max_expanded()
        if size > most:
            raise RefusedError(f"{size:,} bytes; KDEP_MAX_EXPANDED allows {most:,}")
        return file.read()


def read_utf8(path: Path) -> str:
    """Read a text file of somebody else's.

    Raises:
        ValueError: it is not UTF-8; names it.
        OSError: the file cannot be opened.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def refuse_bomb(archive: Path | bytes, where: object) -> None:
    """Refuse a zip file (.npz, .pth) that expands by more than `max_expanded`. Only its central directory is read.

    Files that are not zip files pass.

    Raises:
        RefusedError: names `where`, both sizes, and the limit.
        zipfile.BadZipFile: the central directory is damaged.
    """
    content: Any = io.BytesIO(archive) if isinstance(archive, bytes) else archive
    if not zipfile.is_zipfile(content):
        return
    size = len(archive) if isinstance(archive, bytes) else Path(archive).stat().st_size
    with zipfile.ZipFile(content) as file:
        refuse_growth(sum(entry.file_size for entry in file.infolist()), size, where)


def refuse_growth(expanded: int, size: int, where: object) -> None:
    """Refuse a content of `expanded` bytes in a file of `size` bytes if it grew by more than `max_expanded`."""
    if expanded - size > (most := max_expanded()):
        raise RefusedError(
            f"{where}: {size:,} bytes would expand to {expanded:,}; KDEP_MAX_EXPANDED allows a growth of {most:,}. "
            "Set it higher if you trust the file"
        )


def printable(name: object, *, keep: str = "") -> str:
    """Return a name in one line of printable text: other characters, and bytes that are not UTF-8, are escaped.

    `keep` has characters that stay, such as a newline.
    """
    text = str(name)
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


@dataclass
class Tree:
    """What is below a folder.

    Attributes:
        files: paths of regular files, and of links that lead nowhere, so that reading them reports them.
        folders: every folder that was entered, the first one included.
        skipped: what was not followed or listed.
        unwanted: how many other files there are by the ending of their name, in small letters.
    """

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unwanted: Counter[str] = field(default_factory=Counter)


def walk(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> Tree:
    """List the files below a folder; see `walk_all`."""
    return walk_all([folder], wanted)


def walk_all(folders: Sequence[Path], wanted: Callable[[str], bool] = lambda name: True) -> Tree:
    """List the files below folders, without hidden files and folders, whose names begin with a dot.

    Links to folders are followed; each folder is entered once. Folders come before links to them, so a link never
    takes a folder away from its own place. A link to a folder above itself is not followed.

    Args:
        folders: where to start; a single one may be any link.
        wanted: takes the name of a file.
    """
    tree, seen = Tree(), set()
    starts = [str(place) for place in sorted(folders, key=Path.is_symlink)]
    single = starts[0] if len(starts) == 1 else None
    for place in starts:  # grows while it is read
        if place != single and Path(place).is_symlink() and _is_above(place):
            tree.skipped.append((Path(place), "a link to a folder above itself"))
            continue
        waiting = [place]
        while waiting:
            below, links = _enter(waiting.pop(), seen, tree, wanted)
            waiting += below
            starts += links
    return tree


def _is_above(link: str) -> bool:
    """Whether a link leads to the folder it is in, or to one above it."""
    return Path(os.path.realpath(Path(link).parent)).is_relative_to(os.path.realpath(link))


def _enter(
    place: str, seen: set[tuple[int, int]], tree: Tree, wanted: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Add a folder's files to the tree; return its folders, in reverse order of names, and its links to folders."""
    try:
        found = os.stat(place)  # noqa: PTH116 - strings throughout: a Path per file doubles the time
        with os.scandir(place) as entries:
            listed = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        tree.skipped.append((Path(place), f"cannot be listed ({error.strerror})"))
        return [], []
    if (found.st_dev, found.st_ino) in seen:
        tree.skipped.append((Path(place), "a folder that is already listed under another name"))
        return [], []
    seen.add((found.st_dev, found.st_ino))
    tree.folders.append(place)
    below: list[str] = []
    links: list[str] = []
    for entry in listed:
        kind = _kind(entry)
        if kind == "folder":
            (links if entry.is_symlink() else below).append(entry.path)
        elif kind == "file" and wanted(entry.name):
            tree.files.append(entry.path)
        elif kind == "file":
            tree.unwanted[os.path.splitext(entry.name)[1].lower()] += 1  # noqa: PTH122 - as above
        elif kind != "file" and (kind != NOT_REGULAR or wanted(entry.name)):
            tree.skipped.append((Path(entry.path), kind))
    return below[::-1], links


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file() or not os.path.exists(entry.path):  # noqa: PTH110 - a link that leads nowhere
            return "file"
    except OSError as error:  # a link to itself
        return f"cannot be followed ({error.strerror})"
    return NOT_REGULAR


def skipped_line(skipped: Iterable[Skipped], *, shown: int = 3) -> str:
    """Say in one line how many paths were skipped, and name the first."""
    skipped = list(skipped)
    named = "; ".join(f"{printable(path)}: {why}" for path, why in skipped[:shown])
    return f"skipped {len(skipped)}: {named}{f'; and {len(skipped) - shown} more' if len(skipped) > shown else ''}"
