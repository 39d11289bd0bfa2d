"""The board: what is averaged, what is not, and how it is shown."""

import argparse
import csv
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from random import Random

import pytest

from kdep import cli
from kdep_benchmarks.board import report
from kdep_benchmarks.board.curves import cost_panels, efficiency_panels, fitted_images, regularisation_path
from kdep_benchmarks.board.leaderboard import compact, csv_cell, leaderboard_rows, result_rows, terminal_table
from kdep_benchmarks.board.plots import mean_panel, nice_ticks, rank_panel
from kdep_benchmarks.board.report import html, markdown, write_leaderboard
from kdep_benchmarks.board.table import average_ranks, boards
from kdep_benchmarks.durations import duration
from kdep_benchmarks.results import write_result
from tests.helpers.made_results import failure, result, runs


def rows_of(results):
    return {(row["name"], f"v{row['version']}"): row for row in leaderboard_rows(results)[1]}


def test_a_row_has_mean_deviation_count_and_interval():
    row = rows_of(runs("a", "cifar-linear", [70.0, 72.0, 74.0]))["a", "v1"]
    assert (row["cifar-linear"], row["cifar-linear_std"], row["cifar-linear_n"]) == (72.0, 2.0, 3)
    assert row["cifar-linear_ci95"] == pytest.approx(4.302653 * 2 / 3**0.5, rel=1e-6)  # t(0.975, 2)


def test_the_interval_of_a_top1_holds_the_choice_of_the_images_and_others_do_not():
    counted = {"counts": {"test": 100}}
    top1 = rows_of(runs("a", "cifar-linear", [70.0, 72.0, 74.0], **counted))["a", "v1"]
    assert top1["cifar-linear_ci95"] == pytest.approx(10.02488, abs=1e-4)  # worked out in test_compare
    assert top1["cifar-linear_ci95_images"] == 100
    miou = rows_of(runs("a", "voc-segment", [70.0, 72.0, 74.0], **counted))["a", "v1"]
    assert miou["voc-segment_ci95"] == pytest.approx(4.968276, abs=1e-4)
    assert miou["voc-segment_ci95_images"] is None
    unlike = [result("a", seed=s, score=70.0 + s, counts={"test": 100 + s}) for s in (0, 1)]  # no one number to go by
    assert rows_of(unlike)["a", "v1"]["cifar-linear_ci95_images"] is None
    assert "over runs and 100 images" in html(runs("a", "cifar-linear", [70.0, 72.0, 74.0], **counted))


def test_the_mean_over_families_weighs_families_alike():
    tasks = {"c-linear": 80.0, "d-linear": 60.0, "v-segment": 40.0, "o-detect": 15.0}
    row = rows_of([result("a", task, score=score) for task, score in tasks.items()])["a", "v1"]
    assert row["mean_classification"] == 70.0
    assert row["mean_over_families"] == pytest.approx((70 + 40 + 15) / 3)


def test_incomplete_rows_are_never_averaged_or_ranked_and_absent_is_not_zero():
    results = [result(n, t, score=50.0) for n in ("a", "b") for t in ("c-linear", "v-segment")] + [
        result("c", "c-linear")
    ]
    row = rows_of(results)["c", "v1"]
    assert (row["complete"], row["mean_over_families"], row["average_rank"]) == ("false", None, None)
    assert (row["mean_classification"], row["mean_segmentation"]) == (50.0, None)
    assert (row["v-segment"], row["v-segment_n"]) == (None, None)
    assert rows_of(results)["a", "v1"]["average_rank"] == 1.5  # the tie of the two complete rows


@pytest.mark.parametrize("shuffle", range(4))
def test_of_several_baselines_the_first_by_name_counts_whatever_the_order_of_the_results(shuffle):
    results = [*runs("s", "c-linear", [54.0, 55, 56]), *runs("r", "c-linear", [30.0, 31, 29], role="random")]
    for name, score in (("timm:a2", 80), ("timm:b", 99), ("timm:a1", 55), ("timm:a0", 90)):
        arch = "vgg11" if name == "timm:a0" else "resnet18"
        results += runs(name, "c-linear", [score, score + 1.0, score - 1.0], role="supervised", arch=arch)
    Random(shuffle).shuffle(results)
    assert rows_of(results)["s", "v1"]["share_of_gain"] == pytest.approx(100)  # of a1: (55 - 30) / (55 - 30)
    (note,) = [note for note in boards(results)[0].notes if "Gain shares" in note]
    assert note == "Gain shares of resnet18 go by timm:a1, the first by name of the 3 supervised rows."


def test_a_row_with_a_failed_run_shows_its_scores_and_is_not_averaged():
    row = rows_of([result("a", seed=0), failure("a", seed=1)])["a", "v1"]
    assert (row["cifar-linear"], row["cifar-linear_n"], row["failed"]) == (50.0, 1, 1)
    assert (row["complete"], row["mean_over_families"]) == ("false", None)


def test_a_task_that_only_failed_is_a_hole_of_the_board_not_no_task():
    row = rows_of([result("a", "c-linear"), failure("b", "v-segment")])["a", "v1"]
    assert row["complete"] == "false"
    assert row["v-segment"] is None


def test_protocols_versions_and_budgets_have_rows_of_their_own():
    results = [result("a", score=1.0), result("a", score=2.0, version=2), result("a", score=3.0, budget="smoke")]
    assert [(str(b.protocol), b.rows[0].cells[0].mean) for b in boards(results)] == [
        ("fair-v1", 1.0),
        ("fair-v1-smoke", 3.0),
        ("fair-v2", 2.0),
    ]


def test_metrics_beside_the_main_one_are_in_all_files():
    metrics = [{"top1": 50.0, "top1_macro": 48.0 + s, "top1_pre": 50.0} for s in (0, 2)]
    results = [result("a", "c-linear", seed, metrics=one) for seed, one in enumerate(metrics)]
    results += [result("a", "o-detect", metrics={"AP": 20.0, "AP50": 40.5}), failure("a", "v-segment")]
    results += [result("b", "c-linear", metrics={"top1": 30.0})]
    rows = rows_of(results)
    assert (rows["a", "v1"]["c-linear_top1_macro"], rows["a", "v1"]["o-detect_AP50"]) == (49.0, 40.5)
    assert rows["b", "v1"]["c-linear_top1_macro"] is None and not {"v-segment_mAcc", "c-linear_top1"} & set(
        rows["a", "v1"]
    )
    text = markdown(results)
    assert "### classification: other metrics" in text and "### segmentation: other" not in text
    assert "c-linear (top1\\_macro)" in text and "49.00 ± 1.41 (2)" in text and "o-detect (AP50)" in text
    page = html(results)
    assert page.count("<summary>Other metrics</summary>") == 2 and 'data-value="49.0"' in page


def test_where_rows_come_from_is_in_all_files():
    known = {"method": "kdep svd pts", "teacher": "pypi:x", "pretrain_data": "photos", "images_seen": 640}
    known |= {"pretrain_epochs": 90, "pretrain_seed": 4, "pretrain_commit": "c0ffee"}
    one, other = (result("a", "c-linear", seed, commit=by) for seed, by in ((0, "beef"), (1, "abba")))
    other.checkpoint.summary.update(known)  # the first was written before anybody asked
    results = [one, other, result("b", "c-linear", load={"coverage": 100.0})]
    rows = rows_of(results)
    assert {name: rows["a", "v1"][name] for name in known if name != "images_seen"} == {
        name: value for name, value in known.items() if name != "images_seen"
    }
    assert rows["a", "v1"]["commit"] == "abba, beef" and rows["b", "v1"]["teacher"] is None
    text = markdown(results).split("### provenance")[1]
    assert "| a | 61000000 | resnet18 | kdep svd pts | pypi:x | photos | - | 90 | 4 | - | c0ffee | abba, beef |" in text
    assert "| b | 62000000 | resnet18 | - | - | - | - | - | - | 100 % | - | - |" in text
    assert '<td class="absent" >kdep svd pts</td>' in html(results).partition("<h3>Provenance</h3>")[2]


def test_two_versions_of_the_data_have_columns_of_their_own_and_a_note():
    results = [result("a", score=1.0, data="a" * 64), result("b", score=2.0, data="b" * 64)]
    rows = rows_of(results)
    assert (rows["a", "v1"]["cifar-linear@aaaaaa"], rows["a", "v1"]["cifar-linear@bbbbbb"]) == (1.0, None)
    assert rows["a", "v1"]["complete"] == rows["b", "v1"]["complete"] == "false"
    assert "2 versions of its data: cifar-linear@aaaaaa, cifar-linear@bbbbbb" in boards(results)[0].notes[0]


def test_settings_that_differ_have_columns_of_their_own_and_a_note():
    results = [
        result("a", score=1.0, settings={"size": 32, "k": [1, 5]}),
        result("b", score=2.0, settings={"size": 40, "k": [1, 5]}),
        result("c", "other-linear", score=3.0, settings={"size": 64}),
    ]
    (board,) = boards(results)
    (note,) = [note for note in board.notes if "settings" in note]
    small, large = (f"cifar-linear@s-{digest}" for digest in re.findall(r"@s-(\w{6}) \(size", note))
    assert f"{small} (size 32), {large} (size 40); never averaged" in note or f"{large} (size" in note
    rows = rows_of(results)
    assert sorted([rows["a", "v1"][small] or 0, rows["a", "v1"][large] or 0]) == [0, 1.0]
    assert [rows[name, "v1"]["complete"] for name in "abc"] == ["false"] * 3
    assert rows["c", "v1"]["other-linear"] == 3.0


def test_a_result_that_does_not_say_its_settings_joins_the_one_known_and_no_two():
    old, small, large = result("a", score=1.0), *(result("b", score=2.0, settings={"size": s}) for s in (32, 40))
    (board,) = boards([old, small])
    assert [(column.label, len(board.rows)) for column in board.columns] == [("cifar-linear", 2)]
    (board,) = boards([old, small, replace(large, seed=1)])
    assert len(board.columns) == 3 and "cifar-linear@s-unknown" in [column.label for column in board.columns]
    assert "cifar-linear@s-unknown (settings not recorded)" in board.notes[0]
    paper = replace(large, protocol=replace(large.protocol, name="paper"))
    assert [c.label for b in boards([small, paper]) for c in b.columns] == ["cifar-linear"] * 2  # protocols have theirs


def test_one_task_with_two_main_metrics_is_refused():
    with pytest.raises(ValueError, match="cifar-linear: main metric is top1 in one result and macro_top1 in another"):
        boards([result("a"), result("b", metrics={"macro_top1": 50.0})])


def test_ranks_are_means_over_tasks_with_an_interval_over_seeds():
    results = [one for n, s in (("a", 70), ("b", 60), ("c", 50)) for one in runs(n, "c-linear", [s, s + 1.0, s + 0.5])]
    results += [
        one for n, s in (("a", 20), ("b", 10), ("c", 30)) for one in runs(n, "v-segment", [s, s + 1.0, s + 0.5])
    ]
    ranks = average_ranks(boards(results)[0])
    values = {row.checkpoint.name: ranks[row.checkpoint.sha256] for row in boards(results)[0].rows}
    assert {name: rank.value for name, rank in values.items()} == {"a": 1.5, "b": 2.5, "c": 2.0}
    assert (values["a"].low, values["a"].high) == (1.5, 1.5)  # seeds that spread by one do not reverse a gap of ten


def test_a_rank_over_single_runs_has_no_interval_and_an_unclear_one_a_wide_one():
    single = average_ranks(boards([result("a", score=2.0), result("b", score=1.0)])[0]).values()
    assert [(rank.low, rank.high) for rank in single] == [(None, None)] * 2
    unclear = runs("a", "c-linear", [50, 60.0, 70]) + runs("b", "c-linear", [51, 61.0, 69])
    assert {(rank.low, rank.high) for rank in average_ranks(boards(unclear)[0]).values()} == {(1.0, 2.0)}


def gain(student, random, supervised, **others):
    results = [*runs("s", "c-linear", student), *runs("r", "c-linear", random, role="random")]
    results += runs("t", "c-linear", supervised, role="supervised", **others)
    row = rows_of(results)["s", "v1"]
    return row["c-linear_share_of_gain"], row["share_of_gain"]


def test_the_share_of_the_supervised_gain_is_that_of_its_definition():
    # (55 - 30) / (80 - 30) = half the way
    assert gain([54.0, 55, 56], [30.0, 31, 29], [80.0, 79, 81]) == (pytest.approx(50), pytest.approx(50))


@pytest.mark.parametrize(
    ("supervised", "others"),
    [
        ([31.0, 29.0, 32.0], {}),  # the gain is within its noise
        ([10.0, 10.5, 11.0], {}),  # supervised is clearly below random
        ([80.0], {}),  # one pair has no noise to compare with
        ([80.0, 81.0, 82.0], {"arch": "mobilenetv2_100"}),  # the baseline of another architecture
    ],
)
def test_the_share_is_absent_where_the_supervised_gain_is_not_clear(supervised, others):
    assert gain([54.0, 55, 56], [30.0, 31, 29], supervised, **others) == (None, None)


def test_the_share_is_absent_where_a_run_of_the_score_or_of_a_baseline_failed():
    results = [*runs("s", "c-linear", [55.0, 55.5]), *runs("r", "c-linear", [30.0, 30.5], role="random")]
    results += runs("t", "c-linear", [80.0, 80.4], role="supervised")
    assert rows_of(results)["s", "v1"]["c-linear_share_of_gain"] is not None
    for name in "srt":
        failed = failure(name, "c-linear", 9, role={"s": "student", "r": "random", "t": "supervised"}[name])
        assert rows_of([*results, failed])["s", "v1"]["c-linear_share_of_gain"] is None


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


def test_speeds_of_extraction_and_of_training_stand_apart_on_the_board():
    costs = {
        "cifar-knn": [800.0, None],
        "cifar-linear": [None, 600.0],
        "cifar-finetune": [50.0, 40.0],
        "ade-segment": [9.0, 8.0],
    }
    found = [
        result("a", task, seed, cost={"device": "cpu x1"} | ({"images_per_second": speed} if speed else {}))
        for task, speeds in costs.items()
        for seed, speed in enumerate(speeds)
    ]
    row = rows_of(found)["a", "v1"]
    assert (row["images_per_second"], row["training_images_per_second"]) == (700.0, 45.0)
    columns = leaderboard_rows(found)[0]
    assert columns.index("images_per_second") + 1 == columns.index("training_images_per_second")
    shown = html(found).partition("<h3>Cost</h3>")[2]
    assert "images/s" in shown and 'data-value="700.0"' in shown and 'data-value="45.0"' in shown
    by_cell = [(line["task"], line["images_per_second"]) for line in result_rows(found)[1]]
    assert by_cell == [(task, speed) for task, speeds in costs.items() for speed in speeds]


def test_speeds_of_different_devices_are_not_put_together_and_unknown_costs_are_no_zeros():
    mixed = [result("a", seed=i, cost={"device": f"d{i}", "images_per_second": 9.0}) for i in (0, 1)]
    row = rows_of(mixed)["a", "v1"]
    assert (row["images_per_second"], row["device"], row["seconds"], row["peak_memory_mb"]) == (None,) * 4


def test_durations_are_short_for_people():
    assert [duration(seconds) for seconds in (41.6, 59.4, 60, 3599, 3600, 9000)] == [
        "42 s",
        "59 s",
        "1 min",
        "60 min",
        "1.0 h",
        "2.5 h",
    ]


def test_settings_at_the_end_of_their_grid_are_noted():
    chosen = [{"k": 5, "k_at_edge": edge, "temperature_at_edge": False} for edge in (True, False, True)]
    notes = boards([result("a", "c-knn", seed, chosen=one) for seed, one in enumerate(chosen)])[0].notes
    assert [note for note in notes if "grid" in note] == [
        "Best at an end of its grid, so that a better value may lie beyond: c-knn k in 2 of 3 runs."
    ]
    assert not [note for note in boards([result("a", "c-knn", chosen=chosen[1])])[0].notes if "grid" in note]


def notes_of(*results):
    return [note for note in boards(results)[0].notes if "runs" in note or "baseline" in note]


def test_too_few_and_unequal_numbers_of_runs_are_noted():
    enough = [*runs("a", "c-linear", [1.0, 2, 3], role="other"), *runs("a", "d-knn", [1.0, 2, 3], role="other")]
    assert notes_of(*enough, *runs("b", "c-linear", [1.0, 2, 3], role="other")) == []
    few = runs("b", "c-linear", [1.0, 2], role="other") + runs("b", "d-knn", [4.0] * 3, role="other")
    assert notes_of(*enough, *few) == [
        "b: fewer than 3 runs, too few to publish: c-linear (2).",
        "c-linear: unequal numbers of runs: 3 of a; 2 of b.",
    ]
    assert notes_of(result("a", role="other")) == ["Fewer than 3 runs of everything on this board: too few to publish."]


def test_a_student_without_the_random_baseline_of_its_architecture_is_noted():
    student, other = runs("s", "c-linear", [1.0, 2, 3]), runs("o", "c-linear", [1.0, 2, 3], role="supervised")
    wrong = runs("random:vgg11", "c-linear", [1.0, 2, 3], role="random", arch="vgg11")
    (note,) = notes_of(*student, *other, *wrong)
    assert note.startswith("No random baseline of resnet18, ") and "`kdep transfer random:resnet18`" in note
    assert notes_of(*student, *other, *runs("random:resnet18", "c-linear", [1.0, 2, 3], role="random")) == []


def test_notes_are_in_all_files_and_in_the_table_of_rows_at_the_rows_they_are_about():
    results = [*runs("s", "c-linear", [1.0, 2, 3]), *runs("o", "c-linear", [1.0, 2], role="other")]
    baseline, few, unequal = notes_of(*results)[-1], *notes_of(*results)[:2]
    assert "baseline" in baseline and few.startswith("o: fewer") and "unequal" in unequal
    columns, rows = leaderboard_rows(results)
    assert columns[-1] == "notes"
    assert {row["name"]: row["notes"] for row in rows} == {"s": f"{unequal} {baseline}", "o": f"{few} {unequal}"}
    assert "- No random baseline of resnet18" in markdown(results) and "No random baseline" in html(results)
    complete = leaderboard_rows(runs("o", "c-linear", [1.0, 2, 3], role="other"))[1]
    assert complete[0]["notes"] is None


def test_settings_that_a_task_fixes_are_noted_once():
    chosen = {"lr": 1e-3, "lr_fixed": True, "weight_decay": 0.1, "weight_decay_at_edge": False}
    notes = boards([result("a", "c-finetune", seed, chosen=chosen) for seed in range(2)])[0].notes
    assert [note for note in notes if "ixed" in note] == ["Fixed by the task, not chosen on val: c-finetune lr."]


def test_two_checkpoints_of_one_name_stay_two_rows_and_are_noted():
    board = boards([result("a", score=1.0), result("a", score=2.0, sha256="f" * 64)])[0]
    assert [row.cells[0].mean for row in board.rows] == [2.0, 1.0]
    assert [row.checkpoint.name for row in board.rows] == ["a (ffffffff)", "a (61000000)"]
    assert board.notes[-1] == (
        "a (61000000), a (ffffffff): checkpoints of one name; the digits are the first of their sha256."
    )


def test_a_row_is_called_the_same_on_every_board_and_the_same_weights_have_one_name():
    one = [result("tv", version=1, sha256="1" * 64), result("dino", version=2, sha256="1" * 64)]
    other = result("dino", version=2, sha256="2" * 64)
    found = [[row.checkpoint.name for row in board.rows] for board in boards([*one, other])]
    assert found == [["dino (11111111)"], ["dino (11111111)", "dino (22222222)"]]


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd|x", "@SUM(A1)", "\tx", "\rx", "＝1", "+5", "--5", "-5-5"])
def test_what_a_spreadsheet_would_run_is_escaped(text):
    assert csv_cell(text) == "'" + text


@pytest.mark.parametrize(
    ("value", "text"), [(-1.5, "-1.5"), ("-1e-3", "-1e-3"), (None, "-"), ("-", "-"), ("a=b", "a=b")]
)
def test_numbers_and_the_lone_dash_are_not_escaped(value, text):
    assert csv_cell(value) == text


def test_figures_in_files_are_whole_but_without_the_noise_of_addition():
    assert csv_cell(0.1 + 0.2) == "0.3"
    assert csv_cell(100 / 3) == "33.3333333333"


def test_the_four_files_are_written_and_read_back(tmp_path):
    write_result(result("=evil", score=61.5, metrics={"top1": 61.5, "macro_top1": 60.0}), tmp_path)
    write_result(failure("b", seed=2), tmp_path)
    write_leaderboard(tmp_path, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "leaderboard.csv",
        "leaderboard.html",
        "leaderboard.md",
        "results.csv",
    ]
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        lines = [(r["name"], r["metric"], r["value"], r["main"], r["status"], r["error"]) for r in csv.DictReader(file)]
    assert lines == [
        ("'=evil", "top1", "61.5", "true", "ok", "-"),
        ("'=evil", "macro_top1", "60.0", "false", "ok", "-"),
        ("b", "-", "-", "-", "failed", "RuntimeError: out of memory"),
    ]


def test_the_long_form_says_what_was_chosen_and_where_the_checkpoint_comes_from():
    one = result(chosen={"C": 10.0, "C_at_edge": True}, counts={"test": 16}, versions={"torch": "2.13.0"})
    one.checkpoint.summary["images_seen"] = 640
    row = result_rows([one])[1][0]
    assert (row["chosen"], row["at_edge"]) == ('{"C": 10.0, "C_at_edge": true}', "true")
    assert (row["pretrain_images_seen"], row["images_score"], row["torch"]) == (640, 16, "2.13.0")


def test_the_markdown_table_marks_the_best_of_each_protocol_and_escapes_names():
    results = [result("a|b", score=60.0), result("*c*", score=50.0), result("d", score=99.0, version=2)]
    text = markdown(results)
    assert "| a\\|b | **60.00 (1)** |" in text
    assert "| \\*c\\* | 50.00 (1) |" in text
    assert "| d | 99.00 (1) |" in text  # alone on its board: nothing to be better than
    scores = [line for line in text.split("### classification")[1].splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in scores[:4]] == [3] * 4  # two cells, whatever the name


def test_scores_that_look_equal_are_best_together_and_none_where_all_do():
    scores = {"a": 0.001, "b": 0.004, "c": 0.0}
    assert "**" not in markdown([result(name, score=score) for name, score in scores.items()])
    ahead = [result(name, score=score + 5) for name, score in (scores | {"c": -1.0}).items()]
    text = markdown(ahead)
    assert "| a | **5.00 (1)** |" in text and "| b | **5.00 (1)** |" in text and "| c | 4.00 (1) |" in text


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


EVIL = '<img src=x onerror="alert(1)">&'


def test_the_page_escapes_every_name():
    page = Page(html([result(EVIL, "cifar-linear", arch=EVIL), result("b", f"{EVIL}-knn"), failure(EVIL, "x-detect")]))
    assert "img" not in [tag for tag, _ in page.tags]
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert EVIL in page.text


def test_the_page_needs_no_network():
    text = html(runs("a", "cifar-linear", [1.0, 2.0]))
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    loads = [(t, a) for t, a in Page(text).tags if {"src", "href"} & set(a) or t in ("link", "iframe", "object")]
    assert loads == []
    assert "default-src 'none'" in text  # and the browser holds it to that


def test_the_page_has_plots_ranks_and_paths():
    curves = {"C": [0.01, 0.1, 1.0], "val_top1": [50.0, 60.0, 55.0]}
    results = [result(n, "c-linear", seed, 50.0 + i, curves=curves) for i, n in enumerate("xyz") for seed in (0, 1)]
    page = Page(html(results))
    titles = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg" and "aria-label" in attrs]
    assert titles == ["mean", "average rank", "c-linear", "c-linear"]
    assert [tag for tag, _ in page.tags].count("polyline") == 3
    assert rank_panel(boards(results[:4])[0]) == ""  # two rows: the ranks would say nothing new


def test_values_that_the_page_sorts_by_are_numbers_and_absent_ones_have_none():
    results = [result("a", "c-linear", score=5.0), result("a", "d-linear"), result("b", "c-linear", score=40.0)]
    cells = [attrs for tag, attrs in Page(html(results)).tags if tag == "td"]
    assert all(float(attrs["data-value"]) is not None for attrs in cells if "data-value" in attrs)
    assert any("absent" in attrs["class"] and "data-value" not in attrs for attrs in cells)


def labelled(board, make):
    return [re.search(r'aria-label="(.*?)"', panel)[1] for panel in make(board)]


def test_a_family_of_several_tasks_has_a_panel_of_its_mean_and_only_rows_with_all_of_them():
    results = [one for n, s in (("a", 70.0), ("b", 60.0)) for t in "cd" for one in runs(n, f"{t}-linear", [s, s + 2])]
    results += [result("x", "c-linear", score=99.0), result("a", "v-segment"), result("b", "v-segment")]
    (board,) = boards(results)
    panel = mean_panel(board, "classification")
    assert "<title>a: 71.00, 95 % interval" in panel and "<title>b: 61.00" in panel and "<title>x" not in panel
    assert mean_panel(board, "segmentation") == ""  # its one task says it


def seen(one, images):
    one.checkpoint.summary["images_seen"] = images
    return one


def test_scores_stand_over_the_images_seen_and_incomplete_rows_do_not():
    results = [seen(result("s", t, score=60.0), 1_000_000) for t in ("c-linear", "v-segment")]
    results += [result("random:r", t, score=20.0, role="random") for t in ("c-linear", "v-segment")]
    results += [seen(result("half", "c-linear", score=50.0), 10_000)]
    (board,) = boards(results)
    assert labelled(board, cost_panels) == ["mean", "classification", "segmentation"]
    mean, classification, _ = cost_panels(board)
    assert "s: 60.00 after 1 M images" in mean and 'class="guide random"' in mean and "half" not in mean
    assert "half: 50.00 after 10 k images" in classification
    assert cost_panels(boards([result("a")])[0]) == []


def few(name, shares, score, **others):
    out = []
    for share in shares:
        counts = {"train": 40 * share, "val": 1000, "test": 500}
        task = f"c-fewshot{share}" if share < 100 else "c-linear"
        one = result(name, task, score=score + share / 10, **({"counts": counts} | others))
        out.append(replace(one, task=replace(one.task, kind="fewshot" if share < 100 else "linear")))
    return out


def test_fewer_labels_are_a_curve_over_the_images_fitted_on_that_ends_at_the_linear_probe():
    (board,) = boards([*few("a", (1, 10, 100), 50.0), *few("b", (10,), 40.0), *few("b", (1,), 30.0)])
    assert labelled(board, efficiency_panels) == ["c"]
    (panel,) = efficiency_panels(board)
    points = [len(line.split()) for line in re.findall(r'points="(.*?)"', panel)]
    assert points == [3, 2]
    assert re.findall(r'text-anchor="middle">(.*?)<', panel) == ["100", "1 k"]  # of 40 to 5000
    (row,) = [row for row in board.rows if row.checkpoint.name == "a"]
    counted = {column.label: fitted_images(row, column) for column in board.columns}
    assert counted == {"c-fewshot1": 40, "c-fewshot10": 400, "c-linear": 5000}  # refitted on train and val


def test_a_curve_has_no_point_without_a_count_or_by_two_settings():
    (board,) = boards([*few("a", (1, 10), 50.0), *few("a", (100,), 50.0, counts={})])
    (panel,) = efficiency_panels(board)
    assert [len(line.split()) for line in re.findall(r'points="(.*?)"', panel)] == [2]
    differ = [*few("a", (1, 100), 50.0), *few("a", (10,), 50.0, settings={"draws": 5})]
    differ += few("b", (10,), 50.0, settings={"draws": 9})
    (panel,) = efficiency_panels(boards(differ)[0])
    assert [len(line.split()) for line in re.findall(r'points="(.*?)"', panel)] == [2]
    unequal = [*few("a", (1,), 50.0), *(replace(one, seed=1, counts={"train": 60}) for one in few("a", (1,), 50.0))]
    (board,) = boards(unequal)
    assert fitted_images(board.rows[0], board.columns[0]) == 50
    assert fitted_images(boards([result("a", "c-knn", counts={"train": 5})])[0].rows[0], board.columns[0]) is None


CLICKS = """<script>
addEventListener("load", () => {
  const table = document.querySelector("table"), said = [];
  const rows = () => Array.from(table.tBodies[0].rows).filter(row => !row.hidden);
  const shown = () => rows().map(row => row.cells[0].textContent);
  const click = name => {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.find(cell => cell.textContent.startsWith(name)).querySelector("button").click();
    said.push(shown().join());
  };
  click("mean"); click("mean"); click("checkpoint"); click("rank");
  const filter = document.getElementById("filter");
  filter.value = "RANDOM resnet18"; filter.dispatchEvent(new Event("input")); said.push(shown().join());
  document.title = said.join(" ") + " " + (document.documentElement.scrollWidth <= innerWidth);
});
</script></body>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_sorts_and_filters_the_page_and_nothing_is_wider_than_it(tmp_path):
    results = [
        result(n, t, score=s) for n, s in (("m", 9.0), ("z", 80.0), ("b", 70.0)) for t in ("c-linear", "v-segment")
    ]
    results += [result("random:r", "c-linear", score=5.0, role="random")]  # incomplete: last, both ways
    page = tmp_path / "page.html"
    page.write_text(html(results).replace("</body>", CLICKS), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
    dom = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True).stdout
    title = re.search("<title>(.*?)</title>", dom)[1]
    assert title == "z,b,m,random:r m,b,z,random:r b,m,random:r,z z,b,m,random:r random:r true"


@pytest.mark.parametrize(("low", "high"), [(0, 100), (61.2, 61.9), (5, 5), (0, 0), (0.003, 0.004), (12.1, 97.3)])
def test_ticks_are_few_and_enclose_the_data(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 6


def path_of(curves, **chosen):
    return regularisation_path(result(curves=curves, chosen=chosen))


def test_a_path_is_that_of_the_chosen_tap_and_never_guessed():
    pairs, others = [(0.1, 50.0), (1.0, 60.0)], {"lambda": [0.1, 1.0], "val_top1": [1.0, 2.0]}
    curve = {"chosen": {"lambda": 1.0}, "lambda": [0.1, 1.0], "val_top1": [50.0, 60.0]}
    assert path_of({"lambda": [1.0, 0.1], "val_top1": [60.0, 50.0]}) == pairs
    assert path_of({"pre": others, "post": curve}, tap="post") == pairs
    assert path_of({"lambda": [0.0, 1.0], "val_top1": [50.0, 60.0]}) is None  # no place on a logarithmic axis
    assert path_of({}) is None


def test_counts_are_short_for_people():
    assert [compact(count) for count in (950, 20_000, 1_281_167, 999_999)] == ["950", "20 k", "1.281 M", "1000 k"]


def test_the_terminal_table_is_aligned_and_marks_the_best():
    text = terminal_table(
        runs("a", "c-linear", [60.0, 62.0]) + runs("long name", "c-linear", [50.0]) + [failure("f", "c-linear")]
    )
    assert "61.00 ± 1.41 (2)*" in text
    assert "failed (1)!" in text
    block = text.split("\n\n")[3].splitlines()
    assert len({len(line) for line in block}) == 1


def test_the_command_rebuilds_the_board_beside_the_results(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    write_result(result("a"), tmp_path / "one")
    write_result(result("b"), tmp_path / "two")
    assert report.run(parser.parse_args([str(tmp_path / "one"), str(tmp_path / "two")])) == 0
    assert "b" in capsys.readouterr().out
    first = (tmp_path / "one" / "leaderboard.html").read_bytes()
    assert report.run(parser.parse_args([str(tmp_path / "one"), str(tmp_path / "two")])) == 0
    assert (tmp_path / "one" / "leaderboard.html").read_bytes() == first


def test_compare_behind_leaderboard_says_the_command_that_is_right(capsys):
    words = ["leaderboard", "compare", "a", "random:resnet18", "--results", "demo/results"]
    assert cli.main(words) == 2
    assert "kdep compare a random:resnet18 --results demo/results\n" in capsys.readouterr().err


def test_no_results_make_an_empty_board_not_an_error(tmp_path):
    assert write_leaderboard(tmp_path, tmp_path) == []
    assert "No results yet" in (tmp_path / "leaderboard.html").read_text()
    assert terminal_table([]) == "no results yet\n"
