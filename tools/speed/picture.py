"""Plot every ratio on a logarithmic axis, with its target."""

from pathlib import Path
from typing import Any

from tools.speed.row import Row, machine

MET, MISSED, PLAIN = "#15803d", "#b91c1c", "#64748b"
SMALLEST = 0.05  # a ratio of 0 (not the same result) is drawn here


def draw(lines: list[Row], document: dict[str, Any], path: Path) -> None:
    """Draw measured lines as bars from 1, green where the target is met."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(9, 1.6 + 0.42 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(reversed(lines)):
        ratio = max(line.ratio or 0.0, SMALLEST)
        colour = {True: MET, False: MISSED, None: PLAIN}[line.met]
        axes.barh(place, ratio - 1, left=1, height=0.62, color=colour)
        if line.target is not None:
            axes.plot([line.target] * 2, [place - 0.42, place + 0.42], color="black", linewidth=2)
        text = f"{line.ratio:.2f}x   {line.ours:.3g} : {line.theirs:.3g} {line.unit}"
        axes.annotate(
            text, (max(ratio, line.target or 0, 1), place), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(range(len(lines)), [line.name for line in reversed(lines)], fontsize=9)
    highest = max(max(line.ratio or 1, line.target or 1) for line in lines)
    lowest = min(max(line.ratio or SMALLEST, SMALLEST) for line in lines)
    axes.set_xscale("log")
    axes.set_xlim(min(0.7, lowest * 0.8), highest * 12)  # room for the figures at the right
    ticks = [
        tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if lowest * 0.8 <= tick <= highest * 2
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("times better than the rival (right of 1: kdep is faster or smaller)")
    handles = [Line2D([], [], color=MET, linewidth=6), Line2D([], [], color=MISSED, linewidth=6)]
    handles.append(Line2D([], [], color="black", linewidth=2))
    figure.legend(handles, ["target met", "target missed", "target"], loc="outside lower right", ncols=3, fontsize=8)
    device = document["device"]
    sizes = "" if document["sizes"] == "full" else "QUICK SIZES, FIGURES MEAN NOTHING: "
    figure.suptitle(f"{sizes}{machine(device)}, torch {device['torch']}", fontsize=9, x=0.01, ha="left")
    figure.savefig(path, dpi=130, format="png")
