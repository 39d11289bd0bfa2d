"""Write the board as four files: leaderboard.csv, results.csv, leaderboard.md and leaderboard.html."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdep.files import write_text
from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.frame import csv_text, results_frame
from kdep_benchmarks.board.leaderboard import leaderboard_frame
from kdep_benchmarks.board.markdown import markdown
from kdep_benchmarks.board.page import html
from kdep_benchmarks.board.sheets import find_sheets
from kdep_benchmarks.board.table import Board, Suite, name_teachers
from kdep_benchmarks.result import Result

ABANDONED = 3600.0  # seconds after which a half-written file belongs to a process that was killed


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
    write_text(out / "leaderboard.csv", csv_text(leaderboard_frame(every)))
    write_text(out / "results.csv", csv_text(results_frame(results)))
    write_text(out / "leaderboard.md", markdown(every, damaged))
    write_text(out / "leaderboard.html", html(every, [find_sheets(board, folders) for board in every], damaged))
    for name in ("leaderboard.*", "results.csv"):
        for part in out.glob(f".{name}.*.part"):
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink(missing_ok=True)
    return every
