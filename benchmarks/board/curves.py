"""Plots of scores over something: the penalty of the linear probe, the images with labels, the images seen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from kdep_benchmarks.board.intervals import half_width, mean
from kdep_benchmarks.board.leaderboard import compact
from kdep_benchmarks.board.plots import COLOURS, WIDTH, figure, mark, nice_ticks, shorten
from kdep_benchmarks.board.table import Board, Column, Row, families, is_on
from kdep_benchmarks.results import ROLES, Result

Points = list[tuple[float, float]]
LEFT, RIGHT, TOP, BOTTOM = 40, WIDTH - 22, 8, 190  # the area of a plot, viewBox units
LETTER = 7  # about as wide as a letter of a name, and half its line


@dataclass(frozen=True)
class Axes:
    """A logarithmic axis across, a linear one up, `parts` what they look like."""

    low: float
    high: float
    ticks: list[float]
    parts: list[str]

    def across(self, x: float) -> float:
        """Place of a value on the horizontal axis."""
        share = (math.log10(x) - self.low) / ((self.high - self.low) or 1)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    def up(self, y: float) -> float:
        """Place of a value on the vertical axis; what an interval has beyond it is cut off."""
        share = (y - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])
        return round(BOTTOM - min(max(share, 0), 1) * (BOTTOM - TOP), 1)


def path_panels(board: Board) -> list[str]:
    """The regularisation path of each linear task: score on the val split, of each checkpoint's first seed."""
    panels = []
    for column in board.columns:
        lines = []
        for index, row in enumerate(_students_first(board)):
            found = [r for r in row.results if r.status == "ok" and is_on(r, column)]
            curve = regularisation_path(min(found, key=lambda r: r.seed)) if found else None
            if curve:
                lines.append((row.checkpoint.name, index, curve))
        if column.task.kind == "linear" and lines:
            panels.append(line_panel(column.label, "top-1 on the val split, %, over the penalty", lines))
    return panels


def regularisation_path(result: Result) -> Points | None:
    """(penalty, score) pairs of `{"lambda": [...], "select_top1": [...]}`, of the chosen tap where there are several.

    None where there is no such curve, or a penalty of 0, which has no place on a logarithmic axis.
    """
    curves = result.curves.get(str(result.chosen.get("tap")), result.curves)
    lists = [value for value in curves.values() if isinstance(value, list) and len(value) > 1]
    if len(lists) < 2 or len(lists[0]) != len(lists[1]):
        return None
    pairs = list(zip(lists[0], lists[1], strict=True))
    usable = all(isinstance(v, int | float) for pair in pairs for v in pair) and all(x > 0 for x, _ in pairs)
    return sorted(pairs) if usable else None


def efficiency_panels(board: Board) -> list[str]:
    """Score over the images that the probe was fitted on, for data sets with few-shot tasks; the linear probe has most.

    A point needs a count in the results; a task measured by several settings has no point, as it has no one score.
    """
    panels = []
    for data in dict.fromkeys(_data(column) for column in board.columns if column.task.kind == "fewshot"):
        own = [(i, column) for i, column in enumerate(board.columns) if _data(column) == data]
        names = [column.task.name for _, column in own]
        lines = []
        for index, row in enumerate(_students_first(board)):
            points = [
                (images, row.cells[i].mean)
                for i, column in own
                if names.count(column.task.name) == 1 and (images := fitted_images(row, column)) is not None
            ]
            if len(points) > 1:
                lines.append((row.checkpoint.name, index, sorted(points)))
        if lines:
            subtitle = "linear probe, %, over the images it was fitted on"
            panels.append(line_panel(data[0], subtitle, lines, label=compact))
    return panels


def fitted_images(row: Row, column: Column) -> float | None:
    """How many images with labels the probe of a column was fitted on, mean over the row's runs.

    Those of one draw for few-shot; train and val together for the linear probe, which is refitted on both. None for
    other kinds, and where a run did not count them.
    """
    roles = {"fewshot": ("train",), "linear": ("train", "val")}.get(column.task.kind)
    found = [result.counts for result in row.results if result.status == "ok" and is_on(result, column)]
    if roles is None or not found or not all(counts.get(role) is not None for counts in found for role in roles):
        return None
    return mean([sum(counts[role] for role in roles) for counts in found])


def cost_panels(board: Board) -> list[str]:
    """Score over the images seen in pretraining: mean over families, then of each family.

    Only rows that have all the tasks, and whose checkpoint says how many images it has seen; the rows of baselines are
    lines, for random weights have seen none and published ones do not say.
    """
    panels = []
    for family in (None, *families(board.columns)):
        if family is None and len(families(board.columns)) == 1:
            continue
        rows = [(row, row.mean_over_families if family is None else row.family_mean(family)) for row in board.rows]
        rows = [(row, value) for row, value in rows if value is not None]
        points = [(row, value) for row, value in rows if row.checkpoint.summary.get("images_seen")]
        guides = [(row, value) for row, value in rows if row.checkpoint.role in ("random", "supervised")]
        if points:
            panels.append(_cost_panel(family, points, guides))
    return panels


def _cost_panel(family: str | None, points: list[tuple[Row, float]], guides: list[tuple[Row, float]]) -> str:
    halves = [half_width(list(row.mean_by_seed(family).values()) or [0.0]) for row, _ in points]
    ends = [value for _, value in [*points, *guides]]
    ends += [v + sign * half for (_, v), half in zip(points, halves, strict=True) if half for sign in (-1, 1)]
    seen = [row.checkpoint.summary["images_seen"] for row, _ in points]
    axes = draw_axes(min(seen) / 2, max(seen) * 2, ends, label=compact)  # room for names on both sides
    parts, taken = list(axes.parts), []
    for row, value in guides:
        y, role = axes.up(value), row.checkpoint.role
        parts.append(f'<line class="guide {role}" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_name(row.checkpoint.name, RIGHT, y - 4, taken, anchor="end"))
    for (row, value), half in zip(points, halves, strict=True):
        card = row.checkpoint
        x, y = axes.across(card.summary["images_seen"]), axes.up(value)
        said = f"{card.name}: {value:.2f} after {compact(card.summary['images_seen'])} images"
        parts.append(f"<g><title>{escape(said)}</title>")
        if half:
            up, down = axes.up(value + half), axes.up(value - half)
            parts.append(f'<line class="interval {card.role}" x1="{x}" x2="{x}" y1="{up}" y2="{down}"/>')
        parts.append(mark(card.role, x, y) + "</g>")
        anchor, to = ("end", x - 9) if x > (LEFT + RIGHT) / 2 else ("start", x + 9)
        parts.append(_name(card.name, to, y + 4, taken, anchor=anchor))
    return figure("mean" if family is None else family, "%, over images seen in pretraining", BOTTOM + 26, parts)


def line_panel(
    title: str,
    subtitle: str,
    lines: Sequence[tuple[str, int, Points]],
    *,
    label: Callable[[float], str] = "{:.0e}".format,
) -> str:
    """Lines over a logarithmic axis, (name, colour, points); the highest point of each is marked."""
    points = [point for _, _, line in lines for point in line]
    axes = draw_axes(min(x for x, _ in points), max(x for x, _ in points), [y for _, y in points], label=label)
    drawn = [_line(name, index, [(axes.across(x), axes.up(y)) for x, y in line]) for name, index, line in lines]
    key = "".join(f'<span><i class="c{index % COLOURS}"></i>{escape(name)}</span>' for name, index, _ in lines)
    return figure(title, subtitle, BOTTOM + 26, [*axes.parts, *drawn], key=f'<div class="key">{key}</div>')


def draw_axes(low: float, high: float, scores: Sequence[float], *, label: Callable[[float], str]) -> Axes:
    """Axes that hold the values from `low` to `high` and the scores, ticks at powers of ten."""
    ticks = nice_ticks(max(min(scores), 0), min(max(scores), 100))
    axes = Axes(math.log10(low), math.log10(high), ticks, [])
    for tick in ticks:
        y = axes.up(tick)
        axes.parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
        axes.parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for value in _powers(axes.low, axes.high):
        x = axes.across(value)
        axes.parts.append(
            f'<text class="tick" x="{x}" y="{BOTTOM + 18}" text-anchor="middle">{escape(label(value))}</text>'
        )
    return axes


def _powers(low: float, high: float) -> list[float]:
    """Up to seven powers of ten between two logarithms; twos and fives too where there would be fewer than two."""
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    if last > first:
        return [10.0**power for power in range(first, last + 1, max(1, math.ceil((high - low) / 6)))]
    values = [m * 10.0**power for power in range(first - 1, last + 2) for m in (1, 2, 5)]
    return [value for value in values if low <= math.log10(value) <= high]


def _line(label: str, index: int, points: Points) -> str:
    colour = f"c{index % COLOURS}"
    x, y = min(points, key=lambda point: point[1])  # the highest on the picture
    path = " ".join(f"{x},{y}" for x, y in points)
    line = f'<g><title>{escape(label)}</title><polyline class="line {colour}" points="{path}"/>'
    return line + f'<circle class="point {colour}" cx="{x}" cy="{y}" r="4.5"/></g>'


def _name(name: str, x: float, y: float, taken: list[tuple[float, float, float]], *, anchor: str) -> str:
    """A name at a place, moved down as long as another one (left, right, y) stands there."""
    text = shorten(name)
    left = x - LETTER * len(text) if anchor == "end" else x
    right = left + LETTER * len(text)
    while any(abs(y - other) < LETTER * 2 and left < end and start < right for start, end, other in taken):
        y += 2
    taken.append((left, right, y))
    return f'<text x="{x}" y="{round(y, 1)}" text-anchor="{anchor}">{escape(text)}</text>'


def _data(column: Column) -> tuple[str, str]:
    return column.task.dataset, column.data_fingerprint


def _students_first(board: Board) -> list[Row]:
    """Rows in the order of their colours: the first is the students'."""
    return sorted(board.rows, key=lambda row: ROLES.index(row.checkpoint.role))
