"""What can be wrong with masks, found by the rules that training reads them with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdep.data.decode import UNREADABLE
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.pictures import Picture, in_threads, of_file
from kdep_benchmarks.openmmlab.masks import IGNORED, LAYOUTS, image_pairs, label_names

ONE_CHANNEL = ("P", "L", "I", "I;16")
FULL_ADE20K = (
    "{place} is the full ADE20K; tasks read SceneParse150 (ADEChallengeData2016.zip), whose masks hold 150 classes as "
    "numbers: kdep data prepare ade20k"
)


class Mask(NamedTuple):
    """A mask as it lies on disk; `problem` instead of the rest where it does not open."""

    size: tuple[int, int] = (0, 0)
    mode: str = ""
    pixels: dict[int, int] | None = None  # by value
    problem: str | None = None


def full_ade20k(folder: Path) -> Path | None:
    """Something in a folder by which the full ADE20K is known, where it is there."""
    marks = ("ADE20K_20*", "index_ade20k.*", "images/ADE", "images/training/?/?*")
    return next((path for mark in marks for path in sorted(folder.glob(mark))), None)


def read(dataset: Dataset, role: str, *, show: bool) -> tuple[list[Picture], list[Finding]]:
    """Images of a split, and what is wrong with its masks."""
    full = full_ade20k(dataset.root) if dataset.layout == "ade20k" else None
    try:
        if full is not None:
            raise ValueError(FULL_ADE20K.format(place=full))
        names = label_names(dataset)
        parts = LAYOUTS[dataset.layout](dataset, role)
    except ValueError as error:
        return [], [Finding("split does not open", role, str(error))]
    pictures, findings, seen = [], [], dict.fromkeys(range(len(names)), 0)
    for part in parts:
        pairs = [(image, mask, where) for image, mask, where in _pairs(part) if image.is_file()]
        findings += _missing(part)
        pictures += [of_file(image) for image, _, _ in pairs]
        there = [(image, mask) for image, mask, _ in pairs if mask.is_file()]
        opened = in_threads(_open, [mask for _, mask in there], f"{role} masks", show=show)
        for (image, path), mask in zip(there, opened, strict=True):
            findings += _judge(mask, path, image, dataset.layout, names)
            _count(mask, dataset.layout, seen)
    findings += [
        Finding("empty class", f"class {names[label]!r} of {role}", "has no pixel", defect=role == "train")
        for label, pixels in seen.items()
        if not pixels
    ]
    return pictures, findings


def _pairs(part: dict[str, Any]) -> Iterator[tuple[Path, Path, str]]:
    """Image, mask, and where their name stands; as in training, every line of a list is a name."""
    for number, (image, mask) in enumerate(image_pairs(part), start=1):
        yield image, mask, f"{part['ann_file']}, line {number}" if part["ann_file"] else str(image)


def _missing(part: dict[str, Any]) -> Iterator[Finding]:
    listed: dict[Path, str] = {}
    for image, mask, where in _pairs(part):
        if image in listed:
            yield Finding("listed twice", where, f"{image.stem}, as {listed[image]}")
        listed[image] = where
        if not image.is_file():
            yield Finding("image is missing", where, f"{image} is not there")
        elif not mask.is_file():
            yield Finding("mask is missing", where, f"{mask} is not there")
    if not listed:
        yield Finding("empty split", str(part["ann_file"] or part["data_prefix"]["img_path"]), "no images")
    if not part["ann_file"]:
        masks = {mask for _, mask, _ in _pairs(part)}
        folder = Path(part["data_prefix"]["seg_map_path"])
        for path in sorted(set(folder.rglob(f"*{part['seg_map_suffix']}")) - masks):
            yield Finding("mask without an image", str(path), "not read", defect=False)


def _open(path: Path) -> Mask:
    try:
        with Image.open(path) as image:
            image.load()
            mode, size = image.mode, image.size
            values, counts = np.unique(np.asarray(image), return_counts=True)
    except UNREADABLE as error:
        return Mask(problem=f"cannot be read ({type(error).__name__}: {error})")
    pixels = dict(zip(values.tolist(), counts.tolist(), strict=True)) if mode in ONE_CHANNEL else None
    return Mask(size, mode, pixels)


def _judge(mask: Mask, path: Path, image: Path, layout: str, names: tuple[str, ...]) -> Iterator[Finding]:
    if mask.problem is not None:
        yield Finding("mask cannot be read", str(path), mask.problem)
        return
    size = image_size(image)
    if size is not None and size != mask.size:
        what = f"{mask.size[0]} x {mask.size[1]}, its image {size[0]} x {size[1]}"
        yield Finding("mask of another size", str(path), what)
    if mask.pixels is None:
        what = f"an image of mode {mask.mode}; a mask has one channel, whose values are class numbers"
        yield Finding("mask with colours", str(path), what)
        return
    highest = len(names) if layout == "ade20k" else len(names) - 1
    wrong = {value: count for value, count in mask.pixels.items() if value != IGNORED and not 0 <= value <= highest}
    if wrong:
        shown = ", ".join(f"{value} ({count} pixels)" for value, count in list(wrong.items())[:3])
        what = f"holds {shown}{' and more' if len(wrong) > 3 else ''}; right are 0 to {highest}, and {IGNORED} for none"
        yield Finding("mask value out of range", str(path), what)
    elif set(mask.pixels) <= ({0, IGNORED} if layout == "ade20k" else {IGNORED}):
        yield Finding("mask without a class", str(path), "all of it is unlabelled", defect=False)


def _count(mask: Mask, layout: str, seen: dict[int, int]) -> None:
    shift = 1 if layout == "ade20k" else 0  # there 0 is unlabelled and 1 the first class
    for value, count in (mask.pixels or {}).items():
        if value - shift in seen and value != IGNORED:
            seen[value - shift] += count


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height by the file's header; None where there is no header to read."""
    try:
        with Image.open(path) as image:
            return image.size
    except UNREADABLE:
        return None
