"""COCO's evaluation of detections, and from its matches the answers per image that AP is computed from."""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdep_benchmarks.answers.metrics import THRESHOLDS
from kdep_benchmarks.answers.store import Answers

LOG = logging.getLogger(__name__)
BITS = 1 << np.arange(THRESHOLDS)


def evaluate(truth: dict[str, Any], found: Sequence[dict[str, Any]]) -> tuple[dict[str, float], Answers]:
    """COCO's AP, AP50 and AP75 in percent, unrounded, and the answers per image; all 0 without detections.

    `truth` is the content of a COCO json and `found` that of a file of results.

    pycocotools directly: mmdet's CocoMetric calls it too, but rounds to a tenth of a percent and returns nothing at all
    when there are no detections.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()) as said:
        boxes, nothing = COCO(), COCO()
        boxes.dataset, nothing.dataset = truth, {**truth, "annotations": []}
        boxes.createIndex()
        nothing.createIndex()
        scoring = COCOeval(boxes, boxes.loadRes(list(found)) if found else nothing, "bbox")
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    LOG.info("%s", said.getvalue())
    images, classes = len(scoring.params.imgIds), len(scoring.params.catIds)
    # Class by class, in it area by area ("all" first), in it image by image.
    by_class = np.array(scoring.evalImgs, dtype=object).reshape(classes, -1, images)[:, 0]
    answers = box_answers(by_class.tolist(), images=images, classes=classes)
    stats = zip(("AP", "AP50", "AP75"), scoring.stats, strict=False)
    return {name: 100 * float(value) for name, value in stats}, answers


def box_answers(by_class: Sequence[Sequence[dict[str, Any] | None]], *, images: int, classes: int) -> Answers:
    """Make answers from pycocotools' `evalImgs`: for each class the matches of each image, None where there are none.

    A box that is ignored (a crowd) does not have to be found; a detection of it is neither right nor wrong.
    """
    boxes = np.zeros((images, classes), np.uint32)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("image", "label", "score", "matched", "ignored")}
    for label, of_class in enumerate(by_class):
        for image, matches in enumerate(of_class):
            if matches is not None:
                boxes[image, label] = np.count_nonzero(np.asarray(matches["gtIgnore"]) == 0)
                count = len(matches["dtScores"])
                parts["image"].append(np.full(count, image, np.uint32))
                parts["label"].append(np.full(count, label, np.uint16))
                parts["score"].append(np.asarray(matches["dtScores"], np.float32))
                parts["matched"].append((BITS @ (np.asarray(matches["dtMatches"]) != 0)).astype(np.uint16))
                parts["ignored"].append((BITS @ (np.asarray(matches["dtIgnore"]) != 0)).astype(np.uint16))
    kinds = {"image": np.uint32, "label": np.uint16, "score": np.float32, "matched": np.uint16, "ignored": np.uint16}
    joined = {name: np.concatenate([*parts[name], np.zeros(0, kind)]).astype(kind) for name, kind in kinds.items()}
    return Answers("boxes", {"boxes": boxes, **joined})
