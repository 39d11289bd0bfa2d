"""The race: equal teachers on both sides, steps that fit the time, runs that are not repeated, differences by seed."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from kdep.models.backbones.backbone import build_backbone
from kdep.models.weights import open_checkpoint
from tools.speed.race import contenders
from tools.speed.race import main as race_main
from tools.speed.race.contenders import RIVAL, Race
from tools.speed.race.lightly_side import build_teacher
from tools.speed.race.main import hold, markdown, steps_for


def a_race(folder: Path, teacher: str = "random:resnet50") -> Race:
    (folder / "images").mkdir()
    return Race(folder / "images", teacher, "pre", "resnet18", 64, folder, None)


@pytest.mark.parametrize("arch", ["resnet50", "caffe_resnet50"])
def test_lightlytrains_teacher_computes_what_kdeps_does(arch, tmp_path):
    race = a_race(tmp_path, f"random:{arch}")
    found = open_checkpoint(race.teacher)
    path, caffe = contenders.teacher_of(race, found), found.arch == contenders.CAFFE
    theirs = build_teacher(torch.load(path, weights_only=True), caffe=caffe, mean=list(found.mean), std=list(found.std))
    theirs.fc = torch.nn.Identity()
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    # What LightlyTrain's transform hands over: ImageNet's normalisation.
    given = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    ours = build_backbone(found, tap="post").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(given), ours(pixels), rtol=1e-3, atol=1e-4)


def test_kdep_runs_the_default_recipe_for_so_many_steps(photos, tmp_path):
    race = Race(Path(photos), "random:test_efficientnet", "post", "test_resnet", 32, tmp_path, None)
    found = contenders.run(race, "kdep, SVD + PTS", 3, 2)
    student = open_checkpoint(found["student"])
    assert (found["steps"], found["views"], student.arch, student.size) == (2, 128, "test_resnet", 32)
    config = student.provenance["config"]
    assert config["scale"] == {"name": "pts", "temperature": 0.1, "exponent": 3.0} and config["seed"] == 3


def test_lightlytrain_is_given_the_race_and_its_student_is_opened_as_torchvisions(tmp_path):
    race = a_race(tmp_path, "random:caffe_resnet50")
    for number in range(40):
        (race.images / f"{number}.jpg").touch()
    python = tmp_path / "python"  # writes what LightlyTrain's export is: torchvision's names, with a classifier
    python.write_text(
        f"#!{sys.executable}\n"
        "import json, sys, pathlib, torch, torchvision\n"
        "asked = json.loads(sys.argv[3])\n"
        "torch.manual_seed(asked['seed'])\n"
        "place = pathlib.Path(asked['out']) / 'exported_models' / 'exported_last.pt'\n"
        "place.parent.mkdir(parents=True)\n"
        "torch.save(torchvision.models.get_model(asked['student']).state_dict(), place)\n"
        "print(json.dumps({'versions': {'lightly-train': json.dumps(asked)}, 'student': str(place)}))\n"
    )
    python.chmod(0o755)
    found = contenders.run(replace(race, lightly=python), RIVAL, 5, 7)
    asked = json.loads(found["lightly-train"])
    assert (asked["steps"], asked["seed"], asked["batch"], asked["caffe"]) == (7, 5, 40, True)
    assert found["views"] == 7 * 40 and asked["std"] == [1 / 255] * 3
    student = open_checkpoint(found["student"])
    torch.manual_seed(5)
    assert torch.equal(student.weights["conv1.weight"], torchvision.models.resnet18().conv1.weight)
    assert "fc.weight" not in student.weights and student.mean == (0.485, 0.456, 0.406)
    assert student.name == "LightlyTrain-s5"


def test_the_steps_that_fit_are_those_of_the_line_through_two_short_runs():
    pilots = [{"steps": 10, "seconds": 40.0}, {"steps": 30, "seconds": 60.0}]  # 30 s for a start, 1 s for a step
    assert steps_for(900, pilots) == 870
    with pytest.raises(ValueError, match="30 s are too few: the start takes 30 s, a step 1.00 s"):
        steps_for(30, pilots)


def test_every_run_is_saved_and_none_is_repeated(tmp_path, monkeypatch):
    calls = []

    def run(race, name, seed, steps, *, pilot=False):
        calls.append((name, seed, steps, pilot))
        if len(calls) == 5:
            raise RuntimeError("killed")
        return {"seconds": 20.0 + steps, "steps": steps, "views": 64 * steps, "student": f"{name}-{seed}"}

    monkeypatch.setattr(race_main, "run", run)
    race, out = a_race(tmp_path), tmp_path / "race.json"
    with pytest.raises(RuntimeError):
        hold(race, ["kdep", RIVAL], [0, 1], 2, out)
    document = hold(race, ["kdep", RIVAL], [0, 1], 2, out)
    assert calls == [
        *[("kdep", 0, 8, True), ("kdep", 0, 32, True), ("kdep", 0, 100, False)],
        *[(RIVAL, 0, 8, True), (RIVAL, 0, 32, True), (RIVAL, 0, 32, True), (RIVAL, 0, 100, False)],
        *[("kdep", 1, 100, False), (RIVAL, 1, 100, False)],
    ]
    assert json.loads(out.read_text())["runs"] == document["runs"]
    with pytest.raises(ValueError, match="is of another race"):
        hold(race, ["kdep"], [0], 3, out)


def test_differences_are_paired_by_seed():
    runs = {str(seed): {"views": 1000, "seconds": 120.0} for seed in (0, 1, 2)}
    document = {
        "about": {"minutes": 2, "teacher": "t", "student": "s", "pixels": 64, "images": 800},
        "device": {"cpu": "c", "threads": 2},
        "runs": {"kdep": runs, RIVAL: runs},
        "scores": {"kdep": {"a": {"0": 10, "1": 20, "2": 33}}, RIVAL: {"a": {"0": 8, "1": 19, "2": 30}}},
    }
    text = markdown(document)
    assert "| kdep | 3 | 1,000 | 120 | 21.00 |" in text
    # Differences 2, 1, 3: mean 2, standard error 1 / sqrt(3), times 4.3027.
    assert "- a: +2.00 [-0.48, +4.48]" in text
    del document["scores"][RIVAL]["a"]["2"]
    assert "- a: +1.50, too few seeds to tell" in markdown(document)
