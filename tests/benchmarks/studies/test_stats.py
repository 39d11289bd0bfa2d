"""The spread over seeds is pooled over arms that spread alike, and only over them."""

import numpy as np
import pytest
from scipy.stats import bartlett

from kdep_benchmarks.studies.stats import alike, paired_difference, pooled


def by_seed(*scores):
    return dict(enumerate(scores))


def test_the_residual_is_what_neither_arm_nor_seed_explains():
    # Rows 10, 12, 14 and 11, 13, 16 and 9, 12, 12: squares of 2.4444 beside arms and seeds, with 2 * 2 degrees of
    # freedom; within the arms variances of 4, 6.333 and 3, with 6.
    noise = pooled({"a": by_seed(10, 12, 14), "b": by_seed(11, 13, 16), "c": by_seed(9, 12, 12)})
    assert (noise.residual**2, noise.freedom) == (pytest.approx(2.4444 / 4, rel=1e-4), 4)
    assert (noise.within**2, noise.within_freedom) == (pytest.approx(13.3333 / 3, rel=1e-4), 6)
    assert noise.half_width(3) == pytest.approx(2.446912 * (13.3333 / 9) ** 0.5, rel=1e-4)


def test_two_arms_give_the_paired_test_of_their_differences():
    a, b = by_seed(10, 12, 14.5), by_seed(9, 11.5, 13)
    noise = pooled({"a": a, "b": b})
    pooled_one, own = paired_difference(a, b, noise), paired_difference(a, b)
    assert (pooled_one.low, pooled_one.high) == pytest.approx((own.low, own.high))


def test_a_single_seed_has_an_interval_by_the_spread_of_the_others():
    noise = pooled({"a": by_seed(10, 12, 14), "b": by_seed(11, 13, 16), "c": by_seed(9, 12, 12), "d": by_seed(20)})
    one = paired_difference(by_seed(20), by_seed(10, 12, 14), noise)
    # 2.7764 * sqrt(2 * 0.6111)
    assert (one.value, one.high - one.value) == (10, pytest.approx(3.0694, rel=1e-3))


def test_arms_that_spread_differently_are_not_pooled():
    wide, narrow = [0, 10, 20], [1, 1.1, 1.2]
    assert not alike([wide, narrow, narrow]) and alike([[1, 2, 3], [1, 3, 2.5], [4, 4.5, 6]])
    assert pooled({"a": by_seed(*wide), "b": by_seed(*narrow), "c": by_seed(*narrow)}) is None
    assert paired_difference(by_seed(*wide), by_seed(*narrow)).high > 25


def test_spreads_are_alike_by_bartletts_test():
    random, told = np.random.default_rng(0), []
    for _ in range(300):
        arms = [(random.normal(size=3) * scale).tolist() for scale in (1, 1, 12)]
        told.append(bartlett(*arms).pvalue < 0.01)
        assert alike(arms) != told[-1]
    assert 30 < sum(told) < 270


def test_nothing_is_pooled_where_there_is_nothing_to_pool():
    assert pooled({}) is None and pooled({"a": by_seed(1, 2, 3)}) is None
    assert pooled({"a": by_seed(1), "b": by_seed(2)}) is None
    assert pooled({"a": by_seed(1, 2, 3), "b": by_seed(3, 4, 5)}) is None  # the seeds explain all
    assert paired_difference(by_seed(1, 2), by_seed(3, 5)) is None
    assert paired_difference(by_seed(1, 2, 3), by_seed(2, 3, 4)) is None  # the same in every run


def test_pooled_intervals_of_equal_arms_exclude_zero_5_times_in_100():
    random, wrong, cases = np.random.default_rng(0), 0, 1000
    for _ in range(cases):
        scores = random.normal(0, 1, (6, 3)) + random.normal(0, 2, 3)  # seeds move all arms alike
        noise = pooled({str(arm): by_seed(*row) for arm, row in enumerate(scores.tolist())})
        one = paired_difference(by_seed(*scores[0]), by_seed(*scores[1]), noise)
        wrong += one.verdict != "no difference"
    assert 3.5 <= 100 * wrong / cases <= 6.5
