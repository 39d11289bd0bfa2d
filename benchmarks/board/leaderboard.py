"""The board as tables: leaderboard.csv and results.csv for programs, `Table`s for people (terminal, Markdown, HTML)."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from kdep_benchmarks.board.costs import Cost, cost_of
from kdep_benchmarks.board.facts import metric_cell, origin_of, other_metrics
from kdep_benchmarks.board.table import Board, Cell, Row, average_ranks, boards, families, shares_of_gain
from kdep_benchmarks.durations import duration
from kdep_benchmarks.results import Result

ABSENT = "-"
IMAGES = ("train", "val", "test", "overlap", "overlap_exact")
COST = tuple(field.name for field in fields(Cost))


@dataclass(frozen=True)
class TableCell:
    """What a reader sees, what the column is sorted by, and what a closer look shows."""

    text: str
    value: float | str | None = None
    best: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A titled table whose first column names the checkpoint."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


def leaderboard_rows(results: Iterable[Result]) -> tuple[list[str], list[dict[str, Any]]]:
    """One row per checkpoint and protocol; None where nothing was measured. Columns are the union over all rows."""
    rows = []
    for board in boards(results):
        ranks = average_ranks(board)
        rows += [_wide_row(board, row, ranks.get(row.checkpoint.sha256)) for row in board.rows]
    columns = dict.fromkeys(name for row in rows for name in row)
    # What it cost stands behind what it scored, on every board, and the notes behind all.
    return sorted(columns, key=lambda name: (name == "notes", name in COST)), rows


def result_rows(results: Iterable[Result]) -> tuple[list[str], list[dict[str, Any]]]:
    """One row per cell and metric, with all that is known of the cell; a failed cell has one row without a metric."""
    rows = []
    for result in results:
        for metric, value in (result.metrics or {None: None}).items():
            rows.append(_long_row(result, metric, value))
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def csv_text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """CSV with `-` for None and full precision; no cell that a spreadsheet would run as a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in columns])
    writer.writerows([csv_cell(row.get(name)) for name in columns] for row in rows)
    return file.getvalue()


def csv_cell(value: Any) -> str:
    """Text of one cell. A leading apostrophe keeps a spreadsheet from running names such as `=HYPERLINK(...)`."""
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return repr(round(value, 10))  # 62.3, not 62.300000000000004
    text = str(value)
    number = re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text, re.IGNORECASE)
    return "'" + text if text[:1] in "=+-@\t\r\n＝＋－＠" and text not in ("", ABSENT) and not number else text


def tables(board: Board) -> list[Table]:
    """An overview of the board, one table per family, and what the rows cost."""
    return [_overview(board), *(_family_table(board, name) for name in families(board.columns)), _cost_table(board)]


def terminal_table(results: Iterable[Result]) -> str:
    """All boards as aligned text: `mean ± std (n)`, `*` at the best, `!` where runs failed."""
    blocks = []
    for board in boards(results):
        for table in tables(board):
            rows = [table.header, *([cell.text + "*" * cell.best for cell in row] for row in table.rows)]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            lines = [_aligned(row, widths) for row in rows]
            blocks.append(
                "\n".join([f"{board.protocol} · {table.title}", "", lines[0], "─" * len(lines[0]), *lines[1:]])
            )
        blocks += ["\n".join(f"  {note}" for note in board.notes)] if board.notes else []
    return "\n\n".join(blocks) + "\n" if blocks else "no results yet\n"


def score_text(cell: Cell) -> str:
    """`81.20 ± 0.30 (3)`; without a spread for a single run; `!` where other runs failed."""
    if not cell.n:
        return f"failed ({cell.failed})!" if cell.failed else ABSENT
    spread = "" if cell.std is None else f" ± {cell.std:.2f}"
    return f"{cell.mean:.2f}{spread} ({cell.n})" + "!" * bool(cell.failed)


def row_name(row: Row) -> str:
    """The checkpoint's name and, unless it is a student or the name says so, its role."""
    role, name = row.checkpoint.role, row.checkpoint.name
    return name if role in ("student", "other") or name.startswith(f"{role}:") else f"{name} ({role})"


def compact(count: float) -> str:
    """`950`, `64 k`, `1.3 M`: four digits say what an overview has to say."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return f"{count:.4g}"


def _wide_row(board: Board, row: Row, rank: Any) -> dict[str, Any]:
    card, protocol = row.checkpoint, board.protocol
    shares, share = shares_of_gain(board, row)
    line = {
        "name": card.name,
        "sha8": card.sha256[:8],
        "role": card.role,
        "arch": card.arch,
        "images_seen": card.summary.get("images_seen"),
        **asdict(origin_of(row)),
        "protocol": protocol.name,
        "version": protocol.version,
        "budget": protocol.budget,
        "complete": str(row.complete).lower(),
        "failed": row.failed,
        "mean_over_families": row.mean_over_families,
        "average_rank": rank and rank.value,
        "average_rank_low": rank and rank.low,
        "average_rank_high": rank and rank.high,
        "share_of_gain": share,
        "overlap_percent": row.overlap and row.overlap.percent,
        "overlap_images": row.overlap and row.overlap.shared,
        "overlap_exact": row.overlap and row.overlap.exact,
    }
    line |= {f"mean_{name}": row.family_mean(name) for name in families(board.columns)}
    for column, cell, part in zip(board.columns, row.cells, shares, strict=True):
        values = {"": cell.mean, "_std": cell.std, "_n": cell.n or None, "_ci95": cell.ci95}
        values |= {"_ci95_images": cell.images if cell.n > 1 else None, "_share_of_gain": part}
        values |= {f"_{name}": metric_cell(row, column, name).mean for name in other_metrics(board.rows, column)}
        line |= {column.label + suffix: value for suffix, value in values.items()}
    return line | asdict(cost_of(row)) | {"notes": " ".join(board.notes_about(row)) or None}


def _long_row(result: Result, metric: str | None, value: float | None) -> dict[str, Any]:
    card, task, protocol, cost = result.checkpoint, result.task, result.protocol, result.cost
    edges = [value for name, value in result.chosen.items() if name.endswith("at_edge")]
    facts = {name: v for name, v in card.summary.items() if isinstance(v, str | int | float) and name != "role"}
    summary = {name if name.startswith("pretrain_") else f"pretrain_{name}": value for name, value in facts.items()}
    return {
        "name": card.name,
        "sha256": card.sha256,
        "role": card.role,
        "arch": card.arch,
        **summary,
        "task": task.name,
        "kind": task.kind,
        "family": task.family,
        "dataset": task.dataset,
        "protocol": protocol.name,
        "version": protocol.version,
        "budget": protocol.budget,
        "data_fingerprint": result.data_fingerprint,
        "seed": result.seed,
        "status": result.status,
        "metric": metric,
        "value": value,
        "main": str(bool(metric) and metric == result.main_metric).lower() if metric else None,
        **{f"images_{role}": result.counts.get(role) for role in IMAGES},
        "chosen": json.dumps(result.chosen, ensure_ascii=False) if result.chosen else None,
        "at_edge": str(any(edges)).lower() if edges else None,
        "load_coverage": result.load.get("coverage"),
        "params_m": card.params / 1e6,
        **{name: cost.get(name) for name in ("gmacs", "images_per_second", "seconds", "peak_memory_mb", "device")},
        "error": next(reversed(result.error.get("log", "").strip().splitlines()), None),
        "exit_code": result.error.get("exit_code"),
        "commit": result.commit,
        **result.versions,
        "started": result.started,
    }


def _overview(board: Board) -> Table:
    ranks, names = average_ranks(board), families(board.columns)
    share = {row.checkpoint.sha256: shares_of_gain(board, row)[1] for row in board.rows}
    averages = [[row.mean_over_families, *map(row.family_mean, names)] for row in board.rows]
    best = [_best(column) for column in zip(*averages, strict=True)]
    lines = []
    for row, values in zip(board.rows, averages, strict=True):
        rank = ranks.get(row.checkpoint.sha256)
        seen, cost = row.checkpoint.summary.get("images_seen"), cost_of(row)
        line = [_name_cell(row)]
        line += [_number(v, best=top is not None and _shown(v) == top) for v, top in zip(values, best, strict=True)]
        between = "" if rank is None or rank.low is None else f" [{rank.low:.1f}, {rank.high:.1f}]"
        line += [TableCell(ABSENT if rank is None else f"{rank.value:.1f}{between}", rank and -rank.value)]
        line += [_number(share[row.checkpoint.sha256], digits=0, unit=" %")]
        line += [TableCell(ABSENT if seen is None else compact(seen), seen)]
        line += [_number(cost.load_coverage, digits=0, unit=" %"), _overlap_cell(row)]
        lines.append((*line, TableCell(str(row.failed), row.failed)))
    head = ("checkpoint", "mean", *names, "rank", "gain share")
    return Table("overview", (*head, "images seen", "load", "overlap", "failed"), tuple(lines))


def _family_table(board: Board, family: str) -> Table:
    chosen = [i for i, column in enumerate(board.columns) if column.task.family == family]
    best = {i: _best([row.cells[i].mean for row in board.rows]) for i in chosen}
    lines = [(_name_cell(row), *(_score_cell(row.cells[i], best[i]) for i in chosen)) for row in board.rows]
    header = [f"{board.columns[i].label} ({board.columns[i].metric})" for i in chosen]
    return Table(family, ("checkpoint", *header), tuple(lines))


def metric_table(board: Board, family: str) -> Table | None:
    """A family's metrics beside the main ones, such as the macro accuracy, each tap's, AP50; None without any."""
    columns = [column for column in board.columns if column.task.family == family]
    shown = [(column, name) for column in columns for name in other_metrics(board.rows, column)]
    lines = []
    for row in board.rows:
        cells = [metric_cell(row, column, name) for column, name in shown]
        lines.append((_name_cell(row), *(TableCell(score_text(cell), cell.mean) for cell in cells)))
    header = ("checkpoint", *(f"{column.label} ({name})" for column, name in shown))
    return Table(f"{family}: other metrics", header, tuple(lines)) if shown else None


def origin_table(board: Board) -> Table:
    """Where the rows come from: how and on what they were pretrained, and by which code they were measured."""
    lines = []
    for row in board.rows:
        origin, seen, card = origin_of(row), row.checkpoint.summary.get("images_seen"), row.checkpoint
        line = [_name_cell(row), *map(_text, (card.sha256[:8], card.arch, origin.method))]
        line += [_text(origin.teacher), _text(origin.pretrain_data)]
        line += [TableCell(ABSENT if seen is None else compact(seen), seen)]
        line += [_number(origin.pretrain_epochs, digits=0), _number(origin.pretrain_seed, digits=0)]
        line += [_number(cost_of(row).load_coverage, digits=0, unit=" %")]
        lines.append((*line, _text(origin.pretrain_commit), _text(origin.commit)))
    how = (
        "checkpoint",
        "sha256",
        "architecture",
        "method",
        "teacher",
        "pretrained on",
        "images seen",
        "epochs",
        "seed",
    )
    return Table("provenance", (*how, "load", "pretrained by", "measured by"), tuple(lines))


def _cost_table(board: Board) -> Table:
    lines = []
    for row in board.rows:
        cost = cost_of(row)
        seconds = TableCell(ABSENT if cost.seconds is None else duration(cost.seconds), cost.seconds)
        speeds = [_number(v, digits=0) for v in (cost.images_per_second, cost.training_images_per_second)]
        line = [_name_cell(row), _number(cost.params_m, digits=1), _number(cost.gmacs), *speeds, seconds]
        line += [TableCell(str(cost.runs), cost.runs), _number(cost.peak_memory_mb, digits=0)]
        lines.append((*line, TableCell(cost.device or ABSENT)))
    header = ("checkpoint", "params (M)", "GMACs", "images/s", "images/s (training)", "wall time", "runs")
    return Table("cost", (*header, "peak memory (MiB)", "device"), tuple(lines))


def _overlap_cell(row: Row) -> TableCell:
    overlap = row.overlap
    if overlap is None:
        return TableCell(ABSENT, detail="nobody looked for test images in the pretraining data")
    part = "" if overlap.sets == overlap.of_sets else f" ({overlap.sets} of {overlap.of_sets} sets)"
    detail = ", ".join(f"{dataset} {shared:,} of {images:,}" for dataset, (shared, images) in overlap.found.items())
    return TableCell(f"{overlap.percent:.2f} %{part}", overlap.percent, detail=detail)


def _name_cell(row: Row) -> TableCell:
    card = row.checkpoint
    return TableCell(row_name(row), row_name(row), detail=f"{card.arch}, sha256 {card.sha256[:8]}")


def _score_cell(cell: Cell, best: float | None) -> TableCell:
    interval = ""
    if cell.ci95 is not None:
        ends = f"{max(cell.mean - cell.ci95, 0):.2f} to {min(cell.mean + cell.ci95, 100):.2f}"
        interval = f"95 % interval {ends}, over {_over(cell)}"
    return TableCell(score_text(cell), cell.mean, best=best is not None and _shown(cell.mean) == best, detail=interval)


def _over(cell: Cell) -> str:
    """What the interval of a cell is over."""
    return "runs" if cell.images is None else f"runs and {cell.images:,} images"


def _text(value: str | None) -> TableCell:
    return TableCell(ABSENT if value is None else value)


def _number(value: float | None, *, digits: int = 2, unit: str = "", best: bool = False) -> TableCell:
    return TableCell(ABSENT if value is None else f"{value:,.{digits}f}{unit}", value, best=best)


def _best(values: Iterable[float | None]) -> float | None:
    """The highest, as it is shown, of at least two that differ in what is shown; otherwise nothing is best."""
    known = {_shown(value) for value in values if value is not None}
    return max(known) if len(known) > 1 else None


def _shown(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
    )
