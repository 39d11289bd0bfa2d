"""Segmentation with a frozen backbone: dense-linear and dense-knn.

Both read the same features: see `kdep_benchmarks.tasks.dense.mask_features`. dense-linear chooses its penalty on the
positions of a seeded fifth of the train images, by the mIoU that they estimate for all of them, and is refitted on all;
dense-knn chooses nothing. The seed draws that fifth and nothing else.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep.probe.areas import image_areas, segmentation_metrics
from kdep.probe.neighbours import Memory
from kdep_benchmarks.answers.store import area_answers
from kdep_benchmarks.result import Outcome
from kdep_benchmarks.tasks.axes import Images, find_axes
from kdep_benchmarks.tasks.classify import at_edge, best_on_val, gives_up, load_report
from kdep_benchmarks.tasks.dense.mask_features import MaskFeatures, mask_features
from kdep_benchmarks.tasks.dense.readers import Masks
from kdep_benchmarks.tasks.features import feature_folder
from kdep_benchmarks.tasks.linear import ROWS, Solution, descend
from kdep_benchmarks.tasks.settings import DenseKnn, DenseLinear, read_settings
from kdep_benchmarks.tasks.task import Task

VAL = 5  # one in so many train images is val


def run_dense_linear(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Logistic regression from positions to classes; its scores are interpolated to the pixels of the test masks.

    Raises:
        ValueError: unknown settings, or data that cannot be.
        LoadError: weights that do not load completely.
    """
    settings = read_settings(DenseLinear, task)
    cache = feature_folder(work_dir, checkpoint)
    features = mask_features(checkpoint, task.dataset, settings, cache=cache, device=device)
    val = val_positions(features.image, seed)
    best, chosen, curves = fit_dense(features, path=settings.path, val=val, device=device)
    held = len(features.image[val].unique())
    return _outcome(checkpoint, features, best.scores, held=held, chosen=chosen, curves=curves, device=device)


def run_dense_knn(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Soft labels from nearest neighbours, interpolated to the pixels of the test masks; the seed draws nothing.

    Raises:
        ValueError: unknown settings, or data that cannot be.
        LoadError: weights that do not load completely.
    """
    settings = read_settings(DenseKnn, task)
    cache = feature_folder(work_dir, checkpoint)
    features = mask_features(checkpoint, task.dataset, settings, cache=cache, device=device)
    memory = Memory(features.train, features.labels, axes=settings.axes, device=device)

    def scores(block: torch.Tensor) -> torch.Tensor:
        return memory.ask(block, k=settings.k, temperature=settings.temperature)

    return _outcome(checkpoint, features, scores, held=0, chosen={}, curves={}, device=device)


def _outcome(
    checkpoint: Checkpoint,
    features: MaskFeatures,
    score: Callable[[torch.Tensor], torch.Tensor],
    *,
    held: int,
    chosen: dict[str, Any],
    curves: dict[str, Any],
    device: torch.device,
) -> Outcome:
    """Score the test images by a function from features (Q, D) to scores (Q, C)."""
    images = (score(block.to(device).float()).T.reshape(-1, *grid) for grid, block in features.test_images())
    areas = count_areas(images, features.masks)
    features.masks.refuse_one_class(areas.sum(0)[2])
    return Outcome(
        metrics=segmentation_metrics(areas.sum(0)),
        counts={"train": features.counts["train"] - held, "val": held, "test": features.counts["test"]},
        chosen=chosen | {"positions": len(features.labels)} | features.absent,
        curves=curves,
        load=load_report(checkpoint),
        cost=features.cost,
        answers=area_answers(areas),
    )


def count_areas(scores: Iterable[torch.Tensor], masks: Masks) -> np.ndarray:
    """Count pixels that are right, answered and labelled, per image and class: (N, 3, C) int64.

    Args:
        scores: of each image in order, (C, rows, columns) on its grid; they are interpolated to the size of the mask
            before the best class is taken.
        masks: of these images; pixels without a class do not count.
    """
    return np.stack([image_areas(on_grid, masks.read(index)) for index, on_grid in enumerate(scores)])


def val_positions(image: torch.Tensor, seed: int) -> torch.Tensor:
    """(P,) True where a position lies in one of the val images: a fifth of the train images, at least one.

    Raises:
        ValueError: there is one train image only.
    """
    there = image.unique()
    if len(there) < 2:
        raise ValueError("train has labelled pixels in one image only; two at least are needed, one of them for val")
    order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed))
    return torch.isin(image, there[order[: max(1, round(len(there) / VAL))]])


def fit_dense(
    features: MaskFeatures, *, path: tuple[float, ...], val: torch.Tensor, device: torch.device
) -> tuple[Solution, dict[str, Any], dict[str, Any]]:
    """Choose the penalty on val, then refit on all positions.

    Features are standardised and rotated once, by all positions: what val shares with the fit are means and
    deviations, no labels.

    Returns:
        The refitted solution, what was chosen, the curve over the penalties.
    """
    labels, classes = features.labels.to(device), features.labels.shape[1]
    images = Images(features.train, labels, None, block=ROWS, device=device)
    axes = find_axes(images, products=torch.float32)
    images = images.on(axes, torch.float32)
    held, weight = features.train[val].to(device).float(), features.weight[val].to(device)
    tried, miou, loss = [], [], []
    fitted = images.only(torch.nonzero(~val).flatten())
    for solution in descend(fitted, axes, classes=classes, penalties=path):
        scores = solution.scores(held)
        tried.append(solution.penalty)
        miou.append(estimated_miou(scores.argmax(1), labels[val.to(device)], weight))
        loss.append(float(F.cross_entropy(scores.double(), labels[val.to(device)].double())))
        if gives_up(miou, loss):
            break
    best = tried[best_on_val(miou, loss)]
    (refitted,) = descend(images, axes, classes=classes, penalties=[best])
    curves = {"lambda": tried[::-1], "val_mIoU": miou[::-1], "val_loss": loss[::-1]}
    return refitted, {"lambda": best} | at_edge("lambda", best, path), curves


def estimated_miou(answer: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> float:
    """Estimate the mIoU over all positions from those that were drawn, each counted as often as it stands for.

    Args:
        answer: (P,) class numbers.
        labels: (P, C) shares of the classes.
        weight: (P,) of `Draw`.
    """
    area = labels.double() * weight[:, None]
    answered = torch.zeros(labels.shape[1], dtype=torch.float64, device=labels.device)
    right = answered.index_add(0, answer, area.gather(1, answer[:, None])[:, 0])
    answered = answered.index_add(0, answer, weight.double())
    return segmentation_metrics(torch.stack([right, answered, area.sum(0)]).cpu().numpy())["mIoU"]
