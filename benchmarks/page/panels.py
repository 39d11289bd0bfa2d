"""Choose what the page of a board plots: the scores of each column, and their means."""

from kdep_benchmarks.board.table import Board, half_widths_of_means
from kdep_benchmarks.page.plots import dot_panel


def score_panels(board: Board, family: str) -> list[str]:
    """One panel per column of the family, with every measured checkpoint."""
    panels = []
    for label, column in board.columns[board.columns.family == family].iterrows():
        cells = board.cells.xs(label, axis=1, level=1).rename(columns={"ci95": "half"})
        dots = board.rows[["name", "role"]].join(cells[["mean", "half"]]).dropna(subset="mean")
        if len(dots):
            panels.append(dot_panel(label, f"{column.metric}, %", dots))
    return panels


def mean_panel(board: Board) -> list[str]:
    """Mean over families of the complete rows; none below two such rows."""
    rows = board.rows[["name", "role"]].assign(mean=board.rows.mean_over_families, half=half_widths_of_means(board))
    rows = rows.dropna(subset="mean")
    return [dot_panel("mean", "over families, %", rows)] if len(rows) > 1 else []
