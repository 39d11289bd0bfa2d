"""How far cells are, read from their logs, and a table of them that stays at the foot of a terminal."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from kdep_benchmarks.durations import duration

TAIL = 8192  # bytes of a log that are read
TQDM = re.compile(rb"(\d+)%\|")
MMENGINE = re.compile(rb"Iter\(train\)\s*\[\s*(\d+)/(\d+)\]")
HEADER = ("cell", "state", "progress", "time", "left")


@dataclass(frozen=True)
class Row:
    """A line of the table; shares from 0 to 1, times in seconds, None where unknown."""

    title: str
    state: str
    share: float | None = None
    elapsed: float | None = None
    left: float | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """As it is shown."""
        share = "" if self.share is None else f"{round(100 * self.share)} %"
        times = ("" if value is None else duration(value) for value in (self.elapsed, self.left))
        return self.title, self.state, share, *times


def share_done(log: Path) -> float | None:
    """Share of the work in hand by the last progress bar (tqdm's or mmengine's) in a log; None where there is none.

    A cell may have several bars after one another, such as one per set of images whose features it extracts.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read()
    except OSError:
        return None
    bars = [(found.start(), int(found[1]) / 100) for found in TQDM.finditer(text)]
    bars += [(found.start(), int(found[1]) / int(found[2])) for found in MMENGINE.finditer(text)]
    return max(bars)[1] if bars else None


class Screen:
    """Lines that stay, and below them, on a terminal, a table that is drawn anew.

    Elsewhere (a file, a pipe) there are only the lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.height = stream, 0
        self.live = stream.isatty()

    def say(self, text: str) -> None:
        """Print lines to stay."""
        self._write(f"{text}\n")
        self.height = 0

    def show(self, rows: Sequence[Row], summary: str) -> None:
        """Draw the table in the place of the last one, as much of it as fits."""
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


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of columns, each as wide as its widest text."""
    cells = [HEADER, *(row.texts for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
