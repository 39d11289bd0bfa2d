"""Metrics of weighted test images: top-1, mIoU and COCO's AP of many resamples at once.

A resample is a column of weights (N, W): how often each of the N images was drawn. Weights of one give the metric.
"""

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array

from kdep_benchmarks.answers.store import Answers

Arrays = dict[str, np.ndarray]
Scores = dict[str, np.ndarray]  # metric -> percent (W,); NaN where a resample has nothing to score
RECALLS = np.linspace(0.0, 1.0, 101)  # those of pycocotools, to the last bit
THRESHOLDS = 10  # IoU 0.50, 0.55, ..., 0.95
AP50, AP75 = 0, 5


def metrics_of(answers: Answers, weights: np.ndarray | None = None) -> Scores:
    """Every metric of the answers, for each column of weights; without weights for the images as they are."""
    if weights is None:
        weights = np.ones((answers.images, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return METRICS[answers.form](answers.arrays, weights)


def constant_score(answers: Answers) -> float:
    """Main metric in percent of the best constant answer: the most frequent class for every image or pixel, no box."""
    if answers.form == "boxes":
        return 0.0
    if answers.form == "classes":
        count = np.bincount(answers.truth)
        return 100 * float(count.max() / count.sum())
    pixels = answers.truth.astype(np.float64).sum(axis=0)
    # The IoU of that class is its share of the pixels; the other classes that occur have an IoU of 0.
    return 100 * float(pixels.max() / pixels.sum() / np.count_nonzero(pixels))


def accuracies(arrays: Arrays, weights: np.ndarray) -> Scores:
    """top-1 over images and the mean over the classes that a resample has; the mean over draws of the train images."""
    truth, images = arrays["truth"].astype(np.int64), len(arrays["truth"])
    right = (arrays["predicted"] == arrays["truth"]).mean(axis=0)
    of_class = csr_array((np.ones(images), (truth, np.arange(images)))) @ weights
    correct = csr_array((right, (truth, np.arange(images)))) @ weights
    return {
        "top1": 100 * correct.sum(axis=0) / of_class.sum(axis=0),
        "top1_macro": 100 * _mean_known(correct / of_class),
    }


def mean_iou(arrays: Arrays, weights: np.ndarray) -> Scores:
    """mIoU, aAcc, mAcc from pixels summed over images; a class that a resample does not have takes no part."""
    intersection, predicted, label = (
        part.T @ weights for part in np.moveaxis(arrays["areas"].astype(np.float64), 1, 0)
    )
    return {
        "mIoU": 100 * _mean_known(intersection / (predicted + label - intersection)),
        "aAcc": 100 * intersection.sum(axis=0) / label.sum(axis=0),
        "mAcc": 100 * _mean_known(intersection / label),
    }


def average_precision(arrays: Arrays, weights: np.ndarray) -> Scores:
    """COCO's AP, AP50 and AP75: area all, at most 100 detections per image; classes without boxes take no part."""
    boxes = arrays["boxes"].astype(np.float64).T @ weights
    order = np.lexsort((np.arange(len(arrays["score"])), -arrays["score"], arrays["label"]))
    by_class = {name: arrays[name][order] for name in ("image", "label", "matched", "ignored")}
    ends = np.searchsorted(by_class["label"], np.arange(len(boxes) + 1))
    found = np.empty((len(boxes), THRESHOLDS, weights.shape[1]))
    for label, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        part = {name: array[start:end] for name, array in by_class.items()}
        found[label] = _of_class(part, weights, boxes[label])
    return {
        "AP": 100 * _mean_known(found.mean(axis=1)),
        "AP50": 100 * _mean_known(found[:, AP50]),
        "AP75": 100 * _mean_known(found[:, AP75]),
    }


NAMES = {"classes": ("top1", "top1_macro"), "areas": ("mIoU", "aAcc", "mAcc"), "boxes": ("AP", "AP50", "AP75")}
METRICS: dict[str, Callable[[Arrays, np.ndarray], Scores]] = {
    "classes": accuracies,
    "areas": mean_iou,
    "boxes": average_precision,
}


def _of_class(part: Arrays, weights: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """AP of one class (thresholds, W) from its detections, best score first; NaN where a resample has no box of it.

    Precision is highest at a true positive, so it is computed only there: the weight of all detections up to each of
    them is a sparse product, however many false positives lie between.
    """
    thresholds = np.arange(THRESHOLDS)
    ignored = (part["ignored"][:, None] >> thresholds & 1).astype(bool)
    true = (part["matched"][:, None] >> thresholds & 1).astype(bool) & ~ignored
    places = np.flatnonzero(true.any(axis=1))
    upto = _weight_upto(places, part["image"], np.arange(len(true)), weights)
    result = np.zeros((THRESHOLDS, weights.shape[1]))
    for threshold in thresholds:
        own = np.flatnonzero(true[places, threshold])
        if len(own):
            counted, at = upto[own], places[own]
            if ignored[:, threshold].any():
                counted -= _weight_upto(at, part["image"], np.flatnonzero(ignored[:, threshold]), weights)
            hits = weights[part["image"][at]].cumsum(axis=0)
            best = np.maximum.accumulate((hits / counted.clip(min=1))[::-1], axis=0)[::-1]
            gained = np.diff(_recalls_upto(hits / boxes.clip(min=1)), axis=0, prepend=0)
            result[threshold] = np.einsum("pw,pw->w", best, gained) / len(RECALLS)
    return np.where(boxes > 0, result, np.nan)


def _recalls_upto(recall: np.ndarray) -> np.ndarray:
    """How many of `RECALLS` are at most each recall: np.searchsorted(RECALLS, recall, side="right"), but faster."""
    last = (100 * recall + 1e-9).astype(np.intp)
    return last + (RECALLS[last] <= recall)


def _weight_upto(places: np.ndarray, image: np.ndarray, counted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weight of the `counted` detections at or before each place: (places, W)."""
    gap = np.searchsorted(places, counted)
    inside = gap < len(places)
    entries = (np.ones(int(inside.sum())), (gap[inside], image[counted[inside]]))
    return (csr_array(entries, shape=(len(places), len(weights))) @ weights).cumsum(axis=0)


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    return np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
