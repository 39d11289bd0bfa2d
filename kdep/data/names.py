"""Hold millions of names in one buffer."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Names(Sequence[str]):
    """A read-only list of strings in one buffer, which forked workers share.

    Reading a string from a list changes its reference count, so each forked worker would copy the memory of the list.
    """

    def __init__(self, names: Iterable[str]) -> None:
        # Python represents file names that are not UTF-8 by surrogates; surrogateescape keeps them.
        parts = [name.encode("utf-8", "surrogateescape") for name in names]
        self._buffer, self._ends = b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # handles negative indices and raises IndexError
        start = self._ends[number - 1] if number else 0
        return self._buffer[start : self._ends[number]].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self._buffer == other._buffer and np.array_equal(self._ends, other._ends)
        return list(self) == list(other) if isinstance(other, list | tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names({len(self)}: {self[0]} ... {self[-1]})" if len(self) else "Names(0)"
