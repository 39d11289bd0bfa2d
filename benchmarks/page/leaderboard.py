"""The board as tables: one wide DataFrame for leaderboard.csv, and `Table`s for the terminal, Markdown and HTML."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from kdep.guard import printable
from kdep_benchmarks.board.facts import COST, ORIGIN
from kdep_benchmarks.board.frame import ABSENT, free_names, typed
from kdep_benchmarks.board.table import Board, half_widths_of_means
from kdep_benchmarks.counts import counted
from kdep_benchmarks.durations import duration
from kdep_benchmarks.verdicts.difference import holm
from kdep_benchmarks.verdicts.intervals import CONFIDENCE
from kdep_benchmarks.verdicts.uncertainty import coverage

DAMAGED_SHOWN = 20  # files that are left out and named
FIRST = ("name", "sha8", "role", "arch", *ORIGIN, "commit", "protocol", "version", "budget", "complete", "failed")
AVERAGES = ("mean_over_families", "average_rank", "average_rank_low", "average_rank_high", "share_of_gain")
OVERLAP = ("overlap_percent", "overlap_images", "overlap_exact")
CELLS = {
    "mean": "",
    "std": "_std",
    "n": "_n",
    "ci95": "_ci95",
    "images": "_ci95_images",
    "share_of_gain": "_share_of_gain",
}
PROVENANCE = {
    "sha8": "sha256",
    "arch": "architecture",
    "method": "method",
    "teacher": "teacher",
    "pretrain_data": "pretrained on",
    "images_seen": "images seen",
    "pretrain_epochs": "epochs",
    "pretrain_seed": "seed",
    "load_coverage": "load",
    "pretrain_commit": "pretrained by",
    "commit": "measured by",
}


@dataclass(frozen=True)
class TableCell:
    """What a reader sees, the value a column is sorted by, the text of a tooltip; `tone` is better, worse or none."""

    text: str
    value: float | str | None = None
    best: bool = False
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table whose first column names the checkpoint, in the order of the board's rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


def leaderboard_frame(boards: Iterable[Board]) -> pd.DataFrame:
    """One row per checkpoint and protocol, missing where nothing was measured: the content of leaderboard.csv.

    A column of the board has the columns LABEL (the mean score), LABEL_std, _n, _ci95 (half the 95 % interval),
    _ci95_images (test images that it covers), _share_of_gain, and LABEL_METRIC for the mean of each other metric.
    Where two columns would have one name, the later gets `_2`.
    """
    frames = [_wide(board) for board in boards]
    if not frames:
        return pd.DataFrame()
    frame = pd.concat(frames, ignore_index=True)
    frame.columns = _names(frame.columns)
    # The cost is behind the scores of every board, and the notes behind all.
    return typed(frame[sorted(frame, key=lambda name: (name == "notes", name in COST))])


def _names(keys: pd.MultiIndex) -> list[str]:
    """Names of the columns of `_wide`. Those that are not of a task keep theirs, whatever tasks are called."""
    order = sorted(keys, key=lambda key: key[0] != "")
    named = dict(zip(order, free_names(label + suffix for label, _, suffix in order), strict=True))
    return [named[key] for key in keys]


def _wide(board: Board) -> pd.DataFrame:
    """A board's part of `leaderboard_frame`, with columns (label or "", metric or "", the rest of the name)."""
    protocol, cells = board.protocol, board.cells.astype({("n", c): "Int64" for c in board.columns.index})
    rows = board.rows.assign(protocol=protocol.name, version=protocol.version, budget=protocol.budget)
    columns = {("", "", name): rows[name] for name in (*FIRST, *AVERAGES, *OVERLAP)}
    columns |= {("", "", f"mean_{family}"): means for family, means in board.family_means.items()}
    for label in board.columns.index:
        own = cells.xs(label, axis=1, level=1)
        own = own.assign(n=own.n.replace(0, pd.NA))
        columns |= {(label, "", suffix): own[name] for name, suffix in CELLS.items()}
        more = _other_metrics(board, [label])["mean"]
        columns |= {(label, metric, f"_{metric}"): means for (_, metric), means in more.items()}
    columns |= {("", "", name): rows[name] for name in COST}
    columns["", "", "notes"] = pd.Series(_notes_by_row(board), index=rows.index, dtype=object)
    return pd.DataFrame(columns)


def _other_metrics(board: Board, labels: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Mean and n of the metrics beside the main one: by checkpoint, with columns (column, metric)."""
    own = board.metrics[board.metrics.index.get_level_values("column").isin(labels)]
    keys = list(dict.fromkeys((column, metric) for _, column, metric in own.index))
    keys.sort(key=lambda key: labels.index(key[0]))
    columns = (
        pd.MultiIndex.from_tuples(keys, names=["column", "metric"]) if keys else pd.MultiIndex.from_arrays([[], []])
    )
    return {name: own[name].unstack([1, 2]).reindex(index=board.rows.index, columns=columns) for name in ("mean", "n")}


def _notes_by_row(board: Board) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for note in board.notes:
        for sha256 in note.about:
            found.setdefault(sha256, []).append(note.text)
    return {sha256: " ".join(texts) for sha256, texts in found.items()}


def tables(board: Board) -> list[Table]:
    """Return an overview of the board, one table per family, and what the rows cost."""
    return [overview(board), *(family_table(board, name) for name in board.families()), cost_table(board)]


def overview(board: Board) -> Table:
    """Means, ranks and what a reader must know before comparing two rows."""
    rows, columns = board.rows, {}
    columns["mean"] = _means(rows.mean_over_families, half_widths_of_means(board))
    columns |= {name: _means(values, half_widths_of_means(board, name)) for name, values in board.family_means.items()}
    columns["rank"] = [
        TableCell(ABSENT) if pd.isna(rank) else TableCell(f"{rank:.1f}{_between(low, high)}", -rank)
        for rank, low, high in zip(rows.average_rank, rows.average_rank_low, rows.average_rank_high, strict=True)
    ]
    columns["gain share"] = _numbers(rows.share_of_gain, digits=0, unit=" %")
    columns["images seen"] = _counts(rows.images_seen)
    columns["load"] = _numbers(rows.load_coverage, digits=0, unit=" %")
    columns["overlap"] = [_overlap_cell(row) for row in rows.itertuples()]
    columns["failed"] = [TableCell(str(count), count) for count in rows.failed]
    return checkpoint_table(board, "overview", columns)


def family_table(board: Board, family: str) -> Table:
    """The scores of one family; a column that is not informative says so in its header."""
    columns = {}
    for label, column in board.columns[board.columns.family == family].iterrows():
        cells = board.cells.xs(label, axis=1, level=1)
        best = _best(cells["mean"], cells["ci95"], _minus_the_best(board, label, cells["mean"]))
        header = f"{label} ({column.metric}{', not informative' * (column.informative == 'no')})"
        columns[header] = [
            _score_cell(cell, marked, column) for cell, marked in zip(cells.itertuples(), best, strict=True)
        ]
    return checkpoint_table(board, family, columns)


def metric_table(board: Board, family: str) -> Table | None:
    """A family's metrics beside the main ones, such as the macro accuracy, each tap's, AP50; None without any."""
    found = _other_metrics(board, list(board.columns.index[board.columns.family == family]))
    columns = {}
    for column, metric in found["mean"]:
        cells = pd.DataFrame({name: frame[column, metric] for name, frame in found.items()})
        texts = [score_text(cell.mean, math.nan, cell.n, failed=0) for cell in cells.itertuples()]
        columns[f"{column} ({metric})"] = [
            TableCell(text, value) for text, value in zip(texts, _values(cells["mean"]), strict=True)
        ]
    return checkpoint_table(board, f"{family}: other metrics", columns) if columns else None


def origin_table(board: Board) -> Table:
    """Where the rows come from: how and on what they were pretrained, and which code measured them."""
    columns = {
        header: [TableCell(ABSENT if pd.isna(v) else str(v)) for v in board.rows[n]] for n, header in PROVENANCE.items()
    }
    columns["images seen"] = _counts(board.rows.images_seen)
    for name in ("epochs", "seed"):
        columns[name] = _numbers(board.rows[f"pretrain_{name}"], digits=0)
    columns["load"] = _numbers(board.rows.load_coverage, digits=0, unit=" %")
    return checkpoint_table(board, "provenance", columns)


def cost_table(board: Board) -> Table:
    """What the rows cost to measure, and their backbones to run."""
    rows = board.rows
    seconds = [TableCell(ABSENT if v is None else duration(v), v) for v in _values(rows.seconds)]
    columns = {
        "params (M)": _numbers(rows.params_m, digits=1),
        "GMACs (224 px)": _numbers(rows.gmacs),
        "images/s": _numbers(rows.images_per_second, digits=0),
        "images/s (training)": _numbers(rows.training_images_per_second, digits=0),
        "wall time": seconds,
        "runs": [TableCell(str(count), count) for count in rows.runs],
        "peak memory (MiB)": _numbers(rows.peak_memory_mb, digits=0),
        "device": [TableCell(ABSENT if pd.isna(device) else device) for device in rows.device],
    }
    return checkpoint_table(board, "cost", columns)


def damage_lines(damaged: Sequence[str]) -> list[str]:
    """Say which files are left out of the boards; nothing where none is."""
    if not damaged:
        return []
    more = [f"and {len(damaged) - DAMAGED_SHOWN} more"] if len(damaged) > DAMAGED_SHOWN else []
    said = f"Left out: {counted(len(damaged), 'file')}."
    return [said, *(" ".join(text.split()) for text in damaged[:DAMAGED_SHOWN]), *more]


def terminal_table(boards: Iterable[Board], damaged: Sequence[str] = ()) -> str:
    """Write all boards as aligned text: `mean ± half (n)`, `*` at the best, `!` where runs failed.

    What results call things is shown with escapes for characters that are not printable.
    """
    blocks = []
    for board in boards:
        for table in tables(board):
            rows = [table.header, *([cell.text + "*" * cell.best for cell in row] for row in table.rows)]
            rows = [[printable(text) for text in row] for row in rows]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            lines = [_aligned(row, widths) for row in rows]
            head = [f"{board.protocol} · {table.title}", "", lines[0], "─" * len(lines[0])]
            blocks.append("\n".join([*head, *lines[1:]]))
        blocks += ["\n".join(f"  {printable(note.text)}" for note in board.notes)] if board.notes else []
    blocks += ["\n".join(map(printable, damage_lines(damaged)))] if damaged else []
    return "\n\n".join(blocks) + "\n" if blocks else "no results yet\n"


def score_text(mean: float, ci95: float, n: float, failed: int) -> str:
    """Write `81.20 ± 1.30 (3)`: mean, half its 95 % interval, runs; `!` where others failed, `-` where none ended."""
    if pd.isna(mean):
        return f"failed ({failed:.0f})!" if failed else ABSENT
    return f"{with_half(mean, ci95)} ({n:.0f})" + "!" * bool(failed)


def with_half(value: float, half: float) -> str:
    """Write `81.20 ± 1.30`; without half an interval (NaN) the value alone."""
    return f"{value:.2f}" + ("" if pd.isna(half) else f" ± {half:.2f}")


def row_name(name: str, role: str) -> str:
    """The checkpoint's name, with its role unless it is a student or the name says so."""
    return name if role in ("student", "other") or name.startswith(f"{role}:") else f"{name} ({role})"


def compact(count: float) -> str:
    """Write `950`, `64 k`, `1.3 M`, with four digits at most."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return f"{count:.4g}"


def checkpoint_table(board: Board, title: str, columns: dict[str, list[TableCell]]) -> Table:
    """A table with a row for each checkpoint of the board; the columns have a cell for each."""
    names = [
        TableCell(row_name(row.name, row.role), row_name(row.name, row.role), detail=f"{row.arch}, sha256 {row.sha8}")
        for row in board.rows.itertuples()
    ]
    return Table(title, ("checkpoint", *columns), tuple(zip(names, *columns.values(), strict=True)))


def _overlap_cell(row: tuple) -> TableCell:
    if pd.isna(row.overlap_percent):
        return TableCell(ABSENT, detail="test images were not searched for in the pretraining data")
    sets = (row.overlap_sets, row.overlap_of_sets)
    part = "" if sets[0] == sets[1] else f" ({sets[0]:.0f} of {sets[1]:.0f} sets)"
    detail = ", ".join(f"{name} {shared:,} of {images:,}" for name, (shared, images) in row.overlap_found.items())
    return TableCell(f"{row.overlap_percent:.2f} %{part}", row.overlap_percent, detail=detail)


def _score_cell(cell: tuple, best: bool, column: pd.Series) -> TableCell:
    detail = []
    if not pd.isna(cell.ci95):
        over = coverage(column.kind, cell.n, None if pd.isna(cell.images) else int(cell.images))
        ends = f"{max(cell.mean - cell.ci95, 0):.2f} to {min(cell.mean + cell.ci95, 100):.2f}"
        detail.append(f"95 % interval {ends}, over {over}")
    if not pd.isna(cell.mean) and not pd.isna(column.floor):
        detail.append(f"the best constant answer scores {column.floor:.2f}")
    (value,) = _values([cell.mean])
    return TableCell(score_text(cell.mean, cell.ci95, cell.n, cell.failed), value, best=best, detail="; ".join(detail))


def _between(low: float, high: float) -> str:
    return "" if pd.isna(low) else f" [{low:.1f}, {high:.1f}]"


def _counts(values: Iterable[float]) -> list[TableCell]:
    return [TableCell(ABSENT if value is None else compact(value), value) for value in _values(values)]


def _means(values: pd.Series, halves: pd.Series) -> list[TableCell]:
    cells = zip(_values(values), halves, _best(values, halves), strict=True)
    return [TableCell(ABSENT if v is None else with_half(v, half), v, best=marked) for v, half, marked in cells]


def _numbers(values: Iterable[float], *, digits: int = 2, unit: str = "") -> list[TableCell]:
    return [
        TableCell(ABSENT) if value is None else TableCell(f"{value:,.{digits}f}{unit}", value)
        for value in _values(values)
    ]


def _values(values: Iterable[float]) -> list[float | None]:
    return [None if pd.isna(value) else float(value) for value in values]


def _minus_the_best(board: Board, label: str, values: pd.Series) -> pd.Series:
    """The verdict on the best score of a column minus each other, by checkpoint, where the two were compared.

    The best is picked by its score, and the highest of many equal ones is above the lowest by chance. So Holm's
    correction is over all pairs of rows on the column.
    """
    own = board.verdicts[board.verdicts.column == label].dropna(subset="low")
    if own.empty or values.isna().all():
        return pd.Series(dtype=object)
    pairs = own[own.a < own.b]
    top = own[own.a == values.astype(float).idxmax()]
    holds = dict(zip(zip(pairs.a, pairs.b, strict=True), holm(pairs.p.tolist()), strict=True))
    told = [holds[min(a, b), max(a, b)] < 1 - CONFIDENCE for a, b in zip(top.a, top.b, strict=True)]
    return top.set_index("b")["verdict"].where(np.array(told, bool), "no difference")


def _best(values: pd.Series, halves: pd.Series, verdicts: pd.Series | None = None) -> list[bool]:
    """Which values are the highest, or not told from it by the verdict on the two.

    Without a verdict, as of means, a difference within both intervals tells nothing, as if they were independent; they
    are wider by Bonferroni's correction over all pairs, since the highest of many equal values is picked by chance.
    Values that look equal are not told apart either. Nothing is best where that is so of all, and a value without an
    interval only by itself.
    """
    known, ends = values.astype(float), halves.astype(float).fillna(0)
    if known.isna().all():
        return [False] * len(known)
    top = known.idxmax()
    pairs = max(math.comb(int(known.notna().sum()), 2), 1)
    wider = float(ndtri((1 - CONFIDENCE) / 2 / pairs) / ndtri((1 - CONFIDENCE) / 2))
    best = known[top] - known <= wider * np.hypot(ends[top], ends)
    if verdicts is not None:
        best[verdicts.index] = verdicts == "no difference"
    best |= known.round(2) == round(known[top], 2)
    return [bool(one) and not best[known.notna()].all() for one in best]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells])
