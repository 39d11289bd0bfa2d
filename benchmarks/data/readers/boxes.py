"""Read images and boxes of the detection layouts, voc and coco; defects are collected, so that a check can list all."""

import dataclasses
from collections.abc import Iterator, Sequence

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.readers.boxed import NORMALISED, BoxSplit
from kdep_benchmarks.data.readers.coco import read_coco, read_json
from kdep_benchmarks.data.readers.voc import read_voc

WITHOUT_AREA = 0.001  # a share of boxes of no area up to this is a note, no defect: COCO's train2017 has a few
LAYOUTS = {"voc": read_voc, "coco": read_coco}


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the classes by label; in the COCO layout those of the train split's categories where none are named.

    Raises:
        ValueError: no classes are named, or the train split's json does not open or lacks some.
    """
    named = tuple(name for name in dataset.classes if name != "background")
    if dataset.layout != "coco":
        if not named:
            raise ValueError(f"{dataset.name}: detection in the VOC layout needs the classes' names")
        return named
    path = dataset.root / dataset.files["train"]
    categories = read_json(path)["categories"]
    if any(not isinstance(item.get("id"), int | float) or not isinstance(item.get("name"), str) for item in categories):
        raise ValueError(f"{path}: categories; each needs a number as id, and a name")
    listed = tuple(item["name"] for item in sorted(categories, key=lambda item: item["id"]))
    if missing := [name for name in named if name not in listed]:
        raise ValueError(f"{path}: has no category {missing[0]!r}; it has {', '.join(listed)}")
    return named or listed


def read_boxes(
    dataset: Dataset, role: str, *, classes: Sequence[str] | None = None, open_images: bool = False
) -> BoxSplit:
    """Read the images and boxes of one role, train or test.

    Args:
        dataset: in the VOC or COCO layout.
        role: a key of its files.
        classes: names by label [those that the data set names; in the COCO layout all of this split's categories].
        open_images: compare the sizes in COCO's json with the files. VOC's images are always opened.

    Raises:
        ValueError: another layout, or a list or json that does not open.
    """
    if dataset.layout not in LAYOUTS:
        raise ValueError(f"{dataset.name}: layout {dataset.layout!r}; detection reads {', '.join(LAYOUTS)}")
    named = tuple(name for name in dataset.classes if name != "background") if classes is None else tuple(classes)
    split = LAYOUTS[dataset.layout](dataset, role, named, open_images)
    flat = [finding for finding in split.findings if finding.kind == "box without area"]
    total = sum(len(image.boxes) for image in split.images) + len(flat)
    if len(flat) <= WITHOUT_AREA * total:
        split.findings = [f if f not in flat else dataclasses.replace(f, defect=False) for f in split.findings]
    if not split.images:
        split.add("empty split", f"{role} {dataset.files[role]}", "no images")
    if any(len(image.boxes) for image in split.images) and all((i.boxes <= NORMALISED).all() for i in split.images):
        what = (
            "every box ends within 1.5 pixels of the top left corner of its image, so these look like shares of width "
            "and height, from 0 to 1; write pixels: [x, y, width, height] in COCO's json, corners in VOC's annotations"
        )
        split.add("boxes not in pixels", f"{role} {dataset.files[role]}", what)
    counts = split.per_class
    if split.images and not counts:
        split.add("no box", f"{role} {dataset.files[role]}", f"the split has no box of {', '.join(split.classes)}")
    for name in split.classes:
        if not counts[name]:
            # No defect: a few hundred images rarely have every class of VOC or COCO.
            split.add("empty class", f"class {name!r} of {role}", "has no usable box", defect=False)
    return split


def differing_categories(splits: dict[str, BoxSplit], dataset: Dataset) -> Iterator[Finding]:
    """Categories that only one of the splits has."""
    train, test = splits["train"].classes, splits["test"].classes
    for name in sorted(set(train) ^ set(test)):
        there, lacks = ("train", "test") if name in train else ("test", "train")
        where = dataset.root / dataset.files[lacks]
        yield Finding("category is missing", str(where), f"has no category {name!r}, which {there} has")
