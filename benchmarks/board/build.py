"""Build boards from results: the tables of `kdep_benchmarks.board.table` with their notes."""

from collections.abc import Iterable
from dataclasses import replace

from kdep_benchmarks.board.against import with_verdicts
from kdep_benchmarks.board.notes import notes_on
from kdep_benchmarks.board.table import Board, Suite, boards_without_notes
from kdep_benchmarks.result import Result
from kdep_benchmarks.verdicts.resamples import Read


def boards(results: Iterable[Result], suite: Suite | None = None, read: Read | None = None) -> list[Board]:
    """Build a board for each protocol, version and budget.

    A task has one column for each version of its data, each set of settings, and each batch and precision that the
    machine had to change. A checkpoint has the same name on all boards.

    Args:
        results: of any protocols.
        suite: means and ranks are over its tasks alone; without one, over all columns.
        read: gives the resamples of a result; without it rows have no verdicts on each other.

    Raises:
        ValueError: one column has two main metrics.
    """
    every = [replace(board, notes=tuple(notes_on(board))) for board in boards_without_notes(results, suite)]
    return every if read is None else [with_verdicts(board, read) for board in every]
