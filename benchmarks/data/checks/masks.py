"""Find defects of masks; `kdep data check` lists all of them, a training stops at the first."""

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdep.data.decoding.opening import UNREADABLE, read_header, read_image
from kdep.guard import walk
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.pictures import Picture, image_size, in_threads, of_file
from kdep_benchmarks.data.readers.masks import IGNORED, MaskedImage, MaskSplit, read_masks

ONE_CHANNEL = ("1", "P", "L", "I", "I;16")  # 1: one bit, of two classes


def mask_findings(dataset: Dataset, role: str, *, show: bool) -> tuple[list[Picture], list[Finding]]:
    """Images of a split, and what is wrong with its masks."""
    try:
        split = read_masks(dataset, role)
    except ValueError as error:
        return [], [Finding("split does not open", role, str(error))]
    findings, seen = [*missing_files(split), *unused_masks(split)], dict.fromkeys(range(len(split.names)), 0)
    there = [pair for pair in split.pairs if pair.image.is_file() and pair.mask.is_file()]
    opened = in_threads(read_values, [pair.mask for pair in there], f"{role} masks", show=show)
    for pair, mask in zip(there, opened, strict=True):
        findings += bad_values(mask, pair, split)
        for value, count in (mask.pixels or {}).items():
            for label in split.labels_of([value]) & seen.keys():
                seen[label] += count
    findings += [
        Finding("empty class", f"class {split.names[label]!r} of {role}", "has no pixel", defect=role == "train")
        for label, pixels in seen.items()
        if not pixels
    ]
    findings += lone_class([label for label, pixels in seen.items() if pixels], split, role)
    return [of_file(pair.image) for pair in split.pairs if pair.image.is_file()], findings


def lone_class(labels: Collection[int], split: MaskSplit, role: str) -> Iterator[Finding]:
    """A split whose masks have pixels of one class only, as where 255 is meant for the foreground."""
    if len(labels) == 1:
        lowest = int(split.zero_is_unlabelled)
        what = (
            f"only {split.names[min(labels)]!r} has pixels, so nothing is told apart; the values of classes are "
            f"{lowest} to {split.highest}, and {IGNORED} is ignored"
        )
        yield Finding("masks of one class", role, what)


def unscored(dataset: Dataset, pixels: np.ndarray) -> dict[str, Any]:
    """What of the test masks no score is about, as a result records it; the masks' headers alone are read.

    `ignored_percent` is the share of pixels without a class, `classes_not_in_test` names the classes without a pixel,
    and `last_classes_not_in_test` counts those at the end of the list: where it is longer than the masks' values reach,
    or the values are shifted by one, the last class never appears.

    Args:
        dataset: of a layout of masks.
        pixels: of each class in all test masks.
    """
    split = read_masks(dataset, "test")
    total = sum(math.prod(read_header(pair.mask).size) for pair in split.pairs)
    found: dict[str, Any] = {"ignored_percent": max(0.0, 100 * (1 - float(pixels.sum()) / total))}
    never = [name for name, count in zip(split.names, pixels, strict=True) if not count]
    if never:
        found |= {"classes_not_in_test": never}
    if last := len(pixels) - 1 - int(np.flatnonzero(pixels).max(initial=-1)):
        found |= {"last_classes_not_in_test": last}
    return found


def unused_masks(split: MaskSplit) -> Iterator[Finding]:
    """Masks in the folder that belong to no image."""
    for folder in split.folders:
        if folder.listed is None:
            used = {pair.mask for pair in folder.pairs}
            there = walk(folder.masks, lambda name, end=folder.mask_suffix: name.endswith(end)).files
            for path in sorted(set(map(Path, there)) - used):
                yield Finding("mask without an image", str(path), "not read", defect=False)


class MaskValues(NamedTuple):
    """A mask as it is on disk: its size, its mode, and pixels by value; `problem` instead where it does not open.

    `pixels` is None for a mask of several channels, and empty where only the header was read.
    """

    size: tuple[int, int] = (0, 0)
    mode: str = ""
    pixels: dict[int, int] | None = None
    problem: str | None = None


def read_values(path: Path) -> MaskValues:
    """Count the pixels of each value of a mask; None for a mask of more than one channel."""
    try:
        image = read_image(path)
        mode, size = image.mode, image.size
        values, counts = np.unique(np.asarray(image), return_counts=True)
    except UNREADABLE as error:
        return MaskValues(problem=f"cannot be read ({type(error).__name__}: {error})")
    pixels = dict(zip(map(int, values), counts.tolist(), strict=True)) if mode in ONE_CHANNEL else None
    return MaskValues(size, mode, pixels)


def read_form(path: Path) -> MaskValues:
    """Read the size and the mode of a mask from its header, without its pixels."""
    try:
        image = read_header(path)
    except UNREADABLE as error:
        return MaskValues(problem=f"cannot be read ({type(error).__name__}: {error})")
    return MaskValues(image.size, image.mode, {} if image.mode in ONE_CHANNEL else None)


def missing_files(split: MaskSplit) -> Iterator[Finding]:
    """Images and masks that are listed and not there, names listed twice, and a split without images."""
    for folder in split.folders:
        listed: dict[Path, str] = {}
        for image, mask, where in folder.pairs:
            if image in listed:
                yield Finding("listed twice", where, f"{image.stem}, as {listed[image]}")
            listed[image] = where
            if not image.is_file():
                yield Finding("image is missing", where, f"{image} is not there")
            elif not mask.is_file():
                yield Finding("mask is missing", where, f"{mask} is not there")
        if not listed:
            yield Finding("empty split", str(folder.listed or folder.images), "no images")


def bad_values(mask: MaskValues, pair: MaskedImage, split: MaskSplit) -> Iterator[Finding]:
    """What is wrong with one mask."""
    where = str(pair.mask)
    if mask.problem is not None:
        yield Finding("mask cannot be read", where, mask.problem)
        return
    size = image_size(pair.image)
    if size is not None and size != mask.size:
        what = f"{mask.size[0]} x {mask.size[1]}, its image {size[0]} x {size[1]}"
        yield Finding("mask of another size", where, what)
    if mask.pixels is None:
        what = f"an image of mode {mask.mode}; a mask has one channel, whose values are class numbers"
        yield Finding("mask with colours", where, what)
        return
    wrong = {value: n for value, n in mask.pixels.items() if value != IGNORED and not 0 <= value <= split.highest}
    if wrong:
        shown = ", ".join(f"{value} ({count} pixels)" for value, count in list(wrong.items())[:3])
        more = " and more" if len(wrong) > 3 else ""
        lowest, ignored = (1, f"0 and {IGNORED} are") if split.zero_is_unlabelled else (0, f"{IGNORED} is")
        what = f"holds {shown}{more}; the classes are {lowest} to {split.highest}, and {ignored} ignored"
        yield Finding("mask value out of range", where, what)
    elif mask.pixels and set(mask.pixels) <= ({0, IGNORED} if split.zero_is_unlabelled else {IGNORED}):
        yield Finding("mask without a class", where, "every pixel is unlabelled", defect=False)
