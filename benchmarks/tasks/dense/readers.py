"""Read a split for the dense kinds and refuse its defects."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.checks.masks import bad_values, lone_class, missing_files, read_values
from kdep_benchmarks.data.findings import refuse_defects
from kdep_benchmarks.data.readers.boxed import BoxSplit
from kdep_benchmarks.data.readers.boxes import class_names, read_boxes
from kdep_benchmarks.data.readers.masks import IGNORED, MaskSplit, read_masks


class Masks:
    """Images of a segmentation split and their masks.

    Attributes:
        names: of the classes.
        images: their files.
    """

    def __init__(self, split: MaskSplit, role: str, what: str) -> None:
        self._split, self._role, self._what = split, role, what
        self.names: tuple[str, ...] = split.names
        self.images: list[Path] = [pair.image for pair in split.pairs]

    def read(self, index: int) -> np.ndarray:
        """Class numbers (H, W); `len(names)` means no class.

        Raises:
            ValueError: the mask does not open, or holds a value that is not a class's.
        """
        pair = self._split.pairs[index]
        refuse_defects(bad_values(read_values(pair.mask), pair, self._split), self._what)
        labels = self._split.labels(index).astype(np.int64)
        return np.where(labels == IGNORED, len(self.names), labels)

    def refuse_one_class(self, pixels: Iterable[float]) -> None:
        """Refuse a split in which one class alone has pixels.

        Args:
            pixels: by class, in any unit.

        Raises:
            ValueError: names the class.
        """
        found = [label for label, count in enumerate(pixels) if count]
        refuse_defects(lone_class(found, self._split, self._role), self._what)


def open_masks(dataset: Dataset, role: str) -> Masks:
    """Open a segmentation split, train or test.

    Raises:
        ValueError: a file is missing, or the split has no images.
    """
    split, what = read_masks(dataset, role), f"{dataset.name}: {role} split"
    refuse_defects(missing_files(split), what)
    return Masks(split, role, what)


def open_boxes(dataset: Dataset, role: str) -> BoxSplit:
    """Open a detection split, train or test. A class without a box is allowed in either, an image without boxes too.

    Raises:
        ValueError: a file is missing, a box has no area or lies outside its image, or the split has no boxes.
    """
    split = read_boxes(dataset, role, classes=class_names(dataset), open_images=True)
    refuse_defects(split.findings, f"{dataset.name}: {role} split")
    return split
