"""Intervals: what a handful of runs can and cannot tell. 95 % throughout."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


def t_quantile_of(freedom: float) -> float:
    """How many standard errors a 95 % interval reaches to each side, for so many degrees of freedom."""
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean, exact to the last bit in any order of the values."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Of the population the values are drawn from (n - 1); None for a single value."""
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return 0.0  # the mean of equal values may differ from them in the last bit; their spread does not
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def half_width(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of the mean (Student's t); None for a single value, which has no interval."""
    deviation = standard_deviation(values)
    return None if deviation is None else t_quantile_of(len(values) - 1) * deviation / math.sqrt(len(values))


def rank_intervals(
    average: np.ndarray, scores: np.ndarray, halves: np.ndarray, groups: np.ndarray, *, draws: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the 95 % interval of each row's average rank: a parametric bootstrap.

    Every score is drawn anew from a normal distribution with its own 95 % interval. Columns of a group share a row's
    draw. Rows are drawn independently although they answer the same images, which makes the intervals wider.

    Noise draws ranks towards the middle, and the drawn ranks have it twice. So an interval reaches as far as the drawn
    ranks, and as far as the same around the measured rank. It is wider than it has to be where rows are close.

    Args:
        average: the measured average rank of each row (R,).
        scores: of each row and column (R, C).
        halves: half the 95 % interval of each (R, C).
        groups: number of each column's group (C,), such as its data set.
        draws: how many; the generator is seeded, so that a board rebuilt is the same board.

    Returns:
        Two arrays (R,).
    """
    noise = np.random.default_rng(0).standard_normal((draws, len(scores), groups.max() + 1))[..., groups]
    drawn = scores + halves / t_quantile_of(math.inf) * noise
    ranks = (1 + (-drawn).argsort(axis=1).argsort(axis=1)).mean(axis=-1)
    low, high = np.quantile(ranks, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    shift = average - ranks.mean(axis=0)
    return np.maximum(np.minimum(low, low + shift), 1), np.minimum(np.maximum(high, high + shift), len(scores))
