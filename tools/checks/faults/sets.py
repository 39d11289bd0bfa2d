"""Lists, annotations and JSON of data sets in the layouts of others, and what reads them."""

from collections.abc import Callable
from pathlib import Path

from kdep_benchmarks.data.cards import fingerprint, known
from kdep_benchmarks.data.readers.boxes import class_names, read_boxes
from kdep_benchmarks.data.scenes.make import write_scenes
from tools.checks.faults import changes
from tools.checks.faults.door import Door


def set_doors(root: Path) -> list[Door]:
    """Small generated sets in the layouts VOC and COCO."""
    sizes = {"size": 32, "dense_size": 64, "pool": 2, "train_per_class": 2, "test_per_class": 1}
    write_scenes(root / "scenes", **sizes, dense_train=10, dense_val=10)
    voc, coco = known("scenes-voc", root), known("scenes-coco", root)
    split = voc.root / voc.files["test"]
    annotation = split.parents[2] / "Annotations" / f"{split.read_text().split()[0]}.xml"

    def boxes(name: str) -> Callable[[], object]:
        def use() -> None:
            dataset = known(name, root)
            for role in ("train", "test"):
                read_boxes(dataset, role, classes=class_names(dataset), open_images=True)
            fingerprint(dataset)

        return use

    return [
        Door("COCO's json", coco.root / coco.files["test"], changes.edit_json, boxes("scenes-coco")),
        Door("COCO's json of train", coco.root / coco.files["train"], changes.edit_json, boxes("scenes-coco")),
        Door("VOC's list", split, changes.edit_bytes, boxes("scenes-voc")),
        Door("VOC's annotation", annotation, changes.edit_bytes, boxes("scenes-voc")),
    ]
