"""Read COCO's json of instances."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdep.data.sources.names import is_image_name
from kdep.guard import read_utf8
from kdep.settings import shown
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.pictures import image_size
from kdep_benchmarks.data.readers.boxed import BEYOND, NORMALISED, Box, BoxSplit, add_notes, as_boxed_image, is_usable

IN_PIXELS = 10 * NORMALISED  # a box that ends beyond is in pixels for sure
EXACT = 2**53  # whole numbers below it are floating-point numbers too
NAMED, PLAIN = ("id", "image_id", "category_id", "name"), (int, float, str, type(None))


def read_coco(dataset: Dataset, role: str, classes: tuple[str, ...], open_images: bool) -> BoxSplit:
    """Read the json of a role; with `open_images` sizes are compared with the files."""
    path, folder = dataset.root / dataset.files[role], dataset.root / dataset.files[f"{role}_images"]
    content = read_json(path)
    names = {item.get("id"): item.get("name") for item in content["categories"]}
    split = BoxSplit(classes or tuple(names[number] for number in sorted(names, key=str)), folder)
    _check_categories(split, path, content["categories"])
    images = _coco_images(split, path, content["images"], open_images)
    listed = {item.get("id") for item in content["images"]}
    others: Counter[str] = Counter()
    boxes: dict[Any, list[Box]] = {number: [] for number in images}
    numbers, crowds, first = set(), 0, {}
    for item in content["annotations"]:
        where = f"{path}, annotation {item.get('id')}"
        if item.get("id") in numbers:
            split.add("number given twice", where, "another annotation has it too")
        numbers.add(item.get("id"))
        if item.get("image_id") not in listed:
            split.add("box without an image", where, f"image {item.get('image_id')!r} is not among the json's images")
        elif item["image_id"] not in images:
            continue  # there is a finding of the image itself
        elif (box := _coco_box(split, where, item, names, images[item["image_id"]], others)) is not None:
            boxes[item["image_id"]].append(box)
            first.setdefault(item["image_id"], (f"{where} ({images[item['image_id']][0].name})", item["bbox"]))
            crowds += box.ignored
    _add_shares(split, boxes, first)
    numbers_of = _numbers(images)
    for number, (file, size) in images.items():
        split.images.append(as_boxed_image(file, numbers_of[number], size, boxes[number]))
    with_boxes = {item.get("image_id") for item in content["annotations"]}
    add_notes(split, role, [file.name for number, (file, _) in images.items() if number not in with_boxes], others)
    if crowds:
        what = f"{crowds} annotations are crowds: not trained on, and neither right nor wrong when found"
        split.add("crowds", path, what, defect=False)
    return split


def _add_shares(split: BoxSplit, boxes: dict[Any, list[Box]], first: dict[Any, tuple[str, Any]]) -> None:
    """Record the images whose boxes are shares of width and height, in a split whose other boxes are in pixels.

    A split of nothing but shares is found for all layouts, in `kdep_benchmarks.data.readers.boxes`.
    """
    ends = {number: max(max(box.corners) for box in found) for number, found in boxes.items() if found}
    if max(ends.values(), default=0) <= IN_PIXELS:
        return
    for number in (number for number, end in ends.items() if end <= NORMALISED):
        if any(value % 1 for box in boxes[number] for value in box.corners):
            where, bbox = first[number]
            what = (
                f"bbox {bbox} and all others of this image look like shares of width and height, from 0 to 1, and "
                "other images have pixels; write [x, y, width, height] in pixels"
            )
            split.add("boxes not in pixels", where, what)


def read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a json of instances.

    Raises:
        ValueError: it is missing, not JSON, or lacks a list.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = json.loads(read_utf8(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not a COCO json, nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path}: not a COCO json ({error})" if str(path) not in str(error) else str(error)) from error
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise ValueError(f"{path}: not a COCO json of instances, which has the lists {', '.join(keys)}")
    for key in keys:
        for place, item in enumerate(content[key]):
            if not isinstance(item, dict) or not all(isinstance(item.get(name), PLAIN) for name in NAMED):
                raise ValueError(
                    f"{path}: {key}, item {place} is {shown(item)}; expected a mapping, with numbers or texts as "
                    f"{', '.join(NAMED)}"
                )
    return content


def _check_categories(split: BoxSplit, path: Path, categories: list[dict[str, Any]]) -> None:
    for key in ("id", "name"):
        for value, count in Counter(item.get(key) for item in categories).items():
            if count > 1 or value is None:
                split.add("number given twice", f"{path}, categories", f"{key} {value!r} stands there {count} times")
    for name in split.classes:
        if name not in {item.get("name") for item in categories}:
            split.add("category is missing", path, f"has no category {name!r}")


def _coco_images(
    split: BoxSplit, path: Path, listed: list[dict[str, Any]], open_images: bool
) -> dict[Any, tuple[Path, tuple[int, int]]]:
    """File and size by the id of the image."""
    images: dict[Any, tuple[Path, tuple[int, int]]] = {}
    for item in listed:
        where = f"{path}, image {item.get('id')}"
        if missing := [key for key in ("id", "file_name", "width", "height") if item.get(key) is None]:
            split.add("image without its keys", where, f"has no {' and no '.join(missing)}")
            continue
        if not (isinstance(item["file_name"], str) and all(map(_is_side, (item["width"], item["height"])))):
            what = ", ".join(f"{key} {item[key]!r}" for key in ("file_name", "width", "height"))
            split.add("image without its keys", where, f"{what}; expected a path and two numbers above 0")
            continue
        if item["id"] in images:
            split.add("number given twice", where, f"{item['file_name']} and {images[item['id']][0].name}")
            continue
        file, said = split.folder / item["file_name"], (item["width"], item["height"])
        if not _is_below(file, split.folder):
            expected = f"expected a path below {split.folder} with an image's ending, no part of it hidden"
            split.add("odd name", where, f"{item['file_name']!r}; {expected}")
            continue
        if not file.is_file():
            split.add("image is missing", where, f"{file} is not there")
            continue
        size = image_size(file) if open_images else None
        if size is not None and size != said:
            split.add("image of another size", where, f"says {said[0]} x {said[1]}, {file} is {size[0]} x {size[1]}")
        images[item["id"]] = file, size or said
    return images


def _numbers(ids: Iterable[Any]) -> dict[Any, int]:
    """A whole number for each id of an image: the id itself, or its place among all where one is no such number.

    pycocotools makes one array of all ids. In it texts change the numbers beside them, and numbers of 64 bits are
    rounded; no box of these images is found then.
    """
    if all(isinstance(number, int) and abs(number) < EXACT for number in ids):
        return {number: number for number in ids}
    ordered = sorted(ids, key=lambda number: (isinstance(number, str), number))
    return {number: place for place, number in enumerate(ordered, start=1)}


def _is_below(file: Path, folder: Path) -> bool:
    """Whether the fingerprint of the data covers a file: an image in the folder, of which no part is hidden or `..`."""
    parts = file.relative_to(folder).parts if file.is_relative_to(folder) else ("..",)
    return is_image_name(file.name) and not any(part.startswith(".") for part in parts)


def _is_side(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf


def _coco_box(
    split: BoxSplit,
    where: str,
    item: dict[str, Any],
    names: dict[Any, Any],
    image: tuple[Path, tuple[int, int]],
    others: Counter[str],
) -> Box | None:
    file, size = image
    category = item.get("category_id")
    if category not in names:
        split.add("category is missing", where, f"category {category!r} is not among the json's categories")
        return None
    if names[category] not in split.classes:
        others[names[category]] += 1
        split.left_out["boxes_of_other_classes"] += 1
        return None
    try:
        x, y, width, height = map(float, item["bbox"])
    except (KeyError, TypeError, ValueError):
        split.add("box without numbers", where, f"bbox {item.get('bbox')!r}; it is x, y, width, height")
        return None
    if not is_usable(split, f"{where} ({file.name})", (x, y, x + width, y + height), size):
        return None
    crowd = item.get("iscrowd")
    if crowd not in (0, 1, None):
        split.add(
            "crowd or not", f"{where} ({file.name})", f"iscrowd {crowd!r}; expected the number 0 or 1, or no iscrowd"
        )
        return None
    area = item.get("area", width * height)
    if not (isinstance(area, int | float) and area > 0):
        split.add("box without area", f"{where} ({file.name})", f"says area {area}")
        split.left_out["boxes_without_area"] += 1
        return None
    if area > (size[0] + BEYOND) * (size[1] + BEYOND):  # COCO's evaluation would not count it
        split.add(
            "box larger than its image", f"{where} ({file.name})", f"says area {area}, the box has {width * height:g}"
        )
        return None
    return Box((x, y, x + width, y + height), split.classes.index(names[category]), bool(crowd), area)
