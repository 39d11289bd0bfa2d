"""The intervals hold the truth about as often as they say, and equal models are rarely called different."""

import numpy as np
import pytest

from kdep_benchmarks.board.intervals import bootstrap_interval, half_width, mean
from tools.checks.intervals import (
    ALIKE,
    false_alarms,
    mean_coverage,
    measure,
    new_image_coverage,
    power,
    rank_coverage,
)


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_the_interval_of_the_mean_holds_it_95_times_in_100(runs):
    assert 94 <= mean_coverage(runs, cases=5000, seed=1) <= 96


@pytest.mark.parametrize("runs", [3, 10])
def test_the_interval_of_a_top1_holds_that_of_all_images_where_one_over_runs_alone_does_not(runs):
    held, over_runs = new_image_coverage(runs, 300, ALIKE["alike"], cases=800, seed=1)
    assert 95 <= held <= 99.7 and over_runs < 85


def test_where_runs_disagree_on_images_the_interval_is_wider_than_it_need_be():
    held, _ = new_image_coverage(5, 300, ALIKE["half alike"], cases=400, seed=1)
    assert held >= 98


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_equal_models_are_called_different_5_times_in_100(runs):
    assert 3.5 <= false_alarms(runs, cases=1500, seed=3) <= 6.5


def test_more_runs_and_larger_differences_are_seen_more_often():
    seen = [power(runs, gap, cases=300, seed=2) for runs, gap in ((3, 1), (5, 2), (10, 2))]
    assert seen == sorted(seen) and seen[0] < 40 and seen[-1] > 95


def test_the_interval_of_the_rank_holds_it_even_of_three_runs_of_close_models():
    assert 92 <= rank_coverage(3, 0.5, cases=40, seed=1) <= 99


def test_one_mean_has_the_interval_of_student():
    values = np.array([1.0, 2.0, 4.0, 7.0])
    low, high = bootstrap_interval([values], lambda means: means[0], draws=200_000)
    middle, half = mean(values.tolist()), half_width(values.tolist())
    assert (low, high) == (pytest.approx(middle - half, abs=0.05), pytest.approx(middle + half, abs=0.05))


def test_the_script_says_everything_with_its_error():
    content = measure(cases=20, rank_cases=2, seed=0)
    assert set(content["interval_of_the_mean_holds_it"]) == {"3", "5", "10"}
    assert set(content["interval_holds_the_top1_on_all_images"]["runs"]["3"]["alike"]) == {"300", "3000"}
    assert content["interval_of_the_rank_holds_it"]["runs"]["3"]["close"]["cases"] == 10
    assert content["equal_models_called_different"]["3"]["error"] >= 0
