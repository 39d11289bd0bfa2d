"""Draw the first test images of a cell. A failure to draw is logged and does not stop the cell."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdep.data.decoding.opening import as_rgb, read_image
from kdep_benchmarks.openmmlab.tasks.sheets import Boxes, detection_sheet, segmentation_sheet, sheet_path

LOG = logging.getLogger(__name__)


def draw_masks(seen: list[tuple[str, np.ndarray, np.ndarray]], classes: tuple[str, ...], work_dir: Path) -> None:
    """Draw true and predicted masks beside the cell's result; `seen` has image file, true labels and prediction."""

    def draw(path: Path) -> None:
        files, truths, predictions = zip(*seen, strict=True)
        images = [_read(file) for file in files]
        segmentation_sheet(images, truths, predictions, path, classes=classes)

    _try(draw, work_dir)


def draw_boxes(samples: list[Any], truth: Path, classes: tuple[str, ...], work_dir: Path) -> None:
    """Draw mmdet's predictions and the true boxes of our COCO JSON, without crowds, beside the cell's result."""

    def draw(path: Path) -> None:
        annotations = json.loads(truth.read_text(encoding="utf-8"))["annotations"]
        truths = [_truth(annotations, sample.img_id) for sample in samples]
        images = [_read(sample.img_path) for sample in samples]
        detection_sheet(images, truths, [_predicted(sample) for sample in samples], path, classes=classes)

    _try(draw, work_dir)


def _truth(annotations: list[dict[str, Any]], image: int) -> Boxes:
    own = [item for item in annotations if item["image_id"] == image and not item["iscrowd"]]
    corners = np.array([item["bbox"] for item in own], dtype=float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    # Categories are numbered from 1, labels from 0; see `as_coco`.
    return Boxes(corners, np.array([item["category_id"] - 1 for item in own], dtype=int))


def _predicted(sample: Any) -> Boxes:
    found = sample.pred_instances.cpu()
    return Boxes(found.bboxes.numpy(), found.labels.numpy(), found.scores.numpy())


def _read(path: str) -> np.ndarray:
    return np.asarray(as_rgb(read_image(path)))


def _try(draw: Callable[[Path], None], work_dir: Path) -> None:
    path = sheet_path(work_dir)
    try:
        draw(path)
    except Exception:  # a failed picture must not lose the scores
        LOG.warning("%s: no sheet was drawn", path, exc_info=True)
