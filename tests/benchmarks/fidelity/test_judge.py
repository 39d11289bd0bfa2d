from dataclasses import replace

import numpy as np
import pytest

from kdep.models.weights import open_checkpoint
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.fidelity import judge as judging
from kdep_benchmarks.fidelity.agreement import Estimate, agreement
from kdep_benchmarks.fidelity.columns import differing, measured_columns, naive_columns
from kdep_benchmarks.fidelity.judge import GROUPS, NOT, STANDS, UNKNOWN, Fidelity, judge, verdict
from kdep_benchmarks.fidelity.report import sentences
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.measure import measure_cell
from kdep_benchmarks.jobs.plan import checkpoint_card, look_up, plan_cell
from kdep_benchmarks.results import read_results, write_result
from kdep_benchmarks.tasks.task import Task
from tests.helpers.made_results import Answered, result, runs

ALL = ~np.eye(12, dtype=bool)


def answered(shares, task, images=400, **others):
    """A checkpoint per share of right answers."""
    made = Answered()
    for at, share in enumerate(shares):
        made.add(f"net{at:02}", task, np.arange(images) < share * images, **others)
    return made


def test_a_column_stands_for_another_only_by_the_whole_rule():
    random = np.random.default_rng(0)
    rising, cluster = np.arange(12.0), np.repeat([0.0, 50.0], 6)
    same = agreement(rising, rising + random.normal(scale=0.5, size=12), ALL, draws=200)
    groups = agreement(cluster + random.normal(size=12), cluster + random.normal(size=12), ALL, draws=200)
    assert verdict(same, 0.04) == STANDS and verdict(same, 0.06) == NOT  # Holm's
    assert verdict(groups, 0.04) == GROUPS
    assert verdict(agreement(rising, -rising, ALL, draws=50), 0.01) == NOT
    assert verdict(agreement(np.ones(12), rising, ALL, draws=50), 1.0) == UNKNOWN
    assert verdict(agreement(rising, rising, np.zeros_like(ALL), draws=50), 0.01) == UNKNOWN


def test_an_agreement_that_may_be_chance_does_not_stand_whatever_tau_says():
    rising = np.arange(12.0)
    same = agreement(rising, rising, ALL, draws=50)
    assert verdict(same, 0.01) == STANDS
    assert verdict(replace(same, alike=Estimate(60.0, 49.0, 70.0)), 0.01) == NOT


def test_columns_without_a_relation_are_rarely_called_one():
    """Of 100 independent pairs of twelve checkpoints the rule passes about one, without Holm's correction here."""
    random = np.random.default_rng(5)
    passed = [
        verdict(found, found.p) != NOT
        for found in (agreement(*random.normal(size=(2, 12)), ALL, draws=200) for _ in range(100))
    ]
    assert sum(passed) <= 4


def test_a_column_has_the_mean_over_the_seeds_of_each_checkpoint():
    results = [*runs("a", "set-finetune", [50.0, 60.0, 70.0]), *runs("b", "set-finetune", [40.0])]
    (column,) = measured_columns(results)
    assert list(column.values.values()) == [60.0, 40.0]


def test_pairs_differ_by_the_verdict_over_the_test_images():
    made = answered([0.5, 0.51, 0.7], "set-finetune")
    (column,) = measured_columns(made.results)
    shas = sorted(column.values)
    assert differing(column, shas, made.read).tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def test_a_measured_knn_cell_records_what_the_naive_predictors_read(photos, tmp_path):
    dataset = Dataset("photos", "imagefolder", photos, {"train": ".:train", "test": ".:test"})
    task = Task("photos-knn", "knn", dataset, settings={"size": 32, "workers": 0})
    spec = "random:test_resnet"
    cell = Cell(spec, None, checkpoint_card(open_checkpoint(spec)), task, 0, "cpu", tmp_path)
    planned = plan_cell(cell, look_up(task))
    planned.cell.work.mkdir(parents=True)
    measured, answers = measure_cell(planned.cell)
    write_result(measured, tmp_path, answers=answers)
    assert plan_cell(cell, look_up(task)).state == "done"
    results = read_results(tmp_path)
    assert [column.name for column in naive_columns(results, measured_columns(results))] == [
        "images seen",
        "LogME of photos-knn",
    ]


def test_naive_predictors_come_from_provenance_and_from_logme_of_the_tap_that_knn_chose():
    results = []
    for at, role in enumerate(("random", "student", "supervised")):
        one = result(f"net{at}", "set-knn", 0, 50.0, role=role)
        one.checkpoint.summary.update({"images_seen": 640, "pretrain_loss": 2.5} if role == "student" else {})
        one.chosen["tap"] = "post"
        one.curves.update({"post": {"logme": [0.1 * at]}, "pre": {"logme": [9.0]}} if at else {})
        results.append(one)
    seen, loss, logme = naive_columns(results, measured_columns(results))
    shas = [one.checkpoint.sha256 for one in results]
    assert seen.values == {shas[0]: 0, shas[1]: 640}  # how many the supervised network saw is not known
    assert loss.values == {shas[1]: -2.5}  # a lower loss is better
    assert logme.name == "LogME of set-knn" and logme.values == pytest.approx({shas[1]: 0.1, shas[2]: 0.2})


def test_pairs_of_columns_with_few_checkpoints_are_left_out_and_said_and_none_at_all_is_refused(monkeypatch):
    monkeypatch.setattr(judging, "agreement", lambda *args: agreement(*args, draws=20))
    full, cheap = answered(np.linspace(0.3, 0.9, 6), "set-finetune"), answered(np.linspace(0.3, 0.9, 6), "set-knn")
    columns = {column.kind: column for column in measured_columns([*full.results, *cheap.results])}
    few = measured_columns(cheap.results[:3])
    found, left_out = judge([columns["knn"], *few], [columns["finetune"]], full.read)
    assert [(one.agreement.checkpoints, one.agreement.tau.value) for one in found] == [(6, 1.0)]
    assert left_out == ["set-knn and set-finetune: 3 checkpoints have both"]
    with pytest.raises(ValueError, match="needs 5 or more checkpoints .*: 3 checkpoints have both"):
        judge(few, [columns["finetune"]], full.read)


def test_p_values_are_corrected_for_all_pairs_of_columns_of_a_report(monkeypatch):
    monkeypatch.setattr(judging, "agreement", lambda *args: agreement(*args, draws=20))
    shares = np.linspace(0.3, 0.9, 6)
    full, cheap = answered(shares, "set-finetune"), [answered(shares, f"set{number}-knn") for number in range(5)]
    (target,) = measured_columns(full.results)
    columns = measured_columns([one for made in cheap for one in made.results])
    found, _ = judge(columns, [target], full.read)
    assert [one.adjusted for one in found] == pytest.approx([5 * found[0].agreement.p] * 5)


def test_the_sentence_about_a_column_counts_the_columns_it_names():
    def about(*verdicts, differs=ALL):
        rising = np.arange(12.0)
        own = [agreement(np.ones(12) if one == UNKNOWN else rising, rising, differs, draws=20) for one in verdicts]
        named = zip("abc", own, verdicts, strict=False)
        return sentences([Fidelity(name, "full", False, one, 0.01, said) for name, one, said in named])[0]

    begins = "full: 66 of 66 pairs of checkpoints differ on it; "
    assert about(NOT) == f"{begins}a (tau 1.00) may not stand for it."
    assert about(NOT, NOT) == f"{begins}2 columns may not stand for it, the nearest is a (tau 1.00)."
    assert about(GROUPS) == f"{begins}a (tau 1.00) tells two groups apart, and no more is shown."
    assert about(GROUPS, GROUPS).endswith("b (tau 1.00) tell two groups apart, and no more is shown.")
    # A cheap column that is the same for all checkpoints says nothing of the expensive one, on which they differ.
    assert about(UNKNOWN) == f"{begins}of a nothing can be said."
    assert "because no two checkpoints differ on it" in about(UNKNOWN, differs=np.zeros_like(ALL))
