"""What stands behind a row of a board: the metrics beside the main one, and where checkpoint and scores come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kdep_benchmarks.board.table import Cell, Column, Row, is_on


@dataclass(frozen=True)
class Origin:
    """Where a row's checkpoint and scores come from; None where nobody wrote it. Fields are columns of leaderboard.csv.

    Attributes:
        method: of pretraining, in a few words.
        teacher: the teacher's source, several joined by +.
        pretrain_data: source of the pretraining images.
        pretrain_epochs: as configured.
        pretrain_seed: of the run.
        pretrain_commit: of the code that pretrained.
        commit: of the code that measured the scores; several joined by commas.
    """

    method: str | None
    teacher: str | None
    pretrain_data: str | None
    pretrain_epochs: int | None
    pretrain_seed: int | None
    pretrain_commit: str | None
    commit: str | None


def origin_of(row: Row) -> Origin:
    """Put together what the row's results say; of one checkpoint they do not differ in it, but some may lack it."""
    finished = [result for result in row.results if result.status == "ok"]

    def known(name: str) -> Any:
        values = (result.checkpoint.summary.get(name) for result in row.results)
        return next((value for value in values if value is not None), None)

    names = ("method", "teacher", "pretrain_data", "pretrain_epochs", "pretrain_seed", "pretrain_commit")
    commits = sorted({result.commit for result in finished} - {""})
    return Origin(**{name: known(name) for name in names}, commit=", ".join(commits) or None)


def other_metrics(rows: Iterable[Row], column: Column) -> list[str]:
    """Names of a column's metrics beside the main one, in the order in which results have them."""
    found = (r.metrics for row in rows for r in row.results if r.status == "ok" and is_on(r, column))
    return [name for name in dict.fromkeys(name for metrics in found for name in metrics) if name != column.metric]


def metric_cell(row: Row, column: Column, metric: str) -> Cell:
    """A row's scores by another metric than the main one, by seed."""
    found = [r for r in row.results if r.status == "ok" and is_on(r, column) and metric in r.metrics]
    return Cell({result.seed: result.metrics[metric] for result in sorted(found, key=lambda result: result.seed)})
