import re

import pytest
import yaml

from kdep.yaml_file import override
from kdep_benchmarks.studies.file import Run, Study, load_study
from kdep_benchmarks.studies.rows import load_tasks
from kdep_benchmarks.tasks.choose import task_names
from tools.keys import reference

FILE = """
name: small
question: Which?
pretrain: recipe.yaml
set: {optim.epochs: 1, bank.path: common, bank.axes: 8}
baseline: plain
arms:
  plain: {}
  random: random:resnet18
seeds: [0]
score: {suite: photographs, tasks: [flowers5-linear], data_root: data}
"""


@pytest.fixture
def load(tmp_path):
    """Read the file, changed: top-level keys by keyword."""

    def read(**changes):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(FILE), **changes}, sort_keys=False))
        return load_study(path)

    return read


def test_every_arm_runs_at_every_value_and_seed_under_a_name_of_its_own(load):
    arms = {"plain": {}, "from a bank": {"bank.path": "x-{seed}"}, "random": "random:resnet18"}
    study = load(arms=arms, seeds=[0, 1], axis={"key": "data.limit", "values": [32, 64]})
    own = [run for run in study.runs if run.checkpoint is None]
    assert len(study.runs) == 12 and len(own) == len({run.name for run in own}) == 2 * 2 * 2
    last = own[-1]
    assert (last.arm, last.value, last.seed, last.name) == ("from a bank", 64, 1, "small-from_a_bank-64-s1")
    assert {"data.limit=64", "optim.epochs=1", "seed=1", "name=small-from_a_bank-64-s1"} <= set(last.overrides)
    assert "bank.path=x-1" in last.overrides
    # Seed by seed, so that a half-done study has whole comparisons.
    assert [run.seed for run in study.runs] == 6 * [0] + 6 * [1]


@pytest.mark.parametrize("text", ["photos #2", "2024", "{a,b}/x", "null", "[x]", "a: b", "", " a", "{seed} #1"])
def test_a_text_of_a_study_is_the_same_text_in_its_runs(load, text):
    study = load(set={"data.source": text, "data.seed": "1{seed}"}, seeds=[7])
    assert "data.seed=17" in study.runs[0].overrides
    content = {}
    for one in study.runs[0].overrides:
        override(content, one)
    assert content["data"]["source"] == text.replace("{seed}", "7")


def test_a_value_brings_what_goes_with_it_and_an_arm_lies_on_top(load):
    axis = {"key": "data.limit", "values": [32, 64], "with": {64: {"optim.epochs": 7, "optim.lr": 1}}}
    arms = {"plain": {}, "other": {"optim.batch_size": 4, "optim.lr": 2}}
    found = {(run.arm, run.value): run.overrides for run in load(arms=arms, axis=axis).runs}
    assert "optim.epochs=1" in found["plain", 32] and not any("lr" in part for part in found["plain", 32])
    assert {"optim.epochs=7", "optim.lr=1"} <= set(found["plain", 64])
    assert {"optim.epochs=7", "optim.lr=2", "optim.batch_size=4"} <= set(found["other", 64])
    assert {"optim.epochs=1", "optim.lr=2", "optim.batch_size=4"} <= set(found["other", 32])


def test_an_arm_with_a_whole_section_takes_back_its_parts(load):
    runs = {run.arm: run for run in load(arms={"plain": {"bank": None}, "other": {"bank": {"path": "own"}}}).runs}
    assert [part for part in runs["plain"].overrides if "bank" in part] == ["bank=null"]
    assert [part for part in runs["other"].overrides if "bank" in part] == ["bank={path: own}"]


LIMIT = {"key": "data.limit", "values": [1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quest": "?"}, "unknown key quest (did you mean question?); there are name, question, pretrain, arms"),
        ({"name": 2024}, "name must be text, got 2024"),
        ({"pretrain": None}, "pretrain: missing; it names the recipe that arm plain changes"),
        (
            {"pretrain": None, "arms": {"random": "random:resnet18"}, "baseline": "random"},
            "pretrain: missing; it names the recipe that set changes",
        ),
        ({"baseline": "nothing"}, "baseline 'nothing'; the arms are plain, random"),
        ({"arms": ["plain"]}, "arms must be a mapping, got ['plain']"),
        ({"arms": {"plain": 3}}, "arms.plain must be a mapping or text, got 3"),
        ({"arms": {"plain": {}, "plain!": {}}}, "two arms would have runs named small-plain-s0"),
        ({"arms": {"plain": {"seed": 3}}}, "arm plain: seed is set by the study itself"),
        ({"set": {"name": "x"}}, "set: name is set by the study itself"),
        ({"axis": {"key": "a"}}, "axis.values is missing"),
        (
            {"axis": {"key": "a", "values": [1], "whit": {}}},
            "unknown key axis.whit (did you mean with?); there are key",
        ),
        ({"axis": {"key": "scale", "values": [{"name": "pts"}]}}, "axis.values.0 must be text or a whole number or a"),
        ({"axis": {"key": "a", "values": [1], "with": None}}, "axis.with must be a mapping, got None"),
        ({"axis": {"key": "a", "values": [1], "with": {2: {}}}}, "axis.with: 2: expected overrides for one of"),
        ({"axis": {"key": "data.limit", "values": [0.5]}}, "axis.values: data.limit is a whole number, got [0.5]"),
        ({"axis": {"key": "seed", "values": [1]}}, "axis.key: seed is set by the study itself"),
        ({"axis": LIMIT, "arms": {"plain": {"data.limit": 5}}}, "arm plain: data.limit is set by the study itself"),
        ({"axis": LIMIT, "arms": {"plain": {"data": {"limit": 5}}}}, "arm plain: data.limit is set"),
        ({"axis": {**LIMIT, "with": {1: {"data.limit": 5}}}}, "axis.with: 1: data.limit is set"),
        ({"pairs": [["plain", "else"]]}, "pairs: [plain, else]; expected two of the arms plain, random"),
        ({"pairs": [["plain", "plain"]]}, "pairs: [plain, plain]; expected two of the arms"),
        ({"pairs": ["plain", "random"]}, "pairs.0 must be a list, got 'plain'"),
        ({"seeds": [0, 0]}, "seeds: expected each value once, got [0, 0]"),
        ({"seeds": [0.5]}, "seeds.0 must be a whole number, got 0.5"),
        ({"score": None}, "score must be a mapping of keys, got None"),
        ({"score": {"suite": "x", "tasks": []}}, "score.tasks must have at least 1 item"),
        ({"score": {"tasks": ["y"]}}, "score.suite: expected either this or data, a folder of images"),
        ({"score": {"suite": "x", "data": "photos"}}, "score.suite: expected either this or data, a folder of images"),
        ({"score": {"suite": "x", "size": 64}}, "score.size: goes with data"),
        ({"score": {"data": "x", "protocol": "paper"}}, "score.protocol: paper; a folder of data is measured by"),
        ({"score": {"suite": "x", "tasks": ["y", "y"]}}, "score.tasks: expected each value once"),
        ({"score": {"suite": "x", "tasks": ["y"], "seeds": ["0"]}}, "score.seeds.0 must be a whole number, got '0'"),
    ],
)
def test_a_file_that_says_something_else_is_refused(load, changes, message):
    with pytest.raises(ValueError, match="small.yaml: " + re.escape(message)):
        load(**changes)


@pytest.mark.parametrize("recipe", ["no_such", "7", "1:99999:1", "absent.yaml"])
def test_a_wrong_recipe_is_named_with_the_studys_file_and_key(load, recipe, tmp_path):
    study = load(pretrain=recipe)
    with pytest.raises(
        ValueError, match=f"^{tmp_path}/small.yaml: pretrain: (recipe '{recipe}': there|{recipe}: no such)"
    ):
        study.config(study.runs[0])


def test_what_a_study_leads_to_is_named_with_its_file_and_key(load, tmp_path):
    study = load(pretrain="demo", arms={"odd": {"optim.lr": "much"}, "random": "random:resnet18"}, baseline="odd")
    with pytest.raises(ValueError, match=f"^{tmp_path}/small.yaml: arm odd: .*optim.lr must be a number"):
        study.config(study.runs[0])
    for score, said in (({"suite": "no_such"}, "suite 'no_such'"), ({"tasks": ["no_such"]}, "--tasks no_such")):
        study = load(score={"suite": "photographs", "tasks": ["flowers5-linear"], **score})
        with pytest.raises(ValueError, match=f"^{tmp_path}/small.yaml: score: {said}"):
            load_tasks(study)


def test_without_names_all_tasks_of_a_suite_count_and_the_two_usual_ones_of_a_folder(load):
    assert load(score={"suite": "probe"}).tasks == task_names("probe")
    study = load(
        score={"data": "some/my photos", "size": 64},
        claims=[{"arms": ["plain", "random"], "metric": "my_photos-knn-64px"}],
    )
    assert study.kinds == {"my_photos-knn-64px": "knn", "my_photos-linear-64px": "linear"}
    assert load(score={"data": "photos", "tasks": ["finetune"]}).tasks == ["photos-finetune"]
    with pytest.raises(ValueError, match="score: .*some/my photos: no such folder; expected train/CLASS"):
        load_tasks(study)


def test_every_key_of_a_study_has_a_description():
    keys = list(reference(Study))
    assert [key.name for key in keys if len(key.description) < 5] == []
    assert {"axis.with", "score.suite", "arms"} <= {key.name for key in keys}


def test_what_is_no_study_is_refused(tmp_path):
    (tmp_path / "there.yaml").write_text("[")
    with pytest.raises(ValueError, match="not YAML"):
        load_study(tmp_path / "there.yaml")
    with pytest.raises(ValueError, match=re.escape("no such study; beside it: there.yaml")):
        load_study(tmp_path / "here.yaml")


def test_a_random_baseline_has_an_initialisation_per_seed(load):
    arms = {"plain": {}, "random": "random:resnet18#{seed}", "small": "random:resnet18#{seed}@64", "file": "x#0"}
    found = {(run.arm, run.seed): run.checkpoint for run in load(arms=arms, seeds=[0, 1]).runs if run.checkpoint}
    assert found["random", 0] == "random:resnet18" and found["random", 1] == "random:resnet18#1"
    assert found["small", 0] == "random:resnet18@64" and found["small", 1] == "random:resnet18#1@64"
    assert found["file", 0] == found["file", 1] == "x#0"


def test_a_checkpoint_is_its_own_name():
    assert Run("random", None, 0, "random:resnet18", checkpoint="random:resnet18").student(None) == "random:resnet18"


def test_arms_that_are_numbers_are_known_by_their_digits(load):
    study = load(arms={320: {}, 512: {}}, baseline=320)
    assert (study.baseline, list(study.arms)) == ("320", ["320", "512"])
