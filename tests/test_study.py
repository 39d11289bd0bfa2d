import csv
from pathlib import Path

import pytest
import yaml
from PIL import Image

from benchmarks import study as study_module
from benchmarks.cli import main
from benchmarks.compare import judge
from benchmarks.study import Run, banks_first, load_study
from benchmarks.study_answer import as_markdown, by_cell, sentences

from .conftest import TINY, draw

FILE = """
name: tiny_study
question: Does a bank change anything?
pretrain: {recipe}
set: {{optim.epochs: 1, data.seed: 5}}
baseline: live
arms:
  live: {{}}
  from a bank: {{bank.path: "{folder}/bank-{{seed}}", bank.views: 1}}
  random: random:test_resnet
seeds: [0]
score: {{suite: "{folder}/suite.yaml", tasks: [photos-knn], data_root: "{folder}"}}
"""


@pytest.fixture
def written(photos, tmp_path):
    """A study of two runs and a checkpoint, scored by kNN on a few pictures."""
    for split, start in (("fit", 500), ("score", 700)):
        for number in range(30):
            path = tmp_path / "set" / split / f"c{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(path.with_suffix(".jpg"), start + number)
            image = Image.open(path.with_suffix(".jpg"))
            (image if number % 2 else Image.eval(image, lambda value: value // 3)).save(path)
            path.with_suffix(".jpg").unlink()
    task = {"name": "photos-knn", "kind": "knn", "settings": {"size": 32}}
    task["dataset"] = {"name": "set", "layout": "imagefolder", "root": "set", "files": {"fit": "fit", "score": "score"}}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"tasks": [task]}))
    (tmp_path / "tiny.yaml").write_text(TINY.format(photos=photos, runs=tmp_path / "runs"))
    path = tmp_path / "study.yaml"
    path.write_text(FILE.format(recipe=tmp_path / "tiny.yaml", folder=tmp_path))
    return path


def test_a_study_runs_scores_and_answers_and_does_nothing_twice(written, tmp_path, monkeypatch, capsys):
    commands = []

    def here(arguments, log, *, jobs):
        commands.append(arguments[0])
        return main(arguments)

    monkeypatch.setattr(study_module, "child", here)
    command = ["study", str(written), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert main([*command, "--dry-run"]) == 0 and commands == []
    assert "2 runs, 0 done" in capsys.readouterr().out
    assert main(command) == 0
    assert commands == ["targets", "pretrain", "pretrain", "transfer"]
    rows = list(csv.DictReader((tmp_path / "results" / "tiny_study.csv").open()))
    assert [(row["arm"], row["seed"], row["task"]) for row in rows] == [
        ("live", "0", "photos-knn"),
        ("from a bank", "0", "photos-knn"),
        ("random", "0", "photos-knn"),
    ]
    assert [row["images_seen"] for row in rows] == ["128", "128", "0"] and float(rows[0]["pretrain_seconds"]) > 0
    assert (tmp_path / "bank-0" / "bank.json").exists()
    assert Image.open(tmp_path / "results" / "tiny_study.png").size[0] > 300
    assert "| from a bank | " in (tmp_path / "results" / "tiny_study.md").read_text()
    commands.clear()
    assert main(command) == 0 and commands == ["transfer"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("baseline: live", "baseline: nothing"), "baseline 'nothing'; the arms are live, from a bank, random"),
        (("question:", "quest:"), "missing question; unknown quest"),
        (("data.seed: 5", "data.sed: 5"), "unknown key data.sed"),
        (("seeds: [0]", "seeds: [0]\naxis: {over: data.limit}"), r"axis has \['over'\]; expected key and values"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_runs(written, change, message, capsys):
    written.write_text(written.read_text().replace(*change))
    assert main(["study", str(written)]) == 2
    import re

    assert re.search(message, capsys.readouterr().err)


def test_every_arm_runs_at_every_value_and_seed_under_a_name_of_its_own(written):
    written.write_text(
        written.read_text().replace("seeds: [0]", "seeds: [0, 1]\naxis: {key: data.limit, values: [32, 64]}")
    )
    runs = load_study(written).runs
    own = [run for run in runs if run.checkpoint is None]
    assert len(own) == len({run.name for run in own}) == 2 * 2 * 2
    last = own[-1]
    assert (last.arm, last.value, last.seed, last.name) == ("from a bank", 64, 1, "tiny_study-from_a_bank-64-s1")
    assert {"data.limit=64", "data.seed=5", "seed=1", "name=tiny_study-from_a_bank-64-s1"} <= set(last.overrides)
    assert any(override.endswith("/bank-1") for override in last.overrides)


def test_a_value_brings_what_goes_with_it_and_an_arm_can_do_without_the_bank(written):
    axis = "axis: {key: data.limit, values: [32, 64], with: {64: {optim.epochs: 7}}}"
    text = written.read_text().replace("seeds: [0]", f"seeds: [0]\n{axis}").replace("live: {}", "live: {bank: null}")
    written.write_text(text.replace("data.seed: 5", "data.seed: 5, bank.path: common"))
    runs = [run for run in load_study(written).runs if run.arm == "live"]
    assert [("optim.epochs=7" in run.overrides) for run in runs] == [False, True]
    assert all("bank=null" in run.overrides and "bank.path=common" not in run.overrides for run in runs)
    study_module.check(load_study(written))


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "configs/studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_shipped_study_is_possible(path):
    study_module.check(load_study(path))


def test_a_bank_is_made_once_for_the_run_that_needs_most_of_it(written):
    text = written.read_text().replace(
        "  random: ", '  more: {bank.path: "x-{seed}", bank.views: 3}\n  fewer: {bank.path: "x-{seed}"}\n  random: '
    )
    written.write_text(text)
    study = load_study(written)
    chosen = banks_first([run for run in study.runs if run.checkpoint is None], study)
    assert [run.arm for run in chosen] == ["from a bank", "more"]


def made(**scores):
    """A study of three arms and two tasks with given scores: arm -> task -> values by seed."""
    study = study_module.Study(
        "made", "Which?", None, dict.fromkeys(scores, {}), {"tasks": ["a", "b"]}, next(iter(scores)), [0, 1, 2]
    )
    rows = [
        {"arm": arm, "value": None, "task": task, "seed": seed, "score": score}
        for arm, tasks in scores.items()
        for task, values in tasks.items()
        for seed, score in enumerate(values)
    ]
    return study, by_cell(rows), rows


def test_arms_are_compared_by_their_mean_over_tasks_paired_by_seed():
    study, scores, rows = made(
        base={"a": [10, 12, 14], "b": [20, 20, 20]},
        better={"a": [14, 16, 19], "b": [24, 24, 23]},  # +4, +4, +4 on the mean: 4, 4, 4
        equal={"a": [10, 13, 14], "b": [20, 19, 20]},
        short={"a": [30], "b": [30]},
    )
    said = sentences(study, scores, None)
    assert said[0].startswith("`better` scores higher than `base` in every run (+4.00, n = 3)")
    assert said[1] == "`equal` shows no difference to `base` (+0.00, n = 3)."
    assert said[2] == "`short` has not enough runs to be told from `base` (+15.00, n = 1)."
    table = as_markdown(study, scores, rows)
    # The mean of 10, 12, 14 with 4.303 * 2 / sqrt(3), and of the two tasks' mean by seed.
    assert "| base | 12.00 ± 4.97 | 20.00 | 16.00 ± 2.48 |" in table
    assert "| short | 30.00 | 30.00 | 30.00 |" in table


def test_an_interval_that_excludes_zero_is_called_better_or_worse():
    study, scores, _ = made(base={"a": [10, 10, 10], "b": [10, 10, 10]}, worse={"a": [8, 8.2, 7.8], "b": [8, 8.2, 7.8]})
    assert judge([-2, -1.8, -2.2])[0] == "worse"
    assert sentences(study, scores, None) == ["`worse` is worse than `base` (-2.00 ± 0.50, n = 3)."]


def test_a_checkpoint_is_its_own_name():
    assert Run("random", None, 0, "random:resnet18", checkpoint="random:resnet18").student(None) == "random:resnet18"
