"""Draw the test images again: the metrics of each resample, and their standard errors."""

import functools
import math

import numpy as np

from kdep_benchmarks.answers.metrics import metrics_of
from kdep_benchmarks.answers.store import Answers

DRAWS = 2000
ELEMENTS = 1_000_000  # weights computed with at once
ROUNDING = 1e-9  # points: values that differ by no more are equal, their last bits are not


@functools.lru_cache(maxsize=4)
def image_draws(images: int, draws: int = DRAWS) -> np.ndarray:
    """How often each image was drawn (images, draws) uint8: with replacement, as many as there are, always the same."""
    random, counts = np.random.default_rng(images), np.empty((images, draws), np.uint8)
    for draw in range(draws):
        counts[:, draw] = np.bincount(random.integers(images, size=images), minlength=images).clip(max=255)
    return counts


def resampled(answers: Answers, metric: str, draws: int = DRAWS) -> np.ndarray:
    """The metric of every resample (draws,). Answers on as many images are resampled alike, and so are paired."""
    return _all_resampled(answers, draws)[metric]


def standard_errors(answers: Answers, draws: int = DRAWS) -> dict[str, float]:
    """Metric -> its standard error over the choice of the test images, in points; empty below two images."""
    if answers.images < 2:
        return {}
    found = _all_resampled(answers, draws)
    return {name: math.sqrt(image_variance(values, answers.images)) for name, values in found.items()}


def image_variance(values: np.ndarray, images: int) -> float:
    """Variance over resamples, for the variance over other images: a resample's is smaller by (N - 1) / N."""
    known = values[~np.isnan(values)]
    if len(known) < 2 or np.ptp(known) <= ROUNDING:
        return 0.0
    return float(known.var()) * images / (images - 1)


def _all_resampled(answers: Answers, draws: int) -> dict[str, np.ndarray]:
    weights = image_draws(answers.images, draws)
    columns = max(1, ELEMENTS // answers.images)
    blocks = [metrics_of(answers, weights[:, at : at + columns].astype(np.float64)) for at in range(0, draws, columns)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
