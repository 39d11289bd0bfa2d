"""Data set cards: layout, where it lies below the data root, split files, classes, licence, how to get it.

A card is turned into a `Dataset` at a root; a user's own set is a `Dataset` written in a suite file. `files` by layout,
relative to the root:

    imagefolder  fit, score, optional select: folders of class folders
    npz          fit, score, optional select: FILE.npz:SPLIT (see kdep.sources.Pack)
    torchvision  fit, score, optional select: CLASS:SPLIT, such as CIFAR10:train
    huggingface  fit, score, optional select: SPLIT of the set saved at the root, or NAME:SPLIT of one below it or on
                 the hub (downloaded into the root); optional image, label: columns, where they are not evident
    voc          fit, score: lists such as VOC2012/ImageSets/Main/train.txt (several joined by commas)
    ade20k       fit_images, fit_masks, score_images, score_masks: folders; masks 0 = unlabelled, 1..N
    cityscapes   the same keys, in Cityscapes' own naming; masks are labelTrainIds
    coco         fit, score: json; fit_images, score_images: folders
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KEYS: dict[str, tuple[str, ...]] = {
    "imagefolder": ("fit", "score"),
    "npz": ("fit", "score"),
    "torchvision": ("fit", "score"),
    "huggingface": ("fit", "score"),
    "voc": ("fit", "score"),
    "ade20k": ("fit_images", "fit_masks", "score_images", "score_masks"),
    "cityscapes": ("fit_images", "fit_masks", "score_images", "score_masks"),
    "coco": ("fit", "fit_images", "score", "score_images"),
}
CLASSIFICATION = ("imagefolder", "npz", "torchvision", "huggingface")
COLUMNS = ("image", "label")


@dataclass(frozen=True)
class Dataset:
    """A data set at a place on disk.

    Raises:
        ValueError: unknown layout, or split files that the layout does not have or that are missing.
    """

    name: str
    layout: str
    root: Path
    files: dict[str, str]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in KEYS:
            raise ValueError(f"data set {self.name}: layout {self.layout!r}; there are {', '.join(KEYS)}")
        needed = set(KEYS[self.layout])
        allowed = needed | ({"select"} if self.layout in CLASSIFICATION else set())
        allowed |= set(COLUMNS) if self.layout == "huggingface" else set()
        if not needed <= set(self.files) <= allowed:
            raise ValueError(f"data set {self.name}: files {sorted(self.files)}; {self.layout} needs {sorted(needed)}")


@dataclass(frozen=True)
class Card:
    """A known data set, independent of where it lies.

    Attributes:
        folder: below the data root.
        get: where its files come from, for people.
        images: by role, as published; empty where it depends on how the set was made.
        labels: number of classes, the background not counted.
    """

    layout: str
    folder: str
    files: dict[str, str]
    licence: str
    get: str
    classes: tuple[str, ...] = ()
    images: dict[str, int] = field(default_factory=dict)
    labels: int = 0


# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)
SCENES_CLASSES = (
    "disc", "ring", "square", "triangle", "star", "cross", "gear", "crescent", "arrow", "heart", "striped_ellipse",
    "dotted_ellipse",
)
SCENES_STUFF = (
    "noise", "stripes", "checks", "gradient", "leaves", "wood",
)
# fmt: on
ADE20K_FILES = {
    "fit_images": "images/training",
    "fit_masks": "annotations/training",
    "score_images": "images/validation",
    "score_masks": "annotations/validation",
}
SCENES = ("generated here", "python -m benchmarks.scenes, or kdep data prepare scenes")


def _torchvision(name: str, images: dict[str, int], labels: int, licence: str, *, select: bool = False) -> Card:
    files = {"fit": f"{name}:train", "score": f"{name}:test"} | ({"select": f"{name}:val"} if select else {})
    get = f"make that folder; torchvision.datasets.{name} then downloads it"
    return Card("torchvision", name.lower(), files, licence, get, images=images, labels=labels)


def _folders(
    folder: str, images: dict[str, int], labels: int, licence: str, get: str, *, score: str = "test", select: str = ""
) -> Card:
    files = {"fit": "train", "score": score} | ({"select": select} if select else {})
    return Card("imagefolder", folder, files, licence, get, images=images, labels=labels)


def _voc_segmentation(fit: str, images: int, get: str) -> Card:
    files = {role: f"VOC2012/ImageSets/Segmentation/{name}.txt" for role, name in (("fit", fit), ("score", "val"))}
    return Card("voc", "VOCdevkit", files, "Flickr terms", get, VOC_CLASSES, {"fit": images, "score": 1449}, 20)


def _voc_detection(
    folder: str, fit: str, score: str, terms: tuple[str, str], classes: tuple[str, ...], images: dict[str, int]
) -> Card:
    return Card("voc", folder, {"fit": fit, "score": score}, *terms, classes, images, len(classes))


VOC2012 = "host.robots.ox.ac.uk/pascal/VOC/voc2012: VOCtrainval_11-May-2012.tar, unpacked to VOCdevkit/VOC2012"

CARDS: dict[str, Card] = {
    "cifar10": _torchvision("CIFAR10", {"fit": 50000, "score": 10000}, 10, "cite Krizhevsky 2009"),
    "cifar100": _torchvision("CIFAR100", {"fit": 50000, "score": 10000}, 100, "cite Krizhevsky 2009"),
    "dtd": _torchvision("DTD", {"fit": 1880, "select": 1880, "score": 1880}, 47, "research", select=True),
    "caltech256": _folders(
        "caltech256",
        {"fit": 15420, "score": 15187},
        257,
        "CC BY 4.0",
        "data.caltech.edu/records/nyy15-4j048; sort into train/CLASS (the first 60 images of each) and test/CLASS",
    ),
    "cub200": _folders(
        "cub200",
        {"fit": 5994, "score": 5794},
        200,
        "non-commercial research",
        "data.caltech.edu/records/65de6-vp158; sort into train/CLASS and test/CLASS by train_test_split.txt",
    ),
    "imagenet1k": _folders(
        "imagenet",
        {"fit": 1281167, "score": 50000},
        1000,
        "non-commercial research",
        "image-net.org after registration; train/WNID and val/WNID",
        score="val",
    ),
    "voc2012": _voc_segmentation("train", 1464, VOC2012),
    "voc2012aug": _voc_segmentation(
        "trainaug", 10582, f"{VOC2012}; benchmark.tgz of SBD (Hariharan et al. 2011); kdep data prepare joins them"
    ),
    "ade20k": Card(
        "ade20k",
        "ade/ADEChallengeData2016",
        ADE20K_FILES,
        "non-commercial research",
        "data.csail.mit.edu/places/ADEchallenge: ADEChallengeData2016.zip (not the full ADE20K), unpacked in ade/",
        ("@objectInfo150.txt",),
        {"fit": 20210, "score": 2000},
        150,
    ),
    "cityscapes": Card(
        "cityscapes",
        "cityscapes",
        {
            "fit_images": "leftImg8bit/train",
            "fit_masks": "gtFine/train",
            "score_images": "leftImg8bit/val",
            "score_masks": "gtFine/val",
        },
        "non-commercial research",
        "cityscapes-dataset.com after registration: leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip in the data "
        "root; kdep data prepare cityscapes then unpacks them and writes the labelTrainIds",
        CITYSCAPES_CLASSES,
        {"fit": 2975, "score": 500},
        19,
    ),
    "voc0712": _voc_detection(
        "VOCdevkit",
        "VOC2007/ImageSets/Main/trainval.txt,VOC2012/ImageSets/Main/trainval.txt",
        "VOC2007/ImageSets/Main/test.txt",
        (
            "Flickr terms",
            "host.robots.ox.ac.uk/pascal/VOC: VOCtrainval_06-Nov-2007, VOCtest_06-Nov-2007, VOCtrainval_11-May-2012",
        ),
        VOC_CLASSES,
        {"fit": 16551, "score": 4952},
    ),
    "coco": Card(
        "coco",
        "coco",
        {
            "fit": "annotations/instances_train2017.json",
            "fit_images": "train2017",
            "score": "annotations/instances_val2017.json",
            "score_images": "val2017",
        },
        "annotations CC BY 4.0, images under Flickr terms",
        "cocodataset.org: train2017.zip, val2017.zip, annotations_trainval2017.zip",
        images={"fit": 118287, "score": 5000},
        labels=80,
    ),
    "scenes": _folders("scenes/classification", {}, 12, *SCENES),
    "scenes-voc": _voc_detection(
        "scenes", "VOC2012/ImageSets/Main/train.txt", "VOC2012/ImageSets/Main/val.txt", SCENES, SCENES_CLASSES, {}
    ),
    "scenes-ade20k": Card("ade20k", "scenes/ade20k", ADE20K_FILES, *SCENES, SCENES_CLASSES + SCENES_STUFF, labels=18),
    "scenes-coco": Card(
        "coco",
        "scenes/coco",
        {
            "fit": "annotations/instances_train.json",
            "fit_images": "train",
            "score": "annotations/instances_val.json",
            "score_images": "val",
        },
        *SCENES,
        labels=12,
    ),
}


def known(name: str, data_root: Path) -> Dataset:
    """A known data set below the data root; it need not be there.

    Raises:
        ValueError: no card of that name.
    """
    if name not in CARDS:
        raise ValueError(
            f"data set {name!r}: there are {', '.join(CARDS)}; a set of your own is written out in a suite file"
        )
    card = CARDS[name]
    return Dataset(name, card.layout, data_root / card.folder, card.files, card.classes)


def paths(dataset: Dataset) -> Iterator[Path]:
    """Files and folders that must be there for the set to be present."""
    if dataset.layout in ("torchvision", "huggingface"):
        yield dataset.root
        return
    for value in dataset.files.values():
        for part in value.split(","):
            yield dataset.root / (part.rpartition(":")[0] if dataset.layout == "npz" else part)


def absent(dataset: Dataset) -> str | None:
    """Why a data set cannot be used, in one sentence; None where it is there."""
    missing = next((path for path in paths(dataset) if not path.exists()), None)
    if missing is None:
        return None
    how = f"; get it: {CARDS[dataset.name].get}" if dataset.name in CARDS else ""
    return f"{missing} is not there{how}"


def fingerprint(dataset: Dataset) -> str:
    """Hash of the set as it lies on disk: lists, json and packs by content, images by name and size.

    Two results are compared only where it is equal.
    """
    digest = hashlib.sha256(f"{dataset.layout}|{sorted(dataset.files.items())}|{dataset.classes}".encode())
    for path in sorted(set(paths(dataset))):
        if path.is_file():
            digest.update(path.read_bytes())
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else ():
            if dataset.layout == "huggingface" and (file.name.startswith("cache-") or ".cache" in file.parts):
                continue  # what the library leaves behind when it reads
            digest.update(f"{file.relative_to(dataset.root)}|{file.stat().st_size}\n".encode())
    return digest.hexdigest()
