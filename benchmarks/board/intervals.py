"""Intervals: what a handful of runs can and cannot tell. 95 % throughout."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


def t_quantile(count: int) -> float:
    """How many standard errors a 95 % interval reaches to each side of the mean of `count` values."""
    return t_quantile_of(count - 1)


def t_quantile_of(freedom: float) -> float:
    """The same for a standard error with so many degrees of freedom."""
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
    return None if deviation is None else t_quantile(len(values)) * deviation / math.sqrt(len(values))


def bootstrap_interval(
    samples: Sequence[np.ndarray],
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    *,
    draws: int = 2000,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the 95 % percentile interval of a statistic of several means: a parametric bootstrap.

    Each mean is drawn anew from Student's t around the measured one. Drawing from the values themselves knows only the
    spread of the few that there are, and such intervals of three runs hold the truth too rarely; how often these do is
    in docs/figures/intervals.json.

    Args:
        samples: one array of at least two values for each mean.
        statistic: from the drawn means, each of shape (draws,), to an array (draws, ...).
        draws: how many; the generator is seeded, so that a board rebuilt is the same board.
    """
    random = np.random.default_rng(0)
    means = []
    for values in samples:
        error = values.std(ddof=1) / math.sqrt(len(values))
        means.append(values.mean() + error * random.standard_t(len(values) - 1, size=draws))
    low, high = np.quantile(statistic(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high
