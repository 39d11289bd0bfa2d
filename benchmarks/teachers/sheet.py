"""Draw the sheet of a teacher: one PNG of what `kdep_benchmarks.teachers.statistics` measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdep.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1f2937", "#6b7280", "#e5e7eb"
TAPS = {"pre": "#2563eb", "post": "#d97706", "before_head": "#059669"}
FLOOR = 1e-5  # of the spectrum; below it lies rounding
STYLE = {
    "font.size": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


def draw_sheet(report: dict[str, Any], path: Path) -> None:
    """Write the sheet of a report."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 9), layout="constrained", facecolor="white")
        figure.suptitle(headline(report), x=0.008, ha="left", fontsize=11, linespacing=1.5)
        for panel, axes in zip((spectrum, explained, ratios, figures), figure.subplots(2, 2).flat, strict=True):
            panel(axes, report)
        write_atomically(path, lambda part: figure.savefig(part, dpi=80, format="png", pil_kwargs={"optimize": True}))


def headline(report: dict[str, Any]) -> str:
    """The teacher, the images and how they were shown."""
    inputs, tap = report["inputs"], report["taps"][report["inputs"]["tap"]]
    side = inputs["input"]["resample"]
    shown = f"{inputs['size']} px" + (f", resampled to {side} px" if side else "")
    text = (
        f"{inputs['teacher']}: {inputs['arch']}, weights {inputs['sha256'][:8]}, features at tap '{inputs['tap']}' "
        f"({tap['dim']})\n{inputs['seen']:,} images of {inputs['images']} at {shown}, features of "
        f"{report['kept']:,} kept"
    )
    return text.replace("$", r"\$")  # a pair of dollar signs would be a formula


def spectrum(axes: "Axes", report: dict[str, Any]) -> None:
    """Standard deviation along the principal axes at every tap."""
    for name, tap in report["taps"].items():
        std = np.asarray(tap["std"])
        std = np.where(std > std[0] * 1e-9, std, np.nan)
        label = f"{name}: rank {tap['numerical_rank']} of {tap['dim']}"
        axes.plot(np.arange(1, len(std) + 1), std / std[0], color=TAPS[name], lw=1.8, label=label)
    axes.set(yscale="log", xlabel="principal axis", ylabel="std / largest std", title="Spectrum")
    axes.set_ylim(max(FLOOR, axes.get_ylim()[0]))
    axes.legend(loc="lower left")


def explained(axes: "Axes", report: dict[str, Any]) -> None:
    """Share of the variance in the leading axes at every tap, with the students' widths."""
    for name, tap in report["taps"].items():
        variances = np.square(tap["std"])
        axes.plot(np.arange(1, len(variances) + 1), variances.cumsum() / variances.sum(), color=TAPS[name], label=name)
    for entry in report["widths"]:
        if entry["explained"] is not None:
            axes.axvline(entry["width"], color=MUTED, lw=0.8, ls=":")
            text = f"{entry['width']}: {100 * entry['explained']:.1f} %"
            axes.text(entry["width"], 0.03, text, rotation=90, ha="right", fontsize=8, color=MUTED)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="leading axes", ylabel="share of the variance")
    axes.set_title("Variance explained, by the student's width")
    axes.legend(loc="upper left")


def ratios(axes: "Axes", report: dict[str, Any]) -> None:
    """Measured std ratio of every aligner (rows) under every scaler (columns) at the shown width."""
    width = report["shown_width"]
    rows = [row for row in report["std_ratios"] if row["width"] == width]
    aligners = list(dict.fromkeys(row["aligner"] for row in rows))
    scalers = list(dict.fromkeys(row["scaler"] for row in rows if "scaler" in row))
    table = np.full((len(aligners), len(scalers)), np.nan)
    for row in rows:
        if "scaler" in row and row["measured"]:
            table[aligners.index(row["aligner"]), scalers.index(row["scaler"])] = row["measured"]
    axes.set_title(f"Std ratio by aligner and scaler, width {width}")
    axes.grid(visible=False)
    if not np.isfinite(table).any():
        axes.text(0.5, 0.5, "no width fits this teacher", ha="center", transform=axes.transAxes, color=MUTED)
        axes.set(xticks=[], yticks=[])
        return
    shade = np.log10(table)
    top = max(0.5, float(np.nanmax(shade)))
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=top, aspect="auto")
    for at, value in np.ndenumerate(table):
        dark = np.isfinite(value) and shade[at] > 0.6 * top
        axes.text(at[1], at[0], number(value), ha="center", va="center", color="white" if dark else INK)
    axes.set_xticks(range(len(scalers)), scalers)
    axes.set_yticks(range(len(aligners)), aligners)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def figures(axes: "Axes", report: dict[str, Any]) -> None:
    """What is one number, tap by tap and of the classes."""
    axes.set_axis_off()
    axes.set_title("Figures")
    table = axes.table(cellText=rows_of(report), bbox=[0, 0.1, 1, 0.9], cellLoc="right", edges="B")
    table.auto_set_font_size(False)
    for (_, column), cell in table.get_celld().items():
        cell.set(edgecolor=GRID, fontsize=9.5)
        cell.set_text_props(ha="left" if column == 0 else "right")


def rows_of(report: dict[str, Any]) -> list[list[str]]:
    """The table: rank and spread of each tap, a star where the images bound the rank, and how the classes lie."""
    taps, found = list(report["taps"].values()), report["classes"] or {}
    blank = [""] * (len(taps) - 1)
    rows = [["", *report["taps"]], ["channels", *(str(tap["dim"]) for tap in taps)]]
    rows.append(["rank", *(f"{tap['numerical_rank']}{'*' * tap['limited_by_images']}" for tap in taps)])
    for key in ("effective_rank", "participation_ratio", "std_ratio"):
        rows.append([key.replace("_", " "), *(number(tap[key]) for tap in taps)])
    if found:
        rows.append(["intra-class / inter-class distance", *blank, number(found["intra_inter"])])
        rows.append([f"NC1, {found['classes']} classes", *blank, number(found["nc1"])])
        rows.append(["nearest neighbours (k = 10, five folds), %", *blank, number(found["knn"])])
    if any(tap["limited_by_images"] for tap in taps):
        rows.append(["* as high as the number of images allows", *blank, ""])
    return rows


def number(value: float | None) -> str:
    """Four digits, '-' where there is no number."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.4g}"
