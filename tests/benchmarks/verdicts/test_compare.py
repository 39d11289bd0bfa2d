"""A difference is called real only where other images and other runs would show it, in one sentence each."""

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kdep
from kdep.models.checkpoints.checkpoint import write_student
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.answers.resample import DRAWS, Resamples, image_variance, resamples_of
from kdep_benchmarks.answers.sketch import sketch_of
from kdep_benchmarks.answers.store import area_answers, class_answers
from kdep_benchmarks.kinds import AVERAGED
from kdep_benchmarks.results import read_results, write_result
from kdep_benchmarks.verdicts.compare import add_arguments, differences, run
from kdep_benchmarks.verdicts.difference import (
    Interval,
    difference,
    holm,
    run_spread,
    student,
)
from kdep_benchmarks.verdicts.intervals import t_quantile_of
from kdep_benchmarks.verdicts.names import board_names
from kdep_benchmarks.verdicts.pairs import left_out
from kdep_benchmarks.verdicts.uncertainty import effective_images, uncertainty
from kdep_benchmarks.verdicts.wording import WHAT_IT_COVERS, Difference, as_table
from tests.helpers.made_results import Answered, failure, result


def right(count, of=200, start=0):
    """Whether each of so many images is right: `count` in a row from `start`."""
    answers = np.zeros(of, int)
    answers[start : start + count] = 1
    return answers


def compared(made, *names, **others):
    return differences(made.results, *(names or ("A", "B")), read=made.read, **others)


def of_answers(first, second, metric, kind, draws=DRAWS):
    return difference(*(resamples_of(side, metric, draws) for side in (first, second)), kind)


def of_resamples(scores, samples, metric, kind, images):
    sides = (Resamples(metric, images, "", *side) for side in zip(scores, samples, strict=True))
    return difference(*sides, kind)


def half(interval):
    return (interval.high - interval.low) / 2


def test_an_interval_over_images_is_that_of_the_paired_answers_worked_out_by_hand():
    # Of 200 images A alone has 30 right and B alone 10: 10 points. The differences have the mean 0.1 and the variance
    # 0.2 - 0.01, so a standard error of sqrt(0.19 / 199); one more discordant image adds 1 / 200^2.
    made = Answered().add("A", "x-linear", right(130)).add("B", "x-linear", right(110, start=30))
    one = compared(made, task="x-linear")[0]
    error = 100 * (0.19 / 199 + 1 / 200**2) ** 0.5
    assert one.interval.value == pytest.approx(10.0)
    assert half(one.interval) == pytest.approx(1.972 * error, rel=0.05)  # t of 199
    assert one.sentence.startswith("A is better than B on x-linear by 10.00 [") and "(200 images)." in one.sentence
    swapped = compared(made, "B", "A", task="x-linear")[0]
    assert swapped.verdict == "worse" and swapped.sentence == one.sentence


def test_means_over_data_sets_are_corrected_among_themselves():
    made = Answered()
    for task, more in (("x-linear", 4), ("y-linear", 6), ("z-linear", 8)):
        made.add("A", task, right(100 + more))
        for rival in "BCDEFGH":
            made.add(rival, task, right(100))
    means = [one for one in compared(made, "A", *"BCDEFGH") if one.of is None]
    # 3 [0.5, 5.5], Student's t of 2: 3 / (1 / sqrt(3)) = 5.2, p = 0.035, times 7
    assert [one.adjusted for one in means] == pytest.approx([7 * 0.0351] * 7, abs=1e-3)
    assert all("(3 data sets; does not hold among 7 comparisons (Holm))" in one.sentence for one in means)
    (alone,) = [one for one in compared(made, "A", "B") if one.of is None]
    assert alone.adjusted == pytest.approx(0.0351, abs=1e-4) and "(3 data sets)" in alone.sentence


def test_rounding_of_equal_resamples_is_no_variance():
    # mIoU of 83.33 on every image against 66.67: all resamples are equal, so one of 100 images may differ.
    first, second = (area_answers(np.array([[[right, 5], [5, 5], [5, 5]]] * 100)) for right in (5, 4))
    found = of_answers([first], [second], "mIoU", "segment")
    assert (found.high - found.low) / 2 == pytest.approx(t_quantile_of(np.inf) * 1.0)


@pytest.mark.parametrize("kind", ["dense-linear", "segment"])
def test_equal_answers_are_equal_however_many_runs_each_side_has(kind):
    # The mean of three equal numbers may differ from them in the last bit, which was "better by 0.00 [0.00, 0.00]".
    random = np.random.default_rng(0)
    same = area_answers(np.cumsum(random.integers(1, 9, (100, 3, 4)), axis=1))
    for counts in ((3, 1), (3, 2), (5, 3), (2, 3)):
        found = of_answers(*([same] * count for count in counts), "mIoU", kind, draws=200)
        assert found.verdict == "no difference" and half(found) == pytest.approx(t_quantile_of(np.inf) * 1.0)


def test_more_seeds_of_a_probe_are_no_more_evidence():
    first, second = right(120), right(118, start=12)  # 12 images of the one against 10 of the other
    once = compared(Answered().add("A", "x-linear", first).add("B", "x-linear", second), task="x-linear")[0]
    made = Answered().add("A", "x-linear", *[first] * 5).add("B", "x-linear", *[second] * 5)
    assert compared(made, task="x-linear")[0].interval == once.interval
    assert once.verdict == "no difference" and "(200 images)." in once.sentence
    uneven = Answered().add("A", "x-linear", first, first).add("B", "x-linear", second)
    assert "(200 images, 2 seeds against 1)." in compared(uneven, task="x-linear")[0].sentence


@pytest.mark.parametrize("kind", ["knn", "linear", "dense-knn", "dense-linear", "box"])
def test_seeds_of_no_kind_of_probe_are_counted_as_runs(kind):
    # By its seeds the first side would spread by 5 points.
    *many, one = (class_answers(1 - right(count), np.zeros(200, int)) for count in (90, 110, 100, 80))
    found, mean = of_answers(many, [one], "top1", kind), of_answers(many[2:], [one], "top1", kind)
    assert kind in AVERAGED and found.value == pytest.approx(mean.value) and half(found) < 1.2 * half(mean)


def test_one_more_image_is_shared_by_the_runs_of_the_side_that_has_fewer():
    # Equal runs and no image that differs: only the image that might, on one run of the side that has one.
    three, one = np.full(3, 50.0), np.full(1, 50.0)
    draws = {len(side): np.full((len(side), 9), 50.0) for side in (three, one)}
    found = of_resamples([three, one], [draws[3], draws[1]], "top1", "finetune", 100)
    assert half(found) == pytest.approx(t_quantile_of(99) * 1.0)
    both = of_resamples([three] * 2, [draws[3]] * 2, "top1", "finetune", 100)
    assert half(both) == pytest.approx(t_quantile_of(99) * 3**-0.5)


def test_runs_of_a_training_are_an_uncertainty_of_their_own():
    random = np.random.default_rng(0)
    images = random.random(2000) < 0.6
    runs = [images ^ (random.random(2000) < flip) for flip in (0.02, 0.3, 0.02)]  # the second run is far worse
    made = Answered().add("A", "x-finetune", *runs).add("B", "x-finetune", *[images] * 3)
    several = compared(made, task="x-finetune")[0]
    single = compared(Answered().add("A", "x-finetune", runs[1]).add("B", "x-finetune", images), task="x-finetune")[0]
    assert several.verdict == "no difference" and "(2,000 images and 3 runs each)" in several.sentence
    assert single.verdict == "worse" and "(2,000 images, one run each; another run may differ)" in single.sentence


def test_the_variance_of_runs_is_less_what_their_images_explain():
    # Two runs of 50 and 54 %: variance 8. Their resamples differ from their mean by 1 and -1 point, or -1 and 1: a
    # variance of 1 each over resamples, 2 of both over n - 1 = 1; times N / (N - 1) = 101 / 100.
    spread = run_spread(np.array([50.0, 54.0]), np.array([[51.0, 49.0], [49.0, 51.0]]), images=101, effective=101)
    assert spread.variance == pytest.approx((8 - 2 * 1.01) / 2) and spread.uncertainty == pytest.approx(4**2)
    assert run_spread(np.array([50.0]), np.array([[51.0, 49.0]]), images=101, effective=101).variance == 0
    assert (
        run_spread(np.array([50.0, 50.0]), np.array([[51.0, 49.0], [49.0, 51.0]]), images=101, effective=101).variance
        == 0
    )


def test_the_degrees_of_freedom_of_runs_are_satterthwaites():
    random = np.random.default_rng(0)
    scores = [np.array([50.0, 54.0, 58.0]), np.array([40.0, 41.0, 42.0])]
    resamples = [own[:, None] + random.normal(0, 1, (3, 400)) for own in scores]
    images = image_variance(resamples[0].mean(0) - resamples[1].mean(0), 101, 101)
    spreads = [run_spread(own, draws, 101, 101) for own, draws in zip(scores, resamples, strict=True)]
    variance = images + sum(one.variance for one in spreads)
    freedom = variance**2 / (images**2 / 100 + sum(one.uncertainty for one in spreads))
    found = of_resamples(scores, resamples, "mIoU", "segment", 101)
    assert 2 < freedom < 5 and half(found) == pytest.approx(t_quantile_of(freedom) * variance**0.5)


def test_students_interval_is_that_of_any_table():
    # t(0.975, 2) = 4.302653
    found = student(1.0, 4.0, 2)
    assert (found.low, found.high) == (pytest.approx(-7.605306), pytest.approx(9.605306))
    assert found.p == pytest.approx(0.6666667, abs=1e-6)  # P(|t_2| > 0.5) = 1 - 0.5 / sqrt(2.25)


def test_an_interval_that_ends_near_zero_says_on_which_side():
    # With two decimals the first would be better by 1.73 [0.00, 3.46], and the second no difference at [-0.00, +1.91].
    protocol = result().protocol
    above, around = Interval(1.73, 0.0034, 3.4566, 0.0496), Interval(0.95, -0.0013, 1.91, 0.0503)
    said = [Difference("t", ("A", "B"), protocol, one, "9 images").sentence for one in (above, around)]
    assert said[0] == "A is better than B on t by 1.73 [0.003, 3.46] (9 images)."
    assert said[1] == "No difference shown between A and B on t: +0.95 [-0.001, +1.91] (9 images)."
    worse = Interval(-1.73, -3.4566, -0.0034, 0.0496)
    assert Difference("t", ("B", "A"), protocol, worse, "9 images").sentence == said[0]
    assert Interval(0.0, 0.0, 0.005, 1.0).text == "+0.00 [+0.00, +0.01]"


def test_one_image_and_one_draw_are_said_in_the_singular():
    made = Answered().add("A", "x-fewshot", [1]).add("B", "x-fewshot", [0])
    assert "(1 image and 1 draw of train images)" in compared(made, task="x-fewshot")[0].sentence


def test_few_shot_probes_are_paired_by_their_draws_and_only_of_seeds_that_both_have():
    hard = np.array([right(100), right(140), right(60)])  # draws differ widely, A is 8 points above B on each
    better = np.array([right(116), right(156), right(76)])
    made = Answered().add("A", "x-fewshot", better, better).add("B", "x-fewshot", hard)
    one = compared(made, task="x-fewshot")[0]
    assert one.verdict == "better" and "(200 images and 3 draws of train images)" in one.sentence
    assert left_out(made.results, "A", "B") == ["x-fewshot (fair-v1): seed 1 of A, which the other does not have."]
    made = Answered().add("A", "x-fewshot", hard, hard).add("B", "x-fewshot", hard)
    only = [one for one in made.results if (one.checkpoint.name, one.seed) != ("A", 0)]
    said = differences(only, "A", "B", read=made.read, task="x-fewshot")[0]
    assert said.verdict == "no difference" and "no seed is both's" in said.sentence


def with_counts(made):
    """The first difference of A and B, with the images that results count as different."""

    def read(one):
        return replace(made.read(one), effective=effective_images(one))

    return differences(made.results, "A", "B", read=read)[0]


@pytest.mark.parametrize("runs", [1, 3])
def test_images_that_repeat_others_make_no_interval_narrower(runs):
    random = np.random.default_rng(0)
    answers = random.random((2, runs, 100)) < np.array([0.6, 0.5])[:, None, None]
    (once,) = compared(Answered().add("A", "x-finetune", *answers[0]).add("B", "x-finetune", *answers[1]))[:1]
    made = Answered()
    for name, own in zip("AB", np.repeat(answers, 6, axis=2), strict=True):
        made.add(name, "x-finetune", *own, counts={"test": 600, "effective": 100})
    found = with_counts(made)
    assert "(600 images, as certain as 100 different ones" in found.sentence
    assert found.interval.value == pytest.approx(once.interval.value)
    assert half(found.interval) == pytest.approx(half(once.interval), rel=0.05)
    alike = (
        Answered().add("A", "x-linear", right(2), counts={"test": 200, "effective": 1}).add("B", "x-linear", right(0))
    )
    assert with_counts(alike).interval.low == -np.inf  # all of them one image


def test_the_interval_over_images_that_repeat_others_worked_out_by_hand():
    # 200 images, as certain as 20: the resamples' variance times 200 / 19, one image of 20, 19 degrees of freedom.
    samples = np.array([[1.0, 3.0, 2.0, 6.0]])
    first = Resamples("top1", 200, "", np.array([60.0]), samples, effective=20)
    second = Resamples("top1", 200, "", np.array([57.0]), np.zeros((1, 4)), effective=20)
    variance = 3.5 * 200 / 19 + 5**2
    assert half(difference(first, second, "linear")) == pytest.approx(2.093024 * variance**0.5)
    one = result(errors={"top1": 2.0}, counts={"test": 200, "effective": 20})
    assert uncertainty([one]).half_width == pytest.approx(2.093024 * (2**2 * 199 / 19 + 5**2) ** 0.5)
    assert (uncertainty([one]).images, uncertainty([replace(one, counts={"test": 200, "effective": 1})])) == (
        200,
        None,
    )


def test_where_answers_cannot_tell_no_difference_is_called():
    for first, second in (([1, 0], [0, 0]), ([1, 1], [0, 0]), ([1], [0]), ([1] * 200, [1] * 200)):
        made = Answered().add("A", "x-linear", first).add("B", "x-linear", second)
        assert compared(made, task="x-linear")[0].verdict == "no difference"
    # 4 discordant images of 200, all for A: an exact sign test gives p = 0.125. Ten: 0.002.
    for count, verdict in ((4, "no difference"), (10, "better")):
        made = Answered().add("A", "x-linear", right(100 + count)).add("B", "x-linear", right(100))
        assert compared(made, task="x-linear")[0].verdict == verdict
    empty = area_answers(np.array([[[0, 5], [0, 5], [5, 5]]] * 3))  # one class never found, another absent in none
    assert of_answers([empty], [empty], "mIoU", "segment").verdict == "no difference"
    perfect = area_answers(np.array([[[5, 5], [5, 5], [5, 5]]] * 300))
    nothing = area_answers(np.array([[[0, 0], [5, 5], [5, 5]]] * 300))
    assert of_answers([perfect], [nothing], "mIoU", "segment").verdict == "better"


def test_where_no_resample_differs_one_image_might():
    perfect, nothing = (area_answers(np.array([[[found] * 2, [5, 5], [5, 5]]] * 50)) for found in (5, 0))
    one = of_answers([perfect], [nothing], "mIoU", "segment")
    assert one.value == 100 and half(one) == pytest.approx(t_quantile_of(np.inf) * 2)  # one of 50 images


def test_holm_multiplies_by_what_is_left():
    # 0.01 * 4, then 0.02 * 3, then 0.02 * 2 but at least 0.06, then 0.5
    assert holm([0.5, 0.01, 0.02, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([]) == []


def test_many_comparisons_are_judged_together_beside_the_plain_verdicts():
    made = Answered().add("A", "x-linear", right(114))
    for number in range(6):  # 25 images against 11: p is 0.02
        made.add(f"B{number}", "x-linear", right(100, start=25))
    names = [f"B{number}" for number in range(6)]
    found = [one for one in compared(made, "A", *names) if one.of]
    assert [one.names[1] for one in found] == names and {one.tests for one in found} == {6}
    assert {one.verdict for one in found} == {"better"} and {one.adjusted_verdict for one in found} == {"no difference"}
    assert "does not hold among 6 comparisons (Holm)" in found[0].sentence
    with pytest.raises(ValueError, match=r"B0 and 4230 are the same checkpoint \(42300000\); name it once"):
        compared(made, "A", "B0", "B1", "4230")  # would count B0 twice
    (alone,) = [one for one in compared(made, "A", "B0") if one.of]
    assert alone.adjusted_verdict == "better" and "Holm" not in alone.sentence


def test_answers_on_other_images_are_refused():
    made = Answered().add("A", "x-linear", right(50)).add("B", "x-linear", right(50, of=199))
    with pytest.raises(ValueError, match="x-linear: answers on 199 and 200 images; measure both on the same ones"):
        compared(made)
    other = resamples_of([class_answers(np.ones(200, int), np.ones(200, int))], "top1")
    with pytest.raises(ValueError, match="other labels in one result than in another"):
        differences(made.results, "A", "B", read=lambda one: other if one.checkpoint.name == "B" else made.read(one))


def test_the_command_reads_answers_from_the_folders_and_says_what_is_left_out(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    made = Answered().add("A", "x-linear", right(130)).add("B", "x-linear", right(100)).add("C", "x-linear", right(129))
    made.add("A", "y-knn", right(10)).add("B", "z-knn", right(10), version=2)
    made.write(tmp_path)
    for one in (result("A", "w-linear"), result("B", "w-linear", data="e" * 64), failure("B", "v-detect")):
        write_result(one, tmp_path)
    assert run(parser.parse_args(["A", "B", "C", "--results", str(tmp_path)])) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "fair-v1: A minus the others, in points" and "A is better than B on x-linear" not in said
    assert said[2].startswith("  x-linear  +15.00 [") and WHAT_IT_COVERS in said
    assert said[4] == "  No verdict over data sets: A is 15.00 above B on 1 data set, and a verdict needs 3."
    assert said[said.index("Left out:") + 1 :] == [
        "  w-linear: measured in different ways, fair-v1 on dddddddd against fair-v1 on eeeeeeee.",
        "  B lacks what A has: y-knn (fair-v1).",
        "  A lacks what B has: z-knn (fair-v2).",
        "  runs of B that failed: v-detect.",
        "  C lacks what A has: w-linear (fair-v1), y-knn (fair-v1).",
    ]
    table = kdep.compare("A", "B", Path("C"), results=tmp_path)
    assert list(table.columns) == [
        *("protocol", "a", "b", "task", "difference", "low", "high", "p", "p_holm", "verdict", "verdict_holm", "over")
    ]
    assert table[["b", "task", "verdict"]].fillna("none").values.tolist() == [
        ["B", "x-linear", "better"],
        ["B", "none", "none"],
        ["C", "x-linear", "no difference"],
        ["C", "none", "none"],
    ]
    one = differences(read_results(tmp_path), "A", "B", "C", read=made.read)[0]
    assert tuple(table.loc[0, ["difference", "low", "p", "p_holm"]]) == pytest.approx(
        (15.0, one.interval.low, one.interval.p, one.adjusted)
    )
    assert "a verdict needs 3" in table.over[1]
    with pytest.raises(ValueError, match="name one or more other checkpoints"):
        kdep.compare("A", results=tmp_path)
    for path in tmp_path.rglob("*.npz"):
        path.unlink()
    with pytest.raises(ValueError, match=r"seed0.answers-\w{8}.npz are missing"):
        run(parser.parse_args(["A", "B", "--results", str(tmp_path)]))
    assert len(read_results(tmp_path)) == 8  # a board needs no answers


def test_several_checkpoints_are_said_in_a_table_and_one_in_sentences():
    protocol = result().protocol

    def minus(of, other, value, half, adjusted, tests=3):
        interval = Interval(value, value - half, value + half, 0.01)
        return Difference(of, ("A", other), protocol, interval, "9 images", adjusted, tests)

    found = [
        minus("x-knn", "B", 2.0, 1.0, 0.03),
        minus("w-linear", "B", -12.0, 1.0, 0.06),
        Difference(None, ("A", "B"), protocol, None, "2 data sets"),
        minus("x-knn", "random:resnet18", 0.5, 1.0, 0.3),
        Difference("v-fewshot", ("A", "random:resnet18"), protocol, None, "no seed is both's"),
        minus(None, "random:resnet18", 1.0, 2.0, 0.3, tests=1),
    ]
    assert as_table(found) == [
        "                                              B          random:resnet18",
        "v-fewshot                                  -               no verdict",
        "w-linear             -12.00 [-13.00, -11.00] *                      -     9 images",
        "x-knn                   +2.00 [+1.00, +3.00] **  +0.50 [-0.50, +1.50]     9 images",
        "mean over data sets                        -     +1.00 [-1.00, +3.00]     9 images",
        "** different, also among all 3 comparisons (Holm; of means 1); * different when taken alone; no mark: no "
        "difference shown",
    ]
    assert as_table(found[:2])[-1].startswith("** different, also among all 3 comparisons (Holm); *")


def test_over_data_sets_each_set_counts_once():
    # x has differences 1 and 3 (mean 2), y 4, z 6: mean 4, deviation 2; t(0.975, 2) * 2 / sqrt(3) = 4.97
    made = Answered()
    for task, gap in {"x-linear": 2, "x-knn": 6, "y-linear": 8, "z-linear": 12}.items():
        made.add("A", task, right(100 + gap)).add("B", task, right(100))
    overall = compared(made)[-1]
    assert (overall.of, overall.verdict) == (None, "no difference")
    assert (overall.interval.low, overall.interval.high) == (
        pytest.approx(-0.968, abs=1e-3),
        pytest.approx(8.968, abs=1e-3),
    )
    assert overall.sentence.endswith("(3 data sets).")


def test_over_data_sets_copies_and_versions_of_one_count_once():
    hashes = [hashlib.sha256(bytes([number])).digest() for number in range(200)]
    whole, less, other = sketch_of(hashes[:100]), sketch_of(hashes[1:100]), sketch_of(hashes[100:])
    gaps = {"d1-linear": (2, whole), "d2-linear": (4, less), "d3-linear": (6, whole), "e-linear": (20, other)}
    made = Answered()
    for place, (task, (gap, images)) in enumerate(gaps.items()):
        of = {"data": f"{place}" * 64, "test_images": images}
        made.add("A", task, right(100 + gap), **of).add("B", task, right(100), **of)
    overall = compared(made)[-1]
    assert overall.interval is None  # the means of two sets are 2 and 10
    assert overall.sentence.endswith(
        "A is 6.00 above B in the mean of 2 data sets, as d1 and d2 and d3 share test images, and a verdict needs 3."
    )
    made.results = [replace(one, data_fingerprint="d" * 64, test_images="") for one in made.results]
    assert "on 1 data set, as d1 and d2 and d3 and e share test images, and" in compared(made)[-1].sentence


def test_a_sketch_of_either_side_tells_shared_test_images_in_both_directions():
    sketch = sketch_of(hashlib.sha256(bytes([number])).digest() for number in range(100))
    made = Answered()  # A was measured by an earlier version, which left no sketch
    for task, gap in {"d1-linear": 2, "d2-linear": 6, "e-linear": 20}.items():
        made.add("A", task, right(100 + gap))
        made.add("B", task, right(100), test_images=sketch if task != "e-linear" else "")
    one, other = compared(made, "A", "B")[-1], compared(made, "B", "A")[-1]
    assert "in the mean of 2 data sets, as d1 and d2 share test images" in one.sentence and one.over == other.over


def test_over_data_sets_only_seeds_that_both_have_count():
    # Seed 0 is both's: differences 1, 4 and 7, mean 4. A alone has a far better seed of x, and no seed of v is both's.
    made = Answered()
    for task, gap in {"x-fewshot": 2, "y-linear": 8, "z-linear": 14}.items():
        made.add("A", task, *[right(100 + gap)] + [right(200)] * (task == "x-fewshot")).add("B", task, right(100))
    made.add("A", "v-fewshot", right(9), right(200)).add("B", "v-fewshot", right(100))
    made.results = [
        one for one in made.results if (one.checkpoint.name, one.task.name, one.seed) != ("A", "v-fewshot", 0)
    ]
    overall = compared(made)[-1]
    assert (overall.of, overall.over, overall.interval.value) == (None, "3 data sets", pytest.approx(4))
    only = [one for one in made.results if one.task.name == "v-fewshot"]
    assert [one.of for one in differences(only, "A", "B", read=made.read)] == ["v-fewshot"]  # and no mean over nothing


def test_draws_are_paired_by_their_seed_whatever_the_order_of_the_files():
    made = Answered().add("A", "x-fewshot", right(50), right(150)).add("B", "x-fewshot", right(40), right(140))
    turned = [*made.results[1::-1], *made.results[2:]]
    assert differences(turned, "A", "B", read=made.read)[0].interval == compared(made)[0].interval


@pytest.mark.parametrize("gap", [0, 14])
def test_equal_differences_on_all_data_sets_give_no_verdict_over_them(gap):
    made = Answered()
    for task in ("x-linear", "y-linear", "z-linear"):
        made.add("A", task, right(100 + gap)).add("B", task, right(100))
    *tasks, overall = compared(made)
    assert overall.interval is None and overall.verdict == "no difference"
    assert f"A is {gap / 2:.2f} above B on each of 3 data sets, and equal differences give no" in overall.sentence
    assert {one.verdict for one in tasks} == {"better" if gap else "no difference"}


@pytest.mark.parametrize(
    "other", [{"version": 2}, {"budget": "smoke"}, {"data": "e" * 64}, {"settings": {"size": 40, "k": [1]}}]
)
def test_other_protocols_data_and_settings_are_refused(other):
    known = {"settings": {"size": 32, "k": [1]}}
    made = Answered().add("A", "x-linear", right(9), **known).add("B", "x-linear", right(9), **(known | other))
    with pytest.raises(ValueError, match="x-linear: measured under different protocols, data or settings"):
        compared(made)


def test_only_results_of_the_same_settings_are_compared_and_named_apart():
    made = Answered()
    for size, gap in ((32, 30), (40, -30)):
        settings = {"size": size}
        made.add("A", "x-linear", right(100 + gap), settings=settings).add(
            "B", "x-linear", right(100), settings=settings
        )
    found = {one.of: one.interval.value for one in compared(made) if one.of}
    assert sorted(found.values()) == [-15.0, 15.0] and all(name.startswith("x-linear@s-") for name in found)
    made = Answered().add("A", "x-linear", right(9), settings={"size": 32}).add("A", "y-knn", right(9))
    made.add("B", "x-linear", right(9), settings={"size": 40}).add("B", "y-knn", right(9))
    assert [one.of for one in compared(made)] == ["y-knn", None]
    assert left_out(made.results, "A", "B") == [
        "x-linear: measured in different ways, fair-v1 on dddddddd with size 32 against fair-v1 on dddddddd with "
        "size 40."
    ]


def test_what_both_have_is_compared_where_one_has_more():
    made = Answered().add("A", "x-linear", right(9), version=1).add("A", "x-linear", right(9), version=2)
    made.add("B", "x-linear", right(8), version=2)
    assert [str(one.protocol) for one in compared(made, task="x-linear")] == ["fair-v2"]


def test_a_checkpoint_is_found_by_name_or_digits_and_never_guessed():
    made = Answered().add("A", "x-linear", right(9)).add("A", "x-linear", right(8), sha256="beef" * 16)
    with pytest.raises(ValueError, match="A: several checkpoints have this name: .*beefbeef"):
        compared(made, "A", "beef")
    with pytest.raises(ValueError, match="Z: no finished result of such a checkpoint; there is A"):
        compared(made, "Z", "A")
    with pytest.raises(ValueError, match="are the same checkpoint"):
        compared(made, "beef", "beefbe")
    assert "A (41000000) is 0.50 above A (beefbeef)" in compared(made, "41000000", "beef")[-1].sentence
    assert compared(made, "A (41000000)", "A (beefbeef)") == compared(made, "41000000", "beef")


def test_a_row_is_found_by_its_name_on_the_board_where_the_other_of_that_name_only_failed():
    made = Answered().add("last", "x-linear", right(9)).add("B", "x-linear", right(8))
    made.results.append(failure("last", "x-linear", sha256="beef" * 16))
    expected = compared(made, "last", "B")
    names = board_names((one.checkpoint.sha256, one.checkpoint.name) for one in made.results)
    row = names[made.results[0].checkpoint.sha256]
    assert row == "last (6c617374)" and compared(made, row, "B") == expected
    assert {one.names for one in expected} == {(row, "B")}  # as on the board
    made.add("last", "x-probe", right(9))
    assert left_out(made.results, "last", "B") == [f"B lacks what {row} has: x-probe (fair-v1)."]
    with pytest.raises(ValueError, match=r"last .beefbeef.: no finished result; these failed, .*: x-linear"):
        compared(made, "last (beefbeef)", "B")


def test_three_digits_of_a_sha256_name_nobody():
    made = Answered().add("A", "x-linear", right(9)).add("B", "x-linear", right(8))
    with pytest.raises(ValueError, match="410: no finished result of such a checkpoint"):
        compared(made, "410", "B")
    assert compared(made, "4100", "B") == compared(made)


def test_a_checkpoint_is_found_by_what_transfer_took(tmp_path):
    student = open_checkpoint("random:test_resnet")
    write_student(replace(student, name="mine"), tmp_path / "student.pth")
    made = Answered().add("mine", "x-linear", right(9), sha256=student.identity)
    made.add("lite", "x-linear", right(8)).add("lite@64", "x-linear", right(7))
    for place in (1, 2):
        card = made.results[place].checkpoint
        made.results[place] = replace(made.results[place], checkpoint=replace(card, summary={"source": "pypi:lite"}))
    for name, score in (("pypi:lite", 8), ("pypi:lite@64", 7), ("lite@64", 7)):
        expected = compared(made, "mine", made.results[9 - score].checkpoint.name)
        assert compared(made, str(tmp_path / "student.pth"), name) == expected
    (tmp_path / "other.pth").write_bytes(b"no checkpoint")
    for name in (str(tmp_path / "other.pth"), "pypi:lite@32", "pypi:other"):
        with pytest.raises(ValueError, match="no finished result of such a checkpoint"):
            compared(made, "mine", name)


def test_a_file_is_known_by_the_weights_that_it_holds_now(tmp_path):
    made, last, older = Answered(), tmp_path / "last.pth", tmp_path / "older.pth"
    for name, seed, score in (("first", 0, 9), ("second", 1, 8), ("third", 2, 7)):
        checkpoint = open_checkpoint(f"random:test_resnet#{seed}")
        torch.save(checkpoint.weights, last if seed else older)
        made.add(name, "x-linear", right(score), sha256=checkpoint.identity, arch="test_resnet")
        card = made.results[-1].checkpoint
        made.results[-1] = replace(made.results[-1], checkpoint=replace(card, summary={"source": str(last)}))
    assert compared(made, str(last), str(older)) == compared(made, "third", "first")
    torch.save({"student": open_checkpoint("random:test_resnet#1").weights}, last)
    assert compared(made, f"{last}#student", str(older)) == compared(made, "second", "first")
    torch.save(open_checkpoint("random:test_resnet#3").weights, last)
    with pytest.raises(
        ValueError, match=r"no result of the weights that it holds now; measured from it before: first \(.*third \("
    ):
        compared(made, str(last), str(older))
    last.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"^[^:]*last.pth: refused, .*; to compare what was measured .* row: first"):
        compared(made, str(last), str(older))
    for place, one in enumerate(made.results):
        made.results[place] = replace(one, checkpoint=replace(one.checkpoint, arch="python:antigravity:fly"))
    with pytest.raises(ValueError, match="of a network of your own, which is not opened here; .* name the row: first"):
        compared(made, str(last), str(older))


def test_a_checkpoint_whose_runs_all_failed_is_known_and_its_tasks_are_named():
    made = Answered().add("A", "x-linear", right(9))
    made.results += [failure("B", "x-linear"), failure("B", "y-knn")]
    with pytest.raises(ValueError, match="B: no finished result; these failed, .*: x-linear, y-knn"):
        compared(made)


def test_results_of_the_same_weights_count_under_whatever_name_they_were_measured():
    made = Answered().add("A", "x-finetune", right(9)).add("C", "x-finetune", right(8), right(7))
    made.results.append(replace(made.results[0], seed=1, checkpoint=replace(made.results[0].checkpoint, name="B")))
    for name in ("A", "B"):
        assert "(200 images and 2 runs each)" in compared(made, name, "C", task="x-finetune")[0].sentence
    with pytest.raises(ValueError, match="A and B are the same checkpoint"):
        compared(made, "A", "B")


def test_nothing_in_common_says_what_each_has():
    made = Answered().add("A", "x-knn", right(9)).add("B", "y-knn", right(9))
    with pytest.raises(ValueError, match="no task in common: x-knn against y-knn"):
        compared(made)
    with pytest.raises(ValueError, match="no task in common named knn; there is none"):
        compared(made, task="knn")
    made.add("A", "z-knn", right(9)).add("B", "z-knn", right(8))
    with pytest.raises(ValueError, match="no task in common named knn; there is z-knn"):
        compared(made, task="knn")
