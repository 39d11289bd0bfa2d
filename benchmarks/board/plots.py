"""Plots as inline SVG: no library, no fonts, colours by CSS class, so that one picture is right in light and dark."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from kdep_benchmarks.board.intervals import half_width
from kdep_benchmarks.board.table import Board, Rank, average_ranks

WIDTH, LABELS, VALUES, LINE = 440, 160, 42, 26  # viewBox units: the panel, its two text columns, one row
COLOURS = 8  # .c0 to .c7 in the template


@dataclass(frozen=True)
class Dot:
    """One row of a dot plot. `low` and `high` are the ends of its 95 % interval, None where there is none."""

    label: str
    role: str
    value: float
    low: float | None
    high: float | None
    text: str


def score_panels(board: Board, family: str) -> list[str]:
    """One panel per task of the family: every measured checkpoint, with guides at the random and supervised rows."""
    panels = []
    for i, column in enumerate(board.columns):
        if column.task.family != family:
            continue
        dots = []
        for row in board.rows:
            cell = row.cells[i]
            if cell.n:
                low, high = (None, None) if cell.ci95 is None else (cell.mean - cell.ci95, cell.mean + cell.ci95)
                dots.append(Dot(row.checkpoint.name, row.checkpoint.role, cell.mean, low, high, f"{cell.mean:.1f}"))
        if dots:
            panels.append(dot_panel(column.label, f"{column.metric}, %", dots))
    return panels


def mean_panel(board: Board, family: str | None = None) -> str:
    """Mean over families, or over the tasks of one, of the rows that have them all.

    The interval is over the seeds that all those tasks have. Empty where a family's single task says it already.
    """
    if family is not None and [column.task.family for column in board.columns].count(family) < 2:
        return ""
    dots = []
    for row in board.rows:
        value = row.mean_over_families if family is None else row.family_mean(family)
        if value is not None:
            by_seed = list(row.mean_by_seed(family).values())
            half = half_width(by_seed) if by_seed else None
            low, high = (None, None) if half is None else (value - half, value + half)
            dots.append(Dot(row.checkpoint.name, row.checkpoint.role, value, low, high, f"{value:.1f}"))
    over = "over families, %" if family is None else f"over the tasks of {family}, %"
    return dot_panel("mean", over, dots) if len(dots) > 1 else ""


def rank_panel(board: Board) -> str:
    """Average rank of the complete rows, best on the right; empty below three rows, where it would say nothing new."""
    ranks = average_ranks(board)
    if len(ranks) < 3:
        return ""
    rows = sorted((row for row in board.rows if row.complete), key=lambda row: ranks[row.checkpoint.sha256].value)
    dots = [_rank_dot(row.checkpoint.name, row.checkpoint.role, ranks[row.checkpoint.sha256]) for row in rows]
    return dot_panel("average rank", "over tasks; 1 is best", dots, ranks=len(rows))


def dot_panel(title: str, subtitle: str, dots: Sequence[Dot], *, ranks: int = 0) -> str:
    """A dot per row on a common axis, its 95 % interval as a line, its value in figures at the right.

    `ranks` above 0 makes the axis run from that rank at the left to 1 at the right.
    """
    ends = [min(max(end, 0), 100) for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None]
    ticks = [float(i) for i in range(1, ranks + 1)] if ranks else nice_ticks(min(ends), max(ends))
    left, right = (WIDTH - VALUES - 14, LABELS + 16) if ranks else (LABELS + 16, WIDTH - VALUES - 14)
    bottom = LINE * len(dots) + 8

    def x(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(left + min(max(share, 0), 1) * (right - left), 1)  # an interval may reach beyond 0 or 100 %

    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="4" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for dot in dots:
        if dot.role in ("random", "supervised"):
            at = x(dot.value)
            parts.append(f'<line class="guide {dot.role}" x1="{at}" x2="{at}" y1="4" y2="{bottom}"/>')
    parts += [_dot_row(dot, LINE * index + LINE / 2 + 4, x) for index, dot in enumerate(dots)]
    return figure(title, subtitle, bottom + 22, parts)


def mark(role: str, x: float, y: float) -> str:
    """The role's shape: students are discs, random rings, supervised squares, teachers diamonds, others triangles."""
    shapes = {
        "student": f'<circle class="mark student" cx="{x:.1f}" cy="{y}" r="5.5"/>',
        "random": f'<circle class="mark random" cx="{x:.1f}" cy="{y}" r="4.5"/>',
        "supervised": f'<rect class="mark supervised" x="{x - 5:.1f}" y="{y - 5}" width="10" height="10" rx="1.5"/>',
        "teacher": f'<path class="mark teacher" d="M{x:.1f} {y - 6.5}l6.5 6.5l-6.5 6.5l-6.5 -6.5z"/>',
    }
    return shapes.get(role, f'<path class="mark other" d="M{x:.1f} {y - 6}l6.2 11h-12.4z"/>')


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose both ends."""
    span = (high - low) or max(abs(high), 1) * 0.1
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(power * m for m in (1, 2, 2.5, 5, 10, 20) if span / (power * m) <= 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    return [round(step * i, 10) for i in range(first, last + 1)]


def shorten(name: str, length: int = 19) -> str:
    """Cut out the middle of a long name: its two ends tell most apart."""
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-(length - length // 2 - 1) :]}"


def _rank_dot(label: str, role: str, rank: Rank) -> Dot:
    return Dot(label, role, rank.value, rank.low, rank.high, f"{rank.value:.1f}")


def _dot_row(dot: Dot, y: float, x: Callable[[float], float]) -> str:
    between = "" if dot.low is None else f", 95 % interval {dot.low:.2f} to {dot.high:.2f}"
    whole = "" if dot.low is None else f'x1="{x(dot.low)}" x2="{x(dot.high)}" y1="{y}" y2="{y}"'
    parts = [
        f"<g><title>{escape(f'{dot.label}: {dot.value:.2f}{between}')}</title>",
        f'<rect class="hit" x="0" y="{y - LINE / 2}" width="{WIDTH}" height="{LINE}"/>',
        f'<text x="{LABELS}" y="{y + 4}" text-anchor="end">{escape(shorten(dot.label))}</text>',
        f'<line class="interval {dot.role}" {whole}/>' if whole else "",
        mark(dot.role, x(dot.value), y),
        f'<text class="value" x="{WIDTH}" y="{y + 4}" text-anchor="end">{escape(dot.text)}</text></g>',
    ]
    return "".join(parts)


def figure(title: str, subtitle: str, height: float, parts: Iterable[str], *, key: str = "") -> str:
    """A titled picture `WIDTH` wide, with a key below it."""
    caption = f"<figcaption><b>{escape(title)}</b> <span>{escape(subtitle)}</span></figcaption>"
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return f"<figure>{caption}{svg}{''.join(parts)}</svg>{key}</figure>"
