"""The tables on the sheet of a teacher: taps, widths, and what is one number."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1f2937", "#6b7280", "#e5e7eb"
SCALERS = ("none", "pts", "whiten", "sn")


def tables(axes: "Axes", report: dict[str, Any]) -> None:
    """The figures as numbers, one table below the other."""
    axes.set_axis_off()
    axes.set_title("Figures")
    parts = (
        (["tap", "channels", "rank", "effective rank", "participation", "std ratio"], tap_rows(report)),
        (["width", "variance", "svd: ratio", *(f"+ {name}" for name in SCALERS[1:])], width_rows(report)),
        (None, single_rows(report)),
    )
    height, top = 1.0 / (sum(len(rows) + (head is not None) for head, rows in parts) + 2), 1.0
    for head, rows in parts:
        here = height * (len(rows) + (head is not None))
        plain_table(axes, head, rows, (0.0, top - here, 1.0, here))
        top -= here + height


def tap_rows(report: dict[str, Any]) -> list[list[str]]:
    """Rank and spread at every tap; a star where the images bound the rank."""
    return [
        [name, str(tap["dim"]), f"{tap['numerical_rank']}{'*' if tap['limited_by_images'] else ''}"]
        + [number(tap[key]) for key in ("effective_rank", "participation_ratio", "std_ratio")]
        for name, tap in report["taps"].items()
    ]


def width_rows(report: dict[str, Any]) -> list[list[str]]:
    """Variance explained and the std ratios on principal axes at every width; '-' where they are refused."""
    rows = report["std_ratios"]
    measured = {(row["width"], row["aligner"], row.get("scaler")): row.get("measured") for row in rows}
    return [
        [str(entry["width"]), "-" if entry["explained"] is None else f"{100 * entry['explained']:.2f} %"]
        + [number(measured.get((entry["width"], "svd", scaler))) for scaler in SCALERS]
        for entry in report["widths"]
    ]


def single_rows(report: dict[str, Any]) -> list[list[str]]:
    """What is one number, and the note to the stars."""
    kurtosis = [value for value in report["axes"]["kurtosis"] if value is not None]
    rows = [["median kurtosis of the axes", number(float(np.median(kurtosis)) if kurtosis else None)]]
    if found := report["classes"]:
        rows += [
            ["intra-class distance / inter-class distance", f"{found['intra_inter']:.4f}"],
            [f"NC1, {found['classes']} classes", number(found["nc1"])],
            ["nearest neighbours (k = 10, five folds)", f"{found['knn']:.1f} %"],
        ]
    if any(tap["limited_by_images"] for tap in report["taps"].values()):
        rows.append(["* as many as the images allow; more images may show more", ""])
    return rows


def plain_table(axes: "Axes", head: list[str] | None, rows: list[list[str]], box: Sequence[float]) -> None:
    """A table with hairlines under its rows; first column left, numbers right."""
    widths = [0.16, 0.15, 0.13, 0.19, 0.19, 0.18] if head else [0.75, 0.25]
    table = axes.table(cellText=rows, colLabels=head, colWidths=widths, bbox=list(box), cellLoc="right", edges="B")
    table.auto_set_font_size(False)
    table.set_fontsize(9.5)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor(GRID)
        cell.set_text_props(ha="left" if column == 0 else "right")
        cell.PAD = 0.004 / widths[column]
        if head and row == 0:
            cell.set_text_props(weight="bold", color=MUTED)


def number(value: float | None) -> str:
    """Four digits, '-' where there is no number."""
    return "-" if value is None else f"{value:.4g}"
