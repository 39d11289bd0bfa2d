"""A split of images with boxes, its defects, and the rules for a box that both layouts share."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdep_benchmarks.data.findings import Finding

NORMALISED = 1.5  # pixels: boxes of numbers from 0 to 1 end by here, also when read from a centre and a size (YOLO)
BEYOND = 1.0  # pixels a box may reach out of its image: published sets round, and some VOC files count from 0


class BoxedImage(NamedTuple):
    """An image and its boxes.

    Attributes:
        path: the file.
        number: of the image in scoring; COCO's id, where that is a whole number.
        size: width and height in pixels.
        boxes: (N, 4) float64 x1, y1, x2, y2 in pixels from 0.
        labels: (N,) int64 class numbers from 0.
        ignored: (N,) bool; VOC's difficult objects and COCO's crowds, which are not trained on and not scored.
        areas: (N,) float64 pixels of the object, at most those of its box.
    """

    path: Path
    number: int
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    areas: np.ndarray


@dataclass
class BoxSplit:
    """One split.

    Attributes:
        classes: names by label.
        folder: the images lie below it.
        images: those that are there with their annotation.
        findings: defects and notes, in the order of the files.
        left_out: boxes that are not among those of the images, by reason.
    """

    classes: tuple[str, ...]
    folder: Path
    images: list[BoxedImage] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def per_class(self) -> Counter[str]:
        """Boxes of each class that are trained on and counted."""
        counts: Counter[str] = Counter()
        for image in self.images:
            counts.update(self.classes[label] for label in image.labels[~image.ignored])
        return counts

    def add(self, kind: str, where: object, what: str, *, defect: bool = True) -> None:
        """Record a finding."""
        self.findings.append(Finding(kind, str(where), what, defect))


class Box(NamedTuple):
    """One box that can be trained on."""

    corners: tuple[float, float, float, float]
    label: int
    ignored: bool
    area: float


def as_boxed_image(path: Path, number: int, size: tuple[int, int], boxes: Sequence[Box]) -> BoxedImage:
    """Gather the boxes of an image in arrays."""
    corners = np.array([box.corners for box in boxes], dtype=np.float64).reshape(-1, 4)
    labels = np.array([box.label for box in boxes], dtype=np.int64)
    ignored = np.array([box.ignored for box in boxes], dtype=bool)
    return BoxedImage(path, number, size, corners, labels, ignored, np.array([box.area for box in boxes], dtype=float))


def as_coco(images: Sequence[BoxedImage], classes: int) -> dict[str, list[dict[str, Any]]]:
    """The content of a COCO json, without names; categories are numbered from 1, labels from 0."""
    boxes = []
    for image in images:
        columns = (image.boxes, image.labels, image.ignored, image.areas)
        for (x1, y1, x2, y2), label, ignored, area in zip(*(column.tolist() for column in columns), strict=True):
            box = {"id": len(boxes) + 1, "image_id": image.number, "category_id": label + 1, "area": area}
            boxes.append({**box, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(ignored)})
    listed = [{"id": image.number, "width": image.size[0], "height": image.size[1]} for image in images]
    return {"images": listed, "annotations": boxes, "categories": [{"id": n + 1} for n in range(classes)]}


def is_usable(split: BoxSplit, where: str, corners: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box x1, y1, x2, y2 can be trained on; records why not."""
    x1, y1, x2, y2 = corners
    shown = f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not all(map(math.isfinite, corners)):
        split.add("box without numbers", where, shown)
    elif x2 <= x1 or y2 <= y1:
        split.add("box without area", where, shown)
        split.left_out["boxes_without_area"] += 1
    elif min(x1, y1) < -BEYOND or x2 > size[0] + BEYOND or y2 > size[1] + BEYOND:
        split.add("box outside its image", where, f"{shown}, in an image of {size[0]} x {size[1]}")
    else:
        return True
    return False


def add_notes(split: BoxSplit, role: str, without: Sequence[Any], others: Counter[str]) -> None:
    """Record images without boxes and boxes of other classes; a class that is only spelt differently is a defect."""
    if without:
        what = f"{len(without)} images have no box: left out of training, counted in scoring; the first is {without[0]}"
        split.add("images without boxes", role, what, defect=False)
    spelt = {_letters(name): name for name in split.classes}
    for name, count in others.items():
        if meant := spelt.get(_letters(name)):
            what = f"{count} boxes are of {name!r}, which is no class; did you mean {meant!r}? Write both alike"
            split.add("class spelt differently", role, what)
            continue
        split.add("boxes of other classes", role, f"{count} of {name!r}, which is not among the classes", defect=False)


def _letters(name: str) -> str:
    """A name without capitals, spaces and signs; the name itself where nothing is left."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name
