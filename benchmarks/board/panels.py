"""Choose what the page of a board plots: scores beside baselines, and score against pretraining images."""

import pandas as pd

from kdep_benchmarks.board.plots import cost_panel, dot_panel
from kdep_benchmarks.board.table import Board, half_widths_of_means


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
    rows = _means(board, None)
    return [dot_panel("mean", "over families, %", rows)] if len(rows) > 1 else []


def cost_panels(board: Board) -> list[str]:
    """Score over the images seen in pretraining: mean over families, then of each family, of the rows that have one.

    Baselines are lines: random weights have seen no images, and published weights do not say how many.
    """
    panels, families = [], list(board.family_means)
    for family in (*([None] if len(families) > 1 else []), *families):
        rows = _means(board, family)
        points = rows[rows.images_seen.notna() & (rows.images_seen.astype(float) > 0)].infer_objects()
        guides = rows[rows.role.isin(["random", "supervised"])]
        if len(points):
            panels.append(cost_panel(family or "mean", points.astype({"images_seen": float}), guides))
    return panels


def _means(board: Board, family: str | None) -> pd.DataFrame:
    """Name, role, images_seen, mean and half its 95 % interval, of the rows that have this mean."""
    mean = board.rows.mean_over_families if family is None else board.family_means[family]
    rows = board.rows[["name", "role", "images_seen"]].assign(mean=mean).dropna(subset="mean")
    return rows.assign(half=half_widths_of_means(board, family).reindex(rows.index))
