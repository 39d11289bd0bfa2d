"""Detection with a frozen backbone and boxes that are given: which class is in them, and how they should move.

Features are RoIAlign's: see `kdep_benchmarks.tasks.dense.box_features`. Logistic regression gives the class or
background, ridge regression the four offsets to the true box. Both penalties are chosen on a seeded fifth of the train
images, and refitted on all. On test, AP is over jittered boxes and background, never over true boxes; what the class is
worth alone is measured on true boxes, with background among the candidates (mAP) and without (accuracy).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.answers.detections import evaluate
from kdep_benchmarks.data.readers.boxed import as_coco
from kdep_benchmarks.result import Outcome
from kdep_benchmarks.tasks.axes import Images, find_axes
from kdep_benchmarks.tasks.classify import at_edge, best_on_val, gives_up, load_report
from kdep_benchmarks.tasks.dense.box_features import Part, box_features
from kdep_benchmarks.tasks.dense.proposals import BACKGROUND, JITTERED, TRUE, Proposals, moved, offsets
from kdep_benchmarks.tasks.dense.ridge import Map, ridge_path
from kdep_benchmarks.tasks.dense.segment import val_positions
from kdep_benchmarks.tasks.features import feature_folder
from kdep_benchmarks.tasks.linear import ROWS, Solution, descend
from kdep_benchmarks.tasks.settings import Box, read_settings
from kdep_benchmarks.tasks.task import Task

OVERLAP = 0.5  # IoU above which the weaker of two detections of a class is dropped
MOST = 100  # detections per image that COCO looks at
LEAST = 0.01  # probability of a detection


def run_box(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Fit the classifier and the offsets on train, and score them on the proposals of test.

    Raises:
        ValueError: unknown settings, or data that cannot be.
        LoadError: weights that do not load completely.
    """
    settings = read_settings(Box, task)
    cache = feature_folder(work_dir, checkpoint)
    train, test, cost = box_features(checkpoint, task.dataset, settings, cache=cache, device=device)
    val = draw_val(train.proposals, seed)
    classes, chosen, curves = fit_classes(train, path=settings.path, val=val, device=device)
    move, moved_by, ridge_curves = fit_offsets(train, path=settings.ridge, val=val, device=device)
    scores = classes.scores(test.whole.to(device).float()).softmax(1).cpu()
    found = detections(test, scores, move(test.parts).cpu().numpy())
    held = len(np.unique(train.proposals.image[val.numpy()]))
    metrics, answers = evaluate(as_coco(test.images, test.classes), found)
    return Outcome(
        metrics=metrics | class_metrics(test, scores),
        counts={"train": len(train.images) - held, "val": held, "test": len(test.images)},
        chosen=chosen | moved_by | {"proposals": len(train.whole), "detections": len(found)} | test.left_out,
        curves=curves | ridge_curves,
        load=load_report(checkpoint),
        cost=cost,
        answers=answers,
    )


def draw_val(proposals: Proposals, seed: int) -> torch.Tensor:
    """(R,) True where a proposal lies in a val image: a fifth of the train images; both parts have an object.

    Raises:
        ValueError: fewer than two train images have an object.
    """
    image, true = torch.from_numpy(proposals.image), torch.from_numpy(proposals.kind == TRUE)
    with_object = image[true].unique()
    if len(with_object) < 2:
        raise ValueError(
            f"train images with an object: {len(with_object)}; at least 2 are needed, one of them for val. "
            "Crowds and difficult objects do not count"
        )
    val = val_positions(image, seed)
    # Without an object in val, penalties would be chosen on NaN; without one in the rest, offsets could not be fitted.
    # Then a fifth of the images with an object is val, and all other images are fitted on. A fifth of all images stays
    # val where it works, so that scores measured before stay reproducible.
    if val[true].all() or not val[true].any():
        val = torch.isin(image, image[true][val_positions(image[true], seed)])
    return val


def fit_classes(
    train: Part, *, path: tuple[float, ...], val: torch.Tensor, device: torch.device
) -> tuple[Solution, dict[str, Any], dict[str, Any]]:
    """Choose the penalty by the mAP of val's true boxes among background, and refit on all proposals."""
    labels, number = torch.from_numpy(train.proposals.label).to(device), train.classes + 1
    images = Images(train.whole, labels, None, block=ROWS, device=device)
    axes = find_axes(images, products=torch.float32)
    images = images.on(axes, torch.float32)
    asked = val & torch.from_numpy(train.proposals.kind != JITTERED)
    held, truth = train.whole[asked].to(device).float(), labels[asked.to(device)]
    tried, precision, loss = [], [], []
    fitted = images.only(torch.nonzero(~val).flatten())
    for solution in descend(fitted, axes, classes=number, penalties=path):
        scores = solution.scores(held)
        tried.append(solution.penalty)
        precision.append(mean_precision(scores.softmax(1).cpu().numpy(), truth.cpu().numpy()))
        loss.append(float(F.cross_entropy(scores.double(), truth)))
        if gives_up(precision, loss):
            break
    best = tried[best_on_val(precision, loss)]
    (refitted,) = descend(images, axes, classes=number, penalties=[best])
    curves = {"lambda": tried[::-1], "val_mAP": precision[::-1], "val_loss": loss[::-1]}
    return refitted, {"lambda": best} | at_edge("lambda", best, path), curves


def fit_offsets(
    train: Part, *, path: tuple[float, ...], val: torch.Tensor, device: torch.device
) -> tuple[Map, dict[str, Any], dict[str, Any]]:
    """Choose the penalty of the offsets by the squared error on val's jittered boxes, and refit on all boxes.

    `offsets_explained` is the share of their variance on val, in percent.
    """
    proposals = train.proposals
    goals = torch.from_numpy(offsets(proposals.box, proposals.goal)).float()
    with_object = torch.from_numpy(proposals.kind != BACKGROUND)
    asked = val & torch.from_numpy(proposals.kind == JITTERED)
    fitted = torch.nonzero(with_object & ~val).flatten()
    truth = goals[asked]
    errors = [
        float((move(train.parts[asked]).cpu() - truth).square().mean())
        for move in ridge_path(train.parts, goals, fitted, path, device)
    ]
    best = path[min(range(len(path)), key=lambda number: errors[number])]
    (move,) = ridge_path(train.parts, goals, torch.nonzero(with_object).flatten(), [best], device)
    explained = 100 * (1 - min(errors) / float(truth.square().mean()))
    chosen = {"ridge": best, "offsets_explained": explained} | at_edge("ridge", best, path)
    return move, chosen, {"ridge": list(path), "val_offset_error": errors}


def detections(test: Part, scores: torch.Tensor, by: np.ndarray) -> list[dict[str, Any]]:
    """The moved proposals as detections in the form of COCO's result files, the best of each class that overlap.

    True boxes are left out: they would tell the answer.
    """
    proposals = test.proposals
    sizes = np.array([image.size for image in test.images])[proposals.image]
    places = torch.from_numpy(moved(proposals.box, by, sizes))
    found = []
    for number, image in enumerate(test.images):
        rows = torch.from_numpy(np.flatnonzero((proposals.image == number) & (proposals.kind != TRUE)))
        row, label = torch.nonzero(scores[rows, :-1] >= LEAST, as_tuple=True)
        box, score = places[rows[row]], scores[rows[row], label].double()
        for kept in batched_nms(box, score, label, OVERLAP)[:MOST].tolist():
            x1, y1, x2, y2 = box[kept].tolist()
            place = {"image_id": image.number, "category_id": int(label[kept]) + 1}
            found.append(place | {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score[kept])})
    return found


def class_metrics(test: Part, scores: torch.Tensor) -> dict[str, float]:
    """Percent: mAP of the classes over true boxes and background, and accuracy of the class among true boxes."""
    kind, label = test.proposals.kind, test.proposals.label
    asked, true = kind != JITTERED, kind == TRUE
    right = scores[torch.from_numpy(true), :-1].argmax(1).numpy() == label[true]
    precision = mean_precision(scores[torch.from_numpy(asked)].numpy(), label[asked])
    return {"mAP": precision, "accuracy": 100 * float(right.mean())}


def mean_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that are there, background not counted, of the average precision, in percent.

    Args:
        scores: (N, C + 1); the last column is the background's.
        labels: (N,).
    """
    background = scores.shape[1] - 1
    there = [label for label in np.unique(labels) if label != background]
    return 100 * float(np.mean([_precision(scores[:, label], labels == label) for label in there]))


def _precision(score: np.ndarray, right: np.ndarray) -> float:
    """Mean precision at the right ones; those of equal score come together."""
    order = np.argsort(-score, kind="stable")
    score, right = score[order], right[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each group of equal scores
    hits = np.cumsum(right)[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / right.sum())
