"""Tell which tasks are of the same test images: such tasks rise and fall together, so a mean counts them once."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse.csgraph import connected_components

from kdep_benchmarks.answers.sketch import share_images
from kdep_benchmarks.result import Result


def datasets_of(results: Sequence[Result]) -> list[str]:
    """Name the data set of each result, one name for those with the same test images: that of their first data set.

    Two results are of the same images where their data sets have one name or one fingerprint, or where a tenth or more
    of the images of the smaller test split are in the other, byte for byte, as in copies and versions of a data set.
    """
    same = [[_same(one, other) for other in results] for one in results]
    _, groups = connected_components(np.array(same, ndmin=2), directed=False)
    first = dict(zip(groups[::-1], [result.task.dataset for result in results][::-1], strict=True))
    return [first[group] for group in groups]


def _same(one: Result, other: Result) -> bool:
    if one.task.dataset == other.task.dataset or one.data_fingerprint == other.data_fingerprint:
        return True
    return share_images(one.test_images, other.test_images)
