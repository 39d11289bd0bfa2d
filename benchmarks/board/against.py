"""Compare the rows of a board with each other, as `kdep compare ROW OTHERS...` does."""

import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdep_benchmarks.board.table import VERDICTS, Board
from kdep_benchmarks.result import Result
from kdep_benchmarks.verdicts.compare import corrected, of_two
from kdep_benchmarks.verdicts.resamples import Read
from kdep_benchmarks.verdicts.wording import Difference

logger = logging.getLogger("kdep")
ROWS = 20  # the first ones of a board, which are compared with each other


def verdicts_of(board: Board, read: Read) -> pd.DataFrame:
    """Each of the first rows minus each other on every column that both have, and over data sets.

    A result whose answers cannot be read has no part in it, and no two rows without a column in common.

    Args:
        board: what is compared.
        read: gives the resamples of a result.

    Returns:
        A row for each ordered pair and column. a and b are sha256; a mean over data sets has no column; tests is the
        number of comparisons of a that Holm's correction is over; the other columns are those of `kdep.compare`.
    """
    rows = list(board.rows.index[:ROWS])
    cells = {sha256: _readable(board, sha256, read) for sha256 in rows}
    ways, names = board.columns.way, board.rows.name
    found: dict[str, list[tuple[str, Difference]]] = {sha256: [] for sha256 in rows}
    for a, b in itertools.permutations(rows, 2):
        shared = [column for column in cells[a] if column in cells[b]]
        pairs = {ways[column]: (cells[a][column], cells[b][column]) for column in shared}
        with contextlib.suppress(ValueError):  # of other test images, as only files of others can be; compare says so
            told = of_two((names[a], names[b]), pairs, {ways[column]: column for column in shared}, read)
            found[a] += [(b, one) for one in told]
    records = [record for a, told in found.items() for record in _records(a, told)]
    return pd.DataFrame(records, columns=list(VERDICTS))


def _readable(board: Board, sha256: str, read: Read) -> Mapping[str, list[Result]]:
    own = board.runs[board.runs.ok & (board.runs.checkpoint == sha256)].sort_values("seed", kind="stable")
    cells: dict[str, list[Result]] = {}
    for column, result in zip(own.column, own["result"], strict=True):
        try:
            read(result)
        except (ValueError, OSError) as error:
            if result.answers:
                logger.warning("no verdicts with a result: %s", error)
            continue
        cells.setdefault(column, []).append(result)
    return {column: cells[column] for column in board.columns.index if column in cells}


def _records(a: str, told: Sequence[tuple[str, Difference]]) -> list[dict[str, Any]]:
    differences = corrected([one for _, one in told])
    return [
        {**one.row, "a": a, "b": b, "column": one.of, "tests": one.tests}
        for (b, _), one in zip(told, differences, strict=True)
    ]
