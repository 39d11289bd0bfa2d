"""What can be wrong with boxes and categories, in VOC's and COCO's files."""

import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.masks import image_size
from kdep_benchmarks.data.pictures import Picture, of_file

BEYOND = 1.0  # pixels a box may stick out: the published sets round, and VOC counts from 0 here and there


@dataclass
class Boxes:
    """A split being read: its images, what was found, and the boxes of each class."""

    pictures: list[Picture] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    per_class: Counter[str] = field(default_factory=Counter)
    classes: tuple[str, ...] = ()

    def add(self, kind: str, where: object, what: str, *, defect: bool = True) -> None:
        """Record a finding."""
        self.findings.append(Finding(kind, str(where), what, defect))


def read(dataset: Dataset, role: str) -> Boxes:
    """Images of a split, and what is wrong with its boxes."""
    boxes = Boxes(classes=tuple(name for name in dataset.classes if name != "background"))
    {"voc": _voc, "coco": _coco}[dataset.layout](dataset, role, boxes)
    if not boxes.pictures:
        boxes.add("empty split", f"{role} {dataset.files[role]}", "no images")
    for name in boxes.classes:
        if not boxes.per_class[name]:
            boxes.add("empty class", f"class {name!r} of {role}", "has no usable box", defect=role == "train")
    return boxes


def wrong_classes(splits: dict[str, Boxes], dataset: Dataset, *, expected: int) -> Iterator[Finding]:
    """Compare the splits' categories with each other and with the number expected (0: any)."""
    train, test = splits["train"].classes, splits["test"].classes
    for name in sorted(set(train) ^ set(test)):
        there, lacks = ("train", "test") if name in train else ("test", "train")
        where = dataset.root / dataset.files[lacks]
        yield Finding("category is missing", str(where), f"has no category {name!r}, which {there} has")
    if expected and train and len(train) != expected:
        yield Finding("wrong count", f"classes of {dataset.files['train']}", f"{len(train)}, expected {expected}")


def _judge_box(
    boxes: Boxes, where: str, corners: tuple[float, float, float, float], size: tuple[int, int] | None
) -> bool:
    """Whether a box (x1, y1, x2, y2), in pixels from 0, can be trained on; says why not."""
    x1, y1, x2, y2 = corners
    shown = f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not all(map(math.isfinite, corners)):
        boxes.add("box without numbers", where, shown)
        return False
    if x2 <= x1 or y2 <= y1:
        boxes.add("box without area", where, shown)
        return False
    if size is not None and (min(x1, y1) < -BEYOND or x2 > size[0] + BEYOND or y2 > size[1] + BEYOND):
        boxes.add("box outside its image", where, f"{shown}, in an image of {size[0]} x {size[1]}")
        return False
    return True


def _voc(dataset: Dataset, role: str, boxes: Boxes) -> None:
    without, others, listed = [], Counter(), {}
    for item in dataset.files[role].split(","):
        split = dataset.root / item.strip()
        for number, line in enumerate(split.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            year, name, where = split.parents[2], line.split()[0], f"{split}, line {number}"
            if (year, name) in listed:
                boxes.add("listed twice", where, f"{name}, as {listed[year, name]}")
            listed[year, name] = where
            images = sorted((year / "JPEGImages").glob(f"{name}.*"))
            annotation = year / "Annotations" / f"{name}.xml"
            if not images:
                boxes.add("image is missing", where, f"{year / 'JPEGImages' / name}.* is not there")
            if not annotation.is_file():
                boxes.add("annotation is missing", where, f"{annotation} is not there")
            if not images or not annotation.is_file():
                continue
            boxes.pictures.append(of_file(images[0]))
            if not _voc_objects(annotation, images[0], boxes, others):
                without.append(annotation)
    _notes(boxes, role, without, others)


def _voc_objects(annotation: Path, image: Path, boxes: Boxes, others: Counter[str]) -> int:
    try:
        root = ElementTree.parse(annotation).getroot()
    except ElementTree.ParseError as error:
        boxes.add("annotation cannot be read", annotation, str(error))
        return 0
    size = image_size(image)
    said = tuple(root.findtext(f"size/{side}") for side in ("width", "height"))
    if size is not None and None not in said and said != tuple(map(str, size)):
        boxes.add(
            "image of another size", annotation, f"says {said[0]} x {said[1]}, the image is {size[0]} x {size[1]}"
        )
    objects = list(root.iterfind("object"))
    for number, entry in enumerate(objects, start=1):
        where, name = f"{annotation}, object {number}", entry.findtext("name")
        try:
            corners = [float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        except (TypeError, ValueError):
            boxes.add("box without numbers", where, "bndbox needs xmin, ymin, xmax, ymax")
            continue
        # VOC counts pixels from 1 and includes both ends.
        usable = _judge_box(boxes, where, (corners[0] - 1, corners[1] - 1, corners[2], corners[3]), size)
        if name not in boxes.classes:
            others[str(name)] += 1
        elif usable and entry.findtext("difficult") in (None, "", "0"):
            boxes.per_class[name] += 1
    return len(objects)


def _notes(boxes: Boxes, role: str, without: list[Any], others: Counter[str]) -> None:
    if without:
        what = f"{len(without)} images have no box: left out of training, counted in scoring; the first is {without[0]}"
        boxes.add("images without boxes", role, what, defect=False)
    for name, count in others.items():
        boxes.add("boxes of other classes", role, f"{count} of {name!r}, which is not among the classes", defect=False)


def _coco(dataset: Dataset, role: str, boxes: Boxes) -> None:
    path = dataset.root / dataset.files[role]
    content = _json(path, boxes)
    if content is None:
        return
    names = {item.get("id"): item.get("name") for item in content["categories"]}
    _coco_categories(path, content["categories"], boxes)
    boxes.classes = boxes.classes or tuple(names[number] for number in sorted(names, key=str))
    images: dict[Any, tuple[str, tuple[int, int] | None]] = {}
    for item in content["images"]:
        where = f"{path}, image {item.get('id')}"
        if not {"id", "file_name", "width", "height"} <= set(item):
            boxes.add("image without its keys", where, "an image needs id, file_name, width, height")
        elif item["id"] in images:
            boxes.add("number given twice", where, f"{item['file_name']} and {images[item['id']][0]}")
        else:
            images[item["id"]] = (item["file_name"], _coco_image(dataset, role, item, where, boxes))
    _coco_annotations(path, content["annotations"], names, images, boxes)
    without = set(images) - {item.get("image_id") for item in content["annotations"]}
    _notes(boxes, role, [images[number][0] for number in images if number in without], Counter())


def _json(path: Path, boxes: Boxes) -> dict[str, list[dict[str, Any]]] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        boxes.add("json cannot be read", f"{path}, line {error.lineno}", error.msg)
        return None
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        boxes.add("json cannot be read", path, f"a COCO json of instances holds lists {', '.join(keys)}")
        return None
    return content


def _coco_categories(path: Path, categories: list[dict[str, Any]], boxes: Boxes) -> None:
    for key in ("id", "name"):
        for value, count in Counter(item.get(key) for item in categories).items():
            if count > 1 or value is None:
                boxes.add("number given twice", f"{path}, categories", f"{key} {value!r} stands there {count} times")
    for name in boxes.classes:
        if name not in {item.get("name") for item in categories}:
            boxes.add("category is missing", path, f"has no category {name!r}")


def _coco_image(dataset: Dataset, role: str, item: dict[str, Any], where: str, boxes: Boxes) -> tuple[int, int] | None:
    file = dataset.root / dataset.files[f"{role}_images"] / item["file_name"]
    if not file.is_file():
        boxes.add("image is missing", where, f"{file} is not there")
        return None
    boxes.pictures.append(of_file(file))
    size, said = image_size(file), (item["width"], item["height"])
    if size is not None and size != said:
        boxes.add("image of another size", where, f"says {said[0]} x {said[1]}, {file} is {size[0]} x {size[1]}")
    return size or said


def _coco_annotations(
    path: Path,
    annotations: list[dict[str, Any]],
    names: dict[Any, Any],
    images: dict[Any, tuple[str, tuple[int, int] | None]],
    boxes: Boxes,
) -> None:
    crowds, numbers = 0, set()
    for item in annotations:
        where = f"{path}, annotation {item.get('id')}"
        if item.get("id") in numbers:
            boxes.add("number given twice", where, "another annotation has it too")
        numbers.add(item.get("id"))
        category = item.get("category_id")
        if category not in names:
            boxes.add("category is missing", where, f"category {category!r} is not among the json's categories")
        if item.get("image_id") not in images:
            boxes.add("box without an image", where, f"image {item.get('image_id')!r} is not among the json's images")
            continue
        file, size = images[item["image_id"]]
        try:
            x, y, width, height = map(float, item["bbox"])
        except (KeyError, TypeError, ValueError):
            boxes.add("box without numbers", where, f"bbox {item.get('bbox')!r}; it is x, y, width, height")
            continue
        usable = _judge_box(boxes, f"{where} ({file})", (x, y, x + width, y + height), size)
        area = item.get("area", 1)
        if usable and not (isinstance(area, int | float) and area > 0):
            boxes.add("box without area", f"{where} ({file})", f"says area {area}")
            usable = False
        crowds += bool(item.get("iscrowd"))
        if usable and not item.get("iscrowd") and category in names:
            boxes.per_class[names[category]] += 1
    if crowds:
        what = f"{crowds} annotations are crowds: not trained on, and neither right nor wrong when found"
        boxes.add("crowds", path, what, defect=False)
