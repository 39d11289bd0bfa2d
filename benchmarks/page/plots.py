"""Draw the plots of a board as inline SVG in the colours of the page, light and dark."""

import math
from html import escape

import numpy as np
import pandas as pd

from kdep_benchmarks.page.leaderboard import with_half

WIDTH, LABELS, VALUES, LINE = 440, 172, 56, 26  # points: the panel, its two text columns, the height of a row
ROWS = 25  # of a dot plot; the tables have them all
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
    half = dots.half.fillna(0)
    dots = dots.assign(low=(dots["mean"] - half).clip(lower=0), high=(dots["mean"] + half).clip(upper=100))
    height = LINE * len(dots) + 30
    ticks = round_ticks(min(dots.low), max(dots.high))

    def at(score: float) -> float:
        start, end = LABELS + 12, WIDTH - VALUES
        return start + (score - ticks[0]) / (ticks[-1] - ticks[0]) * (end - start)

    lines, marks = [], []
    for tick in ticks:
        lines.append(_line(at(tick), 4, at(tick), height - 22, "rule"))
        marks.append(_text(f"{round(tick, 10):g}", at(tick), height - 14, "middle", small=True))
    for row, dot in enumerate(dots.itertuples()):
        x, y = at(dot.mean), LINE * (row + 0.5) + 6
        if dot.role in ("random", "supervised"):
            lines.append(_line(x, 4, x, height - 22, dot.role, DASHED))
        if dot.low < dot.high:
            marks.append(_line(at(dot.low), y, at(dot.high), y, dot.role, INTERVAL))
        marks.append(_mark(dot.role, x, y, f"{dot.name}: {with_half(dot.mean, dot.half)}"))
        marks += [_text(shorten(dot.name), LABELS, y, "end"), _text(f"{dot.mean:.1f}", WIDTH, y, "end")]
    return _figure(title, subtitle, height, [*lines, *marks])


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


def _figure(title: str, subtitle: str, height: float, parts: list[str]) -> str:
    caption = f"<figcaption><b>{escape(title)}</b> <span>{escape(subtitle)}</span></figcaption>"
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f"<figure>{caption}{svg}</figure>"
