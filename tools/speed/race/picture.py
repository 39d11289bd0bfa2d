"""Plot what the students of a race score: a panel per task, a dot per run, a line at each contender's mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdep_benchmarks.verdicts.intervals import mean
from tools.speed.row import machine

COLOURS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#64748b", "#0891b2", "#db2777")
COLUMNS = 3


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw the scores of a race's document as a PNG file."""
    from matplotlib.figure import Figure

    names, tasks = list(document["runs"]), document["tasks"]
    rows = -(-len(tasks) // COLUMNS)
    figure = Figure(figsize=(9, 0.6 + rows * (1.0 + 0.32 * len(names))), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).flat
    for task, axes in zip(tasks, panels, strict=False):
        for place, name in enumerate(names):
            found = list(document["scores"].get(name, {}).get(task, {}).values())
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(found, [place] * len(found), "o", color=colour, alpha=0.75, clip_on=False)
            if found:
                axes.plot([mean(found)] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
        axes.set_title(task, fontsize=9)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.15)
        axes.grid(axis="x", alpha=0.25)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels:  # those that are left have no task
        axes.set_visible(False)
    said = f"{document['about']['minutes']:g} minutes for each run, {machine(document['about']['device'])}"
    figure.suptitle(f"{said}; higher is better", fontsize=9, x=0.01, ha="left")
    figure.savefig(path, dpi=130, format="png")
