"""Commands to kill, on data that is drawn here, and what a command must leave behind when it has ended.

Every command runs in a folder `work` of its own; images and recipes lie beside it and are only read.
"""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdep.files import read
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep_benchmarks.data.scenes.make import write_scenes
from kdep_benchmarks.results import read_results

RECIPE = {
    "name": "run",
    "seed": 1,
    "teacher": {"source": "random:test_efficientnet", "tap": "post", "precision": "float32"},
    "student": {"arch": "test_resnet"},
    "data": {"size": 32, "workers": 0},
    "scale": {"name": "pts"},
    "optim": {"name": "adamw", "epochs": 3, "batch_size": 16, "lr": 2e-3, "weight_decay": 0.02, "schedule": "cosine"},
    "log": {"every": 2, "checkpoint_every": 4},
    "device": "cpu",
    "precision": "float32",
    "runs": "work/runs",
}
CLASSES = ["disc", "ring", "square", "triangle", "star", "cross", "gear", "crescent", "arrow", "heart"]
CLASSES += ["striped_ellipse", "dotted_ellipse"]
STUFF = ["noise", "stripes", "checks", "gradient", "leaves", "wood"]
FOLDERS = {"name": "scenes", "layout": "imagefolder", "root": "scenes/classification"}
FOLDERS |= {"files": {"train": "train", "test": "test"}}
MASKS = {"name": "scenes-ade", "layout": "ade20k", "root": "scenes/ade20k", "classes": [*CLASSES, *STUFF]}
MASKS |= {
    "files": {
        "train_images": "images/training",
        "train_masks": "annotations/training",
        "test_images": "images/validation",
        "test_masks": "annotations/validation",
    }
}
BOXES = {"name": "scenes-voc", "layout": "voc", "root": "scenes", "classes": CLASSES}
BOXES |= {"files": {"train": "VOC2012/ImageSets/Main/train.txt", "test": "VOC2012/ImageSets/Main/val.txt"}}
TRAINED = {"iterations": 3, "batch_size": 2, "lr": 0.01, "weight_decay": 1e-4, "clip_grad": 10, "save_every": 1}
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "knn": (FOLDERS, {"size": 32}),
    "linear": (FOLDERS, {"size": 32, "path": [1e-4, 1e-2]}),
    "fewshot": (FOLDERS, {"size": 32, "share": 0.5, "path": [1e-4, 1e-2]}),
    "finetune": (FOLDERS, {"size": 32, "epochs": 2, "batch_size": 16, "lr": [0.01], "weight_decay": [0.0, 1e-4]}),
    "dense-linear": (MASKS, {"size": 64, "positions": 200, "path": [0.01, 0.1]}),
    "dense-knn": (MASKS, {"size": 64, "positions": 200}),
    "box": (BOXES, {"size": 64, "path": [0.01, 0.1], "ridge": [0.1, 1.0]}),
    "segment": (MASKS, {"config": "segment_fcn", "crop": 32, **TRAINED}),
    "detect": (BOXES, {"config": "detect_retinanet", "scale": [64, 64], **TRAINED}),
}
STUDY = {
    "name": "faults",
    "question": "Does a bank change anything?",
    "pretrain": "recipe.yaml",
    "set": {"optim.epochs": 1},
    "baseline": "live",
    "arms": {"live": {}, "bank": {"bank.path": "work/bank", "bank.views": 1}, "random": "random:test_resnet"},
    "seeds": [0],
    "score": {"suite": "suite.yaml", "tasks": ["s-knn"], "data_root": "data"},
}


@dataclass(frozen=True)
class Scenario:
    """A command, and what it leaves behind; equal outcomes mean that a disturbed one lost nothing."""

    name: str
    command: tuple[str, ...]
    outcome: Callable[[Path], Any]
    weight: int = 1


def write_inputs(folder: Path) -> None:
    """Draw the images and write the recipe, the suite and the study."""
    sizes = {"size": 32, "dense_size": 64, "pool": 128, "train_per_class": 4, "test_per_class": 2}
    write_scenes(folder / "data" / "scenes", **sizes, dense_train=20, dense_val=10)
    recipe = RECIPE | {"data": {**RECIPE["data"], "source": str(folder / "data" / "scenes" / "images")}}  # type: ignore[dict-item]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    tasks = [
        {"name": f"s-{kind}", "kind": kind, "dataset": dataset, "settings": settings}
        for kind, (dataset, settings) in TASKS.items()
    ]
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))


def student(work: Path) -> Any:
    """Weights, images seen and losses of a run."""
    content = read(work / "runs" / "run" / "student.pth")
    log = [json.loads(line) for line in (work / "runs" / "run" / "log.jsonl").read_text().splitlines()]
    losses = [[record["step"], record["loss"]] for record in log]
    return [fingerprint(content["state_dict"]), content["provenance"]["images_seen"], losses]


def bank(work: Path) -> Any:
    """Bytes of the shards."""
    files = sorted((work / "bank").rglob("*.npy"))
    return [[str(file.relative_to(work)), hashlib.sha256(file.read_bytes()).hexdigest()] for file in files]


def table(work: Path) -> Any:
    """Every score, and the hash of the answers behind it."""
    results = read_results(work / "results")
    return [[result.key.task, result.seed, result.status, result.metrics, result.answers] for result in results]


def study(work: Path) -> Any:
    """Rows of the answer without the time they took."""
    rows = list(csv.DictReader((work / "results" / "faults.csv").open()))
    return [{key: value for key, value in row.items() if key != "pretrain_seconds"} for row in rows]


def _pretrain(*changes: str) -> tuple[str, ...]:
    return ("pretrain", "recipe.yaml", *changes)


def _transfer(tasks: str, *more: str) -> tuple[str, ...]:
    where = ("--data-root", "data", "--results", "work/results")
    return ("transfer", "random:test_resnet", "--suite", "suite.yaml", "--tasks", tasks, *where, *more)


SCENARIOS = [
    Scenario("pretrain", _pretrain(), student, 5),
    Scenario("pretrain, workers", _pretrain("data.workers=2"), student, 2),
    Scenario(
        "pretrain, labels", _pretrain("loss.name=labels", "data.source=data/scenes/classification/train"), student
    ),
    Scenario("pretrain from a bank", _pretrain("bank.path=work/bank"), student, 2),
    Scenario("targets", ("targets", "recipe.yaml", "bank.path=work/bank", "bank.views=4"), bank, 4),
    *(Scenario(f"transfer {kind}", _transfer(f"s-{kind}"), table, 2) for kind in TASKS),
    Scenario("transfer, four cells", _transfer("s-knn,s-linear", "--seeds", "0,1", "--jobs", "2"), table, 2),
    Scenario("study", ("study", "study.yaml", "--runs", "work/runs", "--results", "work/results"), study, 4),
]
