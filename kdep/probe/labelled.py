"""Read the labelled images that a watched run is probed with: class folders or packs, and photographs with masks."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdep.data.decoding.decode import reason
from kdep.data.decoding.opening import UNREADABLE, read_image
from kdep.data.sources.names import is_image_name, list_images
from kdep.data.sources.root import located
from kdep.data.sources.source import Files, Pack, choose
from kdep.guard import printable

IGNORED = 255  # pixels without a class
TEST = 5  # one image in so many is test, where the data has no split
NO_CLASSES = "expected class folders (CLASS/*.jpg), train and test folders with class folders in each, or FILE.npz"
NO_MASKS = "expected JPEGImages/NAME.jpg and SegmentationClass/NAME.png, as in Pascal VOC"

logger = logging.getLogger("kdep")

Images = Files | Pack
Side = tuple[Images, list[int], list[str]]  # images, positions of those that are used, and the class of each


@dataclass(frozen=True)
class Labelled:
    """Images (N, 3, S, S) uint8 and what is known of them: class numbers, or masks (H, W) in which 255 is ignored."""

    train: torch.Tensor
    train_labels: Sequence[np.ndarray] | np.ndarray
    test: torch.Tensor
    test_labels: Sequence[np.ndarray] | np.ndarray
    classes: int

    @property
    def fingerprint(self) -> str:
        """Hash of pixels and labels."""
        digest = hashlib.sha256()
        for images, labels in ((self.train, self.train_labels), (self.test, self.test_labels)):
            digest.update(images.numpy().tobytes())
            for label in labels:
                digest.update(np.ascontiguousarray(label).tobytes())
        return digest.hexdigest()


def read_classes(path: Path, *, size: int, most: int) -> Labelled:
    """Read images of classes, the centre square of each at `size` pixels.

    Args:
        path: a folder or a pack; see `NO_CLASSES`. Without a split, every fifth image of a class is test.
        size: side in pixels.
        most: images of train and of test at most; of more, a draw that is always the same.

    Raises:
        ValueError: no such data, fewer than two classes, a class of test that train does not have, or an image that
            cannot be read.
    """
    path = located(path)
    if not path.exists():
        raise ValueError(f"probe.data: {path} is not there; {NO_CLASSES}")
    train, test = _of_pack(path) if path.suffix == ".npz" else _of_folder(path)
    every = sorted(set(train[2]))
    if len(every) < 2:
        raise ValueError(f"probe.data: {path}: train has the class {every[0]} only; two or more are needed")
    if strange := sorted(set(test[2]) - set(every)):
        raise ValueError(f"probe.data: {path}: test has the class {strange[0]}, and train has no image of it")
    train = _drawn(train, most)
    drawn = set(train[2])
    known = sorted(drawn)
    if len(known) < len(every):
        logger.warning(
            "probe: %d images of train are of %d of %d classes; the others are left out. probe.images takes more",
            *(most, len(known), len(every)),
        )
    test = _drawn(_chosen(test, [at for at, name in enumerate(test[2]) if name in drawn]), most)
    if len(known) < 2 or not test[1]:
        raise ValueError(
            f"probe.data: {path}: the {most} images drawn leave no two classes to tell apart; set probe.images"
        )
    labels = [np.array([known.index(name) for name in names]) for *_, names in (train, test)]
    images = [_pixels(source, chosen, size, whole=False) for source, chosen, _ in (train, test)]
    return Labelled(images[0], labels[0], images[1], labels[1], len(known))


def read_masked(path: Path, *, size: int, most: int) -> Labelled:
    """Read photographs with masks. A photograph becomes a square of `size` pixels as a whole; a mask keeps its size.

    Args:
        path: see `NO_MASKS`. ImageSets/Segmentation/train.txt and val.txt split it; else every fifth image is test.
        size: side in pixels.
        most: images of train and of test at most; of more, a draw that is always the same.

    Raises:
        ValueError: no such data, a mask that is no grey or palette image, or train or test masks without any class.
    """
    path = located(path)
    if not (path / "SegmentationClass").is_dir() or not (path / "JPEGImages").is_dir():
        raise ValueError(f"probe.masks: {path}: {NO_MASKS}")
    photographs = {Path(name).stem: name for name in list_images(path / "JPEGImages")}
    read: list[torch.Tensor | list[np.ndarray]] = []
    for names in _masked_names(path):
        if missing := [name for name in names if name not in photographs]:
            raise ValueError(f"probe.masks: {path}: {missing[0]} has no photograph in JPEGImages")
        source = Files(path / "JPEGImages", [photographs[name] for name in names])
        _, chosen, used = _drawn((source, list(range(len(names))), names), most)
        masks = [_mask(path / "SegmentationClass" / f"{name}.png") for name in used]
        read += [_pixels(source, chosen, size, whole=True), masks]
    train, train_masks, test, test_masks = read
    for role, masks in (("train", train_masks), ("test", test_masks)):
        if all((mask == IGNORED).all() for mask in masks):
            raise ValueError(f"probe.masks: {path}: no pixel of the {role} masks has a class")
    largest = max(int(mask[mask != IGNORED].max(initial=0)) for mask in [*train_masks, *test_masks])
    return Labelled(train, train_masks, test, test_masks, largest + 1)


def _of_pack(path: Path) -> tuple[Side, Side]:
    train, test = Pack(path, "train"), Pack(path, "test")
    for pack in (train, test):
        if pack.labels is None:
            raise ValueError(f"probe.data: {path}: the pack has no labels")
    return tuple((pack, list(range(len(pack.names))), [f"{n:06d}" for n in pack.labels]) for pack in (train, test))


def _of_folder(path: Path) -> tuple[Side, Side]:
    held = next((name for name in ("test", "val") if (path / name).is_dir()), None)
    if held is not None and (path / "train").is_dir():
        return _side(path / "train"), _side(path / held)
    images, positions, names = _side(path)
    of_class: Counter[str] = Counter()
    parts: tuple[list[int], list[int]] = ([], [])
    for position in positions:
        of_class[names[position]] += 1
        parts[of_class[names[position]] % TEST == 0].append(position)
    if not parts[1]:
        raise ValueError(f"probe.data: {path}: no class has {TEST} images, of which one is test; {NO_CLASSES}")
    return tuple((images, part, [names[position] for position in part]) for part in parts)


def _side(folder: Path) -> Side:
    files = list_images(folder)
    if loose := [name for name in files if len(Path(name).parts) < 2]:
        raise ValueError(f"probe.data: {folder}: {printable(loose[0])} is in no class folder; {NO_CLASSES}")
    return Files(folder, files), list(range(len(files))), [Path(name).parts[0] for name in files]


def _masked_names(path: Path) -> tuple[list[str], list[str]]:
    lists = [path / "ImageSets" / "Segmentation" / f"{role}.txt" for role in ("train", "val")]
    if all(file.is_file() for file in lists):
        parts = [file.read_text(encoding="utf-8").split() for file in lists]
    else:
        found = sorted(name.stem for name in (path / "SegmentationClass").glob("[!.]*") if is_image_name(name.name))
        parts = [[name for at, name in enumerate(found, 1) if (at % TEST == 0) is test] for test in (False, True)]
    if not all(parts):
        raise ValueError(f"probe.masks: {path}: {'train' if not parts[0] else 'test'} has no image")
    return parts[0], parts[1]


def _drawn(side: Side, most: int) -> Side:
    count = len(side[1])
    return side if count <= most else _chosen(side, choose(count, most, seed=0))


def _chosen(side: Side, chosen: Sequence[int] | np.ndarray) -> Side:
    source, positions, names = side
    return source, [positions[at] for at in chosen], [names[at] for at in chosen]


def _pixels(source: Images, chosen: Sequence[int], size: int, *, whole: bool) -> torch.Tensor:
    """Decode images to (N, 3, size, size) uint8: whole and squeezed into a square, or their centre square."""
    read = []
    for index in chosen:
        try:
            picture = source.open(index)
            (width, height), side = picture.size, min(picture.size)
            left, top = (width - side) // 2, (height - side) // 2
            box = (0, 0, width, height) if whole else (left, top, left + side, top + side)
            read.append(picture.crop(box, (size, size)))
        except UNREADABLE as error:
            raise ValueError(f"probe: {printable(source.names[index])} cannot be read: {reason(error)}") from error
    return torch.stack(read)


def _mask(path: Path) -> np.ndarray:
    try:
        image = read_image(path)
        if image.mode not in ("1", "P", "L"):
            raise ValueError(f"mode {image.mode}; a mask is a grey or palette image of class numbers")
        return np.array(image, dtype=np.uint8)
    except UNREADABLE as error:
        raise ValueError(f"probe.masks: {path} cannot be read: {reason(error)}") from error
