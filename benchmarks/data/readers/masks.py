"""Read images and masks of the segmentation layouts: voc, ade20k, cityscapes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdep.data.decoding.opening import as_rgb, read_image
from kdep.guard import read_utf8, skipped_line, walk
from kdep_benchmarks.data.cards import Dataset, masks_of

IGNORED = 255
SUFFIXES = (".jpg", ".jpeg", ".png")
FULL_ADE20K = (
    "{place} is the full ADE20K; tasks read SceneParse150 (ADEChallengeData2016.zip), whose masks hold 150 classes as "
    "numbers: kdep data prepare ade20k"
)


class MaskedImage(NamedTuple):
    """An image file, its mask file, and where the pair is listed."""

    image: Path
    mask: Path
    where: str


@dataclass(frozen=True)
class MaskFolder:
    """Images and masks of the same names in two folders, all of them or those of a list.

    Attributes:
        listed: a text file of names without suffix; None for every image below the folder.
        image_suffix: of the images; what is before it is the name.
        mask_suffix: of the masks.
    """

    images: Path
    masks: Path
    listed: Path | None
    image_suffix: str
    mask_suffix: str = ".png"

    @cached_property
    def pairs(self) -> list[MaskedImage]:
        """Every pair in order, by the rules of mmseg's BaseSegDataset; the files need not exist.

        Raises:
            ValueError: the folder has links in a circle, or pipes; mmseg would follow them. Or as `_names_in`.
        """
        if self.listed:
            names = _names_in(self.listed)
        else:
            end = -len(self.image_suffix)
            tree = walk(self.images, lambda name: name.endswith(self.image_suffix))  # as mmengine
            if tree.skipped:
                raise ValueError(f"{self.images}: {skipped_line(tree.skipped)}; remove them, mmseg would follow them")
            names = sorted(str(Path(path).relative_to(self.images))[:end] for path in tree.files)
        pairs = []
        for number, name in enumerate(names, start=1):
            image, mask = self.images / f"{name}{self.image_suffix}", self.masks / f"{name}{self.mask_suffix}"
            pairs.append(MaskedImage(image, mask, f"{self.listed}, line {number}" if self.listed else str(image)))
        return pairs


def _names_in(listed: Path) -> list[str]:
    """Names of a list, one a line.

    Raises:
        ValueError: a line is not the name of an image. No line is skipped, since mmseg reads all of them.
    """
    names = [line.strip() for line in read_utf8(listed).splitlines()]
    for number, name in enumerate(names, start=1):
        where = f"{listed}, line {number}"
        if name.startswith("\ufeff"):
            raise ValueError(f"{where}: begins with a byte-order mark; save the list as UTF-8 without one")
        if not name:
            raise ValueError(f"{where}: blank line; remove it, mmseg takes it for a name")
        if name.startswith("/"):
            raise ValueError(f"{where}: odd name: {name!r}; expected the name of an image below JPEGImages")
    return names


@dataclass(frozen=True)
class MaskSplit:
    """One split.

    Attributes:
        folders: where its files are.
        names: of the classes, by label.
        zero_is_unlabelled: mask value 0 is ignored and value n is label n - 1; else values are labels.
    """

    folders: tuple[MaskFolder, ...]
    names: tuple[str, ...]
    zero_is_unlabelled: bool

    @cached_property
    def pairs(self) -> list[MaskedImage]:
        """Every image with its mask, in order."""
        return [pair for folder in self.folders for pair in folder.pairs]

    @property
    def highest(self) -> int:
        """The highest mask value that is a class."""
        return len(self.names) if self.zero_is_unlabelled else len(self.names) - 1

    def __len__(self) -> int:
        return len(self.pairs)

    def labels_of(self, values: Iterable[int]) -> set[int]:
        """Labels that the values of a mask stand for; none for those that are ignored."""
        return {value - self.zero_is_unlabelled for value in values if value != IGNORED} - {-1}

    def image(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return as_rgb(read_image(self.pairs[index].image))

    def labels(self, index: int) -> np.ndarray:
        """Labels of image `index`, (H, W) uint8; 255 is ignored. `read_masks` refuses too many classes."""
        values = np.asarray(read_image(self.pairs[index].mask)).astype(np.uint8)
        if self.zero_is_unlabelled:  # uint8: 0 - 1 is 255, and 255 stays ignored
            values = np.where(values == IGNORED, np.uint8(IGNORED), values - np.uint8(1))
        return values


def read_masks(dataset: Dataset, role: str) -> MaskSplit:
    """Find the images and masks of one role, train or test.

    Raises:
        ValueError: another layout, a list or folder that is missing, classes without names, or too many classes.
    """
    if dataset.layout not in LAYOUTS:
        raise ValueError(f"{dataset.name}: layout {dataset.layout!r}; segmentation reads {', '.join(LAYOUTS)}")
    if dataset.layout == "ade20k" and (full := full_ade20k(dataset.root)):
        raise ValueError(FULL_ADE20K.format(place=full))
    folders = tuple(LAYOUTS[dataset.layout](dataset, role))
    split = MaskSplit(folders, label_names(dataset), dataset.layout == "ade20k")
    # Labels are read as uint8, here and in mmseg. Higher values of 16-bit masks would wrap to other classes.
    if (beyond := split.highest - (IGNORED - 1)) > 0:
        raise ValueError(
            f"{dataset.name}: {len(split.names)} classes, so masks hold values up to {split.highest}; masks are read "
            f"with 8 bits and {IGNORED} is ignored. Use at most {len(split.names) - beyond} classes"
        )
    _ = split.pairs  # raises here, where callers expect it
    return split


def full_ade20k(folder: Path) -> Path | None:
    """A file or folder by which the full ADE20K is recognised, where it is there."""
    marks = ("ADE20K_20*", "index_ade20k.*", "images/ADE", "images/training/?/?*")
    return next((path for mark in marks for path in sorted(folder.glob(mark))), None)


def label_names(dataset: Dataset) -> tuple[str, ...]:
    """Class names by label.

    In the VOC layout the background is label 0, before the names; but names of a list, `@FILE`, are all of them.

    Raises:
        ValueError: the data set names no classes.
    """
    names = dataset.classes
    if not names:
        raise ValueError(f"{dataset.name}: segmentation needs the classes' names, in the order of the masks' values")
    if names[0].startswith("@"):
        return _listed_names(dataset.root / names[0][1:])
    return ("background", *names) if dataset.layout == "voc" and names[0] != "background" else names


def _listed_names(path: Path) -> tuple[str, ...]:
    """Names from a list: one a line, or as ADE20K's objectInfo150.txt number, ..., name, separated by tabs."""
    if not path.is_file():
        raise ValueError(f"{path}: the list of classes is missing")
    rows = [line.split("\t") for line in read_utf8(path).removeprefix("\ufeff").splitlines() if line.strip()]
    numbered = any(len(row) > 1 for row in rows)  # then the first line is a heading
    names = tuple(row[-1].strip() for row in rows if not numbered or row[0].strip().isdigit())
    if not names:
        raise ValueError(f"{path}: no lines of the form NAME or NUMBER<tab>NAME")
    return names


def _voc(dataset: Dataset, role: str) -> Iterator[MaskFolder]:
    for item in dataset.files[role].split(","):
        split = dataset.root / item.strip()
        if not split.is_file():
            raise ValueError(f"{dataset.name}: no split list {split}")
        year = split.parents[2]
        images = year / "JPEGImages"
        yield MaskFolder(images, year / masks_of(split), split, _only_suffix(images))


def _ade20k(dataset: Dataset, role: str) -> Iterator[MaskFolder]:
    images, masks = _two_folders(dataset, role)
    yield MaskFolder(images, masks, None, _only_suffix(images))


def _cityscapes(dataset: Dataset, role: str) -> Iterator[MaskFolder]:
    yield MaskFolder(*_two_folders(dataset, role), None, "_leftImg8bit.png", "_gtFine_labelTrainIds.png")


LAYOUTS: dict[str, Callable[[Dataset, str], Iterator[MaskFolder]]] = {
    "voc": _voc,
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
}


def _two_folders(dataset: Dataset, role: str) -> list[Path]:
    folders = [dataset.root / dataset.files[f"{role}_{kind}"] for kind in ("images", "masks")]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{dataset.name}: no folder {folder}")
    return folders


def _only_suffix(images: Path) -> str:
    """The suffix of the images of a folder; mmseg reads one only."""
    # Not by `glob`, which follows no link below the folder, as mmseg does.
    tree = walk(images, lambda name: Path(name).suffix.lower() in SUFFIXES)
    suffixes = Counter(Path(path).suffix for path in tree.files)
    if len(suffixes) != 1:
        found = ", ".join(suffixes) or "none"
        raise ValueError(f"{images}: images must all have one suffix out of {', '.join(SUFFIXES)}; found {found}")
    return next(iter(suffixes))
