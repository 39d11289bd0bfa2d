"""Tell which tasks are of the same test images: such tasks rise and fall together, so a mean counts them once."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse.csgraph import connected_components

from kdep_benchmarks.answers.sketch import share_images
from kdep_benchmarks.result import Result


def datasets_of(tasks: Sequence[Sequence[Result]]) -> list[str]:
    """Name the data set of each task, one name for those with the same test images: that of their first data set.

    Two tasks are of the same images where their data sets have one name or one fingerprint, or where by estimate a
    tenth or more of the images of the smaller test split are in the other, byte for byte, as in copies and versions.

    Args:
        tasks: the results of each, of one task and one version of its data.
    """
    firsts = [results[0] for results in tasks]
    sketches = [next((one.test_images for one in results if one.test_images), "") for results in tasks]
    sides = list(zip(firsts, sketches, strict=True))
    same = [[_same_test_images(*one, *other) for other in sides] for one in sides]
    _, groups = connected_components(np.array(same, ndmin=2), directed=False)
    names = dict(zip(groups[::-1], [first.task.dataset for first in firsts][::-1], strict=True))
    return [names[group] for group in groups]


def _same_test_images(one: Result, sketch: str, other: Result, other_sketch: str) -> bool:
    if one.task.dataset == other.task.dataset or one.data_fingerprint == other.data_fingerprint:
        return True
    return share_images(sketch, other_sketch)
