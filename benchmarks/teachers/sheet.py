"""The sheet of a teacher: one PNG that shows what `kdep_benchmarks.teachers.statistics` has measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdep.files import write_atomically
from kdep_benchmarks.teachers.tables import GRID, INK, MUTED, tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TAPS = {"pre": "#2563eb", "post": "#d97706", "before_head": "#059669"}
FLOOR = 1e-5  # of the spectrum; below it lies rounding
MARKS = {"pts": "o", "whiten": "^"}
CURVES = ("#6b7280", "#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626")
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10.5,
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
    "legend.fontsize": 8.5,
}


def draw_sheet(report: dict[str, Any], path: Path) -> None:
    """Write the sheet of a report, atomically."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, 13), layout="constrained", facecolor="white")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        figure.suptitle(plain(report["inputs"]["teacher"]), x=0.008, ha="left", fontsize=15, fontweight="bold")
        # Rows of their own, so that a wide legend in one does not move the panels of another.
        first, second, third = figure.subfigures(3, 1, height_ratios=(1.1, 0.9, 1.2))
        first.suptitle(headline(report), x=0.008, ha="left", fontsize=11, linespacing=1.5)
        panels = (spectrum, channels, ratios, ratio_law, tails, theorem)
        places = (*first.subplots(1, 3), *second.subplots(1, 3))
        for panel, axes in zip(panels, places, strict=True):
            panel(axes, report)
        left, right = third.subplots(1, 2)
        tables(left, report)
        (classes if report["classes"] else shares)(right, report)
        write_atomically(path, lambda part: figure.savefig(part, dpi=80, format="png", pil_kwargs={"optimize": True}))


def headline(report: dict[str, Any]) -> str:
    """What was looked at, and on what."""
    inputs, tap = report["inputs"], report["taps"][report["inputs"]["tap"]]
    side = inputs["input"]["resample"]
    shown = f"{inputs['size']} px" + (f", resampled to {side} px" if side else "")
    return plain(
        f"{inputs['arch']}, weights {inputs['sha256'][:8]}, features at tap '{inputs['tap']}' ({tap['dim']})\n"
        f"{inputs['seen']:,} images of {inputs['images']} at {shown}, features of {report['kept']:,} kept, "
        f"seed {inputs['seed']}"
    )


def plain(text: str) -> str:
    """Names as they are: a pair of dollar signs would make a formula."""
    return text.replace("$", r"\$")


def spectrum(axes: "Axes", report: dict[str, Any]) -> None:
    """Deviation along the principal axes at every tap; widths with the share of variance that they explain."""
    for name, tap in report["taps"].items():
        std = np.asarray(tap["std"])
        std = np.where(std > std[0] * 1e-9, std, np.nan)
        label = f"{name}: rank {tap['numerical_rank']} of {tap['dim']}"
        axes.plot(np.arange(1, len(std) + 1), std / std[0], color=TAPS[name], lw=1.8, label=label)
    for entry in report["widths"]:
        if entry["explained"] is not None:
            axes.axvline(entry["width"], color=MUTED, lw=0.8, ls=":")
            text = f"{entry['width']}: {100 * entry['explained']:.1f} %"
            axes.annotate(
                text,
                (entry["width"], 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(-2, -2),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="top",
                fontsize=8,
                color=MUTED,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
    axes.set(yscale="log", xlabel="principal axis", ylabel="std / largest std")
    axes.set_ylim(max(FLOOR, axes.get_ylim()[0]), 12)  # room for the widths above the curves
    axes.set_title("Spectrum, and the share of the variance by width")
    axes.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")


def channels(axes: "Axes", report: dict[str, Any]) -> None:
    """Deviation of every channel, descending, before and after alignment and after the paper's scaling."""
    std = report["axes"]
    curves = {
        "raw channels": report["taps"][report["inputs"]["tap"]]["channel_std"],
        f"svd, {report['shown_width']} axes": std["std"],
        "svd + pts": sorted(std["pts_std"], reverse=True),
        "law: (std)^(1/3)": [value ** (1 / 3) for value in std["std"]],
    }
    for (label, values), colour in zip(curves.items(), CURVES, strict=False):
        values = np.asarray(values)
        ratio = values.max() / values.min() if values.min() > 0 else np.inf
        line = "--" if label.startswith("law") else "-"
        scale = np.sqrt(np.mean(values**2))
        axes.plot(
            np.linspace(0, 1, len(values)), values / scale, line, color=colour, lw=1.8, label=f"{label}: {ratio:.1f}"
        )
    axes.set(yscale="log", xlabel="share of the channels, largest first", ylabel="std / root mean square")
    plain_log_ticks(axes, which="y")
    axes.set_title("Std of every channel, before and after")
    axes.legend(title="largest / smallest", title_fontsize=8.5, alignment="left")


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
        text = f"{value:.3g}" if np.isfinite(value) else "-"
        dark = np.isfinite(value) and shade[at] > 0.6 * top
        axes.text(at[1], at[0], text, ha="center", va="center", color="white" if dark else INK)
    axes.set_xticks(range(len(scalers)), scalers)
    axes.set_yticks(range(len(aligners)), aligners)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def ratio_law(axes: "Axes", report: dict[str, Any]) -> None:
    """Predicted against measured std ratio, one mark per width, aligner and scaler whose law says something."""
    rows = [row for row in report["std_ratios"] if row.get("predicted") and row.get("measured")]
    rows = [row for row in rows if row["scaler"] in MARKS]
    aligners = dict(zip(dict.fromkeys(row["aligner"] for row in rows), CURVES[1:], strict=False))
    for row in rows:
        colour = aligners.get(row["aligner"], MUTED)
        axes.plot(row["predicted"], row["measured"], MARKS[row["scaler"]], color=colour, ms=6, alpha=0.85)
    for label, mark, colour in (
        *((name, "s", colour) for name, colour in aligners.items()),
        *((name, mark, MUTED) for name, mark in MARKS.items()),
    ):
        axes.plot([], [], mark, color=colour, label=label)
    largest = max((max(row["predicted"], row["measured"]) for row in rows), default=10.0)
    axes.plot([1, largest], [1, largest], color=MUTED, lw=1, ls="--")
    axes.set(xscale="log", yscale="log", xlabel="predicted std ratio", ylabel="measured std ratio")
    plain_log_ticks(axes)
    axes.set_title("Law of the std ratio: pts r^(1/n), whiten r^(1-a)")
    axes.legend(ncols=2)


def tails(axes: "Axes", report: dict[str, Any]) -> None:
    """Where the law bends: the deviation after PTS against a Gaussian's, by the kurtosis of the axis."""
    std = report["axes"]
    share = np.asarray(std["pts_std"]) / np.asarray(std["gaussian_pts_std"])
    kurtosis = np.asarray(std["kurtosis"], dtype=float)
    number = np.arange(1, len(share) + 1)
    marks = axes.scatter(kurtosis, share, 16, np.log10(number), cmap="viridis", edgecolors="none")
    axes.axhline(1, color=MUTED, lw=1, ls="--")
    axes.axvline(3, color=MUTED, lw=1, ls="--")
    bar = axes.figure.colorbar(marks, ax=axes, pad=0.01, aspect=30)
    steps = [step for step in (1, 10, 100, 1000) if step <= len(share)]
    bar.set_ticks(np.log10(steps), labels=[str(step) for step in steps])
    bar.set_label("axis", labelpad=-4)
    bar.outline.set_visible(False)
    axes.set(xscale="log", xlabel="kurtosis of the axis (Gaussian: 3)", ylabel="std after pts / Gaussian's")
    plain_log_ticks(axes, which="x")
    axes.set_title("How Gaussian the axes are")


def theorem(axes: "Axes", report: dict[str, Any]) -> None:
    """Loss per axis of a student that knows nothing, by Theorem 1 and measured."""
    law = report["theorem_1"]
    number = np.arange(1, len(law["measured"]) + 1)
    axes.plot(number, law["measured"], ".", color=CURVES[1], ms=5, label="measured, S an independent Gaussian")
    axes.plot(number, law["predicted"], color=CURVES[2], lw=1.5, label="std(T)^2 + std(S)^2")
    axes.set(xscale="log", yscale="log", xlabel="principal axis", ylabel="E(T - S)^2")
    axes.set_title("Theorem 1: loss of a student that knows nothing")
    plain_log_ticks(axes)
    axes.legend()
    text = (
        f"first tenth of the axes: {100 * law['first_share']:.0f} % of the loss\n"
        f"largest difference {100 * law['largest_relative_difference']:.1f} %"
    )
    axes.text(0.03, 0.05, text, transform=axes.transAxes, color=MUTED)


def classes(axes: "Axes", report: dict[str, Any]) -> None:
    """The paper's picture of a few classes."""
    from matplotlib import colormaps

    drawn = report["picture"]
    points, labels = np.asarray(drawn["points"]), np.asarray(drawn["labels"])
    for label, name in enumerate(drawn["classes"]):
        own = points[labels == label]
        short = name.split(",")[0]
        axes.scatter(*own.T, 14, color=colormaps["tab10"](label), edgecolors="none", label=plain(short[:24]))
    axes.set_title(f"t-SNE of {len(points)} images of {len(drawn['classes'])} classes")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2)


def shares(axes: "Axes", report: dict[str, Any]) -> None:
    """Share of the variance in the leading axes, where there are no labels for a picture."""
    for name, tap in report["taps"].items():
        variances = np.square(tap["std"])
        axes.plot(np.arange(1, len(variances) + 1), variances.cumsum() / variances.sum(), color=TAPS[name], label=name)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="leading axes", ylabel="share of the variance")
    axes.set_title("Variance explained")
    axes.legend()


def plain_log_ticks(axes: "Axes", which: str = "xy") -> None:
    """Numbers as people write them on logarithmic axes."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis in [axes.xaxis] * ("x" in which) + [axes.yaxis] * ("y" in which):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
