"""Draw the plots of a board with matplotlib, as inline SVG in the colours of the page, light and dark."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

from kdep_benchmarks.board.leaderboard import compact

WIDTH, LABELS, VALUES, LINE = 440, 172, 56, 26  # points: the panel, its two text columns, the height of a row
ROWS = 25  # of a dot plot; the tables have them all
NAMED = 8  # marks of one plot that have their names beside them: more cover each other
TEXT, SMALL = 13, 11.5  # font sizes in points
MARKERS = {"student": "o", "random": "o", "supervised": "s", "teacher": "D", "other": "^"}
# matplotlib writes colours as hexadecimal numbers. Each name stands in as a number until the SVG is written, which
# then says var(--name), so that the page's style sheet decides.
NAMES = ("ink", "soft", "rule", "card", *MARKERS)
COLOURS = {name: f"#0000{number + 1:02x}" for number, name in enumerate(NAMES)}
INK, SOFT, RULE, CARD = (COLOURS[name] for name in NAMES[:4])


@dataclass(frozen=True)
class Panel:
    """A figure being drawn. `tips`: the tooltips of the marks of one artist, by the artist's id in the SVG."""

    figure: Figure
    axes: Axes
    tips: dict[str, list[str]] = field(default_factory=dict)

    def marks(self, points: pd.DataFrame) -> None:
        """Draw the marks of `points`: x, y, role and tip."""
        for role, own in points.groupby("role", sort=False):
            edge, face = (COLOURS[role], CARD) if role == "random" else (CARD, COLOURS[role])
            look = {"color": face, "markeredgecolor": edge, "markeredgewidth": 1.5, "markersize": 10}
            name = f"tips{len(self.tips)}"
            self.tips[name] = list(own.tip)
            self.axes.plot(own.x, own.y, MARKERS[role], gid=name, **look)


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
    spread = dots.half.fillna(0)
    ends = pd.DataFrame({"low": dots["mean"] - spread, "high": dots["mean"] + spread}).clip(0, 100)
    said = dots.half.map(lambda half: "" if pd.isna(half) else f" ± {half:.2f}")
    tips = dots.name + ": " + dots["mean"].map("{:.2f}".format) + said
    dots = dots.assign(x=dots["mean"], y=range(len(dots)), tip=tips).join(ends)
    with _panel(LINE * len(dots) + 30, left=LABELS + 12, right=WIDTH - VALUES, top=4, bottom=22) as (panel, svg):
        axes = panel.axes
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.set_yticks([])
        _score_axis(axes.xaxis, min(dots.low), max(dots.high))
        for role, own in dots.groupby("role", sort=False):
            if role in ("random", "supervised"):
                for x in own.x:
                    axes.axvline(x, color=COLOURS[role], linewidth=1, dashes=(3, 4), alpha=0.7, zorder=1)
            sure = own.dropna(subset="half")
            axes.hlines(sure.y, sure.low, sure.high, colors=COLOURS[role], linewidth=2.5, alpha=0.55)
        panel.marks(dots)
        left, right = -12 / (WIDTH - VALUES - LABELS - 12), 1 + VALUES / (WIDTH - VALUES - LABELS - 12)
        for dot in dots.itertuples():
            _text(axes, shorten(dot.name), left, dot.y, "right", axes.get_yaxis_transform())
            _text(axes, f"{dot.mean:.1f}", right, dot.y, "right", axes.get_yaxis_transform())
    return _figure(title, subtitle, svg[0])


def cost_panel(title: str, points: pd.DataFrame, guides: pd.DataFrame) -> str:
    """Draw scores over the images seen in pretraining, with a dashed line for each baseline.

    Args:
        title: of the panel.
        points: name, role, images_seen, mean and half.
        guides: name, role and mean of the baselines, which have seen no images or do not say how many.
    """
    half = points.half.fillna(0)
    ends = [*(points["mean"] - half), *(points["mean"] + half), *guides["mean"]]
    seen = [min(points.images_seen) / 2, max(points.images_seen) * 2]  # room for names on both sides
    with _curve_panel(seen, ends) as (panel, said):
        axes = panel.axes
        for guide in guides.itertuples():
            axes.axhline(guide.mean, color=COLOURS[guide.role], linewidth=1, dashes=(3, 4), alpha=0.7)
            _text(axes, shorten(guide.name), 1, guide.mean, "right", axes.get_yaxis_transform(), up=8)
        for role, own in points.dropna(subset="half").groupby("role"):
            low, high = (own["mean"] - own.half).clip(0, 100), (own["mean"] + own.half).clip(0, 100)
            axes.vlines(own.images_seen, low, high, colors=COLOURS[role], linewidth=2.5, alpha=0.55)
        tips = [f"{p.name}: {p.mean:.2f} after {compact(p.images_seen)} images" for p in points.itertuples()]
        panel.marks(points.assign(x=points.images_seen, y=points["mean"], tip=tips))
        for point in points.itertuples() if len(points) <= NAMED else ():
            _text(axes, shorten(point.name), point.images_seen, point.mean, "left", axes.transData, right=9)
    return _figure(title, "%, over images seen in pretraining", said[0])


def shorten(name: str, length: int = 22) -> str:
    """Cut out the middle of a long name; the two ends tell most names apart."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-(length - length // 2 - 1) :]}"


@contextmanager
def _panel(height: float, *, left: float, right: float, top: float, bottom: float) -> Iterator[tuple[Panel, list[str]]]:
    """Yield an empty panel with the axes between these points, and a list that holds its SVG afterwards."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdep", "text.parse_math": False, "text.color": INK}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), facecolor="none")  # 72 points to the inch
        place = [left / WIDTH, bottom / height, (right - left) / WIDTH, (height - top - bottom) / height]
        axes = figure.add_axes(place, facecolor="none")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=SMALL, labelcolor=SOFT)
        axes.set_axisbelow(True)
        panel, said = Panel(figure, axes), []
        yield panel, said
        said.append(_svg(panel))


@contextmanager
def _curve_panel(across: Sequence[float], scores: Sequence[float]) -> Iterator[tuple[Panel, list[str]]]:
    with _panel(216, left=40, right=WIDTH - 22, top=8, bottom=26) as (panel, said):
        axes = panel.axes
        axes.set_xscale("log")
        margin = 1.05 if max(across) > min(across) else 2
        axes.set_xlim(min(across) / margin, max(across) * margin)
        decades = max(across) >= 10 * min(across)
        axes.xaxis.set_major_locator(LogLocator(10, (1,) if decades else (1, 2, 5), numticks=7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        _score_axis(axes.yaxis, max(min(scores), 0), min(max(scores), 100))
        yield panel, said


def _score_axis(axis: object, low: float, high: float) -> None:
    """Give an axis of percentages three to six round ticks that enclose both ends."""
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axis.set_ticks(ticks, labels=[f"{round(tick, 10):g}" for tick in ticks])
    axis.grid(color=RULE, linewidth=1)
    getattr(axis.axes, f"set_{axis.axis_name}lim")(ticks[0], ticks[-1])


def _text(
    axes: Axes, text: str, x: float, y: float, align: str, transform: Transform, *, right: float = 0, up: float = 0
) -> None:
    moved = transform + ScaledTranslation(right / 72, up / 72, axes.figure.dpi_scale_trans)
    axes.text(x, y, text, transform=moved, ha=align, va="center_baseline", fontsize=TEXT)


def _svg(panel: Panel) -> str:
    """The figure as an element of an HTML page: no header, no ids of groups, no clipping, two decimals."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has the font, matplotlib need not
        panel.figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = re.sub(r"^.*?<svg [^>]*>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<style .*?</style>|<clipPath .*?</clipPath>| clip-path=\"[^\"]*\"", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*; ?| transform=\"rotate\(-0 [^\"]*\"", "", text)
    text = re.sub(r"([ \"]-?\d+\.\d\d)\d+(?=[ \"\n])", r"\1", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    for name, tips in panel.tips.items():
        before, start, after = text.partition(f'<g id="{name}">')
        for tip in tips:  # matplotlib writes one <use> for each mark, in order
            use = re.search("<use [^>]*/>", after)
            before, start = before + start + after[: use.start()], f"<g><title>{escape(tip)}</title>{use[0]}</g>"
            after = after[use.end() :]
        text = before + start + after
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    width, height = (round(72 * inches) for inches in panel.figure.get_size_inches())
    return f'<svg viewBox="0 0 {width} {height}" role="img"' + " {label}>" + text


def _figure(title: str, subtitle: str, svg: str) -> str:
    caption = f"<figcaption><b>{escape(title)}</b> <span>{escape(subtitle)}</span></figcaption>"
    named = svg.replace(" {label}>", f' aria-label="{escape(title)}">', 1)
    return f"<figure>{caption}{named}</figure>"
