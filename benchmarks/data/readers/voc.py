"""Read Pascal VOC's lists and annotations."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from kdep.guard import read_utf8
from kdep_benchmarks.data.cards import Dataset, images_by_stem
from kdep_benchmarks.data.pictures import image_size
from kdep_benchmarks.data.readers.boxed import Box, BoxSplit, add_notes, as_boxed_image, is_usable


def read_voc(dataset: Dataset, role: str, classes: tuple[str, ...], _: bool) -> BoxSplit:
    """Read the lists of a role; every image is opened for its size."""
    split, others, listed = BoxSplit(classes, dataset.root), Counter(), {}
    without: list[Path] = []
    there: dict[Path, dict[str, list[Path]]] = {}
    for path in (dataset.root / item.strip() for item in dataset.files[role].split(",")):
        if not path.is_file():
            raise ValueError(f"{dataset.name}: no split list {path}")
        for number, line in enumerate(read_utf8(path).splitlines(), start=1):
            if not line.strip():
                continue
            # Class lists such as cat_val.txt have a second column.
            year, name, where = path.parents[2], line.split()[0], f"{path}, line {number}"
            if name.startswith("/") or ".." in Path(name).parts or set(name) & set("*?[\0\ufeff"):
                split.add("odd name", where, f"{name!r} is not the name of an image")
                continue
            if (year, name) in listed:
                split.add("listed twice", where, f"{name}, as {listed[year, name]}")
            listed[year, name] = where
            folder = (year / "JPEGImages" / name).parent
            if folder not in there:  # listed once: VOC 2012 has 17,125 images in one folder
                there[folder] = images_by_stem(folder)
            images = there[folder].get(Path(name).name, [])
            annotation = year / "Annotations" / f"{name}.xml"
            if not images:
                split.add("image is missing", where, f"{year / 'JPEGImages' / name}.* is not there")
            if not annotation.is_file():
                split.add("annotation is missing", where, f"{annotation} is not there")
            if images and annotation.is_file() and not _voc_image(split, images[0], annotation, others):
                without.append(annotation)
    add_notes(split, role, without, others)
    return split


def _voc_image(split: BoxSplit, image: Path, annotation: Path, others: Counter[str]) -> int:
    """Read an annotation; the number of its objects, of any class."""
    size = image_size(image)
    if size is None:
        split.add("image cannot be read", image, "its header does not open")
        return 1
    objects: list[ElementTree.Element] = []
    try:
        root = ElementTree.parse(annotation).getroot()
        objects = list(root.iterfind("object"))
        said = tuple(root.findtext(f"size/{side}") for side in ("width", "height"))
        if None not in said and said != tuple(map(str, size)):
            what = f"says {said[0]} x {said[1]}, the image is {size[0]} x {size[1]}"
            split.add("image of another size", annotation, what)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # or an encoding that Python does not read
        split.add("annotation cannot be read", annotation, str(error))
    found = [_voc_box(split, f"{annotation}, object {n}", o, size, others) for n, o in enumerate(objects, start=1)]
    boxes = [box for box in found if box is not None]
    split.images.append(as_boxed_image(image, len(split.images) + 1, size, boxes))
    return len(objects)


def _voc_box(
    split: BoxSplit, where: str, entry: ElementTree.Element, size: tuple[int, int], others: Counter[str]
) -> Box | None:
    name = str(entry.findtext("name"))
    if name not in split.classes:
        others[name] += 1
        split.left_out["boxes_of_other_classes"] += 1
        return None
    try:
        x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except (TypeError, ValueError):
        split.add("box without numbers", where, "bndbox needs xmin, ymin, xmax, ymax")
        return None
    # VOC counts pixels from 1 and includes both ends: a box from 1 to 1 is one pixel wide and starts at 0.
    corners = (x1 - 1, y1 - 1, x2, y2)
    if not is_usable(split, where, corners, size):
        return None
    difficult = entry.findtext("difficult") not in (None, "", "0")
    area = (corners[2] - corners[0]) * (corners[3] - corners[1])
    return Box(corners, split.classes.index(name), difficult, area)
