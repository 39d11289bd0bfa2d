"""Print lines to a terminal, with a table of running cells below them that is redrawn in place."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from kdep_benchmarks.durations import duration

HEADER = ("cell", "state", "progress", "time", "left")


@dataclass(frozen=True)
class Line:
    """A line of the table; shares from 0 to 1, times in seconds, None where unknown."""

    title: str
    state: str
    share: float | None = None
    elapsed: float | None = None
    left: float | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Its columns."""
        share = "" if self.share is None else f"{round(100 * self.share)} %"
        times = ("" if value is None else duration(value) for value in (self.elapsed, self.left))
        return self.title, self.state, share, *times


class Screen:
    """Lines that stay and, on a terminal only, a table below them that is redrawn in place."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.height = stream, 0
        self.live = stream.isatty()

    def say(self, text: str) -> None:
        """Print lines that stay."""
        self._write(f"{text}\n")
        self.height = 0

    def show(self, rows: Sequence[Line], summary: str) -> None:
        """Redraw the table, as much of it as fits the terminal."""
        if not self.live:
            return
        columns, lines = shutil.get_terminal_size()
        shown = rows[: max(1, lines - 4)]
        more = [f"... and {len(rows) - len(shown)} more"] if len(rows) > len(shown) else []
        text = [*table(shown), *more, summary]
        # One short of the width: a full line would wrap on some terminals and spoil the count.
        self._write("".join(f"{line[: columns - 1]}\n" for line in text))
        self.height = len(text)

    def _write(self, text: str) -> None:
        # Up to the first line of the last table, and clear from there.
        self.stream.write((f"\x1b[{self.height}F\x1b[J" if self.height else "") + text)
        self.stream.flush()


def table(rows: Sequence[Line]) -> list[str]:
    """Align the columns."""
    cells = [HEADER, *(row.texts for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
