"""Score the same predictions as a cell does and by the metrics of other libraries; see `tools.checks.dense.agreement`.

For masks the others are mmseg's IoUMetric and a confusion matrix over the masks on disk; for boxes mmdet's CocoMetric
and, where the data set brings a COCO json of its own, pycocotools on that file with its own category numbers.
"""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from kdep_benchmarks.answers.detections import evaluate
from kdep_benchmarks.answers.metrics import metrics_of
from kdep_benchmarks.answers.store import area_answers
from kdep_benchmarks.data.readers.boxes import class_names
from kdep_benchmarks.data.readers.masks import IGNORED, MaskSplit, label_names
from kdep_benchmarks.openmmlab.runner import Training, check_count, train
from kdep_benchmarks.openmmlab.tasks.boxes import write_split
from kdep_benchmarks.openmmlab.tasks.detect import detections, test_dataset
from kdep_benchmarks.openmmlab.tasks.detect import train_config as detector_config
from kdep_benchmarks.openmmlab.tasks.masks import open_masks, split_configs
from kdep_benchmarks.openmmlab.tasks.segment import image_areas, test_transforms
from kdep_benchmarks.openmmlab.tasks.segment import train_config as segmenter_config

if TYPE_CHECKING:
    from mmengine.config import Config

Scores = dict[str, dict[str, float]]
SHIFT, BLOCK = 4, 16  # pixels by which a disturbed mask is moved, and sides of the squares it loses to another class
SHARE = 0.1  # of the squares, and of the boxes that are lost, invented or called something else
ROUGH = 0.15  # largest move of a corner, as a share of the side


class Answers(torch.nn.Module):
    """Replaces a cell's model and keeps the predictions, without the logits of whole images."""

    def __init__(self, answer: Callable[[dict[str, Any]], list[Any]]) -> None:
        super().__init__()
        self.answer, self.samples = answer, []

    def test_step(self, batch: dict[str, Any]) -> Iterator[Any]:
        """Answer a batch."""
        for sample in self.answer(batch):
            if "seg_logits" in sample:
                del sample.seg_logits
            self.samples.append(sample)
            yield sample


def compare_masks(cell: Training) -> dict[str, Scores]:
    """Score a barely trained network, and disturbed ground-truth masks: predictions -> metric -> scores in percent."""
    split = open_masks(cell.task.dataset, "test")
    datasets = [{**part, "pipeline": test_transforms(cell.settings)} for part in split_configs(split)]
    dataset = datasets[0] if len(datasets) == 1 else {"type": "ConcatDataset", "datasets": datasets}
    model, draw, classes = _trained(segmenter_config(cell), cell), _generator(), len(label_names(cell.task.dataset))
    found = {}
    for name, answer in (
        ("network", model.test_step),
        ("disturbed", lambda batch: _disturb_masks(batch, draw, classes)),
    ):
        answers = Answers(answer)
        ours = area_answers(image_areas(answers, dataset, cell))
        check_count(ours.images, len(split), cell.task)
        found[name] = {
            "kdep": {name: float(value[0]) for name, value in metrics_of(ours).items()},
            "mmseg": mmseg_scores(answers.samples, label_names(cell.task.dataset)),
            "confusion_matrix": confusion_scores(answers.samples, split, classes),
        }
    return found


def compare_boxes(cell: Training) -> dict[str, Scores]:
    """Score a barely trained detector, and disturbed ground-truth boxes: predictions -> metric -> scores in percent."""
    classes = class_names(cell.task.dataset)
    score = write_split(cell.task.dataset, "test", classes, cell.work_dir / "test.json")
    model, truth = _trained(detector_config(cell), cell), json.loads(score.path.read_text())
    draw, found = _generator(), {}
    for name, answer in (
        ("network", model.test_step),
        ("disturbed", lambda batch: _disturb_boxes(batch, truth, draw, len(classes))),
    ):
        answers = Answers(answer)
        ours, _, scored = detections(answers, test_dataset(score, classes, cell.settings), cell)
        check_count(scored, score.count, cell.task)
        found[name] = {
            "kdep": evaluate(truth, ours)[0],
            "mmdet": mmdet_scores(answers.samples, str(score.path), classes),
        }
        if cell.task.dataset.layout == "coco":
            found[name]["pycocotools"] = pycocotools_scores(answers.samples, cell, classes)
    return found


def mmseg_scores(samples: list[Any], names: tuple[str, ...]) -> dict[str, float]:
    """Scores of mmseg's IoUMetric, which rounds to two decimals."""
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric()
    metric.dataset_meta = {"classes": names}
    metric.process({}, [sample.to_dict() for sample in samples])
    found = metric.evaluate(len(samples))
    return {name: float(found[name]) for name in ("mIoU", "aAcc", "mAcc")}


def confusion_scores(samples: list[Any], split: MaskSplit, classes: int) -> dict[str, float]:
    """By a matrix (true, predicted) of pixels, the truth read from the mask files."""
    masks = {str(pair.image): pair.mask for pair in split.pairs}
    counts = np.zeros((classes, classes), np.int64)
    for sample in samples:
        with Image.open(masks[sample.img_path]) as image:
            truth = np.array(image, np.int64)
        predicted = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
        if split.zero_is_unlabelled:  # 0 is unlabelled, the first class is 1
            truth = np.where(truth == 0, IGNORED, truth - 1)
        known = truth != IGNORED
        np.add.at(counts, (truth[known], predicted[known]), 1)
    right, labelled, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    there, true = labelled + said > 0, labelled > 0
    return {
        "mIoU": 100 * float(np.mean(right[there] / (labelled + said - right)[there])),
        "aAcc": 100 * float(right.sum() / counts.sum()),
        "mAcc": 100 * float(np.mean(right[true] / labelled[true])),
    }


def mmdet_scores(samples: list[Any], truth: str, classes: tuple[str, ...]) -> dict[str, float]:
    """Scores of mmdet's CocoMetric, rounded to a tenth of a percent; 0 if there are no detections."""
    from mmdet.evaluation import CocoMetric

    with contextlib.redirect_stdout(io.StringIO()):
        metric = CocoMetric(ann_file=truth)
        metric.dataset_meta = {"classes": classes}
        metric.process({}, [sample.to_dict() for sample in samples])
        found = metric.evaluate(len(samples))
    return {name: 100 * found.get(f"coco/bbox_mAP{end}", 0.0) for name, end in _ENDS.items()}


def pycocotools_scores(samples: list[Any], cell: Training, classes: tuple[str, ...]) -> dict[str, float]:
    """Scores of pycocotools on the data set's own JSON file and category numbers; 0 if there are no detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    dataset = cell.task.dataset
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.root / dataset.files["test"]))
        rows = []
        for sample in samples:
            instances = sample.pred_instances.cpu()
            categories = [truth.getCatIds(catNms=[classes[label]])[0] for label in instances.labels]
            corners, scores = instances.bboxes.double().numpy(), instances.scores.double().numpy()
            sides = corners[:, 2:] - corners[:, :2]
            columns = (corners[:, :2], sides, scores[:, None], np.array(categories).reshape(-1, 1))
            rows.append(np.hstack([np.full((len(scores), 1), sample.img_id), *columns]))
        rows = np.concatenate(rows)
        if not len(rows):  # loadRes fails
            return dict.fromkeys(_ENDS, 0.0)
        scoring = COCOeval(truth, truth.loadRes(rows), "bbox")
        scoring.params.catIds = truth.getCatIds(catNms=list(classes))
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return {name: 100 * float(value) for name, value in zip(_ENDS, scoring.stats, strict=False)}


_ENDS = {"AP": "", "AP50": "_50", "AP75": "_75"}


def _trained(config: "Config", cell: Training) -> torch.nn.Module:
    model = train(config, cell).model
    model.eval()  # a cell calls eval() on `Answers`, which does not reach this model
    return model


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _disturb_masks(batch: dict[str, Any], draw: torch.Generator, classes: int) -> list[Any]:
    """Shift the ground truth to the right and give some squares another class; unlabelled pixels become class 0."""
    from mmengine.structures import PixelData

    for sample in batch["data_samples"]:
        truth = sample.gt_sem_seg.data
        mask = torch.where(truth == IGNORED, 0, truth).roll(SHIFT, dims=2)
        for top in range(0, mask.shape[1], BLOCK):
            for left in range(0, mask.shape[2], BLOCK):
                if torch.rand((), generator=draw) < SHARE:
                    other = torch.randint(classes, (), generator=draw, dtype=mask.dtype)
                    mask[:, top : top + BLOCK, left : left + BLOCK] = other
        sample.pred_sem_seg = PixelData(data=mask)
    return batch["data_samples"]


def _disturb_boxes(batch: dict[str, Any], truth: dict[str, Any], draw: torch.Generator, classes: int) -> list[Any]:
    """Move the corners of ground-truth boxes, drop some, give some another class, and add false boxes."""
    from mmengine.structures import InstanceData

    for sample in batch["data_samples"]:
        own = [item for item in truth["annotations"] if item["image_id"] == sample.img_id]
        own = [item for item in own if torch.rand((), generator=draw) >= SHARE]
        invented = sum(bool(torch.rand((), generator=draw) < SHARE) for _ in range(len(own) + 1))
        boxes = [item["bbox"] for item in own] + [[5, 5, 40, 30]] * invented
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        sides = boxes[:, 2:].repeat(1, 2)
        corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        corners += ROUGH * sides * (2 * torch.rand(corners.shape, generator=draw) - 1)
        labels = torch.tensor([item["category_id"] - 1 for item in own] + [0] * invented, dtype=torch.long)
        wrong = torch.rand(len(labels), generator=draw) < SHARE
        labels = torch.where(wrong, torch.randint(classes, labels.shape, generator=draw), labels)
        scores = torch.rand(len(labels), generator=draw)
        sample.pred_instances = InstanceData(bboxes=corners, scores=scores, labels=labels)
    return batch["data_samples"]
