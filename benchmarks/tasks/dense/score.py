"""Count the pixels of each class per image of a segmentation."""

from collections.abc import Iterable

import numpy as np
import torch

from kdep.probe.areas import image_areas
from kdep_benchmarks.tasks.dense.readers import Masks


def count_areas(scores: Iterable[torch.Tensor], masks: Masks) -> np.ndarray:
    """Count pixels that are right, answered and labelled, per image and class: (N, 3, C) int64.

    Args:
        scores: of each image in order, (C, rows, columns) on its grid; they are interpolated to the size of the mask
            before the best class is taken.
        masks: of these images; pixels without a class do not count.
    """
    return np.stack([image_areas(on_grid, masks.read(index)) for index, on_grid in enumerate(scores)])
