"""The difference between two checkpoints on one task, with an interval over test images and, where they differ, runs.

Both checkpoints answered the same images, so images are resampled for both alike. The variance over images is that of
the resampled difference. The variance over runs is that of the runs' scores, less the part that is due to the images,
which every run answers in a way of its own. The degrees of freedom are Satterthwaite's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from kdep_benchmarks.answers.resample import ROUNDING, Resamples, image_variance
from kdep_benchmarks.kinds import AVERAGED, PAIRED
from kdep_benchmarks.verdicts.intervals import t_quantile_of


@dataclass(frozen=True)
class Interval:
    """A difference in points with its 95 % interval; `p` is the probability of one as large between equal models."""

    value: float
    low: float
    high: float
    p: float

    @property
    def text(self) -> str:
        """`+2.24 [+1.29, +3.19]`."""
        return f"{self.value:+.2f} [{end_text(self.low)}, {end_text(self.high)}]"

    @property
    def verdict(self) -> str:
        """better, worse or no difference."""
        if self.low <= 0 <= self.high:
            return "no difference"
        return "better" if self.value > 0 else "worse"


def end_text(end: float) -> str:
    """An end of an interval: `+1.29`, or `-0.001` where two decimals would not say on which side of zero it is."""
    return f"{end:+.1g}" if 0 < abs(end) < 0.005 else f"{end:+.2f}"


@dataclass(frozen=True)
class Spread:
    """Part of the variance that runs add, and its share in the degrees of freedom."""

    variance: float = 0.0
    uncertainty: float = 0.0


def difference(first: Resamples, second: Resamples, kind: str) -> Interval:
    """First minus second, each the mean over its runs.

    Args:
        first: all runs of the one checkpoint.
        second: those of the other, on the same test images.
        kind: of the task; it says how runs differ, see `Kind.seed`.
    """
    images, effective = first.images, min(first.effective_images, second.effective_images)
    scores, samples = (first.scores, second.scores), (first.samples, second.samples)
    value = float(scores[0].mean() - scores[1].mean())
    if effective < 2:
        return Interval(value, -math.inf, math.inf, 1.0)
    variance = image_variance(samples[0].mean(axis=0) - samples[1].mean(axis=0), images, effective)
    if first.metric == "top1":
        # One more image on which one run of them differs: without it a handful of images would seem certain.
        variance += (100 / effective) ** 2 / (1 if kind in AVERAGED else min(map(len, scores)))
    if kind in PAIRED:
        parts = [run_spread(scores[0] - scores[1], samples[0] - samples[1], images, effective)]
    elif kind in AVERAGED:
        parts = []
    else:
        parts = [run_spread(own, drawn, images, effective) for own, drawn in zip(scores, samples, strict=True)]
    uncertainty = variance**2 / (effective - 1) + sum(part.uncertainty for part in parts)
    variance += sum(part.variance for part in parts)
    variance = variance or (100 / effective) ** 2  # no image differs in any resample: one of others might
    return student(value, variance, variance**2 / uncertainty if uncertainty else math.inf)


def run_spread(scores: np.ndarray, resamples: np.ndarray, images: int, effective: int) -> Spread:
    """What the runs of one side add to the variance of their mean.

    Args:
        scores: of each run (R,).
        resamples: scores of each run on each resample (R, draws).
        images: number of test images.
        effective: how many different ones would be as certain.
    """
    runs = len(scores)
    if runs < 2 or np.ptp(scores) <= ROUNDING:
        return Spread()
    own = resamples - resamples.mean(axis=0)
    of_images = sum(image_variance(row, images, effective) for row in own) / (runs - 1)
    over_runs = float(scores.var(ddof=1))
    return Spread(max(over_runs - of_images, 0.0) / runs, (over_runs / runs) ** 2 / (runs - 1))


def student(value: float, variance: float, freedom: float) -> Interval:
    """The interval of a normal estimate whose variance was estimated with so many degrees of freedom."""
    error = math.sqrt(variance)
    half = t_quantile_of(freedom) * error
    return Interval(value, value - half, value + half, 2 * float(stdtr(freedom, -abs(value) / error)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: below 0.05 with at most 5 % chance of any error among all of them."""
    order, adjusted, highest = sorted(range(len(p_values)), key=lambda at: p_values[at]), [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted
