"""List the images of a folder, and hold millions of names in one buffer."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdep.guard import Tree, printable, skipped_line, walk

logger = logging.getLogger("kdep")
# Of the formats that `kdep.data.decoding.opening` reads.
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif"}
# Files that often lie beside images; no ending is that of README and LICENSE.
BESIDE = {
    *("", ".cls", ".csv", ".db", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".mat", ".md", ".npy", ".npz"),
    *(".parquet", ".pdf", ".pkl", ".py", ".rst", ".sh", ".sha256", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml"),
}


def list_images(folder: Path) -> list[str]:
    """List the images in a folder and below it, relative to it, in the order of their names.

    Links to folders are followed and hidden files left out, see `kdep.guard.walk_all`; what is skipped is logged.

    Raises:
        ValueError: there are none.
    """
    tree = walk(folder, is_image_name)
    warn_of_the_rest(folder, tree)
    if not tree.files:
        endings = ", ".join(sorted(SUFFIXES))
        raise ValueError(
            f"{folder}: no image in this folder or below ({endings}; names that begin with a dot do not count)"
        )
    start = len(os.path.join(folder, ""))  # noqa: PTH118 - the length with a slash
    return sorted(name[start:] for name in tree.files)


def warn_of_the_rest(folder: Path, tree: Tree) -> None:
    """Log what `kdep.guard.walk_all` skipped, and in one line how many files with other endings are no images."""
    if tree.skipped:
        logger.warning("%s: %s", printable(folder), skipped_line(tree.skipped))
    others = {ending: number for ending, number in sorted(tree.unwanted.items()) if ending not in BESIDE}
    if others:
        named = ", ".join(f"{number:,} {printable(ending)}" for ending, number in others.items())
        endings = ", ".join(sorted(SUFFIXES))
        logger.warning(
            "%s: not read: %s; convert such images, or name them as what they are: %s",
            printable(folder),
            named,
            endings,
        )


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like that of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - a Path takes ten times as long


def encoded(name: str) -> bytes:
    """Encode a name. Python represents file names that are not UTF-8 by surrogates; surrogateescape keeps them."""
    return name.encode("utf-8", "surrogateescape")


class Names(Sequence[str]):
    """A read-only list of strings in one buffer, which forked workers share.

    Reading a string from a list changes its reference count, so each forked worker would copy the memory of the list.
    """

    def __init__(self, names: Iterable[str]) -> None:
        parts = [encoded(name) for name in names]
        self._buffer = np.frombuffer(b"".join(parts), np.uint8)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    @classmethod
    def of(cls, buffer: np.ndarray, ends: np.ndarray) -> "Names":
        """Take concatenated names, (bytes,) uint8, and where each ends, (N,) int64."""
        names = cls(())
        names._buffer, names._ends = buffer, ends
        return names

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # handles negative indices and raises IndexError
        start = self._ends[number - 1] if number else 0
        return self._buffer[start : self._ends[number]].tobytes().decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return np.array_equal(self._buffer, other._buffer) and np.array_equal(self._ends, other._ends)
        return list(self) == list(other) if isinstance(other, list | tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({len(self)}: {self[0]} ... {self[-1]})" if len(self) else "Names(0)"
