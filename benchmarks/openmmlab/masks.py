"""Masks on disk (VOC, ADE20K and Cityscapes layouts) -> mmseg's data set configs, checked before anything trains."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdep_benchmarks.data.cards import Dataset

IGNORED = 255
SUFFIXES = (".jpg", ".jpeg", ".png")
LOOKED_AT = 32  # masks per split whose values are checked; all of ADE20K would take minutes


def label_names(dataset: Dataset) -> tuple[str, ...]:
    """Classes in the order of the labels that mmseg sees. In the VOC layout label 0 is the background, a class too.

    Raises:
        ValueError: the data set names no classes.
    """
    names = dataset.classes
    if not names:
        raise ValueError(f"{dataset.name}: segmentation needs the classes' names, in the order of the masks' values")
    if names[0].startswith("@"):
        names = _listed_names(dataset.root / names[0][1:])
    return ("background", *names) if dataset.layout == "voc" and names[0] != "background" else names


def _listed_names(path: Path) -> tuple[str, ...]:
    """Names out of ADE20K's objectInfo150.txt, or a list like it: number, ..., name, separated by tabs."""
    if not path.is_file():
        raise ValueError(f"{path}: the list of classes is missing")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    names = tuple(row[-1].strip() for row in rows if row[0].strip().isdigit())
    if not names:
        raise ValueError(f"{path}: no lines of the form NUMBER<tab>NAME")
    return names


def split_configs(dataset: Dataset, role: str) -> list[dict[str, Any]]:
    """Configure one split for mmseg, without transforms: one data set per split list.

    Raises:
        ValueError: another layout, a missing file, or masks whose values are not the classes'.
    """
    if dataset.layout not in LAYOUTS:
        raise ValueError(f"{dataset.name}: layout {dataset.layout!r}; segmentation reads {', '.join(LAYOUTS)}")
    parts = LAYOUTS[dataset.layout](dataset, role)
    names = label_names(dataset)
    # In the ADE20K layout 0 means unlabelled and mmseg moves 1..N to 0..N-1.
    highest = len(names) if dataset.layout == "ade20k" else len(names) - 1
    for part in parts:
        pairs = image_pairs(part)
        if not pairs:
            raise ValueError(f"{dataset.name}: the {role} split is empty: {part['ann_file'] or part['data_prefix']}")
        _check_files(pairs)
        _check_values([mask for _, mask in pairs[:LOOKED_AT]], highest)
        part["metainfo"] = {"classes": names}
    return parts


def image_pairs(part: dict[str, Any]) -> list[tuple[Path, Path]]:
    """Image and mask files of a split, by the rules that mmseg's BaseSegDataset follows."""
    images, masks = (Path(part["data_prefix"][key]) for key in ("img_path", "seg_map_path"))
    suffix = part["img_suffix"]
    if part["ann_file"]:
        lines = Path(part["ann_file"]).read_text(encoding="utf-8").splitlines()
        names = [line.strip() for line in lines]
    else:
        names = sorted(str(path.relative_to(images))[: -len(suffix)] for path in images.rglob(f"*{suffix}"))
    return [(images / f"{name}{suffix}", masks / f"{name}{part['seg_map_suffix']}") for name in names]


def _voc(dataset: Dataset, role: str) -> list[dict[str, Any]]:
    parts = []
    for item in dataset.files[role].split(","):
        split = dataset.root / item.strip()
        if not split.is_file():
            raise ValueError(f"{dataset.name}: no split list {split}")
        year = split.parents[2]
        # The 10,582 masks of "trainaug" (Hariharan et al. 2011) lie in a folder of their own, under the usual name.
        masks = year / ("SegmentationClassAug" if split.stem in ("aug", "trainaug") else "SegmentationClass")
        parts.append(_part(year / "JPEGImages", masks, ann_file=str(split)))
    return parts


def _ade20k(dataset: Dataset, role: str) -> list[dict[str, Any]]:
    folders = [dataset.root / dataset.files[f"{role}_{kind}"] for kind in ("images", "masks")]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{dataset.name}: no folder {folder}")
    return [_part(*folders, ann_file="") | {"reduce_zero_label": True}]


def _cityscapes(dataset: Dataset, role: str) -> list[dict[str, Any]]:
    part = _ade20k(dataset, role)[0]
    suffixes = {"img_suffix": "_leftImg8bit.png", "seg_map_suffix": "_gtFine_labelTrainIds.png"}
    return [part | suffixes | {"reduce_zero_label": False}]


LAYOUTS = {"voc": _voc, "ade20k": _ade20k, "cityscapes": _cityscapes}


def _part(images: Path, masks: Path, *, ann_file: str) -> dict[str, Any]:
    suffixes = Counter(path.suffix for path in images.glob("**/*") if path.suffix.lower() in SUFFIXES)
    if len(suffixes) != 1:
        found = ", ".join(suffixes) or "none"
        raise ValueError(f"{images}: images must all have one suffix out of {', '.join(SUFFIXES)}; found {found}")
    return {
        "type": "BaseSegDataset",
        "data_prefix": {"img_path": str(images), "seg_map_path": str(masks)},
        "ann_file": ann_file,
        "img_suffix": next(iter(suffixes)),
        "seg_map_suffix": ".png",
    }


def _check_files(pairs: list[tuple[Path, Path]]) -> None:
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} files of the split are missing, the first is {missing[0]}")


def _check_values(masks: list[Path], highest: int) -> None:
    for path in masks:
        with Image.open(path) as mask:
            values = np.unique(np.asarray(mask)) if mask.mode in ("P", "L", "I", "I;16") else None
            mode = mask.mode
        if values is None:
            raise ValueError(f"{path}: an image of mode {mode}; a mask has one channel, whose values are class numbers")
        wrong = values[(values > highest) & (values != IGNORED)]
        if len(wrong):
            raise ValueError(
                f"{path}: holds the value {wrong[0]}; the classes' are 0 to {highest}, and {IGNORED} for none"
            )
