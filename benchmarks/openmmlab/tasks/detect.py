"""Fine-tune a student for object detection in an mmdet detector, and score COCO's AP."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.answers.detections import evaluate
from kdep_benchmarks.data.readers.boxes import class_names
from kdep_benchmarks.openmmlab.backbones import channels
from kdep_benchmarks.openmmlab.runner import (
    LOAD_IMAGE,
    Training,
    as_list,
    check_count,
    loader,
    predictions,
    read_config,
    train,
)
from kdep_benchmarks.openmmlab.tasks.boxes import Split, write_split
from kdep_benchmarks.openmmlab.tasks.looks import draw_boxes
from kdep_benchmarks.openmmlab.tasks.sheets import ROWS
from kdep_benchmarks.result import Outcome
from kdep_benchmarks.tasks.settings import Detect, read_settings
from kdep_benchmarks.tasks.task import Task

if TYPE_CHECKING:
    from mmengine.config import Config

LOG = logging.getLogger(__name__)


def run_detect(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Train on the train split for a fixed number of iterations and score the last weights on the test split.

    An interrupted run resumes from its last training checkpoint if the arguments are the same.

    Returns:
        AP over IoU 0.50 to 0.95, AP50 and AP75, in percent, by COCO's rules also for the VOC layout. `chosen` has
        the number of detections and says so when there were none.

    Raises:
        ValueError: a setting or the data set is wrong.
        LoadError: the student's weights do not fit the backbone exactly.
    """
    cell = Training(checkpoint, task, read_settings(Detect, task), seed, work_dir, device)
    classes = class_names(task.dataset)
    test = write_split(task.dataset, "test", classes, work_dir / "test.json")
    trained = train(train_config(cell), cell)
    found, looked_at, scored = detections(trained.model, test_dataset(test, classes, cell.settings), cell)
    check_count(scored, test.count, task)
    draw_boxes(looked_at, test.path, classes, work_dir)
    facts = {"detections": len(found), "boxes": test.boxes, **test.left_out}
    if not found:
        LOG.warning("%s: not a single detection on %d images", task.name, scored)
        facts["no_detections"] = True
    counts = {"train": trained.train_images, "test": scored}
    metrics, answers = evaluate(json.loads(test.path.read_text(encoding="utf-8")), found)
    return Outcome(metrics, counts, facts, trained.curves, trained.load, trained.cost, answers)


def train_config(cell: Training) -> "Config":
    """Make the training's mmengine config: the task's file with student, classes, data and schedule filled in."""
    config = read_config(cell, toolbox="mmdet")
    classes = class_names(cell.task.dataset)
    _set_model(config, cell, len(classes))
    _set_schedule(config, cell.settings)
    train = write_split(cell.task.dataset, "train", classes, cell.work_dir / "train.json")
    config.train_dataloader = loader(train_dataset(train, classes, cell.settings), cell.settings, train=True)
    # Batches of like images (all wide or all tall) need little padding.
    config.train_dataloader["batch_sampler"] = {"type": "AspectRatioBatchSampler"}
    return config


def _set_model(config: "Config", cell: Training, classes: int) -> None:
    model = config.model
    model.neck.in_channels = list(channels(cell.checkpoint.arch))
    for head in as_list(model.roi_head.bbox_head if "roi_head" in model else model.bbox_head):  # a cascade has several
        head.num_classes = classes


def _set_schedule(config: "Config", settings: Detect) -> None:
    steps = settings.passes
    # mmengine's schedulers count backward passes, like `passes`.
    warmup = min(500 * settings.accumulate, steps // 10)
    warmup = warmup if settings.warmup is None else settings.warmup * settings.accumulate
    drops = [round(steps * share) for share in settings.drops]
    config.param_scheduler = [{"type": "MultiStepLR", "milestones": drops, "gamma": 0.1, "by_epoch": False}]
    if warmup:
        ramp = {"type": "LinearLR", "start_factor": 0.001, "begin": 0, "end": warmup, "by_epoch": False}
        config.param_scheduler.insert(0, ramp)


def train_dataset(split: Split, classes: tuple[str, ...], settings: Detect) -> dict[str, Any]:
    """Configure mmdet's usual training transforms for any scale. Images without boxes are dropped, as in mmdet."""
    resize = {"type": "Resize", "scale": settings.scale, "keep_ratio": True}
    if settings.short_sides:
        ends = [(max(settings.scale), short) for short in settings.short_sides]
        resize = {"type": "RandomResize", "scale": ends, "keep_ratio": True}
    transforms = [
        LOAD_IMAGE,
        {"type": "LoadAnnotations", "with_bbox": True},
        resize,
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs"},
    ]
    # mmdet's own filter also drops images below 32 pixels.
    return _dataset(split, classes, transforms) | {"filter_cfg": {"filter_empty_gt": True, "min_size": 1}}


def test_dataset(split: Split, classes: tuple[str, ...], settings: Detect) -> dict[str, Any]:
    """Configure the test split: every image, with or without boxes. `evaluate` reads the boxes."""
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    transforms = [
        LOAD_IMAGE,
        {"type": "Resize", "scale": settings.scale, "keep_ratio": True},
        {"type": "PackDetInputs", "meta_keys": keys},
    ]
    return _dataset(split, classes, transforms) | {"test_mode": True}


def _dataset(split: Split, classes: tuple[str, ...], transforms: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "CocoDataset",
        "ann_file": str(split.path),
        "data_prefix": {"img": str(split.images)},
        "metainfo": {"classes": classes},
        "pipeline": transforms,
    }


def detections(
    model: torch.nn.Module, dataset: dict[str, Any], cell: Training
) -> tuple[list[dict[str, Any]], list[Any], int]:
    """Return detections as in COCO's result files, data samples of the first images, and the number of images."""
    found, looked_at, scored = [], [], 0
    for sample in predictions(model, dataset, cell):
        scored += 1
        if scored <= ROWS:
            looked_at.append(sample)
        instances = sample.pred_instances.cpu()
        # Convert once per image, because 5,000 images have half a million boxes.
        columns = (instances.bboxes.tolist(), instances.scores.tolist(), instances.labels.tolist())
        for (x1, y1, x2, y2), score, label in zip(*columns, strict=True):
            # Categories are numbered from 1, labels from 0; see `as_coco`.
            place = {"image_id": sample.img_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            found.append({**place, "score": score})
    return found, looked_at, scored
