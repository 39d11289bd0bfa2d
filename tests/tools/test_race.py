"""The race: equal teachers on both sides, steps that fit the time, runs that are not repeated, differences by seed."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision

from kdep.config import read_config
from kdep.models.backbones.backbone import build_backbone
from kdep.models.weights import open_checkpoint
from tools.speed.race import contenders, lightly_side
from tools.speed.race import main as race_main
from tools.speed.race.contenders import KDEP, RIVAL, Race
from tools.speed.race.lightly_side import build_teacher
from tools.speed.race.main import hold, markdown, missing, score, steps_for
from tools.speed.race.picture import draw

ROOT = Path(__file__).parents[2]


def a_race(folder: Path, teacher: str = "random:resnet50", images: int = 1) -> Race:
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        (folder / "images" / f"{number}.jpg").touch()
    (folder / "images" / "notes.txt").touch()  # no image
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


def test_lightlytrain_is_not_given_the_teacher_of_an_earlier_race(tmp_path):
    race = a_race(tmp_path)
    for teacher in ("random:resnet18", "random:resnet18#1"):
        found = open_checkpoint(teacher)
        stored = torch.load(contenders.teacher_of(race, found), weights_only=True)
        assert torch.equal(stored["weights"]["conv1.weight"], found.weights["conv1.weight"])


@pytest.mark.parametrize("name", KDEP)
def test_kdeps_warm_up_is_the_recipes_share_of_a_run_however_short(name, tmp_path):
    race = a_race(tmp_path, images=1280)  # 20 steps an epoch; the recipe's half epoch is 10 steps
    recipe = read_config("default", [f"data.source={race.images}"]).optim
    for steps in (8, 32, 900):
        optim = read_config("default", contenders.words_of(race, "a", KDEP[name], 0, steps)).optim
        assert optim.total(20) == steps
        assert 20 * optim.warmup_epochs / steps == pytest.approx(recipe.warmup_epochs / recipe.epochs)


def test_kdeps_teacher_sees_twice_the_pixels_or_the_same(tmp_path):
    def size(name: str) -> int | None:
        return read_config(
            "default", contenders.words_of(a_race(tmp_path / name, images=2), "a", KDEP[name], 0, 8)
        ).teacher.size

    assert (size("kdep"), size("kdep, same pixels")) == (128, None)


def leave_old_run(folder: Path) -> Path:
    """A folder with a file, as an earlier race leaves them; returns the file."""
    folder.mkdir(parents=True)
    (folder / "old").touch()
    return folder / "old"


def test_kdep_runs_the_default_recipe_for_so_many_steps(photos, tmp_path):
    race = Race(Path(photos), "random:test_efficientnet", "post", "test_resnet", 32, tmp_path, None)
    old = leave_old_run(tmp_path / "runs" / "kdep-SVD-PTS-s3")
    found = contenders.run(race, "kdep, SVD + PTS", 3, 2)
    student = open_checkpoint(found["student"])
    assert (found["steps"], found["views"], student.arch, student.size) == (2, 128, "test_resnet", 32)
    config = student.provenance["config"]
    assert config["scale"] == {"name": "pts", "temperature": 0.1, "exponent": 3.0} and config["seed"] == 3
    assert not old.exists()  # what is left of an earlier race would be resumed, and only the rest timed


def test_lightlytrain_is_given_the_race_and_its_student_is_opened_as_torchvisions(tmp_path, monkeypatch):
    race = a_race(tmp_path, "random:caffe_resnet50", images=40)
    old = leave_old_run(tmp_path / "lightly" / "LightlyTrain-s5")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    python = tmp_path / "python"  # writes what LightlyTrain's export is: torchvision's names, with a classifier
    python.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys, pathlib, torch, torchvision\n"
        "asked = json.loads(sys.argv[3])\n"
        "torch.manual_seed(asked['seed'])\n"
        "place = pathlib.Path(asked['out']) / 'exported_models' / 'exported_last.pt'\n"
        "place.parent.mkdir(parents=True)\n"
        "torch.save(torchvision.models.get_model(asked['student']).state_dict(), place)\n"
        "said = {'lightly-train': json.dumps(asked), 'threads': os.environ['OMP_NUM_THREADS']}\n"
        "print(json.dumps({'versions': said, 'student': str(place)}))\n"
    )
    python.chmod(0o755)
    found = contenders.run(replace(race, lightly=python), RIVAL, 5, 7)
    asked = json.loads(found["lightly-train"])
    assert (asked["steps"], asked["seed"], asked["batch"], asked["caffe"]) == (7, 5, 40, True)
    assert found["threads"] == "3" and not old.exists()
    assert found["views"] == 7 * 40 and asked["std"] == [1 / 255] * 3
    student = open_checkpoint(found["student"])
    torch.manual_seed(5)
    assert torch.equal(student.weights["conv1.weight"], torchvision.models.resnet18().conv1.weight)
    assert "fc.weight" not in student.weights and student.mean == (0.485, 0.456, 0.406)
    assert student.name == "LightlyTrain-s5"


def test_lightlytrains_run_is_as_many_epochs_as_its_steps_begin_and_ends_with_the_steps(tmp_path, monkeypatch):
    # Its warm-up is int(steps / epochs * min(10, epochs / 10)) steps: with a million epochs none.
    asked = {}

    def pretrain(**given):
        asked.update(given)
        raise InterruptedError  # enough seen

    monkeypatch.setitem(sys.modules, "lightly_train", SimpleNamespace(pretrain=pretrain))
    monkeypatch.setattr(contenders, "run_isolated", lambda python, script, given: lightly_side.run_side(**given))
    with pytest.raises(InterruptedError):
        contenders.run(a_race(tmp_path, images=300), RIVAL, 0, 5)  # two batches of 128 an epoch
    assert (asked["batch_size"], asked["epochs"], asked["trainer_args"]) == (128, 3, {"max_steps": 5})
    assert "optim_args" not in asked  # its own
    with pytest.raises(InterruptedError):
        contenders.run(a_race(tmp_path / "b", images=300), f"{RIVAL}, kdep's rate", 0, 5)
    # LightlyTrain multiplies a rate by the root of batch / 1536.
    rate = asked["optim_args"]["lr"] * (128 / 1536) ** 0.5
    assert rate == pytest.approx(read_config("default", ["data.source=x"]).optim.lr)
    assert asked["out"].endswith("lightly/LightlyTrain-kdeps-rate-s0")


def test_the_steps_that_fit_are_those_of_the_line_through_two_short_runs():
    pilots = [{"steps": 10, "seconds": 40.0}, {"steps": 30, "seconds": 60.0}]  # 30 s for a start, 1 s for a step
    assert steps_for(900, pilots) == 870
    with pytest.raises(ValueError, match="30 s are too few: the start takes 30 s, a step 1.00 s"):
        steps_for(30, pilots)


def test_every_run_is_saved_and_none_is_repeated(tmp_path, monkeypatch):
    calls = []

    def run(race, name, seed, steps, *, pilot=False):
        calls.append((name, seed, steps, pilot))
        if len(calls) == 7:
            raise RuntimeError("killed")
        return {"seconds": 20.0 + steps, "steps": steps, "views": 64 * steps, "student": f"{name}-{seed}"}

    monkeypatch.setattr(race_main, "run", run)
    race, out = a_race(tmp_path), tmp_path / "race.json"
    with pytest.raises(RuntimeError):
        hold(race, ["kdep", RIVAL], [0, 1], 2, out)
    document = hold(race, ["kdep", RIVAL], [0, 1], 2, out)
    first = (RIVAL, 0, 32, True)  # untimed, once in a process
    assert calls == [
        *[("kdep", 0, 32, True), ("kdep", 0, 8, True), ("kdep", 0, 32, True), ("kdep", 0, 100, False)],
        *[first, (RIVAL, 0, 8, True), (RIVAL, 0, 32, True)],  # killed
        *[first, (RIVAL, 0, 32, True), (RIVAL, 0, 100, False)],
        *[("kdep", 1, 32, True), ("kdep", 1, 100, False), (RIVAL, 1, 100, False)],
    ]
    assert [pilot["steps"] for pilot in document["pilots"]["kdep"]] == [8, 32]
    assert json.loads(out.read_text())["runs"] == document["runs"]
    count = len(calls)
    hold(race, ["kdep", RIVAL], [0, 1], 2, out)
    assert len(calls) == count
    with pytest.raises(ValueError, match=r"is of another race \(minutes 2, now 3\); choose another --work"):
        hold(race, ["kdep"], [0], 3, out)


def test_contenders_that_race_side_by_side_keep_each_others_runs(tmp_path, monkeypatch):
    race, out = a_race(tmp_path), tmp_path / "race.json"

    def run(race, name, seed, steps, *, pilot=False):
        if name == "kdep":  # while kdep runs, another process ends a run of its own
            hold(race, [RIVAL], [0], 2, out)
        return {"seconds": 20.0 + steps, "steps": steps, "views": 1}

    monkeypatch.setattr(race_main, "run", run)
    document = hold(race, ["kdep"], [0], 2, out)
    assert set(document["runs"]) == set(document["pilots"]) == {"kdep", RIVAL}
    assert json.loads(out.read_text()) == document


def test_runs_of_another_tap_folder_or_machine_are_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(
        race_main, "run", lambda race, name, seed, steps, **_: {"seconds": steps, "steps": steps, "views": 1}
    )
    race, out = a_race(tmp_path), tmp_path / "race.json"
    hold(race, ["kdep"], [0], 2, out)
    (tmp_path / "other").mkdir()
    other = a_race(tmp_path / "other")
    with pytest.raises(ValueError, match="tap pre, now post"):
        hold(replace(race, tap="post"), ["kdep"], [0], 2, out)
    with pytest.raises(ValueError, match="folder .*images, now .*other/images"):
        hold(replace(race, images=other.images), ["kdep"], [0], 2, out)
    monkeypatch.setattr(race_main, "describe_device", lambda device: {"cpu": "another"})
    with pytest.raises(ValueError, match="now {'cpu': 'another'}"):
        hold(race, ["kdep"], [0], 2, out)


def a_document(**more) -> dict:
    """Two contenders of three seeds, 2 minutes each; scores of task `a`."""
    runs = {str(seed): {"views": 1000, "seconds": 120.0, "student": str(seed)} for seed in (0, 1, 2)}
    about = {"minutes": 2, "teacher": "t", "student": "s", "pixels": 64, "images": 800}
    about["device"] = {"cpu": "c", "threads": 2}
    scores = {"kdep": {"a": {"0": 10, "1": 20, "2": 33}}, RIVAL: {"a": {"0": 8, "1": 19, "2": 30}}}
    rival = {seed: run | {"student": f"rival{seed}"} for seed, run in runs.items()}
    return {"about": about, "tasks": ["a"], "runs": {"kdep": runs, RIVAL: rival}, "scores": scores} | more


def differences(document: dict) -> list[list[str]]:
    """Cells of the rows `A minus B` of the board, without the first."""
    rows = [line for line in markdown(document).splitlines() if " minus " in line]
    return [[cell.strip() for cell in row.strip("|").split("|")[1:]] for row in rows]


def test_differences_are_paired_by_seed():
    document = a_document()
    assert "| kdep | 3 | 1,000 | 120 | 21.00 |" in markdown(document)
    # Differences 2, 1, 3: mean 2, standard error 1 / sqrt(3), times 4.3027.
    assert differences(document) == [["+2.00 [-0.48, +4.48]"] * 2]
    assert "(off" not in markdown(document) and "no score" not in markdown(document)
    document["scores"][RIVAL]["a"] = {"0": 8, "1": 18, "2": 31}  # the same difference in each
    assert differences(document) == [["+2.00"] * 2]
    document["scores"][RIVAL]["a"] = {"0": 8, "1": 19}
    assert differences(document) == [["+1.50"] * 2]


def test_a_claim_has_a_verdict_of_its_own_seeds_once_all_are_scored():
    document = a_document(claim=["0", "1", "2"])
    said = "Claim, named before seeds 0, 1, 2 were scored: kdep minus LightlyTrain by the mean of the tasks"
    assert f"\n{said} +2.00 [-0.48, +4.48]: no difference shown.\n" in markdown(document)
    document["scores"]["kdep"]["a"] = {"0": 10, "1": 21, "2": 33, "3": 0}  # 2, 2, 3 and one that is not claimed
    document["scores"][RIVAL]["a"]["3"] = 50
    assert f"\n{said} +2.33 [+0.90, +3.77]: better.\n" in markdown(document)  # 4.3027 * 0.5774 / sqrt(3) = 1.434
    del document["scores"][RIVAL]["a"]["2"]
    assert f"\n{said}, no verdict before all are scored.\n" in markdown(document)
    assert "Claim" not in markdown(a_document())


def test_each_of_kdeps_contenders_is_compared_with_each_of_lightlytrains():
    document = a_document()
    names = [*document["scores"], "kdep, same pixels", f"{RIVAL}, kdep's rate"]
    for name, ahead in zip(names, (3, 0, 2, 1), strict=True):
        document["runs"][name] = document["runs"][RIVAL]
        document["scores"][name] = {"a": {"0": 10 + ahead, "1": 11 + 2 * ahead, "2": 12 + 3 * ahead}}
    rows = [line for line in markdown(document).splitlines() if " minus " in line]
    assert [row.split("|")[1].strip() for row in rows] == [
        f"{own} minus {rival}" for rival in names[1::2] for own in names[::2]
    ]
    # Three and two times (1, 2, 3) against none of it, then against one.
    assert [cells[0].split()[0] for cells in differences(document)] == ["+6.00", "+4.00", "+4.00", "+2.00"]


def test_the_mean_of_the_tasks_has_the_seeds_that_have_them_all():
    document = a_document(tasks=["a", "b"])
    document["scores"]["kdep"]["b"] = {"0": 12, "1": 17}
    document["scores"][RIVAL]["b"] = {"0": 8, "1": 13, "2": 3}
    document["scores"]["kdep"]["c"] = {"2": 0}  # a task of an earlier command
    # Seed 0: 11 - 8 = 3. Seed 1: 18.5 - 16 = 2.5. Seed 2 of kdep has no b.
    assert differences(document) == [["+2.00 [-0.48, +4.48]", "+4.00", "+2.75"]]
    del document["scores"]["kdep"]["b"]
    assert differences(document) == [["+2.00 [-0.48, +4.48]", "-", "-"]]


def test_the_picture_has_a_panel_per_task_and_a_dot_per_run(tmp_path, monkeypatch):
    document = a_document(tasks=["a", "b", "c", "d"])  # two rows of three panels, of which two are empty
    seen = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **how: seen.append(figure))
    draw(document, tmp_path / "race.png")
    panels = [axes for axes in seen[0].axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["a", "b", "c", "d"]
    dots = [list(line.get_xdata()) for line in panels[0].lines if line.get_marker() == "o"]
    assert dots == [[10, 20, 33], [8, 19, 30]]
    means = [list(line.get_xdata()) for line in panels[0].lines if line.get_marker() != "o"]
    assert means == [[21, 21], [19, 19]]
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["kdep", RIVAL]


def test_a_run_that_took_much_longer_or_shorter_than_its_minutes_is_marked():
    document = a_document()
    document["runs"]["kdep"]["1"]["seconds"] = 132.0  # 10 %
    assert "Off" not in markdown(document)
    document["runs"]["kdep"]["1"]["seconds"], document["runs"][RIVAL]["2"]["seconds"] = 150.0, 107.0
    text = markdown(document)
    assert (
        "| kdep | 3 | 1,000 | 130 (off: seed 1 150 s) |" in text
        and f"| {RIVAL} | 3 | 1,000 | 116 (off: seed 2 107 s) |" in text
    )
    assert "Off: more than 10 % longer or shorter than the minutes of a run" in text


def test_the_board_goes_without_the_scores_of_cells_that_failed(tmp_path, monkeypatch):
    def measured(student, task, status="ok"):
        return SimpleNamespace(
            checkpoint=SimpleNamespace(sha256=student), task=SimpleNamespace(name=task), status=status, score=50.0
        )

    monkeypatch.setattr(race_main.sys, "executable", "false")  # `kdep transfer` ends with exit code 1
    monkeypatch.setattr(race_main, "open_checkpoint", lambda path: SimpleNamespace(identity=path))
    results = [measured("0", "a"), measured("1", "a"), measured("2", "a"), measured("2", "b", "failed")]
    monkeypatch.setattr(race_main, "read_results", lambda folder: results if folder.is_dir() else 1 / 0)
    document = a_document(tasks=["a", "b"])
    document["scores"] = score(a_race(tmp_path), document, "demo", "a,b")
    assert document["scores"] == {"kdep": {"a": {"0": 50.0, "1": 50.0, "2": 50.0}}}
    assert missing(document)[2:4] == [
        "kdep, seed 2, has no score of b.",
        f"{RIVAL}, seed 0, has no score of a, b.",
    ]
    text = markdown(document)
    assert "| kdep | 3 | 1,000 | 120 | 50.00 | - |" in text and f"| {RIVAL} | 3 | 1,000 | 120 | - | - |" in text
    assert "- kdep, seed 2, has no score of b." in text


def test_the_published_board_is_what_the_published_runs_give():
    place = ROOT / "docs" / "figures" / "race.json"
    text = place.with_suffix(".md").read_text()
    assert text == markdown(json.loads(place.read_text())) and place.with_suffix(".png").exists()
    page = (ROOT / "docs" / "studies.md").read_text()
    assert all(line in page for line in text.splitlines() if line.startswith(("|", "Claim")))
