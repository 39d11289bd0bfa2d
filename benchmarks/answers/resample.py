"""Draw the test images again: the metrics of each resample, and their standard errors."""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdep_benchmarks.answers.metrics import metrics_of
from kdep_benchmarks.answers.store import Answers

DRAWS = 2000
ELEMENTS = 1_000_000  # weights computed with at once
ROUNDING = 1e-9  # points: values that differ by no more are equal, their last bits are not


@dataclass(frozen=True)
class Resamples:
    """What a comparison needs of answers: one metric, on the test images and on each resample of them.

    Attributes:
        metric: its name.
        images: number of test images.
        truth: hash of the right answers, the same for every checkpoint that answered these images.
        scores: (R,) of each run; a few-shot result has one for each draw of its train images.
        samples: (R, draws) of each run on each resample. Those of as many images are paired.
        effective: how many different images would be as certain, where some repeat others; None for all of them.
    """

    metric: str
    images: int
    truth: str
    scores: np.ndarray
    samples: np.ndarray
    effective: int | None = None

    @property
    def effective_images(self) -> int:
        """How many different images would be as certain."""
        return self.effective or self.images


@functools.lru_cache(maxsize=4)
def image_draws(images: int, draws: int = DRAWS) -> np.ndarray:
    """How often each image was drawn (images, draws) uint8: with replacement, as many as there are, always the same."""
    random, counts = np.random.default_rng(images), np.empty((images, draws), np.uint8)
    for draw in range(draws):
        counts[:, draw] = np.bincount(random.integers(images, size=images), minlength=images).clip(max=255)
    return counts


def resamples_of(runs: Sequence[Answers], metric: str, draws: int = DRAWS) -> Resamples:
    """Resample the answers of each run and of each draw of train images. Answers on as many images are drawn alike."""
    every = [draw for run in runs for draw in run.draws]
    scores = np.array([float(metrics_of(one)[metric][0]) for one in every])
    samples = np.stack([_all_resampled(one, draws)[metric] for one in every])
    truth = np.ascontiguousarray(runs[0].truth)
    named = f"{truth.shape}|".encode() + truth.astype(np.int64).tobytes()
    return Resamples(metric, runs[0].images, hashlib.sha256(named).hexdigest(), scores, samples)


def joined(runs: Sequence[Resamples]) -> Resamples:
    """All runs of a checkpoint as one."""
    scores, samples = (np.concatenate([getattr(run, name) for run in runs]) for name in ("scores", "samples"))
    effective = min(run.effective_images for run in runs)  # results of an earlier version do not say it
    return replace(runs[0], scores=scores, samples=samples, effective=effective)


def standard_errors(answers: Answers, draws: int = DRAWS) -> dict[str, float]:
    """Metric -> its standard error over the choice of the test images, in points; empty below two images."""
    if answers.images < 2:
        return {}
    found = _all_resampled(answers, draws)
    images = answers.images
    return {name: math.sqrt(image_variance(values, images, images)) for name, values in found.items()}


def image_variance(values: np.ndarray, images: int, effective: int) -> float:
    """Variance over resamples, for the variance over other images.

    A resample of N different images has a variance that is smaller by (N - 1) / N. Of images that repeat others it is
    smaller again: N are drawn, and the score is as certain as that of `effective` different ones.
    """
    known = values[~np.isnan(values)]
    if len(known) < 2 or np.ptp(known) <= ROUNDING:
        return 0.0
    return float(known.var()) * images / (effective - 1)


def _all_resampled(answers: Answers, draws: int) -> dict[str, np.ndarray]:
    weights = image_draws(answers.images, draws)
    columns = max(1, ELEMENTS // answers.images)
    blocks = [metrics_of(answers, weights[:, at : at + columns].astype(np.float64)) for at in range(0, draws, columns)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
