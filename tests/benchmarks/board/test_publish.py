"""Rows of the board as runs of W&B and MLflow: the board's numbers under the board's names, one run each."""

import argparse
import sys
import types

import pytest

from kdep_benchmarks.board import publish, report
from kdep_benchmarks.board.publish import entries, mlflow_name
from kdep_benchmarks.results import write_result
from tests.helpers.made_results import failure, result, runs
from tests.kdep.run.test_trackers import mlflow_client, named, needs, store, wandb_records  # noqa: F401 - two are fixtures


def made():
    """Two rows of two tasks under one protocol, and one of them under another version too."""
    return [
        *runs("a", "cifar-linear", [60.0, 62.0, 64.0], commit="c1"),
        *runs("a", "voc-segment", [30.0, 34.0], commit="c2"),
        *runs("b", "cifar-linear", [50.0, 50.0], role="random"),
        *runs("b", "voc-segment", [20.0, 20.0], role="random"),
        *runs("a", "cifar-linear", [99.0], version=2),
    ]


def test_an_entry_holds_what_the_board_says_of_its_row():
    first, second, other = entries(made())
    assert [(e.name, e.protocol) for e in (first, second, other)] == [
        ("a", "fair-v1"),
        ("b", "fair-v1"),
        ("a", "fair-v2"),
    ]
    assert len({e.key for e in (first, second, other)}) == 3
    assert (first.scores["cifar-linear"], first.scores["cifar-linear_std"], first.scores["cifar-linear_n"]) == (
        62,
        2,
        3,
    )
    assert (first.scores["voc-segment"], first.scores["mean_over_families"]) == (32, 47)
    assert (first.scores["average_rank"], second.scores["average_rank"]) == (1, 2)
    assert other.scores["cifar-linear"] == 99 and "voc-segment" not in other.scores  # not measured is no zero
    assert (first.facts["sha256"], first.facts["role"], first.facts["metric.voc-segment"]) == (
        "61".ljust(64, "0"),
        "student",
        "mIoU",
    )
    assert first.facts["data.cifar-linear"] == "d" * 64 and first.facts["measured_by"] == "c1, c2"


def test_a_row_keeps_its_key_when_its_scores_change_and_failures_are_counted():
    before = entries(made())[0]
    after = next(e for e in entries([*made(), failure("a", "cifar-linear", 3)]) if e.key == before.key)
    assert (before.scores["failed"], after.scores["failed"]) == (0, 1)
    assert "average_rank" not in after.scores and after.facts["complete"] == "false"


def test_names_are_those_that_mlflow_takes():
    assert [mlflow_name(n) for n in ("cifar10-knn_std", "a@3f2a", "tâsk: 1", "a*b")] == [
        "cifar10-knn_std",
        "a/3f2a",
        "tâsk- 1",
        "a-b",
    ]


class FakeRun:
    def __init__(self, summary):
        self.summary = summary

    def finish(self):
        self.summary["_finished"] = True


def test_what_a_row_no_longer_has_goes_from_its_summary(monkeypatch, tmp_path):
    fake = FakeRun({"gone-linear": 5.0, "cifar-linear": 1.0, "_runtime": 3})
    module = types.SimpleNamespace(init=lambda **given: fake, Error=type("Error", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "wandb", module)
    entry = entries(made())[0]
    publish.to_wandb([entry], tmp_path)
    assert fake.summary == {**entry.scores, "_runtime": 3, "_finished": True}


def written(folder):
    for one in made():
        write_result(one, folder)
    return folder


def export(*words):
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return report.run(parser.parse_args([*map(str, words)]))


@needs["wandb"]
def test_every_row_is_a_run_of_wandb(monkeypatch, tmp_path, capsys):
    import json

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = written(tmp_path / "results")
    assert export("export", folder, "--to", "wandb") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wandb: {n}" for n in ("a (fair-v1)", "b (fair-v1)", "a (fair-v2)")
    ]
    found = {}
    for path in (folder / "wandb").glob("offline-run-*/*.wandb"):
        records = wandb_records(path)
        settings = {named(item): json.loads(item.value_json) for item in records["run"][0].config.update}
        told = {named(i): json.loads(i.value_json) for record in records["summary"] for i in record.update}
        found[records["run"][0].run_id] = (settings, told)
    assert set(found) == {entry.key for entry in entries(made())}
    for entry in entries(made()):
        settings, told = found[entry.key]
        assert settings["sha256"] == entry.facts["sha256"] and settings["protocol"] == entry.facts["protocol"]
        assert {name: told[name] for name in entry.scores} == pytest.approx(entry.scores)


@needs["mlflow"]
def test_every_row_is_one_run_of_mlflow_however_often_it_is_told(mlflow_client, tmp_path):  # noqa: F811 - the fixture
    folder = written(tmp_path / "results")
    for _ in range(2):
        assert export("export", folder, "--to", "mlflow") == 0
        experiment = mlflow_client.get_experiment_by_name("kdep-board").experiment_id
        told = {run.data.tags[publish.TAG]: run for run in mlflow_client.search_runs([experiment])}
        assert set(told) == {entry.key for entry in entries(made())}
        assert len(mlflow_client.search_runs([experiment])) == 3
    for entry in entries(made()):
        data = told[entry.key].data
        assert data.metrics == pytest.approx({mlflow_name(name): value for name, value in entry.scores.items()})
        assert data.params == {mlflow_name(name): str(value) for name, value in entry.facts.items()}
        assert told[entry.key].info.status == "FINISHED"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["export"], "export needs --to wandb or --to mlflow"),
        (["export", "--to", "wandb", "--out", "x"], "export needs --to wandb or --to mlflow, and takes folders"),
        (["export", "absent", "--to", "mlflow"], "absent: no such folder of results"),
        (["merge", "a", "--results", "b", "--to", "mlflow"], "--to is for export"),
        (["--to", "wandb"], r"--to is for export: kdep leaderboard export \[DIR ...\] --to wandb"),
    ],
)
def test_what_cannot_be_told_is_refused(words, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=what):
        export(*words)


def test_an_unknown_service_and_a_missing_package_are_refused(monkeypatch, tmp_path):
    folder = written(tmp_path / "results")
    with pytest.raises(ValueError, match="--to aim: there are wandb, mlflow"):
        export("export", folder, "--to", "aim")
    monkeypatch.setattr("kdep.run.trackers.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"mlflow is not installed: .venv/bin/pip install -e '.\[mlflow\]'"):
        export("export", folder, "--to", "mlflow")


def test_the_same_task_on_two_versions_of_its_data_keeps_two_names():
    both = [result("a", "cifar-linear", 0, 60.0), result("a", "cifar-linear", 0, 40.0, data="e" * 64)]
    (entry,) = entries(both)
    assert (entry.scores["cifar-linear@dddddd"], entry.scores["cifar-linear@eeeeee"]) == (60, 40)
