"""Read what a comparison needs of a result: its score on the test images and on resamples of them.

Resampling a large test set takes seconds, and a board compares every checkpoint with every other whenever it is built.
So resamples that took long are kept in the user's cache folder, named by the answers and by the code that made them.
"""

import hashlib
import io
import logging
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from kdep.data.sources.contents import cache_folder
from kdep.files import write_bytes
from kdep_benchmarks.answers import metrics, resample
from kdep_benchmarks.answers.resample import DRAWS, Resamples, resamples_of
from kdep_benchmarks.result import Result
from kdep_benchmarks.results import read_answers, with_those_below
from kdep_benchmarks.verdicts.uncertainty import effective_images

logger = logging.getLogger("kdep")
ALIKE = 0.01  # points: how far a score may lie from what its answers give
WORTH = 0.1  # seconds from which on resamples are kept; a file of them is read in a hundredth of that


Read = Callable[[Result], Resamples]


def reader(folders: Path | Iterable[Path]) -> Read:
    """Give `read_resamples` for results anywhere below these folders, which reads each once."""
    folders = with_those_below([folders] if isinstance(folders, str | Path) else folders)
    known: dict[tuple[str | None, str, float, int | None], Resamples] = {}

    def read(result: Result) -> Resamples:
        # Two checkpoints may have the same answers, and their results say other things of them.
        key = (result.answers, result.main_metric, result.metrics[result.main_metric], effective_images(result))
        if key not in known:
            known[key] = read_resamples(result, folders)
        return known[key]

    return read


def read_resamples(result: Result, folders: Path | Iterable[Path]) -> Resamples:
    """Read the resamples of a result's main metric, or make them from its answers, which are in one of the folders.

    Raises:
        ValueError: as `read_answers`, unless the resamples are kept; or the answers give another score.
    """
    found, said = _resamples(result, folders), result.metrics[result.main_metric]
    own = float(found.scores.mean())
    if abs(own - said) > ALIKE:
        raise ValueError(
            f"{result.task.name}, seed {result.seed} of {result.checkpoint.name}: its score is {said:.2f}, but its "
            f"answers give {own:.2f}; one of the two files was changed. Remove them, and kdep transfer measures this "
            "cell again"
        )
    return replace(found, effective=effective_images(result))


def _resamples(result: Result, folders: Path | Iterable[Path]) -> Resamples:
    metric = result.main_metric
    named = f"{result.answers}|{metric}|{DRAWS}|{_code()}"
    kept = cache_folder("resamples") / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.npz"
    if result.answers and (known := _known(kept, metric)) is not None:
        return known
    answers, started = read_answers(result, folders), time.perf_counter()
    found = resamples_of([answers], metric)
    if time.perf_counter() - started > WORTH:
        _keep(found, kept)
    return found


@cache
def _code() -> str:
    """A hash of the code that makes resamples: what another version of it kept is not read."""
    files = [Path(module.__file__).read_bytes() for module in (metrics, resample)]
    return hashlib.sha256(b"|".join(files)).hexdigest()


def _known(path: Path, metric: str) -> Resamples | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            images, truth = int(file["images"]), str(file["truth"])
            return Resamples(metric, images, truth, file["scores"], file["samples"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged: made again
        return None


def _keep(found: Resamples, path: Path) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, images=found.images, truth=found.truth, scores=found.scores, samples=found.samples)
    try:
        write_bytes(path, content.getvalue())
    except OSError as error:
        logger.debug("%s: not written (%s)", path, error)
