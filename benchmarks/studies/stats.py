"""How much scores of a study vary from seed to seed, pooled over its arms, and intervals of differences from that.

Three seeds of one arm say little of its spread: by chance it is a third or twice the true one. The arms of a study are
trained alike, so their spreads are estimated together, as the residuals of an additive model (arm + seed).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from kdep_benchmarks.verdicts.difference import Interval, student
from kdep_benchmarks.verdicts.intervals import mean, standard_deviation, t_quantile_of

MIN_SEEDS = 3  # for an interval from the differences of one pair alone
ALIKE = 0.01  # p value of Bartlett's test below which spreads are not pooled
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Noise:
    """Spread of the scores of one arm over seeds.

    Attributes:
        residual: standard deviation beside what a seed does to all arms alike; for differences paired by seed.
        freedom: degrees of freedom of the residual.
        within: standard deviation, that included; for the mean of one arm.
        within_freedom: its degrees of freedom.
    """

    residual: float
    freedom: int
    within: float
    within_freedom: int

    def half_width(self, seeds: int) -> float:
        """Half the 95 % interval of the mean of an arm over so many seeds."""
        return t_quantile_of(self.within_freedom) * self.within / math.sqrt(seeds)


def pooled(arms: Mapping[str, BySeed]) -> Noise | None:
    """Pool the spread over arms; None where it cannot be: too few runs, no spread, or arms that spread differently."""
    several = {arm: scores for arm, scores in arms.items() if len(scores) > 1}
    values = [list(scores.values()) for scores in several.values()]
    within_freedom = sum(len(scores) - 1 for scores in values)
    cells = [(row, seed, score) for row, scores in enumerate(several.values()) for seed, score in scores.items()]
    seeds = sorted({seed for _, seed, _ in cells})
    design = np.zeros((len(cells), len(several) + len(seeds)))
    for number, (row, seed, _) in enumerate(cells):
        design[number, row] = design[number, len(several) + seeds.index(seed)] = 1
    scores = np.array([score for *_, score in cells])
    if len(several) < 2 or len(cells) - np.linalg.matrix_rank(design) < 1 or not alike(values):
        return None
    residuals = scores - design @ np.linalg.lstsq(design, scores)[0]
    freedom = len(cells) - int(np.linalg.matrix_rank(design))
    residual = math.sqrt(float(residuals @ residuals) / freedom)
    within = math.sqrt(sum((len(own) - 1) * standard_deviation(own) ** 2 for own in values) / within_freedom)
    return Noise(residual, freedom, within, within_freedom) if residual > 1e-9 else None


def alike(arms: Sequence[Sequence[float]]) -> bool:
    """Whether arms may have the same spread: Bartlett's test at 1 %."""
    freedoms = np.array([len(values) - 1 for values in arms], float)
    variances = np.array([standard_deviation(values) ** 2 for values in arms])
    if len(arms) < 2 or not variances.any():
        return True
    if not variances.all():
        variances = variances.clip(min=1e-4 * variances.max())  # equal scores by rounding are not a spread of zero
    total = freedoms.sum()
    statistic = total * math.log(freedoms @ variances / total) - freedoms @ np.log(variances)
    correction = 1 + ((1 / freedoms).sum() - 1 / total) / (3 * (len(arms) - 1))
    return float(chdtrc(len(arms) - 1, statistic / correction)) >= ALIKE


def differences(own: BySeed, other: BySeed) -> list[float]:
    """First minus second for each seed that both have."""
    return [own[seed] - other[seed] for seed in sorted(set(own) & set(other))]


def paired_difference(own: BySeed, other: BySeed, noise: Noise | None = None) -> Interval | None:
    """First minus second over the seeds that both have; None without an interval.

    Args:
        own: scores of the first arm by seed.
        other: of the second.
        noise: the spread pooled over arms of which these are two; without it, that of the pair's own differences.
    """
    pairs = differences(own, other)
    if noise:
        return student(mean(pairs), 2 * noise.residual**2 / len(pairs), noise.freedom)
    deviation = standard_deviation(pairs)
    if len(pairs) < MIN_SEEDS or deviation is None or deviation < 1e-9:
        return None
    return student(mean(pairs), deviation**2 / len(pairs), len(pairs) - 1)
