"""Divide labelled images into a larger and a smaller part, class by class."""

import numpy as np

HELD_OUT = 0.2


def hold_out(labels: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide positions into four fifths and one fifth of every class, ascending.

    A class gives at least one image to each part, a class of one image keeps it in the first.
    """
    draw = np.random.Generator(np.random.Philox(seed))
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        positions = draw.permutation(np.flatnonzero(labels == label))
        count = max(1, round(HELD_OUT * len(positions))) if len(positions) > 1 else 0
        chosen[positions[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
