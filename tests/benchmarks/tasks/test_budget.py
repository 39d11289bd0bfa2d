"""Budgets and protocols: what they change in a task, what a row says of them, and that they never mix."""

import types

import pytest
import torch
import yaml

from kdep_benchmarks.board.build import boards
from kdep_benchmarks.data.cards import CARDS, Dataset
from kdep_benchmarks.jobs.cell import Cell, protocol_of
from kdep_benchmarks.kinds import KINDS, SCHEDULED
from kdep_benchmarks.openmmlab.tasks.detect import train_dataset
from kdep_benchmarks.result import BUDGETS, CheckpointCard
from kdep_benchmarks.tasks import classify, finetune
from kdep_benchmarks.tasks import settings as kinds
from kdep_benchmarks.tasks.choose import choose_tasks
from kdep_benchmarks.tasks.settings import Finetune, read_settings
from kdep_benchmarks.tasks.task import SHARES, Task, load_suite, load_task, parse_task
from tests.helpers.made_results import result

PAPER = ("caltech256", "cifar100", "cub200", "dtd")


def chosen(tmp_path, **given):
    return choose_tasks(given.pop("suite", None), given.pop("tasks", ()), tmp_path, **given)


def settings_of(task):
    return read_settings(kinds.SETTINGS[task.kind], task)


def test_a_budget_scales_every_schedule_of_the_shipped_tasks_and_nothing_else(tmp_path):
    for full in load_suite("all", tmp_path):
        if full.kind not in SCHEDULED:
            continue
        plain = settings_of(full)
        for budget, share in (("short", 0.1), ("smoke", 0.01)):
            scaled, length = settings_of(full.at(budget)), "epochs" if full.kind == "finetune" else "iterations"
            assert getattr(scaled, length) == max(1, round(share * getattr(plain, length)))
            changed = {k for k, v in vars(plain).items() if getattr(scaled, k) != v} - {length}
            assert changed <= {"lr_step_epochs", "warmup"}


def test_steps_and_warm_up_shrink_with_the_schedule(tmp_path):
    paper = settings_of(load_task("dtd-finetune", tmp_path, protocol="paper").at("short"))
    assert (paper.epochs, paper.lr_step_epochs) == (15, 5)
    coco = [settings_of(load_task("coco-detect", tmp_path).at(budget)) for budget in ("full", "short", "smoke")]
    assert [(s.iterations, s.warmup) for s in coco] == [(90000, 500), (9000, 500), (900, 90)]


def test_finetuning_trains_for_the_epochs_of_its_budget(tmp_path, monkeypatch):
    def seen(checkpoint, splits, settings, at, **_):
        raise KeyboardInterrupt(settings.epochs)

    monkeypatch.setattr(finetune, "train_and_predict", seen)
    splits = types.SimpleNamespace(counts={}, pool=range(9), train=range(7))
    monkeypatch.setattr(classify, "open_splits", lambda *_, **__: splits)
    dataset = Dataset("x", "imagefolder", tmp_path, {"train": "a", "test": "b"})
    task = Task(
        "x-finetune", "finetune", dataset, settings={"epochs": 40, "lr": 0.1, "weight_decay": 0}, budget="short"
    )
    with pytest.raises(KeyboardInterrupt, match="^4$"):
        checkpoint = types.SimpleNamespace(identity="a")
        classify.run_finetune(checkpoint, task, seed=0, work_dir=tmp_path, device=torch.device("cpu"))


def test_a_row_says_its_budget_where_there_is_a_schedule(tmp_path):
    rows = {task.kind: str(protocol_of(task)) for task in chosen(tmp_path, suite="demo", budget="smoke")}
    assert rows == {
        **dict.fromkeys(("knn", "linear", "dense-linear", "dense-knn", "box"), "fair-v2"),
        "finetune": "fair-v2-smoke",
        "segment": "fair-v2-smoke",
        "detect": "fair-v2-smoke",
    }


def test_budget_and_protocol_decide_where_a_result_lies(tmp_path):
    (task,) = chosen(tmp_path, tasks=["cub200-finetune"], protocol="paper", budget="short")
    card = CheckpointCard("random:resnet18", "5" * 64, "resnet18", 1)
    cell = Cell("random:resnet18", None, card, task, 0, "cpu", tmp_path)
    assert cell.path == tmp_path / "55555555" / "cub200-finetune" / "paper-v1-short" / "seed0.json"


def test_rows_of_another_budget_stand_on_another_board():
    made = [result("a", budget=budget) for budget in SHARES]
    assert [board.protocol.budget for board in boards(made)] == list(BUDGETS) == list(SHARES)
    assert all(len(board.rows) == 1 for board in boards(made))


def test_an_unknown_budget_says_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="budget 'tiny': there are full, short, smoke"):
        load_task("dtd-linear", tmp_path).at("tiny")


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_fine_tuning_is_its_recipe(name, tmp_path):
    task = load_task(f"{name}-finetune", tmp_path, protocol="paper")
    settings = read_settings(Finetune, task)
    assert (task.protocol, task.version) == ("paper", 1)
    assert (settings.epochs, settings.schedule, settings.lr_step_epochs) == (150, "step", 50)
    assert (settings.batch_size, settings.momentum, settings.weight_decay) == (64, 0.9, (5e-4,))
    assert settings.lr == ((0.001, 0.01) if name == "cub200" else (0.001,))
    assert (settings.optimizer, settings.warmup_epochs, settings.flip) == ("sgd", 0, True)
    assert (settings.size, settings.resize, settings.crop_scale) == (224, 256, (0.08, 1.0))
    at = finetune.as_optim(settings, (settings.lr[0], 5e-4), images=1000)
    rates = [finetune.learning_rate(at, epoch * 10, 10) for epoch in (0, 49, 50, 100, 149)]
    assert rates == pytest.approx([0.001, 0.001, 1e-4, 1e-5, 1e-5])


def test_the_papers_dense_schedules_are_its_own(tmp_path):
    tasks = {task.name: task for task in load_suite("paper", tmp_path, protocol="paper")}
    assert len(tasks) == 9 and {task.protocol for task in tasks.values()} == {"paper"}
    assert tasks["voc2012aug-segment"].dataset.files["train"].endswith("trainaug.txt")
    # Epochs of images at 16: 50 of 10,582, 100 of 20,210, 200 of 2,975.
    for name, epochs, images in (("voc2012aug", 50, 10582), ("ade20k", 100, 20210), ("cityscapes", 200, 2975)):
        settings = settings_of(tasks[f"{name}-segment"])
        assert settings.iterations == pytest.approx(epochs * images / 16, rel=0.006)
        assert (settings.batch_size, settings.lr, settings.weight_decay) == (16, 0.01, 1e-4)
        assert (settings.crop, settings.output_stride, settings.head_lr_factor) == (512, 8, 10)
        assert settings.scale_range == ((0.5, 1.5) if name == "voc2012aug" else (0.5, 2.0))
    for name, iterations, drops, warmup in (
        ("voc0712", 18000, (12000, 16000), 100),
        ("coco", 90000, (60000, 80000), 1000),
    ):
        settings = settings_of(tasks[f"{name}-detect"])
        assert (settings.iterations, settings.batch_size, settings.lr, settings.warmup) == (
            iterations,
            16,
            0.02,
            warmup,
        )
        assert tuple(round(iterations * share) for share in settings.drops) == drops
        assert settings.short_sides == ((480, 800) if name == "voc0712" else (640, 800))


@pytest.mark.parametrize("kind", ["segment", "segment-fcn"])
def test_voc_with_and_without_augmented_masks_differs_in_data_alone(tmp_path, kind):
    plain, augmented = (load_task(f"{name}-{kind}", tmp_path) for name in ("voc2012", "voc2012aug"))
    assert plain.settings == augmented.settings and plain.version == augmented.version
    assert plain.dataset.files["test"] == augmented.dataset.files["test"]
    lists = [task.dataset.files["train"].rpartition("/")[2] for task in (plain, augmented)]
    assert lists == ["train.txt", "trainaug.txt"]
    assert CARDS[plain.dataset.name].images["train"] == 1464 and CARDS[augmented.dataset.name].images["train"] == 10582


def test_the_papers_voc_is_the_one_with_augmented_masks_alone_and_in_its_suite(tmp_path):
    with pytest.raises(ValueError, match="voc2012aug-segment"):
        load_task("voc2012-segment", tmp_path, protocol="paper")
    for protocol in (None, "paper"):
        names = [task.dataset.name for task in load_suite("paper", tmp_path, protocol=protocol)]
        assert len(names) == 9 and "voc2012aug" in names and "voc2012" not in names
    names = [task.name for task in load_suite("segmentation", tmp_path, protocol="paper")]
    assert "voc2012aug-segment" in names and "voc2012-segment" not in names


def test_training_images_of_detection_vary_in_their_short_side(tmp_path):
    split = types.SimpleNamespace(path=tmp_path / "a.json", images=tmp_path)
    settings = settings_of(load_task("voc0712-detect", tmp_path, protocol="paper"))
    resize = train_dataset(split, ("a",), settings)["pipeline"][2]
    assert resize == {"type": "RandomResize", "scale": [(1333, 480), (1333, 800)], "keep_ratio": True}
    fixed = train_dataset(split, ("a",), settings.model_copy(update={"short_sides": None}))["pipeline"][2]
    assert fixed == {"type": "Resize", "scale": (1333, 800), "keep_ratio": True}


def test_a_family_has_the_papers_tasks_and_a_task_without_a_recipe_is_refused(tmp_path):
    names = [task.name for task in load_suite("classification", tmp_path, protocol="paper")]
    assert names == [f"{name}-finetune" for name in PAPER]
    with pytest.raises(
        ValueError, match="dtd-knn: has protocol fair and no section paper; of the shipped.*dtd-finetune"
    ):
        chosen(tmp_path, tasks=["dtd-knn"], protocol="paper")


def test_ones_own_task_may_have_a_section_of_the_paper(tmp_path):
    content = yaml.safe_load("""
        {name: mine-finetune, kind: finetune, settings: {lr: 0.1},
         dataset: {name: mine, layout: imagefolder, root: x, files: {train: a, test: b}},
         paper: {version: 3, settings: {epochs: 7}}}""")
    task = parse_task(content, tmp_path, "mine.yaml", protocol="paper")
    assert (task.protocol, task.version, task.settings) == ("paper", 3, {"epochs": 7})
    assert parse_task(content, tmp_path, "mine.yaml").settings == {"lr": 0.1}
    content["paper"]["lr"] = 1
    with pytest.raises(ValueError, match="unknown key paper.lr; there are dataset, version, settings"):
        parse_task(content, tmp_path, "mine.yaml", protocol="paper")


def test_every_grid_of_the_fair_protocol_has_an_inside(tmp_path):
    # An optimum at the end of a grid is flagged; on a grid of two every optimum is at an end.
    for task in load_suite("all", tmp_path):
        if task.kind == "finetune":
            settings = read_settings(Finetune, task)
            assert all(len(grid) != 2 for grid in (settings.lr, settings.weight_decay)), task.name
    assert set(SCHEDULED) < set(KINDS)
