"""Write the board as four files: leaderboard.csv, results.csv, leaderboard.md and leaderboard.html."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdep.files import alone_with, write_text
from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.frame import csv_text, results_frame
from kdep_benchmarks.board.sheets import find_sheets
from kdep_benchmarks.board.table import Board, Suite, name_teachers
from kdep_benchmarks.page.leaderboard import leaderboard_frame
from kdep_benchmarks.page.markdown import markdown
from kdep_benchmarks.page.page import html
from kdep_benchmarks.result import Result


def write_leaderboard(
    results: Iterable[Result],
    out: Path,
    *,
    folders: Iterable[Path] = (),
    suite: Suite | None = None,
    damaged: Sequence[str] = (),
) -> list[Board]:
    """Write the four files and return the boards.

    Args:
        results: of any checkpoints, tasks and protocols.
        out: the folder to write to.
        folders: folders of results, whose sheets of example images the page shows.
        suite: what means and ranks are over, see `boards`.
        damaged: a sentence for each file that is left out.
    """
    results, folders, out = name_teachers(results), list(folders), Path(out)
    every = boards(results, suite)
    files = {
        "leaderboard.csv": csv_text(leaderboard_frame(every)),
        "results.csv": csv_text(results_frame(results)),
        "leaderboard.md": markdown(every, damaged),
        "leaderboard.html": html(every, [find_sheets(board, folders) for board in every], damaged),
    }
    with alone_with(out, files):
        for name, text in files.items():
            write_text(out / name, text)
    return every
