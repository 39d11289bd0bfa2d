"""Boxes that are given to a backbone's features: true ones, jittered ones, and background."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdep_benchmarks.data.readers.boxed import BoxedImage

TRUE, JITTERED, BACKGROUND = 0, 1, 2  # kinds
JITTERS, BACKGROUNDS = 3, 10  # per true box, per image
SHIFT, STRETCH = 0.2, 0.3  # of the sides; of their logarithms
NEAR, FAR = 0.5, 0.2  # IoU of a jittered box at least, of background with any box below
TRIES = 20  # candidates drawn per box that is wanted; the first that fit are taken


@dataclass(frozen=True)
class Proposals:
    """R boxes, image by image; the draw depends on the true boxes alone.

    Attributes:
        image: (R,) position of the image; box: (R, 4) left, top, right, bottom in pixels.
        kind: (R,) TRUE, JITTERED or BACKGROUND; label: (R,) class number, the number of classes for background.
        goal: (R, 4) the true box that a jittered one comes from; the box itself for the others.
    """

    image: np.ndarray
    box: np.ndarray
    kind: np.ndarray
    label: np.ndarray
    goal: np.ndarray


def propose(images: Sequence[BoxedImage], taken: Sequence[int], classes: int) -> Proposals:
    """Make the proposals of some images of a split; those of an image do not depend on which others are taken.

    Boxes are clipped to their image. Those that are ignored, crowds and difficult ones, are no proposals, and
    background keeps away from them. An image without boxes has background only.
    """
    sides = np.concatenate([_clipped(image.boxes, image.size) for image in images])
    sides = sides[:, 2:] - sides[:, :2]
    rows = [_of_image(number, n, images[n], sides, classes) for number, n in enumerate(taken)]
    image, box, kind, label, goal = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Proposals(image, box, kind, label, goal)


def _of_image(number: int, n: int, image: BoxedImage, sides: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng((0, n))
    clipped = _clipped(image.boxes, image.size)
    asked = ~image.ignored & (clipped[:, 2:] > clipped[:, :2]).all(1)
    true, labels = clipped[asked], image.labels[asked]
    jittered, parents = _jitter(true, image.size, generator)
    ground = _background(clipped, image.size, sides, generator)
    box = np.concatenate([true, jittered, ground])
    kind = np.repeat([TRUE, JITTERED, BACKGROUND], [len(true), len(jittered), len(ground)])
    label = np.concatenate([labels, labels[parents], np.full(len(ground), classes)])
    goal = np.concatenate([true, true[parents], ground])
    return np.full(len(box), number), box, kind, label, goal


def _jitter(true: np.ndarray, size: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Moved and stretched copies of each box, and whose they are."""
    count = JITTERS * TRIES
    sides, centres = true[:, None, 2:] - true[:, None, :2], (true[:, None, :2] + true[:, None, 2:]) / 2
    centres = centres + sides * generator.uniform(-SHIFT, SHIFT, (len(true), count, 2))
    sides = sides * np.exp(generator.uniform(-STRETCH, STRETCH, (len(true), count, 2)))
    moved = _clipped(np.concatenate([centres - sides / 2, centres + sides / 2], 2), size)
    fits = [np.flatnonzero(iou(moved[k], true[k : k + 1])[:, 0] >= NEAR)[:JITTERS] for k in range(len(true))]
    kept = [moved[k, found] for k, found in enumerate(fits)]
    parents = np.repeat(np.arange(len(true)), [len(found) for found in fits])
    return np.concatenate([np.zeros((0, 4)), *kept]), parents


def _background(
    clipped: np.ndarray, size: tuple[int, int], sides: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Boxes of the split's usual sizes, anywhere in the image, away from all its boxes."""
    width, height = size
    count = BACKGROUNDS * TRIES
    drawn = np.minimum(sides[generator.integers(len(sides), size=count)], (width, height))
    corner = generator.uniform(size=(count, 2)) * ((width, height) - drawn)
    candidates = np.concatenate([corner, corner + drawn], 1)
    far = iou(candidates, clipped).max(1, initial=0) < FAR
    return candidates[far][:BACKGROUNDS]


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) with boxes (M, 4): (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clip(0).prod(2)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (first, second)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def _clipped(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.clip(boxes, 0, np.tile(size, 2))


def offsets(box: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """From a box to its goal, as Fast R-CNN: shift of the centre in sides, logarithm of the ratio of sides, (R, 4)."""
    sides, wanted = box[:, 2:] - box[:, :2], goal[:, 2:] - goal[:, :2]
    shift = ((goal[:, :2] + goal[:, 2:]) - (box[:, :2] + box[:, 2:])) / 2 / sides
    return np.concatenate([shift, np.log(wanted / sides)], 1)


def moved(box: np.ndarray, by: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Undo `offsets`; the boxes are clipped to their images, `sizes` (R, 2) width and height."""
    sides = box[:, 2:] - box[:, :2]
    centres = (box[:, :2] + box[:, 2:]) / 2 + by[:, :2] * sides
    sides = sides * np.exp(by[:, 2:].clip(-1, 1))
    return np.clip(np.concatenate([centres - sides / 2, centres + sides / 2], 1), 0, np.tile(sizes, 2))
