"""Fine-tune a student for semantic segmentation with an mmseg head, and score mIoU on whole test images."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.answers.metrics import metrics_of
from kdep_benchmarks.answers.store import area_answers
from kdep_benchmarks.data.readers.masks import IGNORED, label_names
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
from kdep_benchmarks.openmmlab.tasks.looks import draw_masks
from kdep_benchmarks.openmmlab.tasks.masks import open_masks, split_configs
from kdep_benchmarks.openmmlab.tasks.sheets import ROWS
from kdep_benchmarks.result import Outcome
from kdep_benchmarks.tasks.settings import Segment, read_settings
from kdep_benchmarks.tasks.task import Task

if TYPE_CHECKING:
    from mmengine.config import Config


def run_segment(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Train on the train split for a fixed number of iterations and score the last weights on the test split.

    An interrupted run resumes from its last training checkpoint if the arguments are the same.

    Returns:
        mIoU, aAcc (of all pixels) and mAcc (mean over classes), in percent.

    Raises:
        ValueError: a setting or the data set is wrong.
        LoadError: the student's weights do not fit the backbone exactly.
    """
    cell = Training(checkpoint, task, read_settings(Segment, task), seed, work_dir, device)
    test = open_masks(task.dataset, "test")
    trained = train(train_config(cell), cell)
    answers = area_answers(
        image_areas(trained.model, _joined(split_configs(test), test_transforms(cell.settings)), cell)
    )
    check_count(answers.images, len(test), task)
    counts = {"train": trained.train_images, "test": answers.images}
    metrics = {name: float(value[0]) for name, value in metrics_of(answers).items()}
    known = {"curves": trained.curves, "load": trained.load, "cost": trained.cost}
    return Outcome(metrics, counts, chosen={}, **known, answers=answers)


def train_config(cell: Training) -> "Config":
    """Make the training's mmengine config: the task's file with student, classes, data and schedule filled in."""
    config = read_config(cell, toolbox="mmseg")
    _set_model(config, cell)
    _set_schedule(config, cell.settings)
    train = split_configs(open_masks(cell.task.dataset, "train"))
    config.train_dataloader = loader(_joined(train, train_transforms(cell.settings)), cell.settings, train=True)
    return config


def _set_model(config: "Config", cell: Training) -> None:
    model, classes = config.model, len(label_names(cell.task.dataset))
    widths = channels(cell.checkpoint.arch)
    crop = (cell.settings.crop, cell.settings.crop)
    model.data_preprocessor.update(size=crop)
    if "neck" in model:  # the heads read what it gives
        model.neck.in_channels = list(widths)
    main, beside = as_list(model.decode_head), as_list(model.get("auxiliary_head"))
    for head in (*main, *beside):
        head.num_classes = classes
        if "neck" not in model:
            index = head.get("in_index", -1)  # several maps of UPerNet and its like
            head.in_channels = widths[index] if isinstance(index, int) else [widths[number] for number in index]
    if any(head.type == "PSPHead" for head in main) and cell.settings.batch_size < 2:
        raise ValueError(f"{cell.task.name}: batch_size is 1; PSPNet's BatchNorm over one pooled pixel needs 2 or more")


def _set_schedule(config: "Config", settings: Segment) -> None:
    # Decay to 0, as in the paper. mmseg's default eta_min of 1e-4 would also train with a learning rate of 0.
    poly = {"type": "PolyLR", "power": 0.9, "eta_min": 0.0, "begin": 0, "end": settings.passes, "by_epoch": False}
    config.param_scheduler = [poly]


def train_transforms(settings: Segment) -> list[dict[str, Any]]:
    """Make mmseg's usual training transforms, for a crop of any size instead of 512, from images of any scale."""
    crop = settings.crop
    return [
        LOAD_IMAGE,
        {"type": "LoadAnnotations"},
        {"type": "RandomResize", "scale": settings.base, "ratio_range": settings.scale_range, "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (crop, crop), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]


def test_transforms(settings: Segment) -> list[dict[str, Any]]:
    """Resize whole images to the training scale. Masks are loaded after that, so scores count original pixels."""
    return [
        LOAD_IMAGE,
        {"type": "Resize", "scale": settings.base, "keep_ratio": True},
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]


def _joined(parts: list[dict[str, Any]], transforms: list[dict[str, Any]]) -> dict[str, Any]:
    parts = [{**part, "pipeline": transforms} for part in parts]
    return parts[0] if len(parts) == 1 else {"type": "ConcatDataset", "datasets": parts}


def image_areas(model: torch.nn.Module, dataset: dict[str, Any], cell: Training) -> np.ndarray:
    """Pixels per image and class of intersection, prediction and label, (images, 3, classes).

    Draws the sheet of the first images.
    """
    from mmseg.evaluation import IoUMetric

    names, looked_at, areas = label_names(cell.task.dataset), [], []
    for sample in predictions(model, dataset, cell):
        label = sample.gt_sem_seg.data.squeeze(0)
        predicted = sample.pred_sem_seg.data.squeeze(0).to(label)
        intersection, _, *others = IoUMetric.intersect_and_union(predicted, label, len(names), IGNORED)
        areas.append(torch.stack([intersection, *others]).cpu().numpy())
        if len(areas) <= ROWS:
            # Do not keep the sample: its logits take hundreds of megabytes of device memory.
            looked_at.append((sample.img_path, label.cpu().numpy(), predicted.cpu().numpy()))
    draw_masks(looked_at, names, cell.work_dir)
    return np.stack(areas)
