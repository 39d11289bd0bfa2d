"""What a measured cell records."""

import errno
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from kdep import cli
from kdep.data.loading.loader import LoaderError
from kdep.data.sources.disk import DiskError
from kdep.data.sources.shards import ShardError
from kdep.files import save
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.checks.contents import Contents
from kdep_benchmarks.jobs import measure as measuring
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.measure import measure_cell
from kdep_benchmarks.jobs.plan import checkpoint_card, look_up, plan_cell
from kdep_benchmarks.tasks.task import Task
from tests.helpers import toolbox_trees as trees


def planned_cell(photos, tmp_path, kind="knn"):
    dataset = Dataset("photos", "imagefolder", photos, {"train": ".:train", "test": ".:test"})
    task = Task(f"photos-{kind}", kind, dataset, settings={"size": 32, "workers": 0})
    card = checkpoint_card(open_checkpoint("random:test_resnet"))
    planned = plan_cell(Cell("random:test_resnet", None, card, task, 0, "cpu", tmp_path / "results"), look_up(task))
    planned.cell.work.mkdir(parents=True)
    return planned.cell


def test_a_score_on_data_that_changed_meanwhile_is_not_kept(photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "photos")
    cell = planned_cell(tmp_path / "photos", tmp_path)
    run = measuring.run_kind(cell.task.kind)

    def change(*arguments, **options):
        outcome = run(*arguments, **options)
        first, *_ = sorted((tmp_path / "photos").glob("*/*"))
        first.write_bytes(first.read_bytes() + b"more")
        return outcome

    monkeypatch.setattr(measuring, "run_kind", lambda kind: change)
    with pytest.raises(ValueError, match="data set photos has changed since the run was planned"):
        measure_cell(cell)


@pytest.mark.parametrize(("kind", "precision"), [("knn", "highest"), ("finetune", "high")])
def test_frozen_probes_compute_in_full_float32_where_tf32_is_the_default(
    photos, tmp_path, monkeypatch, kind, precision
):
    cell, seen = planned_cell(photos, tmp_path, kind), []
    answered = measuring.run_kind("knn")

    def look(checkpoint, task, **options):
        seen.append(torch.get_float32_matmul_precision())
        return answered(checkpoint, replace(task, kind="knn"), **options)

    monkeypatch.setattr(measuring, "run_kind", lambda kind: look)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as in some images of a container
    try:
        measure_cell(cell)
        assert seen == [precision] and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DiskError("a.png: the disk does not answer"), "a.png: the disk does not answer"),
        (FloatingPointError("the loss is nan"), "the loss is nan"),
        (ShardError("a.tar: damaged"), "a.tar: damaged"),
        (FileExistsError("runs/a is there"), "runs/a is there"),
        (FileExistsError(errno.EEXIST, "File exists", "a.part", None, "a"), "a: File exists"),
        (OSError(errno.ENOSPC, "Full"), f"Full; nothing half-written is left, {cli.GOES_ON}"),
        (LoaderError("a worker was lost"), f"a worker was lost; {cli.GOES_ON}"),
    ],
)
def test_what_a_user_can_mend_ends_a_cell_and_a_command_with_one_sentence(
    photos, tmp_path, monkeypatch, capsys, error, text
):
    cell = planned_cell(photos, tmp_path)

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(measuring, "run_kind", lambda kind: fail)
    (tmp_path / "cell.json").write_bytes(TypeAdapter(Cell).dump_json(cell))
    assert measuring.main(str(tmp_path / "cell.json")) == 1
    assert cli.guarded(fail, None) == 1
    assert capsys.readouterr().err == f"error: {text}\nkdep: {text}\n"


@pytest.mark.parametrize("layout", ["ade20k", "voc"])
def test_a_cell_of_masks_says_what_no_score_is_about(tmp_path, layout):
    """Masks that count from 0, read as if 0 were unlabelled, lose their first class and lack the last."""
    dataset = replace(trees.ade20k(tmp_path), classes=("ground", *trees.CLASSES))
    if layout == "voc":
        dataset = trees.voc(tmp_path)
        shutil.copytree(tmp_path / "VOC2012/ImageSets/Main", tmp_path / "VOC2012/ImageSets/Segmentation")
        files = {role: f"VOC2012/ImageSets/Segmentation/{role}.txt" for role in trees.COUNTS}
        dataset = replace(dataset, files=files)
    task = Task("m-dense-knn", "dense-knn", dataset, settings={"size": 64, "k": 5})
    card = checkpoint_card(open_checkpoint("random:resnet18"))
    planned = plan_cell(Cell("random:resnet18", None, card, task, 0, "cpu", tmp_path / "results"), look_up(task))
    planned.cell.work.mkdir(parents=True)
    chosen = measure_cell(planned.cell)[0].chosen
    if layout == "voc":
        assert chosen["ignored_percent"] == 0 and "classes_not_in_test" not in chosen
    else:
        assert chosen["ignored_percent"] > 50
        assert (chosen["classes_not_in_test"], chosen["last_classes_not_in_test"]) == (["green"], 1)


def test_a_measured_cell_says_its_leaks_its_floor_and_the_settings_of_its_task(photos, tmp_path):
    dataset = Dataset("photos", "imagefolder", photos, {"train": ".:train", "test": ".:test"})
    task = Task("photos-knn", "knn", dataset, settings={"size": 32, "workers": 0})
    card = checkpoint_card(open_checkpoint("random:test_resnet"))
    planned = plan_cell(Cell("random:test_resnet", None, card, task, 0, "cpu", tmp_path), look_up(task))
    contents = Contents(leaked=3, repeated=2, effective=7, sketch="ab")
    cell = replace(planned.cell, contents=contents, halved="out of memory")
    cell.work.mkdir(parents=True)
    result, answers = measure_cell(cell)
    counts = [result.counts[name] for name in ("leaked", "repeated", "effective")]
    assert (counts, result.test_images) == ([3, 2, 7], "ab")
    assert result.settings == task.plain_settings  # not those of half the batch
    assert result.chosen["floor"] == 100 * max(np.bincount(answers.truth)) / len(answers.truth)


def test_a_measured_cell_says_which_network_of_a_file_it_measured(photos, tmp_path):
    networks = {name: open_checkpoint(f"random:test_resnet#{seed}") for seed, name in enumerate(("student", "teacher"))}
    file = str(tmp_path / "w.pth")
    save({name: network.weights for name, network in networks.items()}, tmp_path / "w.pth")
    task = planned_cell(photos, tmp_path / "other").task
    for spec, taken in ((file, "teacher"), (f"{file}#student", "student")):
        card = checkpoint_card(open_checkpoint(spec, arch="test_resnet"))
        assert card.sha256 == networks[taken].identity
        cell = plan_cell(Cell(spec, "test_resnet", card, task, 0, "cpu", tmp_path), look_up(task)).cell
        cell.work.mkdir(parents=True)
        assert measure_cell(cell)[0].load["prefix"] == taken
