"""Boxes on disk (VOC and COCO layouts) -> one COCO json per split, such that both are trained and scored alike.

The json is written anew, since users' own files often lack `area` or `iscrowd`, order their categories differently in
each split, or hold boxes without area; each of these crashes pycocotools or swaps classes in silence.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from kdep.files import write_atomically
from kdep_benchmarks.data.cards import Dataset


class Split(NamedTuple):
    """A split in COCO's form.

    Attributes:
        path: the json, file names relative to `images`.
        images: the folder.
        count: images, with or without boxes.
        boxes: boxes to find, crowds and difficult ones not counted.
        left_out: why boxes were left out, and how many.
    """

    path: Path
    images: Path
    count: int
    boxes: int
    left_out: dict[str, int]


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """Classes to detect, in the order of their labels. The COCO layout may leave it to the train split's categories.

    Raises:
        ValueError: no classes are named, or the train split's json lacks some.
    """
    named = tuple(name for name in dataset.classes if name != "background")
    if dataset.layout != "coco":
        if not named:
            raise ValueError(f"{dataset.name}: detection in the VOC layout needs the classes' names")
        return named
    path = dataset.root / dataset.files["train"]
    listed = [item["name"] for item in sorted(_read_json(path)["categories"], key=lambda item: item["id"])]
    missing = [name for name in named if name not in listed]
    if missing:
        raise ValueError(f"{path}: has no category {missing[0]!r}; it has {', '.join(listed)}")
    return named or tuple(listed)


def write_split(dataset: Dataset, role: str, classes: tuple[str, ...], path: Path) -> Split:
    """Read a split, whatever its layout, and write it in COCO's form.

    Raises:
        ValueError: another layout, a missing file, or a split without images or without boxes of the classes.
    """
    if dataset.layout not in LAYOUTS:
        raise ValueError(f"{dataset.name}: layout {dataset.layout!r}; detection reads {', '.join(LAYOUTS)}")
    folder, images, objects = LAYOUTS[dataset.layout](dataset, role)
    missing = [item["file_name"] for item in images if not (folder / item["file_name"]).is_file()]
    if missing:
        raise ValueError(
            f"{dataset.name}: {len(missing)} images of the {role} split are missing, {folder / missing[0]}"
        )
    kept, left_out = [], Counter()
    for item in objects:
        reason = _unusable(item, classes)
        left_out[reason] += 1
        if not reason:
            category = classes.index(item.pop("name")) + 1
            kept.append({**item, "id": len(kept) + 1, "category_id": category})
    boxes = sum(not item["iscrowd"] for item in kept)
    if not boxes:
        raise ValueError(f"{dataset.name}: the {role} split has no box of {', '.join(classes)}")
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    text = json.dumps({"images": images, "annotations": kept, "categories": categories})
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    return Split(path, folder, len(images), boxes, {reason: left_out[reason] for reason in left_out if reason})


def _unusable(item: dict[str, Any], classes: tuple[str, ...]) -> str:
    if item["name"] not in classes:
        return "boxes_of_other_classes"
    return "" if min(item["bbox"][2:]) > 0 else "boxes_without_area"


def _voc(dataset: Dataset, role: str) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    images, objects = [], []
    for item in dataset.files[role].split(","):
        split = dataset.root / item.strip()
        if not split.is_file():
            raise ValueError(f"{dataset.name}: no split list {split}")
        year = split.parents[2]
        # Class lists such as cat_val.txt carry a second column.
        names = [line.split()[0] for line in split.read_text(encoding="utf-8").splitlines() if line.strip()]
        for name in names:
            number = len(images) + 1
            image, boxes = _voc_image(year, name)
            images.append({**image, "id": number, "file_name": str(Path(image["file_name"]).relative_to(dataset.root))})
            objects += [{**box, "image_id": number} for box in boxes]
    return dataset.root, images, objects


def _voc_image(year: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    found = sorted((year / "JPEGImages").glob(f"{name}.*"))
    annotation = year / "Annotations" / f"{name}.xml"
    if not found or not annotation.is_file():
        raise ValueError(f"{year}: {'an image' if not found else 'an annotation'} of {name} is missing")
    with Image.open(found[0]) as image:
        width, height = image.size
    boxes = [_voc_box(entry) for entry in ElementTree.parse(annotation).getroot().iterfind("object")]
    return {"file_name": str(found[0]), "width": width, "height": height}, boxes


def _voc_box(entry: ElementTree.Element) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    # VOC counts pixels from 1 and includes both ends: a box from 1 to 1 is one pixel wide and starts at 0.
    x1, y1 = x1 - 1, y1 - 1
    # Finding a difficult object is neither right nor wrong: COCO's crowds are treated so.
    difficult = int(entry.findtext("difficult") or 0)
    area = (x2 - x1) * (y2 - y1)
    return {"name": entry.findtext("name"), "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": difficult}


def _coco(dataset: Dataset, role: str) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    path = dataset.root / dataset.files[role]
    content = _read_json(path)
    names = {item["id"]: item["name"] for item in content["categories"]}
    needed = ("id", "file_name", "width", "height")
    for item in content["images"]:
        if missing := [key for key in needed if key not in item]:
            said = f"image {item.get('id', item.get('file_name'))} has no {' and no '.join(missing)}"
            raise ValueError(f"{path}: {said}; see kdep data check")
    images = [{key: item[key] for key in needed} for item in content["images"]]
    objects = []
    for item in content.get("annotations", []):
        if item["category_id"] not in names:
            said = f"annotation {item.get('id')} has category {item['category_id']}, which the json does not list"
            raise ValueError(f"{path}: {said}; see kdep data check")
        x, y, width, height = item["bbox"]
        box = {"name": names[item["category_id"]], "image_id": item["image_id"], "bbox": [x, y, width, height]}
        # Polygons are left out: boxes are what is detected, and they are most of the file.
        objects.append({**box, "area": item.get("area", width * height), "iscrowd": item.get("iscrowd", 0)})
    return dataset.root / dataset.files[f"{role}_images"], images, objects


LAYOUTS = {"voc": _voc, "coco": _coco}


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"images", "categories"} <= set(content):
        raise ValueError(f"{path}: not a COCO json of instances; it needs images, annotations and categories")
    return content
