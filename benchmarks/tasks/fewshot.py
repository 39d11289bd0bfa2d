"""Fit a few-shot linear probe on a small share of the train images, and average over several draws.

A draw takes the same share of every class of train and val, at least two images. Nothing else is labelled: the penalty
is chosen by cross-validation within the draw, and the probe is fitted again on the whole draw. The tap is the one with
the best mean over draws in the cross-validation.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.data.images import Splits, open_splits
from kdep_benchmarks.result import Outcome
from kdep_benchmarks.tasks.classify import Data, accuracy, at_edge, best_on_val, gives_up, load_report, open_taps
from kdep_benchmarks.tasks.linear import fit_path, measure, walk_path
from kdep_benchmarks.tasks.settings import Fewshot, read_settings
from kdep_benchmarks.tasks.task import Task


@dataclass(frozen=True)
class Drawn:
    """The probe of one draw at one tap: its score on held-out images of the draw, and its class numbers on test."""

    val_top1: float
    val_loss: float
    predicted: torch.Tensor
    score: dict[str, float]
    penalty: float
    penalty_at_edge: bool


def run_fewshot(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Probe every draw at every tap; score the mean over draws at the tap that is best on held-out images of the draws.

    Raises:
        ValueError: the settings or the data set are wrong.
        LoadError: the weights do not load completely.
    """
    settings = read_settings(Fewshot, task)
    splits = open_splits(task.dataset, seed=seed)
    draws = [draw(splits, share=settings.share, seed=seed, number=number) for number in range(settings.draws)]
    truth = torch.from_numpy(splits.test.labels)
    taps, cost = open_taps(checkpoint, splits, settings, work_dir=work_dir, device=device)
    probed = {
        tap: [probe_draw(data, positions, truth, path=settings.path, folds=settings.folds) for positions in draws]
        for tap, data in taps.items()
    }
    means = {tap: _mean_score(results) for tap, results in probed.items()}
    best = max(probed, key=lambda tap: _on_val(probed[tap]))
    return Outcome(
        metrics=means[best] | {f"top1_{tap}": mean["top1"] for tap, mean in means.items()},
        counts={"train": len(draws[0]), "val": 0, "test": len(splits.test)},
        chosen={"tap": best, "lambda_at_edge": any(result.penalty_at_edge for result in probed[best])},
        curves={tap: _listed(results) for tap, results in probed.items()},
        load=load_report(checkpoint),
        cost=cost,
        answers=class_answers(torch.stack([drawn.predicted for drawn in probed[best]]).numpy(), splits.test.labels),
    )


def draw(splits: Splits, *, share: float, seed: int, number: int) -> np.ndarray:
    """Draw positions in the pool: the rounded share of every class, at least two images, in random order.

    Each draw depends only on (seed, number), not on how many draws there are.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, number]))
    labels = splits.pool.labels
    parts = []
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        # Permute all positions, so that a smaller share is a subset of a larger one.
        parts.append(generator.permutation(positions)[: max(2, round(share * len(positions)))])
    return np.concatenate(parts)


def probe_draw(data: Data, positions: np.ndarray, truth: torch.Tensor, *, path: tuple[float, ...], folds: int) -> Drawn:
    """Choose the penalty by accuracy on held-out images of the draw, ties by cross-entropy; predict test.

    Penalties are tried from the strongest to the weakest until `gives_up`, as in a linear probe.
    """
    known = {"classes": data.classes, "device": data.device}
    parts = [(torch.from_numpy(fit), torch.from_numpy(held)) for fit, held in folds_of(data.labels, positions, folds)]
    if not parts:
        raise ValueError("a few-shot probe needs two images of a class to choose its penalty, and every class has one")
    walks = [walk_path(data.pool, data.labels, rows=fit, penalties=path, **known) for fit, _ in parts]
    images = sum(len(held) for _, held in parts)
    tried, top1, loss = [], [], []
    for solutions in zip(*walks, strict=True):
        correct, entropy = 0, 0.0
        for solution, (_, held) in zip(solutions, parts, strict=True):
            right, mean = measure(solution, data.pool, data.labels, rows=held)
            correct += round(right * len(held) / 100)  # counted, so that equal numbers tie
            entropy += mean * len(held)
        tried.append(solutions[0].penalty)
        top1.append(100.0 * correct / images)
        loss.append(entropy / images)
        if gives_up(top1, loss):
            break
    best = best_on_val(top1, loss)
    rows = torch.from_numpy(np.sort(positions))
    (fitted,) = fit_path(data.pool, data.labels, rows=rows, penalties=[tried[best]], **known)
    predicted = fitted.predict(data.test).cpu()
    score = accuracy(predicted, truth, classes=data.classes)
    edge = at_edge("lambda", tried[best], path)["lambda_at_edge"]
    return Drawn(top1[best], loss[best], predicted, score, tried[best], edge)


def folds_of(labels: torch.Tensor, positions: np.ndarray, folds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions to fit on and held-out ones, ascending, of each fold; every class is spread over the folds.

    The only image of a class is never held out: nothing would be fitted for it.
    """
    own = labels.numpy()[positions]
    place = np.empty(len(positions), dtype=np.int64)
    place[np.argsort(own, kind="stable")] = np.arange(len(positions)) % folds
    alone = np.bincount(own)[own] == 1
    found = []
    for fold in range(folds):
        held = (place == fold) & ~alone
        if held.any():
            found.append((np.sort(positions[~held]), np.sort(positions[held])))
    return found


def _on_val(results: list[Drawn]) -> tuple[float, float]:
    return statistics.fmean(r.val_top1 for r in results), -statistics.fmean(r.val_loss for r in results)


def _mean_score(results: list[Drawn]) -> dict[str, float]:
    return {name: statistics.fmean(result.score[name] for result in results) for name in results[0].score}


def _listed(results: list[Drawn]) -> dict[str, Any]:
    """List choice and score of every draw, in order."""
    return {
        "lambda": [result.penalty for result in results],
        "lambda_at_edge": [result.penalty_at_edge for result in results],
        "val_top1": [result.val_top1 for result in results],
        "test_top1": [result.score["top1"] for result in results],
        "test_top1_macro": [result.score["top1_macro"] for result in results],
    }
