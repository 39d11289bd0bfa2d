"""Measure how well one column orders checkpoints as another does: weighted Kendall tau and pairwise agreement.

Checkpoints are resampled for the intervals: the question is how the two columns would order other checkpoints.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import weightedtau

from kdep_benchmarks.verdicts.intervals import CONFIDENCE

MIN_CHECKPOINTS = 5
ELEMENTS = 2_000_000  # pairs compared at once
DRAWS = 1000  # of the bootstrap; the generators are seeded, so that a report is always the same
# Permutations for each draw of the bootstrap. Holm's correction multiplies the smallest p value by the number of pairs
# of columns, 65 in a report of thirteen by five. With 1,000 permutations no pair could pass there.
PERMUTATIONS = 10


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. All are NaN where the statistic is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How a cheap column orders checkpoints, compared with an expensive one.

    Attributes:
        checkpoints: number that both columns have.
        tau: weighted Kendall tau in [-1, 1], which weights the best checkpoints most; undefined for a constant column.
        p: one-sided p value of tau, by permuting one column: how often columns without a relation agree as well.
        alike: share in percent of the pairs ordered equally; equal cheap scores count half. Only pairs that differ on
            the expensive column by the verdict count.
        within: `alike` without pairs from both sides of the widest gap in the expensive column.
        pairs: pairs that differ on the expensive column.
        same: pairs that show no difference there.
    """

    checkpoints: int
    tau: Estimate
    p: float
    alike: Estimate
    within: Estimate
    pairs: int
    same: int


def agreement(cheap: np.ndarray, expensive: np.ndarray, differs: np.ndarray, *, draws: int = DRAWS) -> Agreement:
    """Compare two columns.

    Args:
        cheap: (N,) scores; higher is better.
        expensive: (N,) scores.
        differs: (N, N) bool, symmetric: whether two checkpoints differ on the expensive column.
        draws: of checkpoints; there are `PERMUTATIONS` times as many permutations.

    Raises:
        ValueError: fewer than `MIN_CHECKPOINTS` checkpoints.
    """
    count = len(cheap)
    if count < MIN_CHECKPOINTS:
        raise ValueError(f"{count} checkpoints; an agreement needs {MIN_CHECKPOINTS} or more")
    random = np.random.default_rng(0)
    drawn = random.integers(count, size=(draws, count))
    times = np.stack([np.bincount(row, minlength=count) for row in drawn])
    tau = kendall(cheap, expensive)
    resampled = kendalls(cheap[drawn], expensive[drawn])
    upper = np.triu(differs, 1)
    alike = 1.0 * (np.sign(cheap[:, None] - cheap) == np.sign(expensive[:, None] - expensive))
    alike[cheap[:, None] == cheap] = 0.5
    beyond = _beyond_the_gap(expensive)
    return Agreement(
        checkpoints=count,
        tau=Estimate(tau, *_ends(resampled, tau)),
        p=_p_value(cheap, expensive, tau, random, PERMUTATIONS * draws),
        alike=_share(alike, upper, times),
        within=_share(alike, upper & (beyond[:, None] == beyond), times),
        pairs=int(upper.sum()),
        same=count * (count - 1) // 2 - int(upper.sum()),
    )


def kendall(one: np.ndarray, other: np.ndarray) -> float:
    """Weighted Kendall tau with hyperbolic weights, the mean over weighting by either column; NaN for a constant one.

    Vigna, A Weighted Correlation Index for Rankings with Ties, WWW 2015; scipy's default.
    """
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(weightedtau(one, other).statistic)


def kendalls(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`kendall` of each row (draws, N) of two arrays, as pairs of all elements: scipy takes a call for each row."""
    block = max(1, ELEMENTS // one.shape[1] ** 2)
    return np.concatenate([_kendalls(one[at : at + block], other[at : at + block]) for at in range(0, len(one), block)])


def _kendalls(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    signs = [np.sign(side[:, :, None] - side[:, None]) for side in (one, other)]
    taus = []
    for keys in ((other, one), (one, other)):  # by the last of them first, the best gets rank 0
        order = np.lexsort(keys, axis=-1)[:, ::-1]
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
        weight = 1 / (1 + rank[:, :, None]) + 1 / (1 + rank[:, None])
        agree = (weight * signs[0] * signs[1]).sum((1, 2))
        untied = [(weight * (sign != 0)).sum((1, 2)) for sign in signs]
        with np.errstate(invalid="ignore"):
            taus.append(agree / np.sqrt(untied[0] * untied[1]))
    return (taus[0] + taus[1]) / 2


def _p_value(cheap: np.ndarray, expensive: np.ndarray, tau: float, random: np.random.Generator, draws: int) -> float:
    """Share of random orders with a tau at least as large; the measured order is one of them."""
    if np.isnan(tau):
        return 1.0
    mixed = random.permuted(np.tile(cheap, (draws, 1)), axis=1)
    reached = kendalls(mixed, np.tile(expensive, (draws, 1))) >= tau - 1e-12
    return float(1 + reached.sum()) / (1 + draws)


def _beyond_the_gap(expensive: np.ndarray) -> np.ndarray:
    """Whether each checkpoint is above the widest gap between neighbouring scores."""
    ascending = np.sort(expensive)
    at = int(np.diff(ascending).argmax())
    return expensive > (ascending[at] + ascending[at + 1]) / 2


def _share(alike: np.ndarray, counted: np.ndarray, times: np.ndarray) -> Estimate:
    """Share of the counted pairs (upper triangle) that are alike, in percent, with its interval.

    A pair counts as often as both of its checkpoints were drawn, multiplied.
    """
    if not counted.any():
        return Estimate(float("nan"), float("nan"), float("nan"))
    value = 100 * float(alike[counted].mean())
    pairs = np.einsum("dn,nm,dm->d", times, counted * 1.0, times)
    right = np.einsum("dn,nm,dm->d", times, counted * alike, times)
    known = pairs > 0
    return Estimate(value, *_ends(100 * right[known] / pairs[known], value))


def _ends(resampled: np.ndarray, value: float) -> tuple[float, float]:
    """Ends of the 95 % percentile interval; resamples in which the statistic is undefined are left out."""
    known = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
