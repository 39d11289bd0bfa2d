"""The suite: planning, isolation of cells, results, exit codes. Cells are real ones on a dozen tiny images."""

import inspect
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdep import cli
from kdep.models.backbones.backbone import create_network
from kdep.models.backbones.outline import gmacs, outline, parameters
from kdep.models.checkpoints.checkpoint import write_student
from kdep.models.weights import open_checkpoint
from kdep.shipped import FOLDER as CONFIGS
from kdep.shipped import names
from kdep_benchmarks import transfer as transfers
from kdep_benchmarks.jobs import measure
from kdep_benchmarks.tasks import task as task_module
from kdep_benchmarks.tasks.task import load_suite, load_task
from tests.conftest import measure_here

STUDENT = "random:test_resnet"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data root with a set of three colours, and a suite of its own on it."""
    root = tmp_path_factory.mktemp("world")
    draw = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label, colour in enumerate([(220, 40, 40), (40, 220, 40), (40, 40, 220)]):
            folder = root / "colours" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + draw.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    dataset = {
        "name": "colours",
        "layout": "imagefolder",
        "root": "colours",
        "files": {"train": "train", "test": "test"},
    }
    tasks = [
        {"name": f"colours-{kind}", "kind": kind, "dataset": dataset, "settings": {"size": 32}}
        for kind in ("knn", "linear")
    ]
    (root / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    return root


def transfer(world, results, *more, suite="suite.yaml", checkpoints=(STUDENT,)):
    arguments = ["transfer", *checkpoints, "--suite", str(world / suite), "--data-root", str(world)]
    return cli.main([*arguments, "--results", str(results), "--device", "cpu", *more])


def cells(results):
    return sorted(str(path.relative_to(results)) for path in results.rglob("seed*.json"))


@pytest.fixture(scope="module")
def measured(world, tmp_path_factory):
    results = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        measure_here(patch)
        assert transfer(world, results, "--seeds", "0,1") == 0
    return results


def test_every_cell_leaves_a_result_and_the_board_is_rebuilt(measured):
    assert len(cells(measured)) == 4
    assert {p.name for p in measured.glob("*.*")} >= {
        "verdicts.csv",
        "leaderboard.csv",
        "results.csv",
        "leaderboard.md",
        "leaderboard.html",
    }
    result = json.loads((measured / cells(measured)[0]).read_text())
    assert result["counts"]["test"] == 9 and result["load"]["coverage"] == 100.0
    assert result["cost"]["seconds"] > 0 and result["cost"]["params_m"] > 0
    speeds = [json.loads((measured / path).read_text())["cost"].get("images_per_second", 0) for path in cells(measured)]
    assert sorted(speed > 0 for speed in speeds) == [False, False, False, True]  # one extracts for all


def test_finished_cells_are_not_run_again(world, measured, capsys):
    before = {path: (measured / path).stat().st_mtime_ns for path in cells(measured)}
    assert transfer(world, measured, "--seeds", "0,1") == 0
    assert "0 to run, 4 done" in capsys.readouterr().out
    assert {path: (measured / path).stat().st_mtime_ns for path in cells(measured)} == before


def test_other_scores_of_a_study_below_the_results_stop_no_run(world, measured, tmp_path, capsys, caplog):
    results = tmp_path / "results"
    shutil.copytree(measured, results)
    name = cells(measured)[0]
    content = json.loads((measured / name).read_text())
    content["metrics"] = {metric: value / 2 + 1 for metric, value in content["metrics"].items()}
    (results / "study" / name).parent.mkdir(parents=True)
    (results / "study" / name).write_text(json.dumps(content))
    assert transfer(world, results, "--seeds", "0,1") == 0
    said = f"{results / 'study' / name}: {results / name} has other scores of the same cell"
    out = capsys.readouterr().out
    assert "0 to run, 4 done" in out and "Left out: 1 file." in out and said in out and said in caplog.text
    assert (results / "leaderboard.csv").read_text() == (measured / "leaderboard.csv").read_text()


@pytest.mark.parametrize("name", ["/sys/kernel", "/sys/kernel/mine/deep", "file", "file/deep"])
def test_results_that_cannot_be_written_are_refused_in_one_sentence_before_anything_is_read(
    world, tmp_path, capsys, monkeypatch, name
):
    (tmp_path / "file").touch()
    place = tmp_path / name  # an absolute name stays; nobody makes files in /sys, not even root
    monkeypatch.setattr(transfers, "open_all", lambda *_: pytest.fail("a checkpoint was opened"))
    command = ["transfer", STUDENT, "--data", str(world / "colours"), "--results", str(place), "--device", "cpu"]
    assert cli.main(command) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.count("\n") == 1
    assert printed.err.startswith(f"kdep: --results {place}: cannot be written (")
    assert printed.err.endswith("); name a folder that you may write to, such as --results results\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_dry_run_shows_the_plan_and_runs_nothing(world, tmp_path, capsys):
    assert transfer(world, tmp_path / "results", "--dry-run") == 0
    assert "2 cells: 2 to run" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_tasks_and_seeds_choose_cells(world, tmp_path, capsys):
    transfer(world, tmp_path, "--dry-run", "--tasks", "colours-knn", "--seeds", "3,4")
    out = capsys.readouterr().out
    assert "2 cells" in out and "colours-knn  seed 3" in out and "linear" not in out


@pytest.mark.usefixtures("cells_here")
def test_a_failing_cell_is_reported_with_its_reason(world, tmp_path, capsys):
    suite = yaml.safe_load((world / "suite.yaml").read_text())
    suite["tasks"][0]["settings"]["k"] = 1000
    (world / "broken.yaml").write_text(yaml.safe_dump(suite))
    assert transfer(world, tmp_path, "--tasks", "colours-knn", suite="broken.yaml") == 1
    out = capsys.readouterr().out
    assert "FAILED with exit code 1" in out and "train has only" in out
    (failed,) = cells(tmp_path)
    assert failed.endswith("failed.json")


SEGMENT = {"config": "segment_fcn", "iterations": 2, "batch_size": 2, "lr": 0.01, "weight_decay": 0.0, "crop": 32}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("knn", {"sise": 32}, "mine: settings: unknown key sise (did you mean size?); there are size, "),
        ("knn", ["size"], "task mine: settings must be a mapping, got ['size']"),
        ("linear", {"size": "large"}, "mine: settings: size must be a whole number, got 'large'"),
        ("fewshot", {"size": 32}, "mine: settings: share is missing"),
        ("finetune", {"precision": "int8"}, "mine: settings: precision must be 'auto', 'float32', "),
        (
            "segment",
            {key: SEGMENT[key] for key in SEGMENT if key != "weight_decay"},
            "mine: settings: weight_decay is missing",
        ),
        ("segment", {**SEGMENT, "weight_decay": None}, "mine: settings: weight_decay must be a number, got None"),
        ("segment", {key: SEGMENT[key] for key in SEGMENT if key != "crop"}, "mine: settings: crop is missing"),
        ("segment", {**SEGMENT, "scale": ["wide", 2]}, "mine: settings: scale.0 must be a whole number, got 'wide'"),
        ("segment", {**SEGMENT, "config": "segment_fnc"}, "mine: settings: config: there are segment_fcn, "),
        ("detect", {**SEGMENT, "scale": [64, 64]}, "mine: settings: unknown key crop; there are config, "),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_settings_that_no_cell_could_read_stop_the_suite_before_anything_runs(
    world, tmp_path, capsys, kind, settings, message, more
):
    suite = yaml.safe_load((world / "suite.yaml").read_text())
    dataset = suite["tasks"][0]["dataset"]
    if kind in ("segment", "detect"):
        dataset = dataset | {"layout": "voc"}
    suite["tasks"].append({"name": "mine", "kind": kind, "dataset": dataset, "settings": settings})
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(suite))
    assert transfer(world, tmp_path / "results", *more, suite=tmp_path / "wrong.yaml") == 2
    said = capsys.readouterr()
    assert message in said.err and str(tmp_path / "wrong.yaml") in said.err and said.err.count("\n") == 1
    assert not said.out and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("device", "message"),
    [("gpu", "device 'gpu': there are auto, cpu, cuda"), ("cuda", "sees no CUDA device"), ("cuda:x", "'cuda:x'")],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_device_that_is_not_there_stops_the_suite_before_anything_runs(
    world, tmp_path, capsys, monkeypatch, device, message, more
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert transfer(world, tmp_path / "results", "--device", device, *more) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1
    assert not said.out and not (tmp_path / "results").exists()


@pytest.mark.usefixtures("cells_here")
def test_a_few_shot_cell_is_measured_and_is_the_same_at_every_budget(world, tmp_path, capsys):
    suite = yaml.safe_load((world / "suite.yaml").read_text())
    name, settings = "colours-fewshot", {"size": 32, "share": 0.4}
    suite["tasks"] = [suite["tasks"][0] | {"name": name, "kind": "fewshot", "settings": settings}]
    (world / "fewshot.yaml").write_text(yaml.safe_dump(suite))
    assert transfer(world, tmp_path, suite="fewshot.yaml") == 0
    (cell,) = cells(tmp_path)
    result = json.loads((tmp_path / cell).read_text())
    assert "fair-v2/" in cell and len(result["curves"][result["chosen"]["tap"]]["test_top1"]) == 5
    capsys.readouterr()
    assert transfer(world, tmp_path, "--budget", "smoke", "--dry-run", suite="fewshot.yaml") == 0
    assert "0 to run, 1 done" in capsys.readouterr().out


def test_an_absent_data_set_is_listed_as_absent(tmp_path, capsys):
    arguments = ["transfer", STUDENT, "--suite", "all", "--data-root", str(tmp_path), "--dry-run"]
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert "0 to run, 0 done" in said.out
    assert all(f"absent  {name}: " in said.out for name in names("transfer"))
    assert f"kdep: nothing to measure: no data set of these tasks is below {tmp_path}; --data-root DIR" in said.err


def test_a_plan_says_which_tasks_ignore_the_input_size_of_a_checkpoint(tmp_path, capsys):
    def said(spec, *tasks):
        cli.main(["transfer", spec, "--tasks", ",".join(tasks), "--data-root", str(tmp_path), "--dry-run"])
        return capsys.readouterr().out.partition("cells:")[0]

    both = ("dtd-knn", "voc2012-segment", "voc0712-detect")
    assert f"{STUDENT}@64: tasks of kind segment, detect ignore this input size" in said(f"{STUDENT}@64", *both)
    assert "ignore" not in said(STUDENT, *both) + said(f"{STUDENT}@64", "dtd-knn", "voc2012-dense-knn")


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_suite_without_any_data_fails_and_says_where_it_looked(world, tmp_path, capsys, more):
    suite = yaml.safe_load((world / "suite.yaml").read_text())
    suite["tasks"][0]["dataset"]["root"] = "color"  # the tasks share it, as YAML's anchor
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(suite))
    assert transfer(world, tmp_path / "results", *more, suite=tmp_path / "typo.yaml") == 1
    said = capsys.readouterr()
    assert "0 to run, 0 done, 2 without data" in said.out and not (tmp_path / "results").exists()
    assert f"colours was looked for in {world / 'color'} with test: test, train: train\n" in said.err


def test_a_suite_of_which_only_some_data_is_absent_does_what_it_can(world, tmp_path, capsys):
    suite = yaml.safe_load((world / "suite.yaml").read_text())
    suite["tasks"][0]["dataset"] = suite["tasks"][0]["dataset"] | {"root": "color"}
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(suite))
    assert transfer(world, tmp_path / "results", "--dry-run", suite=tmp_path / "typo.yaml") == 0
    said = capsys.readouterr()
    assert "1 to run, 0 done, 1 without data" in said.out and not said.err


@pytest.mark.parametrize(
    ("split", "gone", "message"),
    [("*", (1, 2), "train has one class only (class0)"), ("test", (2,), "train has 3 classes and test 2")],
)
def test_class_folders_that_no_score_can_be_of_are_refused_before_anything_runs(
    world, tmp_path, capsys, split, gone, message
):
    shutil.copytree(world, tmp_path / "world")
    for label in gone:
        for folder in (tmp_path / "world" / "colours").glob(f"{split}/class{label}"):
            shutil.rmtree(folder)
    assert transfer(tmp_path / "world", tmp_path / "results") == 2
    said = capsys.readouterr()
    assert f"data set colours: {message}" in said.err and not said.out


def weights_file(path, shift):
    """A file of test_resnet's weights, others for another shift."""
    weights = {n: t + (t.is_floating_point() * shift) for n, t in open_checkpoint(STUDENT).weights.items()}
    path.parent.mkdir(exist_ok=True)
    torch.save(weights, path)
    return str(path)


ONE_TASK = ("--arch", "test_resnet", "--tasks", "colours-knn")


@pytest.mark.usefixtures("cells_here")
def test_two_files_of_the_same_weights_are_one_row_and_that_is_said(world, tmp_path, capsys):
    (tv, dino), results = (weights_file(tmp_path / f"{n}.pth", 0.01) for n in ("tv", "dino")), tmp_path / "results"
    assert transfer(world, results, *ONE_TASK, checkpoints=(tv, dino)) == 0
    out = capsys.readouterr().out
    assert f"{dino} holds the same weights as {tv}: one row on the board, named tv\n1 cells: 1 to run" in out
    assert "another suite" not in out
    # later, and of another task: the row keeps its name
    assert transfer(world, results, *ONE_TASK[:3], "colours-linear", checkpoints=(dino,)) == 0
    out = capsys.readouterr().out
    assert f"{dino} holds the same weights as tv, measured here before: one row, named tv\n" in out
    names = {json.loads((results / path).read_text())["checkpoint"]["name"] for path in cells(results)}
    assert names == {"tv"} and len(cells(results)) == 2


@pytest.mark.parametrize("option", ["data_root", "results", "checkpoints"])
def test_a_name_that_is_not_utf_8_is_refused_in_words(tmp_path, option):
    odd = tmp_path / os.fsdecode(b"fot\xf3s")
    given = {
        "checkpoints": ["random:test_resnet"],
        "suite": "probe",
        option: [str(odd)] if option == "checkpoints" else odd,
    }
    with pytest.raises(ValueError, match=r"fot\\udcf3s: a name that is not UTF-8, which no result can hold; rename it"):
        transfers.Request(**given)


def test_two_networks_of_the_same_tensors_are_not_one_row(world, tmp_path, capsys):
    # Their padding differs, and with it the features.
    pair = ("random:efficientnet_b0", "random:tf_efficientnet_b0")
    assert transfer(world, tmp_path / "results", checkpoints=pair) == 2
    assert f"{pair[1]} has the tensors of {pair[0]}, but is tf_efficientnet_b0" in capsys.readouterr().err


@pytest.mark.usefixtures("cells_here")
def test_two_files_of_one_name_have_rows_that_are_told_apart_everywhere(world, tmp_path, capsys):
    files = [weights_file(tmp_path / run / "last.pth", shift) for run, shift in (("r1", 0.01), ("r2", 0.02))]
    rows = [f"last ({open_checkpoint(file, arch='test_resnet').identity[:8]})" for file in files]
    assert transfer(world, tmp_path / "results", *ONE_TASK, checkpoints=files[:1]) == 0
    assert rows[0] not in capsys.readouterr().out
    assert transfer(world, tmp_path / "results", *ONE_TASK, checkpoints=files[1:]) == 0
    out = capsys.readouterr().out
    assert f"{files[1]}: other weights have the name last too; its row is {rows[1]}\n" in out
    assert f"to run  {rows[1]}  colours-knn  seed 0" in out
    overview = out[out.index("overview") :].splitlines()
    assert all(any(line.startswith(row) for line in overview) for row in rows)
    board = (tmp_path / "results" / "leaderboard.md").read_text()
    assert all(f"| {row} |" in board for row in rows)
    assert set(pd.read_csv(tmp_path / "results" / "results.csv").name) == set(rows)
    own = {"suite": str(world / "suite.yaml"), "data_root": world, "results": tmp_path / "results"}
    found = transfers.transfer(files[1], **own, arch="test_resnet", tasks="colours-knn", device="cpu")
    assert set(found.name) == {rows[1]}
    assert cli.main(["compare", *rows, "--results", str(tmp_path / "results")]) == 0
    assert rows[0] in capsys.readouterr().out


@pytest.mark.usefixtures("cells_here")
def test_one_file_with_two_normalisations_has_two_rows_and_what_differs_is_said(world, tmp_path, capsys):
    file, results = str(tmp_path / "mine.pth"), tmp_path / "results"
    arch, tag = "vit_small_patch16_224", "vit_small_patch16_224.dino"  # 0.5 and ImageNet's mean and std
    torch.save(open_checkpoint(f"random:{arch}").weights, tmp_path / "mine.pth")
    options = ("--tasks", "colours-knn", "--arch")
    assert transfer(world, results, *options, arch, checkpoints=[file]) == 0
    row = f"mine ({open_checkpoint(file, arch=tag).identity[:8]})"
    capsys.readouterr()
    assert transfer(world, results, *options, tag, "--dry-run", checkpoints=[file]) == 0
    said = (
        f"{file}: the same weights with another normalisation, tap or code have the name mine too; its row is {row}\n"
    )
    assert said in capsys.readouterr().out


def test_weights_that_do_not_fit_end_with_exit_code_3_and_no_row(world, tmp_path, capsys):
    weights = create_network("test_resnet").state_dict()
    weights.pop("conv1.weight" if "conv1.weight" in weights else next(iter(weights)))
    torch.save(weights, tmp_path / "damaged.pth")
    code = transfer(world, tmp_path / "results", "--arch", "test_resnet", checkpoints=[str(tmp_path / "damaged.pth")])
    assert code == 3
    assert "1 missing (first ['" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("cells_here")
def test_a_plain_state_dict_takes_part_with_its_architecture(world, tmp_path):
    torch.save({"state_dict": create_network("test_resnet").state_dict()}, tmp_path / "mine.pth")
    options = ("--arch", "test_resnet", "--tasks", "colours-knn")
    assert transfer(world, tmp_path / "results", *options, checkpoints=[str(tmp_path / "mine.pth")]) == 0
    assert "mine" in (tmp_path / "results" / "leaderboard.csv").read_text()


def test_other_data_under_the_same_name_is_refused(world, measured, tmp_path, capsys):
    shutil.copytree(world, tmp_path / "world")
    next((tmp_path / "world" / "colours" / "test" / "class0").glob("*.png")).unlink()
    shutil.copytree(measured, tmp_path / "results")
    assert transfer(tmp_path / "world", tmp_path / "results") == 2
    assert "measured on other data" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["on other data", "by other settings"])
def test_a_plan_says_which_checkpoints_were_measured_on_other_data_or_by_other_settings(
    world, measured, tmp_path, capsys, changed
):
    shutil.copytree(world, tmp_path / "world")
    if changed == "on other data":
        next((tmp_path / "world" / "colours" / "test" / "class0").glob("*.png")).unlink()
    else:
        suite = tmp_path / "world" / "suite.yaml"
        suite.write_text(suite.read_text().replace("size: 32", "size: 40"))
    said = f"colours-knn: measured in this folder {changed}: random:test_resnet. Such scores are never"
    for world_now, force, expected in (
        (tmp_path / "world", (), True),
        (tmp_path / "world", ("--force",), False),
        (world, (), False),
    ):
        checkpoints = ("random:test_resnet#1", *([STUDENT] if force else []))
        more = ("--dry-run", "--tasks", "colours-knn", "--seeds", "0,1", *force)
        assert transfer(world_now, measured, *more, checkpoints=checkpoints) == 0
        assert (said in capsys.readouterr().out) == expected


def test_other_settings_under_the_same_name_are_refused(world, measured, tmp_path, capsys):
    suite = yaml.safe_load((world / "suite.yaml").read_text())
    suite["tasks"][0]["settings"]["size"] = 40
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    shutil.copytree(measured, tmp_path / "results")
    assert transfer(world, tmp_path / "results", suite=tmp_path / "suite.yaml") == 2
    assert "other settings than the task has now (size: 32, now 40)" in capsys.readouterr().err


def test_another_kind_under_the_same_name_is_refused(world, measured, tmp_path, capsys):
    suite = yaml.safe_load((world / "suite.yaml").read_text())
    suite["tasks"] = [suite["tasks"][0] | {"kind": "linear"}]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    shutil.copytree(measured, tmp_path / "results")
    assert transfer(world, tmp_path / "results", suite=tmp_path / "suite.yaml") == 2
    assert "measured as knn, and the task is now linear; rename the task or" in capsys.readouterr().err


def test_a_network_that_resamples_its_input_is_another_checkpoint(world, measured, tmp_path, capsys):
    shutil.copytree(measured, tmp_path / "results")
    both = (STUDENT, f"{STUDENT}@64")
    assert transfer(world, tmp_path / "results", "--dry-run", checkpoints=both) == 0
    assert "4 cells: 2 to run, 2 done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "nonsense"], "there are all, classification"),
        (["--tasks", "voc2012-linear"], "there are ade20k-dense-knn"),
        (["--tasks", "dtd-knn", "--protocol", "paper"], "has protocol fair and no section paper"),
        ([], "--suite NAME, --tasks A,B or --data FOLDER"),
        (["--tasks", "flowers5-knn"], "--tasks flowers5-knn: a task of the suite photographs; add --suite photographs"),
        (["--suite", "demo", "--seeds", "0,x"], "whole numbers"),
        (["--tasks", "cifar10-knn,cifar10-knn"], "--tasks cifar10-knn: named twice"),
    ],
)
def test_a_wrong_choice_says_what_there_is(arguments, message, capsys):
    assert cli.main(["transfer", STUDENT, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_from_python_a_table_comes_back(world, measured, tmp_path):
    shutil.copytree(measured, tmp_path / "results")
    own = {"suite": str(world / "suite.yaml"), "data_root": world, "results": str(tmp_path / "results")}
    found = transfers.transfer(STUDENT, **own, seeds=[0, 1], tasks=["colours-knn"], device="cpu")
    assert isinstance(found, pd.DataFrame) and set(found.task) == {"colours-knn"} and set(found.seed) == {0, 1}
    scores = found[found.metric == "top1"]
    assert len(scores) == 2 and scores.value.between(0, 100).all()
    with pytest.raises(ValueError, match="--jobs 0: expected at least 1"):
        transfers.transfer(STUDENT, **own, jobs=0)
    with pytest.raises(ValueError, match="nothing to measure"):
        transfers.transfer(STUDENT, tasks=["dtd-knn"], data_root=tmp_path, results=tmp_path / "none")
    with pytest.raises(ValueError, match="no checkpoint to measure"):
        transfers.transfer([], **own)
    with pytest.raises(TypeError, match=r"transfer\(\) got an unexpected keyword argument 'data_rot'"):
        transfers.transfer(STUDENT, data_rot=world)
    with pytest.raises(
        ValueError, match=r"checkpoints: got a Linear; expected a path or a name .* Save a network first"
    ):
        transfers.transfer([STUDENT, torch.nn.Linear(1, 1)], **own)
    with pytest.raises(ValueError, match=r"arch: got \['test_resnet'\]; expected one timm name"):
        transfers.transfer([STUDENT], **own, arch=["test_resnet"])


def test_python_takes_what_a_request_holds_with_the_same_defaults():
    given, held = inspect.signature(transfers.transfer).parameters, {one.name: one for one in fields(transfers.Request)}
    assert list(given) == list(held)
    for name, one in given.items():
        if name not in ("checkpoints", "data_root", "results", "engine_options"):
            assert one.default == held[name].default


@pytest.mark.usefixtures("cells_here")
def test_a_folder_of_images_is_measured_without_a_suite(world, tmp_path, capsys):
    own = ["--results", str(tmp_path), "--device", "cpu"]
    assert cli.main(["transfer", STUDENT, "--data", str(world / "colours"), *own, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "settings are chosen on a fifth of train, scores are of test; 3 classes: class0, class1, class2\n" in said
    assert "colours-knn  seed 0" in said and "colours-linear  seed 0" in said
    shutil.copytree(world / "colours" / "train", tmp_path / "my photos")
    command = ["transfer", STUDENT, "--data", str(tmp_path / "my photos"), "--tasks", "knn", *own]
    assert cli.main(command) == 0
    assert "a fifth of each class is test and the rest train (seed 0)" in capsys.readouterr().out
    (path,) = tmp_path.rglob("my_photos-knn/**/seed0.json")
    copies = {"leaked": 0, "repeated": 0, "effective": 3}
    assert json.loads(path.read_text())["counts"] == {"train": 12, "val": 3, "test": 3, **copies}
    assert cli.main(command) == 0 and "0 to run, 1 done" in capsys.readouterr().out
    # Means are over the tasks on this folder, whatever else was measured here. Two checkpoints end with a verdict.
    assert cli.main(["transfer", "random:test_resnet#1", "--data", str(world / "colours"), "--tasks", "knn", *own]) == 0
    assert "\nfair-v2:\n" not in capsys.readouterr().out
    assert cli.main([*command, "random:test_resnet#1"]) == 0
    said = capsys.readouterr().out
    assert cli.main(["compare", STUDENT, "random:test_resnet#1", "--results", str(tmp_path)]) == 0
    assert said.endswith("\n" + capsys.readouterr().out) and "\n  No difference shown between" in said
    board = pd.read_csv(tmp_path / "leaderboard.csv")
    assert len(board) == 2 and board.complete.all() and board.mean_over_families.notna().all()
    assert "Means and ranks are over the tasks of --data my photos, without my_photos-finetune" in said
    # Of three the table of `kdep compare`, of six the command that prints it.
    several = [f"random:test_resnet#{seed}" for seed in range(1, 6)]
    assert cli.main([*command, *several[:2]]) == 0
    said = capsys.readouterr().out
    assert cli.main(["compare", STUDENT, *several[:2], "--results", str(tmp_path)]) == 0
    assert said.endswith("\n" + capsys.readouterr().out) and f"\nfair-v2: {STUDENT} minus the others, in points" in said
    assert cli.main([*command, *several]) == 0
    hint = capsys.readouterr().out.splitlines()[-1]
    asked = shlex.split(hint.partition("  kdep ")[2])
    assert asked == ["compare", STUDENT, *several, "--results", str(tmp_path)]
    # Another size is another task: both scores stay.
    assert cli.main([*command, "--size", "32"]) == 0
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("my_photos-knn*/**/seed0.json"))]
    settings = {(result["checkpoint"]["name"], result["task"]["name"]): result["settings"] for result in found}
    assert settings[STUDENT, "my_photos-knn-32px"] == {"size": 32} and settings[STUDENT, "my_photos-knn"] == {}


@pytest.mark.parametrize(
    ("folders", "more", "message"),
    [
        (
            (),
            (),
            "has no class folders; expected train/CLASS/*.jpg and test/CLASS/*.jpg (or val/), or only CLASS/*.jpg",
        ),
        (None, (), "no such folder; expected"),
        (("test/a", "test/b"), (), "has test only; expected"),
        (("a", "b"), (), "class a has fewer than three images"),
        (
            ("train/a", "test/a"),
            ("--tasks", "fewshot"),
            "--tasks fewshot: with --data, tasks are knn, linear, finetune",
        ),
        (("train/a", "test/a"), ("--suite", "probe"), "a folder takes the place of a suite; leave out --suite probe"),
        (("train/a", "val/a"), (), "train has one class only (a)"),
        (
            ("img_dir/train", "img_dir/val", "ann_dir/train", "ann_dir/val"),
            (),
            "ann_dir and img_dir hold train and val, as data for segmentation and detection do; describe those in",
        ),
        (
            ("cats/test", "cats/train", "dogs/test", "dogs/train"),
            (),
            "data: cats and dogs hold test and train, as data for segmentation and detection do; describe those in a "
            "suite file, with the layout voc, ade20k, cityscapes or coco. If the folders are classes, expected "
            "train/CLASS/*.jpg and test/CLASS/*.jpg (or val/), or only CLASS/*.jpg: move cats/test to test/cats, and",
        ),
        (tuple(f"c{n}/Train" for n in range(1000)), (), "data: c0 and c1 and c10 and 997 more hold Train, as data for"),
        (("Train/a", "Train/b", "Test/a", "Test/b"), (), "has Test; expected train/CLASS/*.jpg"),
        (("training/a", "test/a"), (), "has training; expected train/CLASS/*.jpg"),
        (("train/a", "test/a"), ("--size", "8"), "size"),
        (("train/a", "test/a"), ("--protocol", "paper"), "a folder of --data is measured by the protocol fair"),
    ],
)
def test_a_folder_that_cannot_be_measured_says_what_would_be_right(tmp_path, capsys, folders, more, message):
    for name in folders or ():
        (tmp_path / "data" / name).mkdir(parents=True)
    if folders == ():
        (tmp_path / "data").mkdir()
    assert cli.main(["transfer", STUDENT, "--data", str(tmp_path / "data"), *more]) == 2
    assert message in capsys.readouterr().err


def test_files_of_two_networks_in_one_call_are_told_to_be_measured_one_by_one(tmp_path, capsys):
    import timm
    import torch

    for arch in ("test_resnet", "test_efficientnet"):
        torch.save(timm.create_model(arch, num_classes=0).state_dict(), tmp_path / f"{arch}.pth")
    files = [str(tmp_path / f"{arch}.pth") for arch in ("test_resnet", "test_efficientnet")]
    assert cli.main(["transfer", *files, "--arch", "test_resnet", "--suite", "demo", "--dry-run"]) == 3
    said = capsys.readouterr().err
    assert "test_efficientnet.pth does not fit ResNet (test_resnet, 90 tensors)" in said
    assert "--arch test_resnet is for all plain files of a call: measure a file of another network in a call" in said
    assert cli.main(["transfer", files[1], "--arch", "test_resnet", "--suite", "demo", "--dry-run"]) == 3
    assert "is for all plain files" not in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--jobs", "0"), ("--timeout", "0"), ("--timeout", "nan"), ("--seeds", "1,1")])
def test_impossible_values_are_refused(option, capsys):
    assert cli.main(["transfer", "random:test_resnet", "--suite", "demo", *option]) == 2
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize("name", names("transfer"))
def test_every_shipped_task_loads(name, tmp_path):
    task = load_task(name, tmp_path)
    assert name.startswith(task.dataset.name) and task.family in ("classification", "segmentation", "detection")


@pytest.mark.parametrize(("suite", "tasks"), [("classification", 4), ("paper", 9), ("own", 1)])
def test_a_suite_is_read_once_and_its_means_are_over_all_its_tasks_by_every_protocol(
    suite, tasks, tmp_path, monkeypatch
):
    if suite == "own":
        suite = str(tmp_path / "own.yaml")
        (tmp_path / "own.yaml").write_text("tasks: [dtd-finetune]")
    reads, read = Counter(), task_module.read_mapping
    monkeypatch.setattr(task_module, "read_mapping", lambda path, *words: reads.update([path]) or read(path, *words))
    by_paper, over, _ = transfers.tasks_of(transfers.Request(checkpoints=["x"], suite=suite, protocol="paper"))
    assert {task.protocol for task in by_paper} == {"paper"} and len(by_paper) == tasks
    assert len(reads) > 1 and set(reads.values()) == {1}
    every, same, _ = transfers.tasks_of(transfers.Request(checkpoints=["x"], suite=suite))
    assert over == same and over.tasks == {task.name for task in every} >= {task.name for task in by_paper}


@pytest.mark.parametrize("name", names("suites"))
def test_every_shipped_suite_loads(name, tmp_path):
    assert load_suite(name, tmp_path)
    assert (CONFIGS / "suites" / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100", "test_vit"])
def test_a_network_is_counted_without_being_made(arch):
    network = create_network(arch).eval()
    assert parameters(arch) == sum(parameter.numel() for parameter in network.parameters())
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in outline(arch).state_dict().items()} == shapes
    # Attention as products of matrices: some versions of torch do not count a CPU's own kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224))
    assert gmacs(arch) == pytest.approx(counter.get_total_flops() / 2e9, rel=1e-9)


def test_help_is_fast_because_it_imports_nothing_heavy():
    code = "import sys; from kdep import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'timm', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=CONFIGS.parent)


@pytest.mark.usefixtures("cells_here")
def test_a_checkpoint_replaced_between_two_cells_fails_its_own_cells_and_no_other(world, tmp_path, monkeypatch, capsys):
    file, opened = tmp_path / "student.pth", []
    write_student(open_checkpoint(STUDENT), file)

    def open_(spec, **options):
        opened.append(spec)
        if opened.count(str(file)) == 2:  # the second cell of this student
            write_student(open_checkpoint("random:test_resnet#1"), file)
        if opened.count(str(file)) == 3:
            file.unlink()
        return open_checkpoint(spec, **options)

    monkeypatch.setattr(measure, "open_checkpoint", open_)
    own = {"checkpoints": (str(file), "random:test_resnet#2")}
    assert transfer(world, tmp_path / "results", "--seeds", "0,1", "--tasks", "colours-knn,colours-linear", **own) == 1
    out = capsys.readouterr().out
    assert out.count("FAILED with exit code 1") == 3
    assert f"error: {file} has changed since the run was planned; start the same command again" in out
    assert f"error: {file}: no such file" in out
    assert len([name for name in cells(tmp_path / "results") if not name.endswith("failed.json")]) == 5
