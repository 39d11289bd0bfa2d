"""Estimate how uncertain a checkpoint's mean score on one column is, over the test images and the runs.

The rule is that of `kdep_benchmarks.verdicts.difference`, for one side of a difference. It needs no answers per image,
only the standard error over test images that results hold. Without the answers, runs count as fully correlated over the
images, and the spread of runs is not reduced by the part that is due to the images. Both make the variance larger.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdep_benchmarks.kinds import AVERAGED, PAIRED
from kdep_benchmarks.result import Result
from kdep_benchmarks.verdicts.intervals import mean, standard_deviation, t_quantile_of


@dataclass(frozen=True)
class Uncertainty:
    """The standard error of a checkpoint's mean score on a column.

    Attributes:
        standard_error: in points.
        freedom: degrees of freedom of the standard error.
        images: number of test images; None where the standard error covers the runs only.
    """

    standard_error: float
    freedom: float
    images: int | None

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of the mean score (Student's t)."""
        return t_quantile_of(self.freedom) * self.standard_error


def uncertainty(results: Sequence[Result]) -> Uncertainty | None:
    """Return the uncertainty of the mean score of finished results of one checkpoint and column.

    The variance over images is the mean of the squared standard errors, plus one image for top-1, plus one image for
    other metrics whose error is zero. The variance over runs is added for kinds whose runs differ in more than the val
    split. Without an error over images, and where the number of test images is unknown, only the spread of the runs is
    known: None for a single run.
    """
    first, scores = results[0], _run_scores(results)
    runs = _variance_of_mean(scores)
    images, errors = _images(results), [result.errors.get(result.main_metric) for result in results]
    effective = min(filter(None, map(effective_images, results)), default=images)
    if images is None or effective < 2 or None in errors:
        return None if runs is None else Uncertainty(math.sqrt(runs), len(scores) - 1, None)
    averaged = first.task.kind in AVERAGED
    over_images = mean([error**2 for error in errors]) * (images - 1) / (effective - 1)  # as `image_variance`
    if first.main_metric == "top1":
        # One more wrong image: without it 100 % of a handful of images would seem certain.
        over_images += (100 / effective) ** 2 / (1 if averaged else len(results))
    over_runs = 0.0 if averaged or runs is None else runs
    squares = over_images**2 / (effective - 1) + (over_runs**2 / (len(scores) - 1) if over_runs else 0.0)
    variance = over_images + over_runs
    if not variance:
        return Uncertainty(100 / effective, math.inf, images)
    return Uncertainty(math.sqrt(variance), variance**2 / squares, images)


def effective_images(result: Result) -> int | None:
    """How many different test images would be as certain, where some repeat others; None where no result says so."""
    images, effective = result.counts.get("test", 0), result.counts.get("effective", 0)
    return effective if 0 < effective < images else None


def coverage(kind: str, runs: int, images: int | None) -> str:
    """Say what an interval of `uncertainty` covers."""
    if images is None:
        return f"{runs} runs"
    parts = [f"{images:,} test images"]
    if kind in PAIRED:
        parts.append("draws of train images")
    elif kind not in AVERAGED and runs > 1:
        parts.append(f"{runs} runs")
    return " and ".join(parts)


def _run_scores(results: Sequence[Result]) -> list[float]:
    """Scores that differ by chance: of each run, or of each draw of train images of a few-shot result."""
    if results[0].task.kind in PAIRED:
        draws = [result.curve.get("test_top1") for result in results]
        if all(draws):
            return [score for own in draws for score in own]
    return [result.score for result in results]


def _variance_of_mean(scores: Sequence[float]) -> float | None:
    deviation = standard_deviation(scores)
    return None if deviation is None else deviation**2 / len(scores)


def _images(results: Sequence[Result]) -> int | None:
    counts = {result.counts.get("test") for result in results}
    images = counts.pop() if len(counts) == 1 else None
    return images if images and images > 1 else None
