"""Intervals of means, and how often equal models are called different: 5 times in 100, where a test over seeds errs."""

from statistics import NormalDist

import numpy as np
import pytest

from kdep_benchmarks.verdicts.intervals import (
    half_width,
    mean,
    rank_intervals,
    standard_deviation,
)
from tools.checks.verdicts.intervals import as_table, false_alarms, made_exchanges


def test_mean_deviation_and_interval_are_those_worked_out_by_hand():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]  # mean 3; squares 4 + 1 + 0 + 1 + 4 = 10, over n - 1 = 4: 2.5
    assert mean(values) == 3.0
    assert standard_deviation(values) == pytest.approx(2.5**0.5)
    # t(0.975, 4) = 2.776445 in any table; times sqrt(2.5 / 5)
    assert half_width(values) == pytest.approx(2.776445 * 0.5**0.5, rel=1e-6)


def test_one_run_has_no_spread_and_no_interval():
    assert standard_deviation([3.0]) is None
    assert half_width([3.0]) is None


def test_equal_values_have_no_spread_to_the_last_bit():
    assert standard_deviation([0.1] * 3) == 0.0


@pytest.mark.parametrize(("chance", "ends"), [(0.03, [2.0, 1.0]), (0.02, [2.0, 2.0])])
def test_a_rank_is_open_where_more_than_a_fortieth_of_the_draws_reverse_it(chance, ends):
    gap = NormalDist().inv_cdf(1 - chance) * 2**0.5  # standard errors of 1 each; low ends of the second row
    ranks, halves = np.array([1.0, 2.0]), np.full((2, 1), 1.959964)
    low, high = rank_intervals(ranks, np.array([[gap], [0.0]]), halves, np.array([0]), draws=40_000)
    assert [high[1], low[1]] == ends and [3 - low[0], 3 - high[0]] == ends


def test_an_interval_contains_its_rank_where_noise_draws_ranks_towards_the_middle():
    ranks = np.arange(1.0, 7)
    scores = np.repeat(-0.3 * ranks[:, None], 8, axis=1)  # in every column the same order, though noise is 1.5
    low, high = rank_intervals(ranks, scores, np.full((6, 8), 1.959964 * 1.5), np.arange(8))
    assert low[0] == 1 and high[5] == 6 and high[0] < 4 and low[5] > 3
    assert ((low <= ranks) & (ranks <= high)).all()


def test_columns_of_one_data_set_are_drawn_together_and_rows_by_themselves():
    scores, halves = np.zeros((2, 4)), np.ones((2, 4))
    equal = np.full(2, 1.5)
    together = rank_intervals(equal, scores, halves, np.zeros(4, dtype=int))
    assert [ends.tolist() for ends in together] == [[1, 1], [2, 2]]  # all four columns turn at once
    apart = rank_intervals(equal, scores, halves, np.arange(4), draws=20_000)
    # Of four independent columns a row loses all with a chance of 1/16, more than a fortieth.
    assert [ends.tolist() for ends in apart] == [[1, 1], [2, 2]]
    six = rank_intervals(equal, np.zeros((2, 6)), np.ones((2, 6)), np.arange(6), draws=20_000)
    # 1/64 for all six, 7/64 for five; the draws' mean is 1.5 but for chance
    assert np.array(six) == pytest.approx(np.array([[7 / 6, 7 / 6], [11 / 6, 11 / 6]]), abs=0.01)


def test_columns_of_one_data_set_share_a_draw_wherever_they_stand():
    # Six columns of one data set turn at once; those of five other sets are certain.
    scores, halves = np.zeros((2, 11)), np.ones((2, 11))
    scores[0, 6:], halves[:, 6:] = 50.0, 1e-6
    average, groups = np.array([14.0, 19.0]) / 11, np.array([0] * 6 + [1, 2, 3, 4, 5])
    low, high = rank_intervals(average, scores, halves, groups, draws=20_000)
    assert [low[0], high[0]] == [1, pytest.approx(17 / 11, abs=0.01)]


def test_equal_probes_are_called_different_5_times_in_100_and_by_their_seeds_alone_eight_times_as_often():
    found = false_alarms("probe", 150, 3, cases=300, draws=200, seed=1)
    assert 2 <= found["percent"] <= 8 and found["over_seeds"] > 30  # two standard errors at 300 cases: 2.5 points


@pytest.mark.parametrize(
    ("what", "runs", "cases"), [("fine-tuning", 3, 200), ("segmentation", 3, 300), ("few-shot", 1, 200)]
)
def test_equal_models_are_called_different_5_times_in_100(what, runs, cases):
    assert 1.5 <= false_alarms(what, 150, runs, cases=cases, draws=200, seed=1)["percent"] <= 9


def test_equal_detectors_are_called_different_5_times_in_100():
    assert 1.5 <= false_alarms("detection", 80, 1, cases=60, draws=100, seed=3)["percent"] <= 10


def test_exchanged_answers_are_of_nobody():
    assert 2 <= made_exchanges("probe", 150, cases=200, draws=200, seed=2)["percent"] <= 9


def test_the_table_has_a_line_for_every_measurement():
    content = {
        "simulated": [false_alarms("segmentation", 20, runs, cases=3, draws=20, seed=0) for runs in (1, 3)],
        "exchanged": [made_exchanges("detection", 20, cases=3, draws=20, seed=0)],
    }
    table = as_table(content)
    assert table.count("| segmentation | mIoU | 20 |") == 2 and "simulated detection | AP | 20 | 3 |" in table
