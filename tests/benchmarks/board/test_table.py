"""What is averaged on a board, what is not, and what its notes say."""

import re
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
import pandas as pd
import pytest

from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.frame import results_frame
from kdep_benchmarks.board.table import Suite, half_widths_of_means, name_teachers
from kdep_benchmarks.page.leaderboard import family_table, leaderboard_frame, terminal_table
from kdep_benchmarks.page.report import write_leaderboard
from kdep_benchmarks.results import Found
from kdep_benchmarks.verdicts.names import board_names
from kdep_benchmarks.verdicts.uncertainty import uncertainty
from kdep_benchmarks.verdicts.ways import way_of, ways_of
from tests.helpers.made_results import failure, result, runs


def rows_of(results):
    """Rows of leaderboard.csv by name and version; None for a missing value."""
    rows = leaderboard_frame(boards(results)).to_dict("records")
    return {
        (row["name"], f"v{row['version']}"): {
            k: v if isinstance(v, dict) or pd.notna(v) else None for k, v in row.items()
        }
        for row in rows
    }


def notes_of(*results, word=""):
    return [note.text for note in boards(results)[0].notes if word in note.text and "nformative" not in note.text]


def test_a_row_has_mean_deviation_count_and_interval():
    row = rows_of(runs("a", "cifar-linear", [70.0, 72.0, 74.0]))["a", "v1"]
    assert (row["cifar-linear"], row["cifar-linear_std"], row["cifar-linear_n"]) == (72.0, 2.0, 3)
    assert row["cifar-linear_ci95"] == pytest.approx(4.302653 * 2 / 3**0.5, rel=1e-6)  # t(0.975, 2)


def test_the_interval_of_any_metric_covers_the_test_images_and_runs_where_runs_differ():
    scores, known = [70.0, 72.0, 74.0], {"counts": {"test": 100}}
    row = rows_of(runs("a", "voc-segment", scores, errors={"mIoU": 3.0}, **known))["a", "v1"]
    # Images 3^2 = 9, runs 2^2 / 3 = 1.3333, together 10.3333; degrees of freedom 10.3333^2 / (9^2 / 99 + 1.3333^2 / 2)
    # = 62.55; t(0.975, 62.55) = 1.99862, times sqrt(10.3333).
    assert row["voc-segment_ci95"] == pytest.approx(6.42466, abs=1e-4) and row["voc-segment_ci95_images"] == 100
    row = rows_of(runs("a", "coco-detect", [30.0], errors={"AP": 3.0}, **known))["a", "v1"]
    assert row["coco-detect_ci95"] == pytest.approx(1.984217 * 3, abs=1e-4)  # one run: t(0.975, 99)
    # Seeds of a probe redraw the val split only: 4^2, plus one image of 100, and nothing for the runs.
    row = rows_of(runs("a", "cifar-linear", scores, errors={"top1": 4.0}, **known))["a", "v1"]
    assert row["cifar-linear_ci95"] == pytest.approx(1.984217 * 17**0.5, abs=1e-4)
    # The two draws of train images of one few-shot result: 8 / 2 = 4, beside 2^2 + 1 for the images.
    drawn = {"chosen": {"tap": "layer4"}, "curves": {"layer4": {"test_top1": [50.0, 54.0]}}, "errors": {"top1": 2.0}}
    assert uncertainty(runs("a", "cifar-fewshot", [52.0], **drawn, **known)).standard_error == pytest.approx(3)
    never_wrong = uncertainty(runs("a", "coco-detect", [100.0], errors={"AP": 0.0}, **known))
    assert (never_wrong.standard_error, never_wrong.freedom) == (1.0, float("inf"))  # one image of 100


def test_one_more_wrong_image_is_shared_by_the_runs_of_a_training():
    known = {"counts": {"test": 100}, "errors": {"top1": 3.0}}
    # Equal runs add nothing. Images 3^2, and one of 100, squared: a quarter of that for four runs of a training.
    assert uncertainty(runs("a", "c-finetune", [70.0] * 4, **known)).standard_error == pytest.approx(9.25**0.5)
    assert uncertainty(runs("a", "c-linear", [70.0] * 4, **known)).standard_error == pytest.approx(10**0.5)


def test_a_top1_may_have_one_more_wrong_image_and_without_recorded_errors_only_runs_make_an_interval():
    counted = {"counts": {"test": 100}}
    one = uncertainty(runs("a", "cifar-finetune", [80.0], **counted))
    assert one.standard_error == pytest.approx((1600 / 99 + 1) ** 0.5) and one.freedom == pytest.approx(99)
    miou = rows_of(runs("a", "voc-segment", [70.0, 72.0, 74.0], **counted))["a", "v1"]
    assert miou["voc-segment_ci95"] == pytest.approx(4.968276, abs=1e-4)  # t(0.975, 2) * 2 / sqrt(3)
    assert miou["voc-segment_ci95_images"] is None and uncertainty([result("a", "voc-segment", **counted)]) is None
    unlike = [result("a", seed=s, score=70.0 + s, counts={"test": 100 + s}) for s in (0, 1)]  # no single count
    assert rows_of(unlike)["a", "v1"]["cifar-linear_ci95_images"] is None


def test_the_mean_over_families_weighs_families_alike():
    tasks = {"c-linear": 80.0, "d-linear": 60.0, "v-segment": 40.0, "o-detect": 15.0}
    row = rows_of([result("a", task, score=score) for task, score in tasks.items()])["a", "v1"]
    assert row["mean_classification"] == 70.0
    assert row["mean_over_families"] == pytest.approx((70 + 40 + 15) / 3)


def test_incomplete_rows_are_never_averaged_or_ranked_and_absent_is_not_zero():
    results = [result(n, t, score=50.0) for n in ("a", "b") for t in ("c-linear", "v-segment")]
    results += [result("c", "c-linear"), failure("d", "c-linear", 1), result("d", "c-linear"), result("d", "v-segment")]
    rows = rows_of(results)
    c, d = rows["c", "v1"], rows["d", "v1"]
    assert (c["complete"], c["mean_over_families"], c["average_rank"]) == (False, None, None)
    assert (c["mean_classification"], c["mean_segmentation"]) == (50.0, None)
    assert (c["v-segment"], c["v-segment_n"]) == (None, None)
    assert (d["complete"], d["failed"], d["mean_over_families"], d["c-linear"]) == (False, 1, None, 50.0)
    assert rows["a", "v1"]["average_rank"] == 1.5  # the tie of the two complete rows
    only_failed = rows_of([result("a", "c-linear"), failure("b", "v-segment")])["a", "v1"]
    assert (only_failed["complete"], only_failed["v-segment"]) == (False, None)


def test_protocols_versions_and_budgets_have_boards_of_their_own():
    results = [result("a", score=1.0), result("a", score=2.0, version=2), result("a", score=3.0, budget="smoke")]
    found = [(str(board.protocol), board.cells["mean"].iloc[0, 0]) for board in boards(results)]
    assert found == [("fair-v1", 1.0), ("fair-v1-smoke", 3.0), ("fair-v2", 2.0)]


def test_two_versions_of_the_data_have_two_columns_and_a_note():
    results = [result("a", score=1.0, data="a" * 64), result("b", score=2.0, data="b" * 64)]
    rows = rows_of(results)
    assert (rows["a", "v1"]["cifar-linear@aaaaaa"], rows["a", "v1"]["cifar-linear@bbbbbb"]) == (1.0, None)
    assert rows["a", "v1"]["complete"] == rows["b", "v1"]["complete"] == False  # noqa: E712
    (note,) = notes_of(*results, word="versions")
    assert "on 2 versions of its data: cifar-linear@aaaaaa, cifar-linear@bbbbbb; never averaged" in note


def test_settings_that_differ_have_columns_of_their_own_and_a_note_names_the_difference():
    small, large = ({"size": size, "k": [1, 5]} for size in (32, 40))
    results = [result("a", score=1.0, settings=small), result("b", score=2.0, settings=large)]
    results.append(result("c", "other-linear", score=3.0, settings={"size": 64}))
    (note,) = notes_of(*results, word="settings")
    found = dict(re.findall(r"(cifar-linear@s-\w{6}) \((size \d+)\)", note))
    assert sorted(found.values()) == ["size 32", "size 40"] and "never averaged" in note
    rows = rows_of(results)
    assert sorted(rows["a", "v1"][label] or 0 for label in found) == [0, 1.0]
    assert rows["c", "v1"]["other-linear"] == 3.0
    paper = replace(results[1], protocol=replace(results[1].protocol, name="paper"))
    assert [list(board.columns.index) for board in boards([results[0], paper])] == [["cifar-linear"]] * 2


def test_half_the_batch_and_lower_precision_have_columns_of_their_own_always():
    halved = {"out_of_memory": {"images_at_once": 16, "before": 32, "accumulate": 2}}
    probe = {"out_of_memory": {"images_at_once": 16, "before": 32}}  # the answer of a probe does not depend on it
    found = boards(
        [
            result("a", "c-finetune", score=1.0),
            result("a", "c-finetune", 1, score=2.0, chosen=halved),
            result("a", "d-finetune", chosen=halved | {"precision": "bfloat16"}),
            result("a", "e-linear", chosen=probe | {"precision": "float32"}),
        ]
    )[0]
    labels = ["c-finetune", "c-finetune@half-batch", "d-finetune@half-batch@bfloat16", "e-linear"]
    assert list(found.columns.index) == labels
    assert found.cells["mean"].iloc[0].tolist()[:2] == [1.0, 2.0]
    assert any("different batches or precisions" in note.text for note in found.notes)


HALVED = {"out_of_memory": {"because": "out of memory", "accumulate": 2}}


def test_other_settings_have_columns_of_their_own_also_at_half_the_batch():
    known = (("a", 1.0, 32), ("b", 2.0, 40))
    results = [result(n, "c-finetune", score=s, settings={"size": x}, chosen=HALVED) for n, s, x in known]
    (board,) = boards(results)
    assert sorted(board.cells["n"].to_numpy().tolist()) == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("task", "chosen", "label"),
    [
        ("c-finetune", {"precision": "bfloat16"}, "c-finetune@bfloat16"),
        ("v-segment", HALVED, "v-segment@half-batch"),
        ("v-segment", HALVED | {"precision": "bfloat16"}, "v-segment@half-batch@bfloat16"),
    ],
)
def test_a_failed_run_stands_in_the_column_of_the_finished_ones(task, chosen, label):
    results = [run for n, s in (("a", 60.0), ("b", 70.0)) for run in runs(n, task, [s, s + 1.0, s + 2], chosen=chosen)]
    results += [*runs("c", task, [80.0, 81.0], chosen=chosen), failure("c", task, 2), failure("d", task)]
    (board,) = boards(results)
    assert list(board.columns.index) == [label]
    found = board.cells.set_axis(board.rows.name)
    assert found["failed"][label].to_dict() == {"a": 0, "b": 0, "c": 1, "d": 1}
    rows = board.rows.set_index("name")
    assert rows.complete.to_dict() == {"a": True, "b": True, "c": False, "d": False}
    assert rows.average_rank.dropna().to_dict() == {"a": 2.0, "b": 1.0}
    assert rows.mean_over_families.dropna().to_dict() == {"a": 61.0, "b": 71.0}
    said = [note.text for note in board.notes]
    assert f"c: failed runs, so not averaged: {label} (1)." in said
    assert not [text for text in said if "not measured" in text or "different batches or precisions" in text]
    assert set(results_frame(results).column) == {label}


@pytest.mark.parametrize(
    ("finished", "variant"),
    [
        ([], ""),
        ([("b", "float16"), ("b", "bfloat16")], "bfloat16"),  # of others: the first by name
        ([("b", "bfloat16"), ("a", "float16")], "float16"),  # its own before others
        ([("b", "float32"), ("a", "float16")], "float16"),
        ([("a", "bfloat16"), ("a", "float32")], ""),
        ([("b", "bfloat16"), ("b", "float32")], ""),
    ],
)
def test_a_failed_run_takes_the_precision_of_its_checkpoint_then_of_others(finished, variant):
    done = [result(name, "c-finetune", seed, chosen={"precision": p}) for seed, (name, p) in enumerate(finished)]
    for results in ([*done, failure("a", "c-finetune", 9)], [*done[::-1], failure("a", "c-finetune", 9)]):
        assert ways_of(results)[-1].variant == variant
        assert ways_of(results)[:-1] == [way_of(one) for one in results[:-1]]


def test_a_failed_run_joins_no_column_of_other_data_settings_protocol_or_task():
    failed = failure("a", "c-finetune", 9)
    others = [{"data": "e" * 64}, {"settings": {"size": 32}}, {"version": 2}, {"budget": "short"}]
    done = [result("a", "c-finetune", chosen={"precision": "bfloat16"}, **other) for other in others]
    done.append(result("a", "d-finetune", chosen={"precision": "bfloat16"}))
    assert ways_of([*done, failed])[-1] == way_of(failed)


def ranks_of(results):
    return boards(results)[0].rows.set_index("name")[["average_rank", "average_rank_low", "average_rank_high"]]


def test_ranks_are_means_over_tasks_with_an_interval_over_images_and_runs():
    scores = {"c-linear": {"a": 70, "b": 60, "c": 50}, "v-segment": {"a": 20, "b": 10, "c": 30}}
    found = ranks_of([r for t, by in scores.items() for n, s in by.items() for r in runs(n, t, [s, s + 1.0, s + 0.5])])
    assert found.average_rank.to_dict() == {"a": 1.5, "b": 2.5, "c": 2.0}
    # Runs that spread by one do not reverse a gap of ten.
    assert found.loc["a", ["average_rank_low", "average_rank_high"]].tolist() == [1.5, 1.5]
    assert ranks_of([result("a", score=2.0), result("b", score=1.0)]).average_rank_low.isna().all()  # nothing is known
    unclear = ranks_of(runs("a", "c-linear", [50, 60.0, 70]) + runs("b", "c-linear", [51, 61.0, 69]))
    assert (unclear.average_rank_low == 1.0).all() and (unclear.average_rank_high == 2.0).all()
    one_run = ranks_of([result(name, score=score, counts={"test": 1000}) for name, score in (("a", 60.0), ("b", 50.0))])
    assert one_run.average_rank_low.to_dict() == one_run.average_rank_high.to_dict() == {"a": 1.0, "b": 2.0}


def test_errors_of_one_data_set_add_up_in_a_mean_and_those_of_others_are_independent():
    tasks = ("c-linear", "c-knn", "d-linear", "v-segment")
    (board,) = boards([run for task in tasks for run in runs("a", task, [50.0, 51.0, 52.0])])
    half = board.cells["ci95"].iloc[0]
    assert half.nunique() == 1  # t(0.975, 2) * 1 / sqrt(3)
    # Weights 1/6 of each column of classification, two of them of one data set, and 1/2 of segmentation.
    expected = half.iloc[0] * ((2 / 6) ** 2 + (1 / 6) ** 2 + (1 / 2) ** 2) ** 0.5
    assert half_widths_of_means(board).tolist() == [pytest.approx(expected)]


def test_columns_that_share_test_images_count_as_one_data_set_in_the_intervals_of_means_and_ranks():
    def intervals(tasks, **others):
        scores, known = {"a": 50.0, "b": 51.0, "c": 52.0}, {"counts": {"test": 1000}, **others}
        (board,) = boards(
            [result(name, task, score=score, **known) for name, score in scores.items() for task in tasks]
        )
        return [*half_widths_of_means(board)], [*board.rows.average_rank_low, *board.rows.average_rank_high]

    apart = ["c-linear", "d-linear", "e-linear", "f-linear"]
    one_set, several = intervals(["c-linear", "c-knn", "c-fewshot", "c-finetune"]), intervals(apart)
    assert intervals(apart, data="e" * 64) == one_set
    assert several[0] == pytest.approx([half / 2 for half in one_set[0]]) and several[1] != one_set[1]


def gain(student, random, supervised, **others):
    results = [*runs("s", "c-linear", student), *runs("r", "c-linear", random, role="random")]
    results += runs("t", "c-linear", supervised, role="supervised", **others)
    row = rows_of(results)["s", "v1"]
    return row["c-linear_share_of_gain"], row["share_of_gain"]


def test_a_baseline_that_a_student_learned_from_stays_one(tmp_path):
    # The student's teacher is the supervised network of its own architecture, or the random one.
    def of(role, scores, **facts):
        own = runs(facts["source"], "c-linear", scores)
        return [replace(r, checkpoint=replace(r.checkpoint, summary={"role": role, **facts})) for r in own]

    for source, role in (("t", "teacher"), ("r", "random")):
        results = [
            *of("student", [54.0, 55, 56], source="s", teacher=source),
            *of("random", [30.0, 31, 29], source="r"),
        ]
        results += of("supervised", [80.0, 79, 81], source="t")
        (board,) = write_leaderboard(partial(Found, results, []), tmp_path).boards
        assert board.rows.set_index("name").role[source] == role
        assert board.rows.set_index("name").share_of_gain["s"] == pytest.approx(50)
        assert "baseline" not in results_frame(name_teachers(results)).columns
        assert board.columns.informative.tolist() == ["yes"]


def test_the_share_of_the_supervised_gain_follows_its_definition():
    # (55 - 30) / (80 - 30) = half the way
    assert gain([54.0, 55, 56], [30.0, 31, 29], [80.0, 79, 81]) == (pytest.approx(50), pytest.approx(50))


@pytest.mark.parametrize(("images", "clear"), [(20, False), (300, True)])
def test_one_run_has_a_share_where_there_are_images_enough(images, clear):
    named = (("s", "student", 50.0), ("r", "random", 40.0), ("t", "supervised", 60.0))
    results = [result(name, "c-linear", score=s, role=role, counts={"test": images}) for name, role, s in named]
    # Of 20 images each standard error is 12 points, together 17: a gain of 20 is not twice as large.
    assert (rows_of(results)["s", "v1"]["c-linear_share_of_gain"] is not None) == clear


@pytest.mark.parametrize(
    ("supervised", "others"),
    [
        ([31.0, 29.0, 32.0], {}),  # the gain is within its noise
        ([10.0, 10.5, 11.0], {}),  # supervised is clearly below random
        ([80.0], {}),  # one run, and nothing known of its images: no interval
        ([80.0, 81.0, 82.0], {"arch": "mobilenetv2_100"}),  # the baseline of another architecture
    ],
)
def test_the_share_is_absent_where_the_supervised_gain_is_not_clear(supervised, others):
    assert gain([54.0, 55, 56], [30.0, 31, 29], supervised, **others) == (None, None)


def test_a_gain_above_each_interval_but_not_above_both_together_has_no_share():
    # Half widths of 2.48 each (t(0.975, 2) / sqrt(3)), 3.51 together: a gain of 3 is not clear, one of 4 is.
    assert gain([31.0, 32, 33], [30.0, 31, 29], [33.0, 32, 34])[0] is None
    assert gain([31.0, 32, 33], [30.0, 31, 29], [34.0, 33, 35])[0] == pytest.approx(50)


def test_the_share_is_absent_where_a_run_of_the_score_or_of_a_baseline_failed():
    results = [*runs("s", "c-linear", [55.0, 55.5]), *runs("r", "c-linear", [30.0, 30.5], role="random")]
    results += runs("t", "c-linear", [80.0, 80.4], role="supervised")
    assert rows_of(results)["s", "v1"]["c-linear_share_of_gain"] is not None
    for name in "srt":
        failed = failure(name, "c-linear", 9, role={"s": "student", "r": "random", "t": "supervised"}[name])
        assert rows_of([*results, failed])["s", "v1"]["c-linear_share_of_gain"] is None


@pytest.mark.parametrize("shuffle", range(3))
def test_of_several_baselines_the_first_by_name_counts_whatever_the_order_of_the_results(shuffle):
    results = [*runs("s", "c-linear", [54.0, 55, 56]), *runs("r", "c-linear", [30.0, 31, 29], role="random")]
    for name, score in (("timm:a2", 80), ("timm:b", 99), ("timm:a1", 55), ("timm:a0", 90)):
        arch = "vgg11" if name == "timm:a0" else "resnet18"
        results += runs(name, "c-linear", [score, score + 1.0, score - 1.0], role="supervised", arch=arch)
    Random(shuffle).shuffle(results)
    assert rows_of(results)["s", "v1"]["share_of_gain"] == pytest.approx(100)  # of a1: (55 - 30) / (55 - 30)
    (note,) = notes_of(*results, word="Gain shares")
    assert note == "Gain shares of resnet18 use timm:a1, the first by name of the 3 supervised rows."


def informative(reference, random, task="c-linear", role="supervised", **others):
    results = [*runs("s", task, [50.0, 51.0, 52.0]), *runs("s", "e-linear", [60.0, 61.0, 62.0])]
    results += runs("t", task, reference, role=role, **others) + runs("r", task, random, role="random", **others)
    (board,) = boards(results)
    return board.columns.informative[task], board


def test_a_column_counts_only_where_the_reference_is_five_standard_errors_above_random():
    # Both sides: deviation 1, 3 runs, standard error 1 / sqrt(3); of the difference sqrt(2 / 3) = 0.816; five are 4.08.
    near, board = informative([34.0, 33.0, 35.0], [30.0, 29.0, 31.0])
    assert near == "no" and informative([34.2, 33.2, 35.2], [30.0, 29.0, 31.0])[0] == "yes"
    row = board.rows[board.rows.name == "s"].iloc[0]
    assert (row.mean_over_families, row.complete) == (61.0, True)  # of e-linear alone
    assert board.cells["mean"]["c-linear"][row.name] == 51.0  # still shown
    (note,) = [note.text for note in board.notes if "not informative" in note.text]
    assert "t (34.00) is not above r (30.00) by 5 standard errors" in note
    # With 100 test images the standard error of each side is about 5 points.
    counted = {"counts": {"test": 100}}
    assert informative([50.0, 51.0, 52.0], [30.0, 29.0, 31.0], **counted)[0] == "no"
    assert informative([80.0, 81.0, 82.0], [30.0, 29.0, 31.0], **counted)[0] == "yes"
    assert informative([90.0, 91.0, 92.0], [30.0, 29.0, 31.0], role="teacher")[0] == "yes"


@pytest.mark.parametrize(("error", "said"), [(1.5, "no"), (1.4, "yes")])
def test_one_run_of_each_side_is_judged_by_its_errors_over_test_images(error, said):
    # 40 - 30 = 10 points; five standard errors are 5 sqrt(1.5^2 + 1.4^2) = 10.26 or 5 sqrt(2) 1.4 = 9.90.
    known = {"counts": {"test": 500}}
    results = runs("t", "voc-segment", [40.0], role="supervised", errors={"mIoU": error}, **known)
    results += runs("r", "voc-segment", [30.0], role="random", errors={"mIoU": 1.4}, **known)
    (board,) = boards(results)
    assert board.columns.informative["voc-segment"] == said
    assert any("voc-segment: not informative at this budget" in note.text for note in board.notes) == (said == "no")


def test_a_note_gives_the_score_of_the_best_constant_answer():
    (board,) = boards(runs("s", "c-linear", [50.0], chosen={"floor": 21.5}) + runs("s", "e-linear", [60.0]))
    assert "Always answering the most frequent class scores: c-linear 21.50." in [note.text for note in board.notes]
    ((_, first, second),) = family_table(board, "classification").rows
    assert (first.detail, second.detail) == ("the best constant answer scores 21.50", "")


def test_a_column_that_nobody_can_judge_counts_and_a_note_says_so():
    (board,) = boards(runs("s", "c-linear", [50.0, 51.0]) + runs("r", "c-linear", [30.0, 31.0], role="random"))
    assert board.columns.informative["c-linear"] == "unknown"
    assert board.rows.mean_over_families.tolist() == [50.5, 30.5]
    assert any(note.text.startswith("Not known to be informative, but in means and ranks: c-") for note in board.notes)
    assert informative([90.0], [30.0])[0] == "unknown"  # a single run has no standard error


def test_columns_that_are_all_uninformative_leave_no_mean_and_no_rank():
    results = runs("t", "c-linear", [30.0, 31.0, 32.0], role="supervised")
    results += runs("r", "c-linear", [30.0, 31.0, 32.0], role="random")
    (board,) = boards(results)
    assert board.rows[["mean_over_families", "average_rank"]].isna().all(axis=None) and not board.rows.complete.any()


def test_what_a_row_cost_is_added_up_over_its_finished_runs():
    costs = [
        {"seconds": 10.0, "peak_memory_mb": 700, "gmacs": 1.8, "device": "cpu x1", "images_per_second": 90.0},
        {"seconds": 20.5, "peak_memory_mb": 900, "gmacs": 1.8, "device": "cpu x1", "images_per_second": 110.0},
        {"seconds": 30.0, "gmacs": 1.8, "device": "cpu x1", "images_per_second": 400.0},
    ]
    load = [{"coverage": 100.0}, {"coverage": 99.0}, {}]
    results = [result("a", seed=i, cost=cost, load=load[i]) for i, cost in enumerate(costs)]
    row = rows_of([*results, failure("a", seed=5, cost={"seconds": 1000.0})])["a", "v1"]
    assert (row["params_m"], row["gmacs"], row["load_coverage"], row["runs"]) == (11.0, 1.8, 99.0, 3)
    assert (row["seconds"], row["peak_memory_mb"], row["images_per_second"]) == (60.5, 900, 110.0)
    assert row["device"] == "cpu x1" and row["training_images_per_second"] is None


def test_speeds_of_extraction_and_training_are_apart_and_those_of_different_devices_are_absent():
    costs = {"c-knn": [800.0, None], "c-linear": [None, 600.0], "c-finetune": [50.0, 40.0], "a-segment": [9.0, 8.0]}
    found = [
        result("a", task, seed, cost={"device": "cpu x1"} | ({"images_per_second": speed} if speed else {}))
        for task, speeds in costs.items()
        for seed, speed in enumerate(speeds)
    ]
    row = rows_of(found)["a", "v1"]
    assert (row["images_per_second"], row["training_images_per_second"]) == (700.0, 45.0)
    mixed = [result("a", seed=i, cost={"device": f"d{i}", "images_per_second": 9.0}) for i in (0, 1)]
    row = rows_of(mixed)["a", "v1"]
    assert (row["images_per_second"], row["device"], row["seconds"], row["peak_memory_mb"]) == (None,) * 4


def test_metrics_beside_the_main_one_and_the_origin_of_a_row_are_in_the_file():
    metrics = [{"top1": 50.0, "top1_macro": 48.0 + s, "top1_pre": 50.0} for s in (0, 2)]
    results = [result("a", "c-linear", seed, metrics=one, commit="ab"[seed]) for seed, one in enumerate(metrics)]
    known = {"method": "kdep svd", "teacher": "pypi:x", "pretrain_data": "photos", "images_seen": 640}
    known |= {"pretrain_epochs": 90, "pretrain_seed": 4, "pretrain_commit": "c0ffee"}
    results[1].checkpoint.summary.update(known)  # the first run does not say
    rows = rows_of([*results, result("b", "c-linear", metrics={"top1": 30.0}), failure("a", "v-segment")])
    assert rows["a", "v1"]["c-linear_top1_macro"] == 49.0 and rows["b", "v1"]["c-linear_top1_macro"] is None
    assert "c-linear_top1" not in rows["a", "v1"]
    assert {name: rows["a", "v1"][name] for name in known} == known
    assert rows["a", "v1"]["commit"] == "a, b" and rows["b", "v1"]["teacher"] is None


def test_settings_at_the_end_of_their_grid_and_fixed_ones_are_noted():
    chosen = [{"k": 5, "k_at_edge": edge, "temperature_at_edge": False} for edge in (True, False, True)]
    results = [result("a", "c-knn", seed, chosen=one) for seed, one in enumerate(chosen)]
    assert notes_of(*results, word="grid") == [
        "Chosen at the end of its grid; a wider grid may score higher: c-knn k in 2 of 3 runs."
    ]
    assert notes_of(results[1], word="grid") == []
    fixed = [result("a", "c-finetune", seed, chosen={"lr": 1e-3, "lr_fixed": True}) for seed in range(2)]
    assert notes_of(*fixed, word="ixed") == ["Fixed by the task, not chosen on val: c-finetune lr."]


def test_a_row_of_results_is_at_an_edge_where_any_setting_is():
    chosen = {"k_at_edge": True, "temperature_at_edge": False}
    results = [result("a", "c-knn", chosen=chosen), result("a", "c-knn", 1, chosen=dict.fromkeys(chosen, False))]
    assert results_frame(results).at_edge.tolist() == [True, False]


def test_single_runs_of_trainings_are_noted():
    enough = [*runs("a", "c-finetune", [1.0, 2], role="other"), *runs("a", "d-knn", [1.0], role="other")]
    assert notes_of(*enough, *runs("b", "d-knn", [1.0], role="other"), word="run") == []  # one run of a probe is enough
    assert notes_of(*enough, *runs("b", "c-finetune", [1.0], role="other"), word="run") == [
        "b: a single run of c-finetune, so its interval does not cover how runs differ.",
    ]


def test_a_student_without_the_random_baseline_of_its_architecture_is_noted():
    student, other = runs("s", "c-linear", [1.0, 2, 3]), runs("o", "c-linear", [1.0, 2, 3], role="supervised")
    wrong = runs("random:vgg11", "c-linear", [1.0, 2, 3], role="random", arch="vgg11")
    (note,) = notes_of(*student, *other, *wrong, word="baseline")
    assert note.startswith("No random baseline of resnet18, ") and "`kdep transfer random:resnet18`" in note
    assert notes_of(*student, *runs("random:resnet18", "c-linear", [1.0, 2, 3], role="random"), word="baseline") == []


def test_notes_stand_in_the_file_at_the_rows_that_they_are_about():
    results = [*runs("s", "c-finetune", [1.0, 2, 3]), *runs("o", "c-finetune", [1.0], role="other")]
    frame = leaderboard_frame(boards(results))
    notes = frame.set_index("name").notes
    assert frame.columns[-1] == "notes"
    assert "No random baseline" in notes["s"] and "single run" not in notes["s"]
    assert "single run" in notes["o"]
    assert leaderboard_frame(boards(runs("o", "c-linear", [1.0, 2, 3], role="other"))).notes.isna().all()


def test_two_checkpoints_of_one_name_stay_two_rows_on_every_board():
    (board,) = boards([result("a", score=1.0), result("a", score=2.0, sha256="f" * 64)])
    assert board.cells["mean"]["cifar-linear"].tolist() == [2.0, 1.0]
    assert board.rows.name.tolist() == ["a (ffffffff)", "a (61000000)"]
    frame = results_frame([result("a", score=1.0), result("a", score=2.0, sha256="f" * 64)])
    assert frame.groupby("name").value.mean().to_dict() == {"a (61000000)": 1.0, "a (ffffffff)": 2.0}
    one, other = "1" * 64, "2" * 64  # the same weights have one name: the first by alphabet
    assert board_names([(one, "tv"), (one, "dino"), (other, "dino")]) == {
        one: "dino (11111111)",
        other: "dino (22222222)",
    }


def test_means_are_over_the_declared_suite():
    results = runs("a", "c-linear", [60.0, 61.0]) + runs("a", "e-linear", [20.0]) + runs("b", "c-linear", [50.0, 51.0])
    (every,) = boards(results)
    assert every.rows.complete.tolist() == [True, False]  # b has no e-linear
    (board,) = boards(results, Suite("mine", frozenset({"c-linear", "d-linear"})))
    assert board.rows.mean_over_families.tolist() == [60.5, 50.5]
    assert board.rows.average_rank.tolist() == [1, 2]
    text = (
        "Means and ranks are over the tasks of suite mine, without d-linear, which no checkpoint here was measured on"
    )
    notes = [note.text for note in board.notes]
    assert f"{text}. Not counted: e-linear." in notes
    (unknown,) = [note for note in notes if note.startswith("Not known to be informative, but in means and ranks: ")]
    assert "c-linear" in unknown and "e-linear" not in unknown
    (board,) = boards(results, Suite("mine", frozenset({"c-linear", *(f"d{n}-linear" for n in range(6))})))
    assert (
        "Means and ranks are over 1 of the 7 tasks that count in suite mine; no checkpoint here was measured on the "
        "others. Not counted: e-linear."
    ) in [note.text for note in board.notes]


def test_the_reference_is_measured_in_standard_errors():
    rows = [("t", "teacher", [60.0, 62.0, 61.0, 61.0]), ("r", "random", [40.0, 42.0, 41.0, 41.0])]
    results = [one for name, role, scores in rows for one in runs(name, "c-finetune", scores, role=role)]
    (board,) = boards(results)
    sides = [uncertainty([one for one in results if one.checkpoint.name == name]).standard_error for name in "tr"]
    assert board.columns.errors.tolist() == pytest.approx([20 / np.hypot(*sides)])


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_the_reference_and_the_random_network_are_the_best_of_theirs(names):
    good, bad = names
    results = runs(good, "c-linear", [80.0, 81, 82], role="supervised")
    results += runs(bad, "c-linear", [20.0, 21, 22], role="teacher")
    results += runs(good * 2, "c-linear", [30.0, 31, 32], role="random")
    results += runs(bad * 2, "c-linear", [10.0, 11, 12], role="random")
    (board,) = boards(results)
    found = board.columns.loc["c-linear"]
    assert (found.reference_score, found.random_score, found.informative) == (81.0, 31.0, "yes")


def test_every_view_names_runs_with_half_the_batch_and_test_images_that_are_in_train(tmp_path):
    halved = {"out_of_memory": {"because": "killed by the kernel, out of memory", "images_at_once": 16, "before": 32}}
    counts = {"train": 20, "test": 10, "leaked": 3}
    results = [result("a", "e-linear", chosen=halved, counts=counts), result("a", "e-linear", 1, counts=counts)]
    board = write_leaderboard(lambda: Found(results, []), tmp_path).boards
    views = [terminal_table(board), *((tmp_path / f"leaderboard.{kind}").read_text() for kind in ("csv", "md", "html"))]
    for view in views:
        assert "a: runs with half the batch: e-linear (1, killed by the kernel, out of memory)." in view
        assert "e-linear: 3 of its 10 test images are also in train or val, byte for byte." in view
    frame = pd.read_csv(tmp_path / "results.csv")
    assert frame.halved.fillna("").tolist() == ["killed by the kernel, out of memory", ""]
    assert frame.images_leaked.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"ignored_percent": 60.4}, "60 % of the pixels of its test masks have no class and are not scored"),
        (
            {"ignored_percent": 9.9, "classes_not_in_test": ["car"], "last_classes_not_in_test": 1},
            "no test mask has a pixel of the last class",
        ),
        (
            {"ignored_percent": 70.0, "last_classes_not_in_test": 12},
            "70 % of the pixels of its test masks have no class and are not scored, and no test mask has a pixel of "
            "any of the last 12 classes",
        ),
        ({"ignored_percent": 49.9, "classes_not_in_test": ["cow"]}, None),  # small sets lack some classes
    ],
)
def test_masks_that_do_not_look_like_their_layout_and_classes_are_noted(chosen, said):
    (board,) = boards([result("a", "d-segment", chosen=chosen)])
    found = [note.text for note in board.notes if "test mask" in note.text]
    more = ". See whether its layout and its list of classes fit the masks."
    assert found == ([f"d-segment: {said}{more}"] if said else [])


def test_test_boxes_of_classes_that_are_not_scored_are_noted():
    (board,) = boards(
        [
            result("a", "d-box", chosen={"boxes_of_other_classes": 1290}),
            result("b", "d-box", chosen={"boxes_of_other_classes": 1290}),
            result("a", "e-box", chosen={"boxes_of_other_classes": 0}),
        ]
    )
    (text,) = [note.text for note in board.notes if "boxes of its test images" in note.text]
    assert text == (
        "d-box: 1,290 boxes of its test images are of a class that train does not have or the suite does not name, and "
        "are not scored."
    )


def test_every_view_names_test_images_that_repeat_others(tmp_path):
    results = [
        result("a", "e-linear", counts={"train": 20, "test": 60, "repeated": 50}),
        result("a", "f-linear", counts={"train": 20, "test": 60, "repeated": 1}),
        result("a", "g-linear", counts={"train": 20, "test": 60, "repeated": 0}),
    ]
    board = write_leaderboard(lambda: Found(results, []), tmp_path).boards
    views = [terminal_table(board), *((tmp_path / f"leaderboard.{kind}").read_text() for kind in ("csv", "md", "html"))]
    for view in views:
        assert "e-linear: 50 of its 60 test images repeat others, byte for byte." in view
        assert "f-linear: 1 of its 60 test images repeat others, byte for byte." in view
        assert "g-linear: 0" not in view
    assert pd.read_csv(tmp_path / "results.csv").images_repeated.tolist() == [50, 1, 0]
