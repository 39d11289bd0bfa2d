"""Scenes to disk, in the layouts of Pascal VOC, ADE20K and COCO.

Each writer makes one split of one tree; images arrive as encoded JPEG, so that all trees hold the same bytes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from kdep_benchmarks.data.scenes.render import HIDDEN, OTHER, Scene, Thing

VOID = 255


@dataclass(frozen=True)
class Picture:
    """A scene under its name; `jpeg` is what the trees store, `scene` its truth."""

    name: str
    jpeg: bytes
    scene: Scene


def write_voc(root: Path, pictures: Sequence[Picture], *, split: str, classes: Sequence[str]) -> None:
    """Write a year folder: images, boxes (xml), class masks (palette PNG, 255 = void), and the split's lists."""
    for picture in pictures:
        _write_bytes(root / "JPEGImages" / f"{picture.name}.jpg", picture.jpeg)
        _write_xml(root / "Annotations" / f"{picture.name}.xml", picture, classes)
        _write_voc_mask(root / "SegmentationClass" / f"{picture.name}.png", picture.scene)
    names = "".join(f"{picture.name}\n" for picture in pictures)
    for task in ("Main", "Segmentation"):
        _write_bytes(root / "ImageSets" / task / f"{split}.txt", names.encode())


def _write_xml(path: Path, picture: Picture, classes: Sequence[str]) -> None:
    height, width = picture.scene.owner.shape
    root = ElementTree.Element("annotation")
    _add_fields(root, folder="VOC2012", filename=f"{picture.name}.jpg")
    _add_fields(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add_fields(root, segmented=1)
    for thing in picture.scene.things:
        left, top, right, bottom = thing.box
        element = ElementTree.SubElement(root, "object")
        _add_fields(element, name=classes[thing.label], pose="Unspecified", truncated=int(thing.truncated), difficult=0)
        # VOC counts pixels from 1 and includes the last one.
        box = ElementTree.SubElement(element, "bndbox")
        _add_fields(box, xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
    ElementTree.indent(root)
    _write_bytes(path, ElementTree.tostring(root))


def _add_fields(parent: ElementTree.Element, **fields: str | int) -> None:
    for name, value in fields.items():
        ElementTree.SubElement(parent, name).text = str(value)


def _write_voc_mask(path: Path, scene: Scene) -> None:
    """Label + 1 on objects, 0 elsewhere, VOID on objects too hidden to name and where two labels meet."""
    codes = np.zeros(256, np.uint8)
    codes[1 : 1 + len(scene.things)] = [thing.label + 1 for thing in scene.things]
    codes[HIDDEN] = VOID
    mask = codes[scene.owner]
    mask[_borders(np.where(scene.owner == OTHER, 0, scene.owner))] = VOID
    image = Image.fromarray(mask)
    image.putpalette(voc_palette())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _borders(owner: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another owner: lines one pixel wide."""
    border = np.zeros(owner.shape, bool)
    border[:, :-1] |= owner[:, 1:] != owner[:, :-1]
    border[:-1] |= owner[1:] != owner[:-1]
    return border


def voc_palette() -> list[int]:
    """VOC's 256 colours, flat RGB: bit 3k + c of the index is bit 7 - k of channel c."""
    return [
        sum((index >> 3 * k + channel & 1) << 7 - k for k in range(3)) for index in range(256) for channel in range(3)
    ]


def write_ade20k(root: Path, pictures: Sequence[Picture], *, split: str, things: int) -> None:
    """Write images and masks: 0 = other, 1..things the objects' classes, above them the grounds."""
    for picture in pictures:
        _write_bytes(root / "images" / split / f"{picture.name}.jpg", picture.jpeg)
        scene = picture.scene
        mask = scene.ground + np.uint8(things + 1)
        mask[(scene.owner == OTHER) | (scene.owner == HIDDEN)] = 0
        for number, thing in enumerate(scene.things, start=1):
            mask[scene.owner == number] = thing.label + 1
        path = root / "annotations" / split / f"{picture.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)


def write_coco(root: Path, pictures: Sequence[Picture], *, split: str, classes: Sequence[str]) -> None:
    """Write the split's images and instances_<split>.json; ids of images, annotations and categories count from 1."""
    images, annotations = [], []
    for image_id, picture in enumerate(pictures, start=1):
        height, width = picture.scene.owner.shape
        _write_bytes(root / split / f"{picture.name}.jpg", picture.jpeg)
        images.append({"id": image_id, "file_name": f"{picture.name}.jpg", "width": width, "height": height})
        for thing in picture.scene.things:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_instance(thing)})
    categories = [{"id": label, "name": name} for label, name in enumerate(classes, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write_bytes(root / "annotations" / f"instances_{split}.json", json.dumps(content).encode())


def _instance(thing: Thing) -> dict[str, object]:
    left, top, right, bottom = thing.box
    return {
        "category_id": thing.label + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": int(thing.visible.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(thing.visible.shape), "counts": _run_lengths(thing.visible)},
    }


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE: lengths of alternating runs down the columns, beginning with zeros."""
    pixels = np.concatenate([[False], mask.ravel(order="F")])
    starts = np.flatnonzero(pixels[1:] != pixels[:-1])
    return np.diff(np.concatenate([[0], starts, [mask.size]])).tolist()


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
