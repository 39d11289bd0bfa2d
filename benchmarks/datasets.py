"""Data set cards: layout, where it lies below the data root, split files, classes, licence, how to get it.

A card is turned into a `Dataset` at a root; a user's own set is a `Dataset` written in a suite file. `files` by layout,
relative to the root:

    imagefolder  fit, score, optional select: folders of class folders
    npz          fit, score, optional select: FILE.npz:SPLIT (see kdep.data.Pack)
    torchvision  fit, score, optional select: CLASS:SPLIT, such as CIFAR10:train
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
    "voc": ("fit", "score"),
    "ade20k": ("fit_images", "fit_masks", "score_images", "score_masks"),
    "cityscapes": ("fit_images", "fit_masks", "score_images", "score_masks"),
    "coco": ("fit", "fit_images", "score", "score_images"),
}
CLASSIFICATION = ("imagefolder", "npz", "torchvision")


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
        if not needed <= set(self.files) <= allowed:
            raise ValueError(f"data set {self.name}: files {sorted(self.files)}; {self.layout} needs {sorted(needed)}")


@dataclass(frozen=True)
class Card:
    """A known data set, independent of where it lies."""

    layout: str
    folder: str
    files: dict[str, str]
    licence: str
    get: str
    classes: tuple[str, ...] = ()
    images: dict[str, int] = field(default_factory=dict)


VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
CITYSCAPES_CLASSES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)


def _torchvision(name: str, folder: str, licence: str, images: dict[str, int], *, select: bool = False) -> Card:
    files = {"fit": f"{name}:train", "score": f"{name}:test"} | ({"select": f"{name}:val"} if select else {})
    return Card(
        "torchvision",
        folder,
        files,
        licence,
        f"make that folder; torchvision.datasets.{name} then downloads it",
        images=images,
    )


def _folders(folder: str, licence: str, get: str, images: dict[str, int], *, score: str = "test") -> Card:
    return Card("imagefolder", folder, {"fit": "train", "score": score}, licence, get, images=images)


CARDS: dict[str, Card] = {
    "cifar10": _torchvision("CIFAR10", "cifar10", "cite Krizhevsky 2009", {"fit": 50000, "score": 10000}),
    "cifar100": _torchvision("CIFAR100", "cifar100", "cite Krizhevsky 2009", {"fit": 50000, "score": 10000}),
    "dtd": _torchvision("DTD", "dtd", "research", {"fit": 1880, "select": 1880, "score": 1880}, select=True),
    "caltech256": _folders(
        "caltech256",
        "CC BY 4.0",
        "data.caltech.edu/records/nyy15-4j048; sort into train/CLASS (the first 60 images of each) and test/CLASS",
        {"fit": 15420, "score": 15187},
    ),
    "cub200": _folders(
        "cub200",
        "non-commercial research",
        "data.caltech.edu/records/65de6-vp158; sort into train/CLASS and test/CLASS by train_test_split.txt",
        {"fit": 5994, "score": 5794},
    ),
    "imagenet1k": _folders(
        "imagenet",
        "non-commercial research",
        "image-net.org after registration; train/WNID and val/WNID",
        {"fit": 1281167, "score": 50000},
        score="val",
    ),
    "voc2012": Card(
        "voc",
        "VOCdevkit",
        {"fit": "VOC2012/ImageSets/Segmentation/train.txt", "score": "VOC2012/ImageSets/Segmentation/val.txt"},
        "Flickr terms",
        "host.robots.ox.ac.uk/pascal/VOC/voc2012: VOCtrainval_11-May-2012.tar, unpacked to VOCdevkit/VOC2012",
        VOC_CLASSES,
        {"fit": 1464, "score": 1449},
    ),
    "ade20k": Card(
        "ade20k",
        "ade/ADEChallengeData2016",
        {
            "fit_images": "images/training",
            "fit_masks": "annotations/training",
            "score_images": "images/validation",
            "score_masks": "annotations/validation",
        },
        "non-commercial research",
        "data.csail.mit.edu/places/ADEchallenge: ADEChallengeData2016.zip (not the full ADE20K), unpacked in ade/",
        ("@objectInfo150.txt",),
        {"fit": 20210, "score": 2000},
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
        "cityscapes-dataset.com after registration: leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip; then "
        "createTrainIdLabelImgs of cityscapesscripts",
        CITYSCAPES_CLASSES,
        {"fit": 2975, "score": 500},
    ),
    "voc0712": Card(
        "voc",
        "VOCdevkit",
        {
            "fit": "VOC2007/ImageSets/Main/trainval.txt,VOC2012/ImageSets/Main/trainval.txt",
            "score": "VOC2007/ImageSets/Main/test.txt",
        },
        "Flickr terms",
        "host.robots.ox.ac.uk/pascal/VOC: VOCtrainval_06-Nov-2007, VOCtest_06-Nov-2007, VOCtrainval_11-May-2012",
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
    if dataset.layout == "torchvision":
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
            digest.update(f"{file.relative_to(dataset.root)}|{file.stat().st_size}\n".encode())
    return digest.hexdigest()
