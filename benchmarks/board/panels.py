"""Choose what the page of a board plots: scores beside baselines, probe curves, score against pretraining images."""

import pandas as pd

from kdep_benchmarks.board.intervals import half_width
from kdep_benchmarks.board.leaderboard import compact
from kdep_benchmarks.board.plots import cost_panel, dot_panel, line_panel
from kdep_benchmarks.board.table import Board, mean_by_seed
from kdep_benchmarks.result import ROLES

FITTED_ON = {"fewshot": ("train",), "linear": ("train", "val")}  # the linear probe is refitted on both


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
    """Mean over families of the complete rows; none below two such rows. The interval is over seeds."""
    rows = _means(board, None)
    return [dot_panel("mean", "over families, %", rows)] if len(rows) > 1 else []


def efficiency_panels(board: Board) -> list[str]:
    """Score over the number of labelled images, for data sets with few-shot tasks; the linear probe has the most.

    A point needs a count in the results. A task measured with several settings has no point: it has no single score.
    """
    panels, columns = [], board.columns
    data = [columns.dataset, columns.data_fingerprint]
    for (dataset, _), own in columns[columns.groupby(data).kind.transform(lambda k: "fewshot" in set(k))].groupby(
        ["dataset", "data_fingerprint"], sort=False
    ):
        single = own.index[~own.task.duplicated(keep=False)]
        lines = []
        counted = pd.DataFrame({label: labelled_images(board, label) for label in single}, dtype=float)
        for sha256, name in _students_first(board).items():
            means = board.cells["mean"].loc[sha256]
            points = [(n, means[c]) for c, n in counted.reindex(board.rows.index).loc[sha256].dropna().items()]
            if len(points) > 1:
                lines.append((name, sorted(points)))
        if lines:
            panels.append(line_panel(dataset, "linear probe, %, over labelled images", lines, label=compact))
    return panels


def labelled_images(board: Board, column: str) -> pd.Series:
    """How many labelled images the probe of each checkpoint was fitted on, mean over runs.

    Few-shot counts one draw. Missing for other kinds, and where a run did not count its images.
    """
    splits, found = FITTED_ON.get(board.columns.kind[column]), {}
    for sha256, results in board.results_of(column).items() if splits else ():
        counts = [result.counts.get(split) for result in results for split in splits]
        found[sha256] = None if None in counts else sum(counts) / len(results)
    return pd.Series(found, dtype=float)


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
    """Name, role, images_seen, mean and half its interval over seeds, of the rows that have this mean."""
    mean = board.rows.mean_over_families if family is None else board.family_means[family]
    rows = board.rows[["name", "role", "images_seen"]].assign(mean=mean).dropna(subset="mean")
    by_seed = mean_by_seed(board, family).groupby(level="checkpoint").agg(lambda own: half_width(own.tolist()))
    return rows.assign(half=by_seed.astype(float).reindex(rows.index))  # a frame without rows would take those


def _students_first(board: Board) -> pd.Series:
    """Names in the order of the colours: the first colour is the students'."""
    return board.rows.name[board.rows.role.map(ROLES.index).sort_values(kind="stable").index]
