"""Draw the plots of a board as inline SVG in the colours of the page, light and dark."""

import math
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from kdep_benchmarks.board.leaderboard import compact

WIDTH, LABELS, VALUES, LINE = 440, 172, 56, 26  # points: the panel, its two text columns, the height of a row
LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 40, 418, 8, 190, 216  # points: the axes of a plot over images, and its height
ROWS = 25  # of a dot plot; the tables have them all
NAMED = 8  # marks of one plot that have their names beside them: more cover each other
TEXT, SMALL = 13, 11.5  # font sizes in points
DASHED = "stroke-dasharray: 3,4; stroke-opacity: 0.7"
INTERVAL = "stroke-width: 2.5; stroke-opacity: 0.55"
MARKS = {
    "student": '<circle r="5"/>',
    "random": '<circle r="5"/>',
    "supervised": '<path d="M-5 -5H5V5H-5z"/>',
    "teacher": '<path d="M0 -7L7 0L0 7L-7 0z"/>',
    "other": '<path d="M0 -5L5 5H-5z"/>',
}


@dataclass(frozen=True)
class Axis:
    """Where values lie: `low` at the point `start` of the panel, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The point of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def dot_panel(title: str, subtitle: str, dots: pd.DataFrame) -> str:
    """One row per checkpoint: its score as a mark, the 95 % interval as a line, the score in figures at the right.

    Dashed lines continue the marks of random and supervised rows. An interval is cut off at 0 and at 100 %. Of many
    rows the first `ROWS` are drawn, and all baselines.

    Args:
        title: of the panel.
        subtitle: the metric and its unit.
        dots: name, role, mean and half (of the interval, NaN without one), in the order of the rows.
    """
    if len(dots) > ROWS:
        subtitle += f"; the first {ROWS} of {len(dots)} rows and all baselines"
        dots = dots[(np.arange(len(dots)) < ROWS) | (dots.role != "student")]
    dots = _with_ends(dots)
    height = LINE * len(dots) + 30
    ticks = round_ticks(min(dots.low), max(dots.high))
    axis = Axis(ticks[0], ticks[-1], LABELS + 12, WIDTH - VALUES)
    lines, marks = [], []
    for tick in ticks:
        lines.append(_line(axis.at(tick), 4, axis.at(tick), height - 22, "rule"))
        marks.append(_text(_number(tick), axis.at(tick), height - 14, "middle", small=True))
    for row, dot in enumerate(dots.itertuples()):
        x, y = axis.at(dot.mean), LINE * (row + 0.5) + 6
        if dot.role in ("random", "supervised"):
            lines.append(_line(x, 4, x, height - 22, dot.role, DASHED))
        if dot.low < dot.high:
            marks.append(_line(axis.at(dot.low), y, axis.at(dot.high), y, dot.role, INTERVAL))
        said = "" if pd.isna(dot.half) else f" ± {dot.half:.2f}"
        marks.append(_mark(dot.role, x, y, f"{dot.name}: {dot.mean:.2f}{said}"))
        marks += [_text(shorten(dot.name), LABELS, y, "end"), _text(f"{dot.mean:.1f}", WIDTH, y, "end")]
    return _figure(title, subtitle, height, [*lines, *marks])


def cost_panel(title: str, points: pd.DataFrame, guides: pd.DataFrame) -> str:
    """Draw scores over the images seen in pretraining, with a dashed line for each baseline.

    Args:
        title: of the panel.
        points: name, role, images_seen, mean and half.
        guides: name, role and mean of the baselines, which have seen no images or do not say how many.
    """
    points = _with_ends(points)
    ends = [*points.low, *points.high, *guides["mean"]]
    ticks = round_ticks(min(ends), max(ends))
    up = Axis(ticks[0], ticks[-1], BOTTOM, TOP)
    # Half a decade of room on both sides for the names.
    across = Axis(math.log10(min(points.images_seen)) - 0.32, math.log10(max(points.images_seen)) + 0.32, LEFT, RIGHT)
    parts = []
    for tick in ticks:
        parts.append(_line(LEFT, up.at(tick), RIGHT, up.at(tick), "rule"))
        parts.append(_text(_number(tick), LEFT - 4, up.at(tick), "end", small=True))
    for images in _round_counts(across.low, across.high):
        parts.append(_text(compact(images), across.at(math.log10(images)), BOTTOM + 8, "middle", small=True))
    for guide in guides.itertuples():
        parts.append(_line(LEFT, up.at(guide.mean), RIGHT, up.at(guide.mean), guide.role, DASHED))
        parts.append(_text(shorten(guide.name), RIGHT, up.at(guide.mean) - 8, "end"))
    for point in points.itertuples():
        x, y = across.at(math.log10(point.images_seen)), up.at(point.mean)
        if point.low < point.high:
            parts.append(_line(x, up.at(point.low), x, up.at(point.high), point.role, INTERVAL))
        said = f"{point.name}: {point.mean:.2f} after {compact(point.images_seen)} images"
        parts.append(_mark(point.role, x, y, said))
        if len(points) <= NAMED:
            parts.append(_text(shorten(point.name), x + 9, y, "start"))
    return _figure(title, "%, over images seen in pretraining", HEIGHT, parts)


def shorten(name: str, length: int = 22) -> str:
    """Cut out the middle of a long name; the two ends tell most names apart."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-(length - length // 2 - 1) :]}"


def round_ticks(low: float, high: float) -> list[float]:
    """Return three to six round percentages, evenly spaced, that enclose both ends."""
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    decade = 10.0 ** math.floor(math.log10((high - low) / 5))
    for step in (decade * size for size in (1, 2, 2.5, 5, 10, 20)):
        first, last = math.floor(low / step), math.ceil(high / step)
        if last - first <= 5:
            break
    return [place * step for place in range(first, last + 1)]


def _round_counts(low: float, high: float) -> list[float]:
    """At most seven round counts between two powers of ten; one of each decade where there are several."""
    digits = (1,) if high - low >= 1 else (1, 2, 5)
    counts = [digit * 10.0**power for power in range(math.floor(low), math.floor(high) + 1) for digit in digits]
    found = [count for count in counts if low <= math.log10(count) <= high]
    return found[:: math.ceil(len(found) / 7)]


def _with_ends(points: pd.DataFrame) -> pd.DataFrame:
    half = points.half.fillna(0)
    return points.assign(low=(points["mean"] - half).clip(lower=0), high=(points["mean"] + half).clip(upper=100))


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, look: str = "") -> str:
    return f'<path d="M{x:.2f} {y:.2f}L{to_x:.2f} {to_y:.2f}" style="stroke: var(--{colour}); {look}"/>'


def _mark(role: str, x: float, y: float, tip: str) -> str:
    edge, face = ("random", "card") if role == "random" else ("card", role)
    look = f"fill: var(--{face}); stroke: var(--{edge}); stroke-width: 1.5"
    return f'<g transform="translate({x:.2f} {y:.2f})" style="{look}"><title>{escape(tip)}</title>{MARKS[role]}</g>'


def _text(text: str, x: float, y: float, anchor: str, *, small: bool = False) -> str:
    size, colour = (SMALL, "soft") if small else (TEXT, "ink")
    style = f"font-size: {size}px; text-anchor: {anchor}; fill: var(--{colour})"
    return f'<text style="{style}" x="{x:.2f}" y="{y + 0.38 * size:.2f}">{escape(text)}</text>'  # centred on y


def _number(tick: float) -> str:
    return f"{round(tick, 10):g}"


def _figure(title: str, subtitle: str, height: float, parts: list[str]) -> str:
    caption = f"<figcaption><b>{escape(title)}</b> <span>{escape(subtitle)}</span></figcaption>"
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f"<figure>{caption}{svg}</figure>"
