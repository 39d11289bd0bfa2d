"""Compute the figures of a teacher's features, as plain values for its JSON."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdep.method.statistics import Moments, Statistics, effective_rank, explained, finish, numerical_rank, ratio_or_none
from kdep_benchmarks.teachers.geometry import class_distances, folds, knn_accuracy, nc1, participation_ratio

SHOWN_WIDTH = 512  # the width whose std ratios the sheet shows, or the nearest one there is


def shown_width(statistics: Statistics, widths: Sequence[int]) -> int:
    """Of the widths that the rank allows, the one nearest to 512; the rank where it allows none."""
    rank = numerical_rank(statistics)
    return min((width for width in widths if width <= rank), key=lambda width: abs(width - SHOWN_WIDTH), default=rank)


def spectrum_figures(statistics: Statistics) -> dict[str, Any]:
    """Rank and spread of the features at a tap; `std` is along the principal axes, descending.

    `limited_by_images`: the number of images bounds the rank.
    """
    rank = numerical_rank(statistics)
    return {
        "dim": len(statistics.mean),
        "numerical_rank": rank,
        "limited_by_images": statistics.count - 1 <= rank < len(statistics.mean),
        "effective_rank": effective_rank(statistics),
        "participation_ratio": participation_ratio(statistics.variances),
        "std_ratio": ratio_or_none(statistics.channel_variances.sqrt()),
        "channel_std": statistics.channel_variances.sqrt().sort(descending=True).values.tolist(),
        "std": statistics.variances.sqrt().tolist(),
    }


def width_figures(statistics: Statistics, width: int) -> dict[str, Any]:
    """Share of the variance and std ratio of the axes that a student of this width gets.

    Both are None where the teacher is narrower; the ratio is None beyond the numerical rank.
    """
    if width > len(statistics.mean):
        return {"width": width, "explained": None, "std_ratio": None}
    std = statistics.variances[:width].sqrt()
    ratio = ratio_or_none(std) if width <= numerical_rank(statistics) else None
    return {"width": width, "explained": explained(statistics, width), "std_ratio": ratio}


def class_figures(features: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """How classes lie in the features: distances within and between, NC1, nearest neighbours."""
    within, between = class_distances(features, labels)
    return {
        "classes": len(labels.unique()),
        "images": len(labels),
        "intra": within,
        "inter": between,
        "intra_inter": within / between,
        "nc1": nc1(features, labels),
        "knn": knn_accuracy(features, labels),
    }


def halves(features: torch.Tensor, labels: torch.Tensor | None) -> list[dict[str, float]]:
    """The measures of diversity on each half of the images: the spread of another draw.

    Every class is halved; empty where a half would hold fewer than two images of some class.
    """
    numbers = np.zeros(len(features), dtype=np.int64) if labels is None else labels.numpy()
    if np.unique(numbers, return_counts=True)[1].min() < 4:
        return []
    found = []
    for _, half in folds(numbers, count=2):
        moments = Moments(features.shape[1])
        moments.add(features[half])
        statistics = finish(moments, teacher="", data="")
        figures = {
            "effective_rank": effective_rank(statistics),
            "participation_ratio": participation_ratio(statistics.variances),
        }
        if labels is not None:
            within, between = class_distances(features[half], labels[half])
            figures |= {"intra_inter": within / between, "nc1": nc1(features[half], labels[half])}
        found.append(figures)
    return found


def rounded(value: Any) -> Any:
    """Plain values with six significant digits; NaN, which JSON has not, becomes None."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
