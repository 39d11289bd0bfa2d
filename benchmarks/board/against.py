"""Compare the rows of a board with each other, as `kdep compare ROW OTHERS...` does."""

import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from kdep_benchmarks.board.table import VERDICTS, Board, Note
from kdep_benchmarks.result import Result
from kdep_benchmarks.verdicts.compare import corrected, of_two
from kdep_benchmarks.verdicts.resamples import Read
from kdep_benchmarks.verdicts.wording import Difference

logger = logging.getLogger("kdep")
ROWS = 20  # the first ones of a board, which are compared with each other


def with_verdicts(board: Board, read: Read) -> Board:
    """Add the verdicts: each of the first rows minus each other on every column that both have, and over data sets.

    A result whose answers cannot be read has no part in it, which a note says, and no two rows without a column in
    common.

    Args:
        board: what is compared.
        read: gives the resamples of a result.

    Returns:
        The board with a row of `verdicts` for each ordered pair and column. a and b are sha256; a mean over data sets
        has no column; tests is the number of comparisons of a that Holm's correction is over; the other columns are
        those of `kdep.compare`.
    """
    rows = list(board.rows.index[:ROWS])
    unread: list[Note] = []
    cells = {sha256: _readable(board, sha256, read, unread) for sha256 in rows}
    ways, names = board.columns.way, board.rows.name
    found: dict[str, list[tuple[str, Difference]]] = {sha256: [] for sha256 in rows}
    for a, b in itertools.permutations(rows, 2):
        shared = [column for column in cells[a] if column in cells[b]]
        pairs = {ways[column]: (cells[a][column], cells[b][column]) for column in shared}
        with contextlib.suppress(ValueError):  # of other test images, as only files of others can be; compare says so
            told = of_two((names[a], names[b]), pairs, {ways[column]: column for column in shared}, read)
            found[a] += [(b, one) for one in told]
    records = [record for a, told in found.items() for record in _records(a, told)]
    verdicts = pd.DataFrame(records, columns=list(VERDICTS))
    return replace(board, verdicts=verdicts, notes=(*board.notes, *unread))


def _readable(board: Board, sha256: str, read: Read, unread: list[Note]) -> Mapping[str, list[Result]]:
    """The results of a row that can be compared, by column; adds a note on each other."""
    own = board.runs[board.runs.ok & (board.runs.checkpoint == sha256)].sort_values("seed", kind="stable")
    cells: dict[str, list[Result]] = {}
    for column, result in zip(own.column, own["result"], strict=True):
        try:
            read(result)
        except (ValueError, OSError) as error:
            if result.answers:
                logger.warning("not in the verdicts: %s", error)
                unread.append(Note(f"Not in the verdicts: {error}.", (sha256,)))
            continue
        cells.setdefault(column, []).append(result)
    return {column: cells[column] for column in board.columns.index if column in cells}


def _records(a: str, told: Sequence[tuple[str, Difference]]) -> list[dict[str, Any]]:
    differences = corrected([one for _, one in told])
    return [
        {**one.row, "a": a, "b": b, "column": one.of, "tests": one.tests}
        for (b, _), one in zip(told, differences, strict=True)
    ]
