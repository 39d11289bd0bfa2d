"""Write a split of boxes as COCO JSON, so that VOC and COCO data sets are trained and scored in the same way.

COCO files are rewritten too. Users' files often lack `area` or `iscrowd`, which crashes pycocotools, or number their
categories differently in each split, which swaps classes without an error.
"""

import json
import logging
from pathlib import Path
from typing import NamedTuple

from kdep.files import write_text
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.findings import refuse_defects
from kdep_benchmarks.data.readers.boxes import read_boxes

LOG = logging.getLogger(__name__)


class Split(NamedTuple):
    """A split in COCO's form.

    Attributes:
        path: the JSON file; its file names are relative to `images`.
        images: the folder of the images.
        count: number of images, with or without boxes.
        boxes: number of boxes to find, without crowds and difficult boxes.
        left_out: number of boxes left out, by reason.
    """

    path: Path
    images: Path
    count: int
    boxes: int
    left_out: dict[str, int]


def write_split(dataset: Dataset, role: str, classes: tuple[str, ...], path: Path) -> Split:
    """Read a split, refuse its defects, and write it in COCO's form; categories are numbered from 1, labels from 0.

    Raises:
        ValueError: another layout, a missing file, a broken box, or a split without images or without boxes.
    """
    split = read_boxes(dataset, role, classes=classes, open_images=True)
    refuse_defects(split.findings, f"{dataset.name}: {role} split")
    if role == "train" and (empty := [name for name in classes if not split.per_class[name]]):
        LOG.warning("%s: no box to train on for %d of %d classes: %s", dataset.name, len(empty), len(classes), empty)
    images, boxes = [], []
    for image in split.images:
        width, height = image.size
        file = str(image.path.relative_to(split.folder))
        images.append({"id": image.number, "file_name": file, "width": width, "height": height})
        columns = (image.boxes, image.labels, image.ignored, image.areas)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        for (x1, y1, x2, y2), label, ignored, area in rows:
            box = {"id": len(boxes) + 1, "image_id": image.number, "category_id": label + 1, "area": area}
            boxes.append({**box, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(ignored)})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    text = json.dumps({"images": images, "annotations": boxes, "categories": categories})
    write_text(path, text)
    return Split(path, split.folder, len(images), split.per_class.total(), dict(split.left_out))
