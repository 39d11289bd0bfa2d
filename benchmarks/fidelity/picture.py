"""Draw the heat table: cheap columns against expensive ones, coloured by weighted Kendall tau."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from kdep_benchmarks.fidelity.judge import GROUPS, STANDS, Fidelity
from kdep_benchmarks.page.plots import shorten

MARKS = {STANDS: "●", GROUPS: "◐"}
ROW, COLUMN, LEFT, RIGHT, TOP, BOTTOM = 0.42, 1.3, 2.6, 1.2, 0.9, 0.5  # inches
LENGTH = 30  # letters of a name


def heat_table(found: Sequence[Fidelity]) -> str:
    """Return an SVG. Names are drawn as plain text, never as mathematics."""
    rows = list(dict.fromkeys(one.cheap for one in found))
    columns = list(dict.fromkeys(one.expensive for one in found))
    values = np.full((len(rows), len(columns)), np.nan)
    for one in found:
        values[rows.index(one.cheap), columns.index(one.expensive)] = one.agreement.tau.value
    width, height = LEFT + COLUMN * len(columns) + RIGHT, TOP + ROW * len(rows) + BOTTOM
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdep", "text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(width, height), facecolor="white")
        place = [LEFT / width, BOTTOM / height, COLUMN * len(columns) / width, ROW * len(rows) / height]
        axes = figure.add_axes(place, facecolor="#e5e7eb")
        axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), [shorten(name, LENGTH) for name in columns], rotation=20, ha="left")
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(rows)), [shorten(name, LENGTH) for name in rows])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for one in found:
            at = (columns.index(one.expensive), rows.index(one.cheap))
            axes.text(*at, _text(one), ha="center", va="center", color=_ink(one), fontsize=8)
        legend = "weighted Kendall tau [95 %];  ● may stand for it   ◐ tells two groups apart, no more is shown"
        figure.text(0.1 / width, 0.2 / height, legend, fontsize=8)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _text(one: Fidelity) -> str:
    tau = one.agreement.tau
    if np.isnan(tau.value):
        return "-"
    low, high = (round(end, 1) + 0.0 for end in (tau.low, tau.high))  # 0.0 turns -0.0 into 0.0
    return f"{MARKS.get(one.verdict, '')} {tau.value:.2f} [{low:.1f}, {high:.1f}]".strip()


def _ink(one: Fidelity) -> str:
    return "white" if abs(one.agreement.tau.value) > 0.7 else "black"
