"""Positions of a grid over each image, their soft labels, and a draw of them that favours rare classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LABELLED = 0.5  # share of a position's own pixels that must have a class for it to be drawn


def soft_counts(mask: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Pixels of each class at each position, and of no class in the last column: (rows * columns, classes + 1)."""
    height, width = mask.shape
    rows = np.arange(height) * grid[0] // height
    columns = np.arange(width) * grid[1] // width
    cell = rows[:, None] * grid[1] + columns[None]
    kind = np.minimum(mask.astype(np.int64), classes)
    numbers = (cell * (classes + 1) + kind).ravel()
    return np.bincount(numbers, minlength=grid[0] * grid[1] * (classes + 1)).reshape(-1, classes + 1)


@dataclass(frozen=True)
class Draw:
    """Positions that were drawn.

    Attributes:
        image, cell: (P,) position in the list of images, and in the grid of that image, row by row.
        labels: (P, classes) float32, the share of each class in the position's area.
        weight: (P,) how many positions of the train images each one stands for.
    """

    image: np.ndarray
    cell: np.ndarray
    labels: np.ndarray
    weight: np.ndarray


def draw_positions(counts: Sequence[np.ndarray], *, total: int, balance: float) -> Draw:
    """Draw positions by the class that has most of their area; the draw depends on the masks alone.

    Args:
        counts: for each image what `soft_counts` gives.
        total: how many to draw, if there are so many.
        balance: 0 draws classes as often as they are there, 1 all equally often; see `quotas`.

    Raises:
        ValueError: no position has a class in enough of its pixels.
    """
    generator = np.random.default_rng(0)
    image = np.repeat(np.arange(len(counts)), [len(c) for c in counts])
    cell = np.concatenate([np.arange(len(c)) for c in counts])
    stacked = np.concatenate(counts)
    area, stacked = stacked.sum(1), stacked[:, :-1]
    labelled = stacked.sum(1)
    # A mask of fewer pixels than positions leaves some positions without any.
    usable = np.flatnonzero((labelled > 0) & (labelled >= LABELLED * area))
    if not len(usable):
        raise ValueError(
            f"train masks: none of {len(area):,} positions has a class in half of its pixels; expected masks of areas, "
            "not of points or lines"
        )
    majority = stacked[usable].argmax(1)
    there = np.bincount(majority, minlength=stacked.shape[1])
    wanted = quotas(there, total, balance)
    picked = [
        generator.choice(usable[majority == label], wanted[label], replace=False) for label in np.flatnonzero(wanted)
    ]
    chosen = np.sort(np.concatenate(picked))
    kinds = stacked[chosen].argmax(1)
    labels = (stacked[chosen] / stacked[chosen].sum(1, keepdims=True)).astype(np.float32)
    return Draw(image[chosen], cell[chosen], labels, there[kinds] / wanted[kinds])


def quotas(there: np.ndarray, total: int, balance: float) -> np.ndarray:
    """How many to draw of each class: in proportion to its number to the power 1 - balance, never more than it has."""
    wanted = np.zeros(len(there), dtype=np.int64)
    left = min(total, int(there.sum()))
    while left > 0:
        open_ = wanted < there
        share = np.where(open_, np.maximum(there, 1.0) ** (1 - balance), 0)
        step = np.minimum(np.maximum((left * share / share.sum()).astype(np.int64), open_), there - wanted)
        over = int(step.sum()) - left
        if over > 0:  # fewer are left than classes: the first ones get them
            step = np.where(np.cumsum(step) <= left, step, 0)
            if not step.any():
                step[np.flatnonzero(open_)[0]] = 1
        wanted += step
        left -= int(step.sum())
    return wanted
