"""Fit a few-shot linear probe on a small share of the train images, and average over several draws.

A draw takes the same share of every class, at least one image. The penalty is chosen on the whole val split. There is
no refit on val, which has many more images than the draw. The tap is the one with the best mean over draws on val.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.data.images import Splits, open_splits
from kdep_benchmarks.result import Outcome
from kdep_benchmarks.tasks.classify import Data, accuracy, at_edge, best_on_val, load_report, open_taps
from kdep_benchmarks.tasks.linear import fit_path, measure_path
from kdep_benchmarks.tasks.settings import Fewshot, read_settings
from kdep_benchmarks.tasks.task import Task


@dataclass(frozen=True)
class Drawn:
    """The probe of one draw at one tap; `predicted` are class numbers on test."""

    val_top1: float
    val_loss: float
    predicted: torch.Tensor
    score: dict[str, float]
    penalty: float
    penalty_at_edge: bool


def run_fewshot(checkpoint: Checkpoint, task: Task, *, seed: int, work_dir: Path, device: torch.device) -> Outcome:
    """Probe every draw at every tap; score the mean over draws at the tap chosen on val.

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
        tap: [probe_draw(replace(data, train=torch.from_numpy(train)), truth, path=settings.path) for train in draws]
        for tap, data in taps.items()
    }
    means = {tap: _mean_score(results) for tap, results in probed.items()}
    best = max(probed, key=lambda tap: _on_val(probed[tap]))
    return Outcome(
        metrics=means[best] | {f"top1_{tap}": mean["top1"] for tap, mean in means.items()},
        counts={**splits.counts, "train": len(draws[0])},
        chosen={"tap": best, "lambda_at_edge": any(result.penalty_at_edge for result in probed[best])},
        curves={tap: _listed(results) for tap, results in probed.items()},
        load=load_report(checkpoint),
        cost=cost,
        answers=class_answers(torch.stack([drawn.predicted for drawn in probed[best]]).numpy(), splits.test.labels),
    )


def draw(splits: Splits, *, share: float, seed: int, number: int) -> np.ndarray:
    """Draw positions from train, ascending: the rounded share of every class, at least one image.

    Each draw depends only on (seed, number), not on how many draws there are.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, number]))
    labels = splits.pool.labels[splits.train]
    parts = []
    for label in np.unique(labels):
        positions = splits.train[labels == label]
        # Permute all positions, so that a smaller share is a subset of a larger one.
        parts.append(generator.permutation(positions)[: max(1, round(share * len(positions)))])
    return np.sort(np.concatenate(parts))


def probe_draw(data: Data, truth: torch.Tensor, *, path: tuple[float, ...]) -> Drawn:
    """Fit the path on `data.train`, choose by accuracy on val, ties by cross-entropy, and predict test."""
    path = tuple(sorted(path))
    fitted = fit_path(data.pool, data.labels, rows=data.train, classes=data.classes, penalties=path, device=data.device)
    top1, loss = measure_path(fitted, data.pool, data.labels, rows=data.val)
    best = best_on_val(top1, loss)
    predicted = fitted[best].predict(data.test).cpu()
    score = accuracy(predicted, truth, classes=data.classes)
    edge = at_edge("lambda", path[best], path)["lambda_at_edge"]
    return Drawn(top1[best], loss[best], predicted, score, path[best], edge)


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
