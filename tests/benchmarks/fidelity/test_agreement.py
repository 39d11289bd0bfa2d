"""Agreement of two columns, also where what it assumes does not hold: ties, constant columns, two clusters."""

from itertools import combinations

import numpy as np
import pytest

from kdep_benchmarks.fidelity.agreement import PERMUTATIONS, agreement, kendall, kendalls
from kdep_benchmarks.verdicts.difference import holm

ALL = ~np.eye(12, dtype=bool)


def slow_kendall(one, other):
    """Vigna's additive hyperbolic weights over pairs, by the ranks of one column, then of the other; no ties."""

    def weighted(by):
        weight = 1 / (1 + np.argsort(np.argsort(-by)))
        agree = total = 0.0
        for i, j in combinations(range(len(by)), 2):
            total += weight[i] + weight[j]
            agree += (weight[i] + weight[j]) * np.sign((one[i] - one[j]) * (other[i] - other[j]))
        return agree / total

    return (weighted(one) + weighted(other)) / 2


def test_tau_is_the_mean_over_pairs_weighted_by_the_ranks_of_both_columns():
    one, other = np.random.default_rng(0).normal(size=(2, 9))
    assert kendall(one, other) == pytest.approx(slow_kendall(one, other))


def test_tau_of_many_rows_is_scipys_also_with_ties_and_repeated_checkpoints():
    random = np.random.default_rng(2)
    one, other = random.integers(6, size=(2, 30, 8)).astype(float)
    one[20:, 4:], other[20:, 4:] = one[20:, :4], other[20:, :4]  # as a bootstrap draws them
    one[0] = 1
    expected = [kendall(*rows) for rows in zip(one, other, strict=True)]
    assert np.isnan(expected[0]) and kendalls(one, other) == pytest.approx(expected, nan_ok=True)


def test_pairs_without_a_difference_are_counted_apart_and_equal_cheap_scores_count_half():
    cheap, expensive = np.array([1.0, 2, 3, 3, 9]), np.array([1.0, 2, 4, 5, 3])
    differs = ~np.eye(5, dtype=bool)
    differs[0, 1] = differs[1, 0] = False
    found = agreement(cheap, expensive, differs)
    # Nine pairs: 0-2, 0-3, 0-4, 1-2, 1-3, 1-4 alike, 2-3 tied, 2-4 and 3-4 the other way round.
    assert (found.pairs, found.same) == (9, 1) and found.alike.value == pytest.approx(100 * 6.5 / 9)
    assert found.alike.low < found.alike.value < found.alike.high


def test_a_constant_column_has_no_tau_and_a_column_without_differences_no_agreement():
    rising = np.arange(12.0)
    flat = agreement(np.ones(12), rising, ALL, draws=50)
    assert np.isnan([flat.tau.value, flat.tau.low]).all() and flat.p == 1 and flat.alike.value == 50
    alike = agreement(rising, rising, np.zeros((12, 12), bool), draws=50)
    assert alike.pairs == 0 and np.isnan([alike.alike.value, alike.within.high]).all()


def test_a_perfect_column_passes_holms_correction_among_hundreds_of_pairs():
    rising = np.arange(12.0)
    p = agreement(rising, rising**3, ALL).p
    assert holm([p, *[1.0] * 400])[0] < 0.05


def test_the_measured_order_is_one_of_the_orders_so_no_p_value_is_0():
    rising = np.arange(12.0)
    assert agreement(rising, rising, ALL, draws=50).p == 1 / (1 + 50 * PERMUTATIONS)


def test_two_clusters_agree_as_a_whole_but_not_within():
    random = np.random.default_rng(3)
    cluster = np.repeat([0.0, 50.0], 6)
    found = agreement(cluster + random.normal(size=12), cluster + random.normal(size=12), ALL)
    assert found.alike.low > 50 and found.tau.low > 0 and found.p < 0.05
    assert found.within.low < 50  # chance


def test_pairs_on_both_sides_of_the_widest_gap_are_not_within():
    # The groups are told apart, and within each the order is the wrong one: 9 of 15 pairs alike, none of the 6 within.
    cheap, expensive = np.array([2.0, 1, 0, 12, 11, 10]), np.array([0.0, 1, 2, 10, 11, 12])
    found = agreement(cheap, expensive, ALL[:6, :6], draws=50)
    assert found.within.value == 0 and found.alike.value == pytest.approx(100 * 9 / 15)


def test_few_checkpoints_are_refused():
    with pytest.raises(ValueError, match="4 checkpoints; an agreement needs 5 or more"):
        agreement(np.arange(4.0), np.arange(4.0), ALL[:4, :4])
