"""Rank teachers by the diversity of their features, the paper's rule, and say how far to trust the order."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdep.files import write_text
from kdep_benchmarks.table_line import table_line

# Measure -> name; higher is more diverse. The last two need labels.
MEASURES = {
    "effective_rank": "effective rank",
    "participation_ratio": "participation ratio",
    "intra_inter": "intra / inter",
    "nc1": "NC1",
}
BESIDE = {"knn": "kNN, %", "std_ratio": "std ratio", "numerical_rank": "rank"}
RULE = (
    "The paper's rule: of two teachers the one with the more diverse features is the better one, whatever their "
    "accuracies; features that are compact, each class a tight heap, are tailored to their training labels and "
    "transfer less."
)
TRUST = (
    "How far to trust it: as a first guess. The paper judged by eye, on t-SNE pictures of four ResNet-50, and gives no "
    "formula. The measures here are ours, their mean rank is the order, and all of them are of these images: a wider "
    "teacher has room for a higher rank, and fewer images per class lower NC1. The rule is for trained teachers: in "
    "a random network the classes lie on one another, which intra / inter and NC1 take for diversity. Only students, "
    "trained and transferred, decide."
)
FAR_BEHIND = 0.5  # share of the best kNN score; a first place below it is doubted


def figures_of(report: dict[str, Any]) -> dict[str, Any]:
    """One teacher's row, without its place."""
    inputs, found = report["inputs"], report["classes"] or {}
    tap = report["taps"][inputs["tap"]]
    return {
        "teacher": inputs["teacher"],
        "tap": inputs["tap"],
        "channels": tap["dim"],
        "images": inputs["seen"],
        **{key: tap[key] if key in tap else found.get(key) for key in (*MEASURES, *BESIDE)},
        **{f"half{at}_{key}": value for at, half in enumerate(report["halves"]) for key, value in half.items()},
    }


def rank(reports: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows, most diverse first: the mean of their ranks by every measure decides, equal means share a place.

    Raises:
        ValueError: reports of other images or sizes, which cannot be compared.
    """
    shared = ("images", "fingerprint", "labels", "size", "seen", "keep")
    for report in reports[1:]:
        if odd := [key for key in shared if report["inputs"][key] != reports[0]["inputs"][key]]:
            names = f"{reports[0]['inputs']['teacher']} and {report['inputs']['teacher']}"
            raise ValueError(f"{names} were looked at with another {odd[0]}; teachers are ranked on the same images")
    from scipy.stats import rankdata

    rows = [figures_of(report) for report in reports]
    used = measures_of(rows)
    ranks = {key: rankdata([-row[key] for row in rows]) for key in used}
    for at, row in enumerate(rows):
        row["mean_rank"] = sum(float(ranks[key][at]) for key in used) / len(used)
    rows.sort(key=lambda row: row["mean_rank"])
    places = rankdata([row["mean_rank"] for row in rows], method="min")
    return [{"place": int(place), **row} for place, row in zip(places, rows, strict=True)]


def measures_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Measures that every row has."""
    return [key for key in MEASURES if all(row[key] is not None for row in rows)]


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Say whether the measures agree and whether the first place is credible."""
    used = measures_of(rows)
    orders = {key: [row["teacher"] for row in sorted(rows, key=lambda row: -row[key])] for key in used}
    if len({tuple(order) for order in orders.values()}) == 1:
        text = f"The {len(used)} measures agree on the order."
    else:
        firsts = ", ".join(f"{MEASURES[key]}: {' > '.join(order)}" for key, order in orders.items())
        text = f"The measures disagree, so the order is weak ({firsts})."
    text += " " + stability(rows)
    if all(row["knn"] is not None for row in rows):
        best = max(rows, key=lambda row: row["knn"])
        if rows[0]["knn"] < FAR_BEHIND * best["knn"]:
            text += (
                f" The first place is not credible: the nearest neighbours of {rows[0]['teacher']} score "
                f"{rows[0]['knn']:.1f} %, those of {best['teacher']} {best['knn']:.1f} %."
            )
    return text


def stability(rows: Sequence[dict[str, Any]]) -> str:
    """Say whether both halves of the images give the same order as all of them."""
    used = [key for key in measures_of(rows) if all(f"half1_{key}" in row for row in rows)]
    if not used:
        return "Too few images per class to test the order on halves of them."

    def orders(key: str) -> int:
        """The number of different orders of the whole and the halves."""
        return len({tuple(np.argsort([-row[f"{part}{key}"] for row in rows])) for part in ("", "half0_", "half1_")})

    unsure = [MEASURES[key] for key in used if orders(key) > 1]
    if unsure:
        return (
            f"Half of the images gives another order by {', '.join(unsure)}: treat those as ties, or take more images."
        )
    return "Each measure gives the same order on either half of the images."


def write_ranking(rows: Sequence[dict[str, Any]], folder: Path) -> str:
    """Write ranking.csv and ranking.md; returns the text of the latter."""
    table = io.StringIO()
    columns = [key for key in rows[0] if not key.startswith("half")]
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    names = {**MEASURES, **BESIDE}
    shown = [*measures_of(rows), *(key for key in BESIDE if any(row[key] is not None for row in rows))]
    lines = [
        f"| | teacher | tap | mean rank | {' | '.join(names[key] for key in shown)} |",
        f"|---:|---|---|---:|{'---:|' * len(shown)}",
        *(
            table_line(
                [row["place"], row["teacher"], f"{row['tap']} ({row['channels']})", f"{row['mean_rank']:.2f}"]
                + [_number(row[key]) for key in shown]
            )
            for row in rows
        ),
    ]
    text = "\n".join([*lines, "", RULE, "", verdict(rows), "", TRUST, ""])
    write_text(folder / "ranking.csv", table.getvalue())
    write_text(folder / "ranking.md", text)
    return text


def describe(report: dict[str, Any]) -> str:
    """One teacher in one line."""
    row = figures_of(report)
    text = (
        f"{row['teacher']} ({row['tap']}, {row['channels']} channels, {row['images']} images): "
        f"rank {row['numerical_rank']}, effective rank {_number(row['effective_rank'])}, "
        f"std ratio {_number(row['std_ratio'])}"
    )
    if row["knn"] is None:
        return text
    return f"{text}, intra / inter {_number(row['intra_inter'])}, NC1 {_number(row['nc1'])}, kNN {row['knn']:.1f} %"


def _number(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.4g}"
