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
from kdep_benchmarks.data.readers.boxed import as_coco
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
    content = as_coco(split.images, len(classes))
    for entry, image in zip(content["images"], split.images, strict=True):
        entry["file_name"] = str(image.path.relative_to(split.folder))
    for entry, name in zip(content["categories"], classes, strict=True):
        entry["name"] = name
    write_text(path, json.dumps(content))
    return Split(path, split.folder, len(split.images), split.per_class.total(), dict(split.left_out))
