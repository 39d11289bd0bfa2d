"""The verdicts of a board as tables, each row minus one of them, and as a DataFrame for verdicts.csv."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pandas as pd

from kdep_benchmarks.board.frame import ABSENT, typed
from kdep_benchmarks.board.table import VERDICTS, Board
from kdep_benchmarks.page.leaderboard import Table, TableCell, checkpoint_table
from kdep_benchmarks.verdicts.difference import Interval
from kdep_benchmarks.verdicts.wording import MEAN, mark_of, marks_mean

SIDE = {"": "name", "sha8_": "sha8"}  # columns a and sha8_a, and what of a row they have
TONES = {"better": "worse", "worse": "better"}  # of a row, where the row that it is compared with is


class Against(NamedTuple):
    """All rows minus one of them, which has this sha256, and what the marks of the table mean."""

    sha256: str
    table: Table
    marks: str


def verdicts_frame(boards: Iterable[Board]) -> pd.DataFrame:
    """One row per board, ordered pair of rows and column: the content of verdicts.csv.

    difference is a minus b in points, low and high are its 95 % interval. p_holm and verdict_holm are after Holm's
    correction over all `tests` comparisons of a. Without a column it is the mean over data sets.
    """
    frames = []
    for board in boards:
        own, protocol = board.verdicts, board.protocol
        sides = {f"{name}{side}": own[side].map(board.rows[of]) for side in "ab" for name, of in SIDE.items()}
        frame = pd.DataFrame({**sides, **{name: own[name].astype(object) for name in VERDICTS[2:]}})
        where = {"protocol": protocol.name, "version": protocol.version, "budget": protocol.budget}
        frames.append(frame.assign(**where)[[*where, *frame.columns]])
    return typed(pd.concat(frames, ignore_index=True)) if frames else pd.DataFrame()


def against_tables(board: Board) -> Iterator[Against]:
    """All rows minus one of them, for each row that has an interval against another, in the order of the board."""
    known = board.verdicts.dropna(subset="low")
    return (_against(board, sha256, own) for sha256, own in known.groupby("a", sort=False))


def _against(board: Board, sha256: str, own: pd.DataFrame) -> Against:
    tests = {mean: int(part.tests.iloc[0]) for mean, part in own.groupby(own.column.isna())}
    found = {(one.b, one.column): _cell(one) for one in own.fillna({"column": MEAN}).itertuples()}
    columns = {}
    for label in [*board.columns.index, MEAN]:
        cells = [found.get((row, label), TableCell("" if row == sha256 else ABSENT)) for row in board.rows.index]
        if any(cell.value is not None for cell in cells):
            columns[label] = cells
    title = f"minus {board.rows.name[sha256]}"
    return Against(sha256, checkpoint_table(board, title, columns), marks_mean(tests.get(False, 0), tests.get(True, 0)))


def _cell(one: tuple) -> TableCell:
    """`+2.24 [+1.29, +3.19] **`, the row minus what it is compared with."""
    turned = Interval(0 - one.difference, 0 - one.high, 0 - one.low, one.p)
    text = f"{turned.text} {mark_of(one.verdict, one.verdict_holm)}".rstrip()
    detail = f"95 % interval over {one.over}; p {one.p:.2g}, after Holm's correction {one.p_holm:.2g}"
    return TableCell(text, turned.value, detail=detail, tone=TONES.get(one.verdict, ""))
