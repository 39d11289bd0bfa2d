"""The studies of configs/studies: their arms run, and what their heads say is so."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from kdep.config import load_config
from kdep.files import read
from kdep.pretrain import pretrain
from kdep.shipped import find
from kdep_benchmarks.studies.answer import as_markdown
from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.studies.plan import DONE, TO_TRAIN, items
from kdep_benchmarks.studies.rows import collect, read_known
from kdep_benchmarks.studies.work import students

FOLDER = Path(__file__).parents[3] / "configs/studies"
PUBLISHED = Path(__file__).parents[3] / "docs/figures/studies"
SHIPPED = sorted(FOLDER.glob("*.yaml"))


def arms_of(*names):
    """(study, arm) of all arms that are trained, each name once."""
    found = {}
    for name in names:
        study = load_study(FOLDER / f"{name}.yaml")
        for arm, given in study.arms.items():
            if not isinstance(given, str):
                found.setdefault(arm, (name, arm))
    return list(found.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small teacher that has a classifier; the arms share its bank."""
    import timm

    folder = tmp_path_factory.mktemp("arms")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_efficientnet", num_classes=10).state_dict(), folder / "teacher.pth")
    return folder


def shrunk(study, planned, photos, folder):
    """The configuration of a run, with small networks on a few pictures in place of its own."""
    config = study.config(planned)
    source = f"{folder}/teacher.pth"
    if isinstance(config.teacher.source, list):
        source = json.dumps([source] * len(config.teacher.source))
    changes = [f"teacher.source={source}", "teacher.arch=test_efficientnet", "teacher.size=null", "teacher.tap=post"]
    changes += ["student.arch=test_resnet", f"data.source={photos}", "data.root=null", "data.limit=128"]
    changes += ["data.size=32", "data.workers=0", "optim.epochs=1", "optim.batch_size=32", "log.every=1"]
    changes += ["precision=float32", "device=cpu", f"runs={folder}/runs"]
    if config.bank is not None:
        kind = f"{config.loss.dense:g}-{len(config.teacher.source) if isinstance(config.teacher.source, list) else 1}"
        changes += [f"bank.path={folder}/bank-{kind}", "bank.check=0", *(["bank.axes=256"] if config.bank.axes else [])]
    return load_config(find("pretrain", study.pretrain), [*planned.overrides, *changes])


@pytest.mark.parametrize(("name", "arm"), arms_of("ablation_small", "beyond_small", "ablation_imagenet"))
def test_an_arm_trains(name, arm, photos, place):
    study = load_study(FOLDER / f"{name}.yaml")
    planned = next(run for run in study.runs if run.arm == arm)
    config = shrunk(study, planned, photos, place)
    weights = read(pretrain(config))["state_dict"]
    log = [json.loads(line) for line in (config.runs / config.name / "log.jsonl").read_text().splitlines()]
    assert len(log) == 4 and all(math.isfinite(record["loss"]) for record in log)
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_head_of_a_study_counts_its_runs(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    study = load_study(path)
    said = re.findall(r"\b(\d+) runs\b", head)
    assert said == [str(sum(run.checkpoint is None for run in study.runs))]


def test_the_candidates_of_beyond_small_are_counted():
    study = load_study(FOLDER / "beyond_small.yaml")
    assert len(study.arms) - 1 == 9 and "nine candidates" in (FOLDER / "beyond_small.yaml").read_text()


def test_published_rows_are_still_those_of_their_study(tmp_path):
    # Whoever changes what a run's identity is made of, or a recipe or study with published rows, finds out here.
    study = load_study(FOLDER / "precision_small.yaml")
    known = read_known([PUBLISHED / "precision_small.csv"], study)
    assert len(known) == len(study.runs) * len(study.tasks)
    plan = items(study, tmp_path, collect(study, tmp_path, [], known))
    assert {item.state for item in plan} == {DONE}


ANSWERED = sorted(path for path in PUBLISHED.glob("*.csv") if path.stem != "bank_views")  # which has no fingerprints


@pytest.mark.parametrize("path", ANSWERED, ids=lambda path: path.stem)
def test_what_the_docs_say_of_a_study_is_what_its_rows_say(path, tmp_path):
    study = load_study(FOLDER / f"{path.stem}.yaml")
    text = as_markdown(study, collect(study, tmp_path, [], read_known([path], study)))
    assert path.with_suffix(".md").read_text() == text and path.with_suffix(".png").exists()
    assert f"figures/studies/{study.name}.md" in (PUBLISHED.parents[1] / "studies.md").read_text()


@pytest.mark.parametrize("name", ["queue_mobile", "queue_rate", "queue_long"])
def test_the_page_of_a_study_that_was_trained_again_is_what_its_rows_say(name, tmp_path):
    study, path = load_study(FOLDER / f"{name}.yaml"), PUBLISHED.parent / f"{name}_again.csv"
    text = as_markdown(study, collect(study, tmp_path, [], read_known([path], study)))
    assert path.with_suffix(".md").read_text() == text


@pytest.mark.parametrize("path", ANSWERED, ids=lambda path: path.stem)
def test_a_claimed_pair_has_one_verdict_on_its_page(path):
    study, text = load_study(FOLDER / f"{path.stem}.yaml"), path.with_suffix(".md").read_text()
    explored = text.partition("Every other comparison is exploratory.")[2]
    compared = r"`([^`]+)`(?: each time\))? (?:is better than|is worse than|shows no difference to|against) `([^`]+)`"
    pairs = {frozenset(pair) for pair in re.findall(compared, explored)}
    assert not pairs & {frozenset(claim.arms) for claim in study.claims if claim.metric == "mean"}


def test_a_table_from_before_there_were_fingerprints_is_not_taken_up():
    with pytest.raises(ValueError, match="an earlier version of kdep"):
        read_known([PUBLISHED / "bank_views.csv"], load_study(FOLDER / "bank_views.yaml"))


def test_the_ablations_have_the_arms_of_the_paper_and_its_rivals():
    for name in ("ablation_small", "ablation_imagenet"):
        study = load_study(FOLDER / f"{name}.yaml")
        configs = {run.arm: study.config(run) for run in study.runs if run.checkpoint is None}
        parts = {arm: (c.align.name, c.project, c.scale.name, c.loss.name) for arm, c in configs.items()}
        assert parts["SRD"] == ("none", "linear_norm", "sn", "log_sum") and configs["SRD"].loss.weight == 2
        assert parts["LightlyTrain v1"] == ("none", "linear", "none", "queue_kl")
        assert parts["SimReg"] == ("none", "mlp", "none", "cosine") and parts["MLP"][3] == "mse"
        assert parts["nearest interpolation"][0] == "nearest"
        assert [parts[arm][2] for arm in ("SVD", "SVD + SN", "SVD + SM", "SVD + PTS")] == ["none", "sn", "sm", "pts"]
        assert {"supervised", "1x1 conv", "PHI-S", "whitening 1/2"} <= set(parts)


def test_the_recipe_similarities_is_the_arm_that_the_studies_measured():
    recipe = load_config(find("pretrain", "similarities"), ["data.source=photos"])
    for name in ("ablation_imagenet", "tuning_imagenet", "queue_long"):
        study = load_study(FOLDER / f"{name}.yaml")
        measured = next(study.config(run) for run in study.runs if run.arm == "SVD, queue KL")
        for part in ("align", "project", "scale", "loss"):
            assert getattr(recipe, part) == getattr(measured, part)
    assert (recipe.optim.lr, recipe.optim.epochs) == (measured.optim.lr, measured.optim.epochs) == (0.004, 6)


def test_the_small_ablation_pays_its_teacher_once_and_goes_seed_by_seed(tmp_path):
    study = load_study(FOLDER / "ablation_small.yaml")
    own = [run for run in study.runs if run.checkpoint is None]
    banks = {run: study.config(run).bank for run in own}
    assert {run.arm for run in own if banks[run] is None} == {"supervised"}  # the only one without a teacher
    shared = {(bank.path, bank.axes) for bank in banks.values() if bank is not None}
    assert shared == {(Path("banks/lite0_tiny8000"), 1280)}
    order = students(items(study, tmp_path, []))
    trained = [item.run for item in order if item.state == TO_TRAIN]
    assert [item.run.name for item in order[:3]] == ["random:resnet18", "random:resnet18#1", "random:resnet18#2"]
    arms = [arm for arm, given in study.arms.items() if not isinstance(given, str)]
    assert [(run.seed, run.arm) for run in trained] == [(seed, arm) for seed in (0, 1, 2) for arm in arms]
