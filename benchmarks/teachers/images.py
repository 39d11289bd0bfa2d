"""Open the images on which teachers are measured, with or without labels, in a seeded order."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kdep.data.decoding.opening import UNREADABLE
from kdep.data.sources.source import open_source
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.images import open_split


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images by number; `labels` (N,) int64 is None where there are none.

    `source` names the data by its file or folder alone, so that results can be published.
    """

    source: str
    names: Sequence[str]
    read_raw: Callable[[int], Image.Image]
    fingerprint: str
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB.

        Raises:
            ValueError: it cannot be read; figures of fewer images would not be reproducible.
        """
        try:
            return self.read_raw(index)
        except UNREADABLE as error:
            raise ValueError(
                f"{self.source}: image {self.names[index]} cannot be read ({type(error).__name__}: {error}); repair or "
                "remove it"
            ) from error


def open_pictures(spec: str, *, labels: bool) -> Pictures:
    """Open images by their address (see `kdep.data.sources.source.open_source`), with their labels if asked for.

    Raises:
        ValueError: nothing there, no labels to be had, or a single class.
    """
    file, _, split = spec.rpartition(":")
    packed = file.endswith(".npz")
    name = f"{Path(file).name}:{split}" if packed else Path(spec).absolute().name
    if not labels:
        source = open_source(spec)
        return Pictures(name, source.names, source.read, source.fingerprint)
    if not packed and not Path(spec).is_dir():
        raise ValueError(f"--labels: {spec} has no labels; a folder of class folders or FILE.npz:SPLIT has them")
    layout, path = ("npz", Path(file).absolute()) if packed else ("imagefolder", Path(spec).absolute())
    found = open_split(Dataset(name, layout, path.parent, {"train": name, "test": name}), "train")
    if len(found.classes) < 2:
        raise ValueError(
            f"--labels: {spec} has one class only ({found.classes[0]}); classes are compared, so two or more are needed"
        )
    return Pictures(name, found.names, found.source.read, found.source.fingerprint, found.labels, found.classes)


def seeded_order(images: Pictures) -> np.ndarray:
    """Positions in an order of which any first part is a fair sample, always the same.

    Random; with labels one image of each class in turn, so that the first part is balanced.
    """
    order = np.random.Generator(np.random.Philox(0)).permutation(len(images))
    if images.labels is None:
        return order
    turn = np.empty(len(order), dtype=np.int64)
    for label in np.unique(images.labels):
        own = np.flatnonzero(images.labels[order] == label)
        turn[own] = np.arange(len(own))
    return order[np.argsort(turn, kind="stable")]
