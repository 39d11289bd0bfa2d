"""Intervals cover, and a difference is called real only where it is."""

import argparse

import numpy as np
import pytest

from kdep_benchmarks.board.compare import OVER_RUNS, add_arguments, compare, left_out, run
from kdep_benchmarks.board.intervals import (
    bootstrap_interval,
    half_width,
    mean,
    new_images_half_width,
    proportions_half_width,
    runs_needed,
    standard_deviation,
)
from kdep_benchmarks.results import write_result
from tests.helpers.made_results import failure, result, runs


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


def test_the_choice_of_the_images_is_added_in_squares():
    # (72 % of 100 + 2) of 104 is 0.711538: sqrt(0.711538 * 0.288462 / 104) = 4.44248 points, times 1.959964 = 8.70710;
    # over runs t(0.975, 2) * 2 / sqrt(3) = 4.968276; sqrt(8.70710^2 + 4.968276^2) = 10.02488
    assert new_images_half_width([70.0, 72.0, 74.0], 100) == pytest.approx(10.02488, abs=1e-4)
    assert new_images_half_width([70.0], 100) is None
    # probes whose seeds change nothing: 100 of 100 images is no proof of 100 %
    assert new_images_half_width([100.0] * 3, 100) == pytest.approx(
        1.959964 * 100 * (102 * 2 / 104**3) ** 0.5, rel=1e-6
    )


def test_runs_needed_is_the_first_number_that_is_enough():
    # t(0.975, 17) = 2.1098, / sqrt(18) = 0.4973; t(0.975, 16) = 2.1199, / sqrt(17) = 0.5142
    assert runs_needed(0.5, 1.0) == 18
    assert runs_needed(-0.5, 1.0) == 18
    assert runs_needed(0.001, 1.0, limit=50) is None


def test_percentages_of_images_vary_as_the_binomial_says():
    # 50 % and 50 % of 100 images: sqrt(2 * 25 / 100) = 0.7071 images in ten, 1.959964 * 7.0711 = 13.859 points
    assert proportions_half_width(50, 50, 100) == pytest.approx(13.859, abs=1e-3)


def test_the_bootstrap_draws_each_mean_by_itself_and_repeats_itself():
    samples = [np.array([0.0, 1.0, 2.0]), np.array([5.0, 5.0, 5.0])]
    low, high = bootstrap_interval(samples, lambda means: means[1] - means[0], draws=100_000)
    # 5 - 1 and back by t(0.975, 2) * 1 / sqrt(3) = 2.484
    assert (low, high) == (pytest.approx(4 - 2.484, abs=0.1), pytest.approx(4 + 2.484, abs=0.1))
    assert bootstrap_interval(samples, lambda means: means[1] - means[0], draws=100_000) == (low, high)
    both = bootstrap_interval([samples[0], samples[0]], lambda means: means[0] - means[1])
    assert both[0] < -1 < 1 < both[1]  # the same values, but not the same draw


def sentence(first, second, **others):
    a, b = runs("A", "x-linear", first, **others), runs("B", "x-linear", second, **others)
    return compare(a + b, "A", "B", task="x-linear")[0].sentence


def test_a_clear_difference_is_said_with_its_interval():
    # differences 3.0, 3.2, 3.4: mean 3.2, deviation 0.2, t(0.975, 2) = 4.302653: 4.302653 * 0.2 / sqrt(3) = 0.4968
    assert sentence([53.0, 54.2, 55.4], [50.0, 51.0, 52.0]) == "A is better than B on x-linear by 3.20 ± 0.50 (n = 3)."
    assert sentence([50.0, 51.0, 52.0], [53.0, 54.2, 55.4]) == "B is better than A on x-linear by 3.20 ± 0.50 (n = 3)."


def test_pairing_by_seed_sees_what_the_spread_over_seeds_would_hide():
    assert "A is better" in sentence([11.0, 31.1, 50.9, 71.0], [10.0, 30.0, 50.0, 70.0])


def test_only_seeds_of_both_are_paired():
    a = [result("A", "x-linear", seed, score) for seed, score in ((0, 51.0), (1, 52.1), (2, 53.2), (9, 0.0))]
    differences = compare(a + runs("B", "x-linear", [50.0, 51.0, 52.0, 99.0]), "A", "B", task="x-linear")
    assert (differences[0].n, differences[0].value) == (3, pytest.approx(1.1))


def test_no_difference_says_how_many_more_runs_would_show_it():
    # differences 1, 0, 2, -1: mean 0.5, deviation 1.291; 2.1788 at 28 runs is the first below 0.5 * sqrt(28) / 1.291
    said = sentence([51.0, 50.0, 52.0, 49.0], [50.0] * 4)
    assert said.startswith("No difference shown between A and B on x-linear: +0.50 ± 2.05 (n = 4)")
    needed = runs_needed(0.5, 1.2909944)
    assert said.endswith(f"about {needed - 4} more runs would show it.")


@pytest.mark.parametrize(("count", "more"), [(1, 2), (2, 1)])
def test_too_few_runs_tell_nothing_however_large_the_difference(count, more):
    said = sentence([90.0, 91.0][:count], [10.0, 11.5][:count])
    assert said.startswith("Not enough runs to tell A from B on x-linear (")
    assert said.endswith(f"n = {count}); {more} more would be the least.")


def test_no_seed_in_common_is_not_enough():
    results = [result("A", seed=0), result("B", seed=1)]
    assert "(no seed of both); 3 more would be the least" in compare(results, "A", "B")[0].sentence


def test_scores_that_seeds_do_not_change_are_judged_by_the_number_of_images():
    # 60 % and 50 % of 400: 1.959964 * sqrt(60 * 40 / 400 + 50 * 50 / 400) = 6.86; of 100 images: 13.72
    said = sentence([60.0] * 3, [50.0] * 3, counts={"test": 400})
    assert said == "A is better than B on x-linear by 10.00 ± 6.86 (400 images; seeds do not change it)."
    assert sentence([60.0] * 3, [50.0] * 3, counts={"test": 100}).startswith("No difference shown")
    assert "higher than B on x-linear in every run (n = 3), so without an interval" in sentence([60.0] * 3, [50.0] * 3)


def said_by_command(tmp_path, capsys, results):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for one in results:
        write_result(one, tmp_path)
    assert run(parser.parse_args(["A", "B", "--results", str(tmp_path)])) == 0
    return capsys.readouterr().out


def test_the_command_says_where_an_interval_is_over_runs_alone(tmp_path, capsys):
    spread = runs("A", "x-linear", [53.0, 54.2, 55.4]) + runs("B", "x-linear", [50.0, 51.0, 52.0])
    assert OVER_RUNS in said_by_command(tmp_path / "spread", capsys, spread)
    same = [one for n, s in (("A", 60.0), ("B", 50.0)) for one in runs(n, "x-knn", [s] * 3, counts={"test": 400})]
    said = said_by_command(tmp_path / "same", capsys, same)
    assert "(400 images; seeds do not change it)" in said and OVER_RUNS not in said


def test_what_is_left_out_is_said_in_words(tmp_path, capsys):
    results = [
        *runs("A", "x-linear", [50.0, 51, 52, 53]),
        *runs("B", "x-linear", [50.5, 52, 53]),
        result("B", "x-linear", 9),
        *runs("A", "y-knn", [50.0, 51]),
        *runs("B", "z-knn", [50.0, 51], version=2),
        result("A", "w-linear"),
        result("B", "w-linear", data="e" * 64),
        failure("B", "v-detect"),
        result("C", "u-linear"),
    ]
    said = left_out(results, "A", "B")
    assert said == [
        "w-linear: measured in different ways, fair-v1 on dddddddd against fair-v1 on eeeeeeee.",
        "only A has y-knn (fair-v1).",
        "only B has z-knn (fair-v2).",
        "x-linear (fair-v1): seed 3 of A and seed 9 of B, which the other does not have.",
        "runs of B that failed: v-detect.",
    ]
    shown = said_by_command(tmp_path, capsys, results)
    assert shown.endswith("Left out:\n" + "".join(f"  {line}\n" for line in said))
    assert left_out(results, "A", "B", task="x-linear") == said[3:4]


def test_nothing_is_left_out_where_both_have_the_same(tmp_path, capsys):
    results = runs("A", "x-linear", [50.0, 51, 52]) + runs("B", "x-linear", [50.5, 52, 53])
    assert left_out(results, "A", "B") == []
    assert "Left out" not in said_by_command(tmp_path, capsys, results)


def test_over_data_sets_each_set_counts_once():
    # x has differences 1 and 3 (mean 2), y 4, z 6: mean 4, deviation 2; t(0.975, 2) * 2 / sqrt(3) = 4.97
    by_task = {"x-linear": 1.0, "x-knn": 3.0, "y-linear": 4.0, "z-linear": 6.0}
    results = [
        one for task, d in by_task.items() for one in runs("A", task, [50 + d] * 3) + runs("B", task, [50.0] * 3)
    ]
    overall = compare(results, "A", "B")[-1]
    assert (overall.of, overall.n, overall.value, overall.verdict) == (None, 3, 4.0, "no difference")
    assert overall.half_width == pytest.approx(4.303 * 2 / 3**0.5, abs=1e-3)


def test_two_data_sets_are_not_enough_for_a_verdict_over_data_sets():
    results = [one for t in ("x-knn", "y-knn") for one in runs("A", t, [60, 61]) + runs("B", t, [50, 52])]
    said = compare(results, "A", "B")[-1].sentence
    assert said == "Overall: not enough data sets to tell A from B (+9.50 over 2 data sets); 1 more would be the least."


@pytest.mark.parametrize(
    "other", [{"version": 2}, {"budget": "smoke"}, {"data": "e" * 64}, {"settings": {"size": 40, "k": [1]}}]
)
def test_other_protocols_data_and_settings_are_refused(other):
    known = {"settings": {"size": 32, "k": [1]}}
    results = runs("A", "x-linear", [50.0] * 3, **known) + runs("B", "x-linear", [51.0] * 3, **(known | other))
    with pytest.raises(ValueError, match="x-linear: measured under different protocols, data or settings"):
        compare(results, "A", "B")


def test_settings_that_differ_are_kept_apart():
    small, large = ({"settings": {"size": size}} for size in (32, 40))
    a = [*runs("A", "x-linear", [50.0, 51, 53], **small), *runs("A", "y-linear", [50.0, 51, 52], **small)]
    other = runs("B", "x-linear", [60.0, 61, 62], **large) + runs("B", "y-linear", [40.0, 40, 40], **small)
    differences = compare(a + other, "A", "B")
    assert [(one.of, one.value) for one in differences] == [("y-linear", 11.0), (None, 11.0)]
    assert left_out(a + other, "A", "B") == [
        "x-linear: measured in different ways, fair-v1 on dddddddd with size 32 against fair-v1 on dddddddd with "
        "size 40.",
    ]
    both = compare(a + other + runs("B", "x-linear", [50.5, 51, 52], sha256="b" * 64, **small), "A", "bbbb")
    assert both[0].of == "x-linear"  # another checkpoint's settings do not rename the task of these two


def test_tasks_shared_by_two_settings_are_two_lines():
    results = [
        one
        for size, gap in ((32, 1.0), (40, -1.0))
        for name, more in (("A", gap), ("B", 0.0))
        for one in runs(name, "x-linear", [50.0 + more, 51 + more, 52.5 + more], settings={"size": size})
    ]
    found = {one.of: one.value for one in compare(results, "A", "B") if one.of}
    assert sorted(found.values()) == [-1.0, 1.0] and all(name.startswith("x-linear@s-") for name in found)


def test_what_both_have_is_compared_where_one_has_more():
    results = [one for v in (1, 2) for one in runs("A", "x-linear", [50.0, 51, 52], version=v)]
    differences = compare(results + runs("B", "x-linear", [40.0, 41.5, 42], version=2), "A", "B", task="x-linear")
    assert [str(one.protocol) for one in differences] == ["fair-v2"]


def test_a_checkpoint_is_found_by_name_or_digits_and_never_guessed():
    results = runs("A", "x-linear", [1.0, 2.0]) + runs("A", "x-linear", [1.0, 2.0], sha256="beef" * 16)
    with pytest.raises(ValueError, match="A: several checkpoints have this name: .*beefbeef"):
        compare(results, "A", "beef")
    with pytest.raises(ValueError, match="Z: no finished result of such a checkpoint; there is A"):
        compare(results, "Z", "A")
    with pytest.raises(ValueError, match="are the same checkpoint"):
        compare(results, "beef", "beefbe")
    assert "A (41000000) from A (beefbeef)" in compare(results, "41000000", "beef")[-1].sentence
    assert compare(results, "A (41000000)", "A (beefbeef)") == compare(results, "41000000", "beef")


def test_results_of_the_same_weights_count_under_whatever_name_they_were_measured():
    results = [
        result("A", "x-linear", 0, 1.0),
        result("B", "x-linear", 1, 2.0, sha256=b"A".hex().ljust(64, "0")),
    ]
    results += runs("C", "x-linear", [5.0, 6.0])
    assert {compare(results, name, "C", task="x-linear")[0].n for name in ("A", "B")} == {2}
    with pytest.raises(ValueError, match="A and B are the same checkpoint"):
        compare(results, "A", "B")


def test_nothing_in_common_says_what_each_has():
    with pytest.raises(ValueError, match="no task in common: x-knn against y-knn"):
        compare([result("A", "x-knn"), result("B", "y-knn")], "A", "B")
