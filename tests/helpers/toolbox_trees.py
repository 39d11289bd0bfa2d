"""Tiny data sets in the layouts that mmseg and mmdet read, and tiny students."""

import functools
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdep.data.decoding.opening import as_rgb, read_image
from kdep.models.backbones.backbone import create_network
from kdep.models.checkpoints.checkpoint import Checkpoint, fingerprint
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.openmmlab import compat
from kdep_benchmarks.openmmlab.runner import Training
from kdep_benchmarks.tasks.settings import SETTINGS, read_settings
from kdep_benchmarks.tasks.task import Task

CLASSES = ("red", "green")
COLOURS = {1: (220, 30, 30), 2: (30, 200, 40)}
COUNTS = {"train": 4, "test": 3}
CPU = torch.device("cpu")


def student(arch="resnet18", *, seed=5):
    """A network whose BatchNorm statistics are not those of a fresh one, so that losing them shows."""
    weights, identity = drawn(arch, seed)
    means, stds = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    return Checkpoint("tiny", arch, {**weights}, means, stds, 64, "post", identity)


@functools.cache
def drawn(arch, seed):
    """The weights of a student, and their fingerprint."""
    torch.manual_seed(seed)
    network = create_network(arch)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    weights = network.state_dict()
    return weights, fingerprint(weights)


def picture(number, *, side=72):
    """An image with one rectangle of each class: pixels, labels (0 = ground), boxes as (class, x1, y1, x2, y2)."""
    generator = np.random.default_rng(number)
    pixels = generator.integers(90, 130, (side, side + 8, 3), dtype=np.uint8)
    labels, boxes = np.zeros(pixels.shape[:2], np.uint8), []
    for label, colour in COLOURS.items():
        left, top = int(generator.integers(2, 20)) + 35 * (label - 1), int(generator.integers(2, 40))
        box = (left, top, left + 18, top + 24)
        pixels[top : box[3], left : box[2]], labels[top : box[3], left : box[2]] = colour, label
        boxes.append((CLASSES[label - 1], *box))
    return pixels, labels, boxes


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def set_orientation(path: Path, orientation: int) -> None:
    """Save an image again with an EXIF orientation tag; the stored pixels stay upright."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    with Image.open(path) as image:
        image.save(path, quality=95, exif=tags)


def xml_object(name, x1, y1, x2, y2, difficult=0):
    corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def voc(root: Path) -> Dataset:
    """One test image has no box, another one of another class and a difficult one."""
    year = root / "VOC2012"
    extras = {4: xml_object("blue", 1, 1, 9, 9) + xml_object("red", 60, 50, 70, 60, 1)}
    for role, start in (("train", 0), ("test", 4)):
        names = [f"{role}_{n}" for n in range(start, start + COUNTS[role])]
        for number, name in enumerate(names, start=start):
            pixels, labels, boxes = picture(number)
            save(pixels, year / "JPEGImages" / f"{name}.jpg")
            save(labels, year / "SegmentationClass" / f"{name}.png")
            objects = "" if number == 5 else "".join(xml_object(*box) for box in boxes)
            (year / "Annotations").mkdir(exist_ok=True)
            text = f"<annotation>{objects}{extras.get(number, '')}</annotation>"
            (year / "Annotations" / f"{name}.xml").write_text(text)
        (year / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (year / "ImageSets" / "Main" / f"{role}.txt").write_text("\n".join(names) + "\n")
    files = {role: f"VOC2012/ImageSets/Main/{role}.txt" for role in COUNTS}
    return Dataset("tiny-voc", "voc", root, files, CLASSES)


def ade20k(root: Path) -> Dataset:
    """Ground is unlabelled (0)."""
    for role, start in (("train", 0), ("test", 4)):
        for number in range(start, start + COUNTS[role]):
            pixels, labels, _ = picture(number)
            save(pixels, root / "images" / role / f"{number}.png")
            save(labels, root / "masks" / role / f"{number}.png")
    files = {f"{role}_{kind}": f"{kind}/{role}" for role in COUNTS for kind in ("images", "masks")}
    return Dataset("tiny-ade20k", "ade20k", root, files, CLASSES)


def coco(root: Path) -> Dataset:
    """Categories stand in another order in each split; boxes lack area and iscrowd."""
    files = {}
    for role, start in (("train", 0), ("test", 4)):
        images, boxes = [], []
        categories = [{"id": 7, "name": "red"}, {"id": 3 if role == "train" else 9, "name": "green"}]
        number_of = {item["name"]: item["id"] for item in categories}
        for number in range(start, start + COUNTS[role]):
            pixels, _, objects = picture(number)
            save(pixels, root / role / f"{number}.jpg")
            images.append({"id": number, "file_name": f"{number}.jpg", "height": 72, "width": 80})
            for name, x1, y1, x2, y2 in objects:
                box = {"image_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": number_of[name]}
                boxes.append(box)
        boxes = [{"id": i, **box} for i, box in enumerate(boxes, start=1)]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / f"{role}.json").write_text(json.dumps(content))
        files |= {role: f"{role}.json", f"{role}_images": role}
    return Dataset("tiny-coco", "coco", root, files, CLASSES)


def check_stored_pixels_are_loaded(config, toolbox: str, *, tagged: bool) -> None:
    """Compare what the pipeline of a data set loads with kdep's own reader, and with what mmcv loads by default."""
    from mmengine.registry import DATASETS, init_default_scope

    compat.prepare()
    init_default_scope(toolbox)
    loading = [step for step in config["pipeline"] if step["type"] == "LoadImageFromFile"]
    found, by_default = (
        DATASETS.build({**config, "pipeline": pipeline}) for pipeline in (loading, [{"type": "LoadImageFromFile"}])
    )
    assert len(found) >= 3
    for number in range(len(found)):
        stored = np.asarray(as_rgb(read_image(found[number]["img_path"])))
        assert np.array_equal(found[number]["img"][..., ::-1], stored)  # BGR
        assert np.array_equal(by_default[number]["img"][..., ::-1], stored) != tagged


def task(kind: str, dataset: Dataset, config: str, **settings) -> Task:
    size = {"crop": 64} if kind.startswith("segment") else {"scale": (64, 64)}
    given = {"config": config, "iterations": 2, "batch_size": 2, "lr": 0.01, "weight_decay": 0.0001}
    return Task(f"tiny-{kind}", kind, dataset, "fair", 1, {**given, **size, **settings})


def cell(checkpoint: Checkpoint, of: Task, work_dir: Path, *, seed=0) -> Training:
    return Training(checkpoint, of, read_settings(SETTINGS[of.kind], of), seed, work_dir, CPU)


def stopping(config, *, at: int):
    """Add a hook that interrupts after an iteration, once all other hooks have had their turn."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    @HOOKS.register_module(name="StopAt", force=True)
    class StopAt(Hook):
        priority = "LOWEST"

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 == at:
                raise KeyboardInterrupt

    config.custom_hooks = [{"type": "StopAt"}]
    return config
