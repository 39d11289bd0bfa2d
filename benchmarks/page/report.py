"""Write the board: leaderboard.csv, verdicts.csv, results.csv, leaderboard.md and leaderboard.html."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from kdep.files import alone_with, write_text
from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.frame import csv_text, results_frame
from kdep_benchmarks.board.sheets import find_sheets
from kdep_benchmarks.board.table import Board, Suite, name_teachers
from kdep_benchmarks.page.leaderboard import leaderboard_frame
from kdep_benchmarks.page.markdown import markdown
from kdep_benchmarks.page.page import html
from kdep_benchmarks.page.verdicts import verdicts_frame
from kdep_benchmarks.results import Found, refuse_missing
from kdep_benchmarks.verdicts.resamples import reader

FILES = ("leaderboard.csv", "verdicts.csv", "results.csv", "leaderboard.md", "leaderboard.html")


class Written(NamedTuple):
    """The results that were read, what was left out of them, and the boards that were written."""

    found: Found
    boards: list[Board]


def write_leaderboard(
    read: Callable[[], Found], out: Path, *, folders: Iterable[Path] = (), suite: Suite | None = None
) -> Written:
    """Read results and write the files, one process at a time: of two that end together, the last has read all.

    Args:
        read: reads the results, of any checkpoints, tasks and protocols.
        out: the folder to write to; it is made if needed.
        folders: folders of results, whose answers give the verdicts and whose example images the page shows.
        suite: what means and ranks are over, see `boards`.

    Raises:
        ValueError: no such folder; nothing is made then.
    """
    folders, out = list(folders), Path(out)
    refuse_missing(folders)
    with alone_with(out, FILES):
        found = read()
        every = boards(found.results, suite, reader(folders) if folders else None)
        sheets = [find_sheets(board, folders) for board in every]
        texts = (
            csv_text(leaderboard_frame(every)),
            csv_text(verdicts_frame(every)),
            csv_text(results_frame(name_teachers(found.results))),
            markdown(every, found.damaged),
            html(every, sheets, found.damaged),
        )
        for name, text in zip(FILES, texts, strict=True):
            write_text(out / name, text)
    return Written(found, every)
