"""Open labelled images and divide them into train, val and test."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from kdep.data.decoding.opening import UNREADABLE
from kdep.data.sources.contents import content_hashes
from kdep.data.sources.names import Names
from kdep.data.sources.source import Pack, Source
from kdep.guard import printable
from kdep_benchmarks.data.cards import Dataset, refuse_other_classes
from kdep_benchmarks.data.readers.classification import files_of, hash_of, pictures_of, read_labelled
from kdep_benchmarks.data.splits import hold_out


class Labelled:
    """Images with a label each, by number.

    Raises:
        ValueError: a class without an image, or a label without a class.
    """

    def __init__(self, source: Source, labels: Sequence[int] | np.ndarray, classes: Sequence[str], where: str) -> None:
        self.source, self.labels, self.classes = source, np.asarray(labels, dtype=np.int64), tuple(classes)
        self.names, self.where = source.names, where
        if len(self.labels) != len(source.names):
            raise ValueError(f"{where}: {len(self.labels)} labels for {len(source.names)} images")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(classes):
            raise ValueError(f"{where}: labels {self.labels.min()} to {self.labels.max()} for {len(classes)} classes")
        self.per_class = np.bincount(self.labels, minlength=len(classes))
        if empty := [name for name, n in zip(classes, self.per_class, strict=True) if not n]:
            raise ValueError(f"{where}: class {empty[0]!r} has no image ({len(empty)} of {len(classes)} are empty)")

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB.

        Raises:
            ValueError: it cannot be read; every image of a split must be scored.
        """
        try:
            return self.source.read(index)
        except UNREADABLE as error:
            name = f"{printable(self.where)}: image {printable(self.names[index])}"
            raise ValueError(
                f"{name} cannot be read ({type(error).__name__}: {error}); every image of a split is scored, so repair "
                "it, or remove it from the data set; kdep data check lists all that cannot be read"
            ) from error

    @cached_property
    def fingerprint(self) -> str:
        """Hash of labels, class names, and the images' contents in order."""
        digest = hashlib.sha256(f"{self.classes}|{len(self)}|".encode() + self.labels.tobytes())
        for content in _contents(self.source):
            digest.update(content)
        return digest.hexdigest()


class Joined:
    """The images of one source, then those of another."""

    def __init__(self, first: Source, second: Source) -> None:
        self.first, self.second = first, second
        self.names = Names(itertools.chain(first.names, second.names))

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        count = len(self.first.names)
        return self.first.read(index) if index < count else self.second.read(index - count)


def _contents(source: Any) -> Iterator[bytes]:
    """Hashes of the images' files, which `content_hashes` remembers, or of their pixels where they have none."""
    if isinstance(source, Joined):
        yield from _contents(source.first)
        yield from _contents(source.second)
    elif (files := files_of(source)) is not None:
        yield content_hashes(files).tobytes()
    elif isinstance(source, Pack):
        yield source.fingerprint.encode()
    elif isinstance(getattr(getattr(source, "images", None), "data", None), np.ndarray):  # of torchvision, in memory
        yield source.images.data.tobytes()
    else:
        yield from (hash_of(picture.content()) for picture in pictures_of(source))


@dataclasses.dataclass(frozen=True)
class Splits:
    """Positions `train` and `val` in `pool`, which holds the images of both; `test` is separate."""

    pool: Labelled
    train: np.ndarray
    val: np.ndarray
    test: Labelled

    @property
    def counts(self) -> dict[str, int]:
        """Images per role."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}


def open_splits(dataset: Dataset, *, seed: int) -> Splits:
    """Open a data set's splits; without a val split of its own, a fifth of each class of train is held out.

    Raises:
        ValueError: one class only, splits of different classes, a class without images, or a file that is not there.
    """
    pool, test = open_split(dataset, "train"), open_split(dataset, "test")
    refuse_other_classes(dataset, pool.classes, test.classes, "test")
    if "val" not in dataset.files:
        train, val = hold_out(pool.labels, seed=seed)
        if not len(val):
            raise ValueError(
                f"data set {dataset.name}: every class has one image in {pool.where}, and choosing settings needs "
                "classes of two; add images, or a val split"
            )
        return Splits(pool, train, val, test)
    val = open_split(dataset, "val")
    refuse_other_classes(dataset, pool.classes, val.classes, "val")
    labels = np.concatenate([pool.labels, val.labels])
    joined = Labelled(Joined(pool.source, val.source), labels, pool.classes, pool.where)
    positions = np.arange(len(joined))
    return Splits(joined, positions[: len(pool)], positions[len(pool) :], test)


def open_split(dataset: Dataset, role: str) -> Labelled:
    """Open the images of one role: train, val or test.

    Raises:
        ValueError: a file is missing, or labels and classes do not fit each other or those that the data set names.
    """
    found = read_labelled(dataset, role)
    if dataset.classes and set(dataset.classes) != set(found.classes):
        odd = sorted(set(dataset.classes) ^ set(found.classes))
        raise ValueError(f"data set {dataset.name}: classes named and classes found differ in {', '.join(odd[:5])}")
    return Labelled(*found)
