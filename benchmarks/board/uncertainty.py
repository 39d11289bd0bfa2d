"""How uncertain a checkpoint's mean score on one column is: the interval on the board and the standard error."""

import math
from collections.abc import Sequence

from kdep_benchmarks.board.intervals import half_width, new_images_half_width, standard_deviation
from kdep_benchmarks.results import Result


def cell_half_width(results: Sequence[Result]) -> float | None:
    """Return half the 95 % interval of the mean score; None for a single run.

    The interval covers the runs and, for a top-1 on a known number of test images, the choice of these images.
    """
    scores, images = [result.score for result in results], _images(results)
    return half_width(scores) if images is None else new_images_half_width(scores, images)


def cell_standard_error(results: Sequence[Result]) -> float | None:
    """Return the standard error of the mean score; None for a single run of a metric that is no share of images."""
    scores, images = [result.score for result in results], _images(results)
    spread = standard_deviation(scores)
    over_runs = None if spread is None else spread / math.sqrt(len(scores))
    if images is None:
        return over_runs
    share = (sum(scores) / len(scores) / 100 * images + 2) / (images + 4)  # Agresti and Coull: never certain
    return math.hypot(over_runs or 0.0, 100 * math.sqrt(share * (1 - share) / (images + 4)))


def _images(results: Sequence[Result]) -> int | None:
    counts = {result.counts.get("test") for result in results}
    return counts.pop() if len(counts) == 1 and results[0].main_metric == "top1" else None
