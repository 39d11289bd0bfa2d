"""Describe data sets: layout, folder below the data root, split files, classes, licence, where to get them.

`known` turns a card into a `Dataset` at a root; a suite file describes a `Dataset` of the user's. `files` by layout,
relative to the root:

    imagefolder  train, test, optional val: folders of class folders; FOLDER:train and FOLDER:test are four fifths and
                 one fifth of each class of one such folder
    npz          train, test, optional val: FILE.npz:SPLIT (see kdep.data.sources.source.Pack)
    torchvision  train, test, optional val: CLASS:SPLIT, such as CIFAR10:train
    voc          train, test: lists such as VOC2012/ImageSets/Main/train.txt (several joined by commas)
    ade20k       train_images, train_masks, test_images, test_masks: folders; masks 0 = unlabelled, 1..N
    cityscapes   the same keys, in Cityscapes' own naming; masks are labelTrainIds
    coco         train, test: json; train_images, test_images: folders
"""

import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kdep.data.sources.contents import content_hashes
from kdep.files import digest_of
from kdep.guard import read_utf8, walk

KEYS: dict[str, tuple[str, ...]] = {
    "imagefolder": ("train", "test"),
    "npz": ("train", "test"),
    "torchvision": ("train", "test"),
    "voc": ("train", "test"),
    "ade20k": ("train_images", "train_masks", "test_images", "test_masks"),
    "cityscapes": ("train_images", "train_masks", "test_images", "test_masks"),
    "coco": ("train", "train_images", "test", "test_images"),
}
CLASSIFICATION = ("imagefolder", "npz", "torchvision")
ARCHIVES = {".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip"}  # torchvision's download leaves them beside what it unpacks


@dataclass(frozen=True)
class Dataset:
    """A data set in a folder.

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
        allowed = needed | ({"val"} if self.layout in CLASSIFICATION else set())
        if not needed <= set(self.files) <= allowed:
            raise ValueError(f"data set {self.name}: files {sorted(self.files)}; {self.layout} needs {sorted(needed)}")


class Use(Protocol):
    """What a task says of its data: a `kdep_benchmarks.tasks.task.Task` is one."""

    name: str
    kind: str
    family: str
    dataset: Dataset


@dataclass(frozen=True)
class Card:
    """A known data set, independent of its place on disk.

    Attributes:
        folder: below the data root.
        get: where to get its files.
        images: number by role, as published; empty where it depends on how the set was made.
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
Terms = tuple[str, str]  # licence, and where its files come from


def _torchvision(name: str, images: dict[str, int], labels: int, licence: str) -> Card:
    files = {split: f"{name}:{split}" for split in images}
    return Card("torchvision", name.lower(), files, licence, f"torchvision.datasets.{name}", (), images, labels)


def _folders(folder: str, images: dict[str, int], labels: int, terms: Terms, *, test: str = "test") -> Card:
    return Card("imagefolder", folder, {"train": "train", "test": test}, *terms, (), images, labels)


def _pack(file: str, images: dict[str, int], labels: int, terms: Terms, *, test: str = "test") -> Card:
    files = {"train": f"{file}:train", "test": f"{file}:{test}"}
    return Card("npz", "classification", files, *terms, (), images, labels)


def _voc_segmentation(train: str, images: int, get: str) -> Card:
    files = {role: f"VOC2012/ImageSets/Segmentation/{name}.txt" for role, name in (("train", train), ("test", "val"))}
    return Card("voc", "VOCdevkit", files, "Flickr terms", get, VOC_CLASSES, {"train": images, "test": 1449}, 20)


def _voc_detection(
    folder: str, train: str, test: str, terms: Terms, classes: tuple[str, ...], images: dict[str, int]
) -> Card:
    return Card("voc", folder, {"train": train, "test": test}, *terms, classes, images, len(classes))


VOC2012 = "host.robots.ox.ac.uk/pascal/VOC/voc2012"
SBD = f"{VOC2012} and SBD (Hariharan et al. 2011), whose masks go to VOCdevkit/VOC2012/SegmentationClassAug"
ADE20K_FILES = {
    "train_images": "images/training",
    "train_masks": "annotations/training",
    "test_images": "images/validation",
    "test_masks": "annotations/validation",
}
CITYSCAPES_FILES = {
    "train_images": "leftImg8bit/train",
    "train_masks": "gtFine/train",
    "test_images": "leftImg8bit/val",
    "test_masks": "gtFine/val",
}
COCO_FILES = {
    "train": "annotations/instances_train2017.json",
    "train_images": "train2017",
    "test": "annotations/instances_val2017.json",
    "test_images": "val2017",
}
SCENES_COCO_FILES = {
    "train": "annotations/instances_train.json",
    "train_images": "train",
    "test": "annotations/instances_val.json",
    "test_images": "val",
}
SCENES = ("generated here", "kdep_benchmarks.data.scenes.make, which draws it")

# fmt: off
CARDS: dict[str, Card] = {
    "cifar10": _torchvision("CIFAR10", {"train": 50000, "test": 10000}, 10, "cite Krizhevsky 2009"),
    "cifar100": _torchvision("CIFAR100", {"train": 50000, "test": 10000}, 100, "cite Krizhevsky 2009"),
    "dtd": _torchvision("DTD", {"train": 1880, "test": 1880, "val": 1880}, 47, "research"),
    "caltech256": _folders("caltech256", {"train": 15420, "test": 15187}, 257,
                           ("CC BY 4.0", "data.caltech.edu/records/nyy15-4j048")),
    "cub200": _folders("cub200", {"train": 5994, "test": 5794}, 200,
                       ("non-commercial research", "data.caltech.edu/records/65de6-vp158")),
    "imagenet1k": _folders("imagenet", {"train": 1281167, "test": 50000}, 1000,
                           ("non-commercial research", "image-net.org, after registration"), test="val"),
    "tiny_imagenet200": _pack("tiny_imagenet200.npz", {"train": 20000, "test": 5000}, 200,
                              ("non-commercial research", "cs231n.stanford.edu; 125 of its images of each class"),
                              test="val"),
    "flowers5": _pack("flowers5_128px.npz", {}, 5,
                      ("unknown", "kaggle.com/datasets/alxmamaev/flowers-recognition, after registration")),
    "cifar10s": _pack("cifar10.npz", {"train": 5000, "test": 2000}, 10,
                      ("cite Krizhevsky 2009", "www.cs.toronto.edu/~kriz/cifar.html; 700 of its images of each class")),
    # Without the owner's val split, which lacks 21 of the classes.
    "grocery": _pack("grocery_96px.npz", {"train": 2640, "test": 2485}, 81,
                     ("MIT, cite Klasson et al. 2019", "github.com/marcusklasson/GroceryStoreDataset")),
    "voc2012": _voc_segmentation("train", 1464, VOC2012),
    "voc2012aug": _voc_segmentation("trainaug", 10582, SBD),
    "ade20k": Card("ade20k", "ade/ADEChallengeData2016", ADE20K_FILES, "non-commercial research",
                   "data.csail.mit.edu/places/ADEchallenge, not the full ADE20K", ("@objectInfo150.txt",),
                   {"train": 20210, "test": 2000}, 150),
    "cityscapes": Card("cityscapes", "cityscapes", CITYSCAPES_FILES, "non-commercial research",
                       "cityscapes-dataset.com, after registration", CITYSCAPES_CLASSES,
                       {"train": 2975, "test": 500}, 19),
    "voc0712": _voc_detection("VOCdevkit", "VOC2007/ImageSets/Main/trainval.txt,VOC2012/ImageSets/Main/trainval.txt",
                              "VOC2007/ImageSets/Main/test.txt",
                              ("Flickr terms", "host.robots.ox.ac.uk/pascal/VOC, 2007 and 2012"),
                              VOC_CLASSES, {"train": 16551, "test": 4952}),
    "coco": Card("coco", "coco", COCO_FILES, "annotations CC BY 4.0, images under Flickr terms", "cocodataset.org", (),
                 {"train": 118287, "test": 5000}, 80),
    "scenes": _folders("scenes/classification", {}, 12, SCENES),
    "scenes-voc": _voc_detection("scenes", "VOC2012/ImageSets/Main/train.txt", "VOC2012/ImageSets/Main/val.txt", SCENES,
                                 SCENES_CLASSES, {}),
    "scenes-ade20k": Card("ade20k", "scenes/ade20k", ADE20K_FILES, *SCENES, SCENES_CLASSES + SCENES_STUFF, {}, 18),
    "scenes-coco": Card("coco", "scenes/coco", SCENES_COCO_FILES, *SCENES, (), {}, 12),
}
# fmt: on


def known(name: str, data_root: Path) -> Dataset:
    """A known data set below the data root; its files need not exist.

    Raises:
        ValueError: no card of that name.
    """
    if name not in CARDS:
        raise ValueError(f"data set {name!r}: there are {', '.join(CARDS)}; describe one of your own in a suite file")
    card = CARDS[name]
    return Dataset(name, card.layout, data_root / card.folder, card.files, card.classes)


def paths(dataset: Dataset, files: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Files and folders that a data set needs, or that some of its files need."""
    if dataset.layout == "torchvision":
        yield dataset.root
        return
    for value in (dataset.files if files is None else files).values():
        for part in value.split(","):
            path = dataset.root / (part.rpartition(":")[0] if dataset.layout == "npz" else folder_of(part.strip()))
            yield path
            if dataset.layout == "voc":
                yield path.parents[2] / "JPEGImages"
                if path.parent.name == "Segmentation":
                    yield path.parents[2] / masks_of(path)
    yield from _class_list(dataset)


def _class_list(dataset: Dataset) -> list[Path]:
    """The file that lists the classes, `@FILE`; none where they are named."""
    return [dataset.root / name[1:] for name in dataset.classes[:1] if name.startswith("@")]


def masks_of(split: Path) -> str:
    """Folder of the masks of a VOC list; `trainaug` (Hariharan et al. 2011) has a folder of its own."""
    return "SegmentationClassAug" if split.stem in ("aug", "trainaug") else "SegmentationClass"


def absent(dataset: Dataset) -> str | None:
    """Why a data set cannot be used, in one sentence; None where all its files exist."""
    missing = next((path for path in paths(dataset) if not path.exists()), None)
    if missing is None:
        return None
    for name in sorted(CARDS, key=lambda name: name != dataset.name):  # its own first
        data_root = _data_root(dataset, name)
        if data_root is not None:
            command = shlex.join(["kdep", "data", "prepare", name, "--data-root", str(data_root)])
            return f"{missing} is not there; get it: {command} (from {CARDS[name].get})"
    return f"{missing} is not there"


def _data_root(dataset: Dataset, name: str) -> Path | None:
    """The data root below which a known data set would be in this one's place; None if there is none."""
    depth = len(Path(CARDS[name].folder).parts)
    if depth > len(dataset.root.parts):
        return None
    data_root = dataset.root.parents[depth - 1]
    there = known(name, data_root)
    same = (there.layout, there.root, there.files) == (dataset.layout, dataset.root, dataset.files)
    return data_root if same else None


def folder_of(files: str) -> str:
    """The folder of a split of the imagefolder layout: FOLDER of `FOLDER`, `FOLDER:train` and `FOLDER:test`."""
    folder, _, part = files.rpartition(":")
    return folder if folder and part in ("train", "test") else files


def class_folders(dataset: Dataset, files: str) -> list[str]:
    """Names of the class folders of a split, sorted; hidden folders are skipped.

    Raises:
        ValueError: it is no folder, or holds none.
    """
    root = dataset.root / folder_of(files)
    if not root.is_dir():
        raise ValueError(f"data set {dataset.name}: {root} is not a folder of class folders")
    if not (found := folders_in(root)):
        raise ValueError(f"data set {dataset.name}: no class folder in {root}")
    return found


def folders_in(folder: Path) -> list[str]:
    """Names of the folders directly in a folder, sorted; hidden ones, such as .ipynb_checkpoints, are skipped."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def refuse_other_classes(dataset: Dataset, train: Sequence[str], other: Sequence[str], role: str) -> None:
    """Refuse a single class, and a split whose classes differ from train's.

    Raises:
        ValueError: names the data set and the classes.
    """
    if len(train) < 2:
        raise ValueError(
            f"data set {dataset.name}: train has one class only ({train[0]}), so every answer is right; use two or more"
        )
    if tuple(train) != tuple(other):
        odd = sorted(set(train) ^ set(other)) or ["their order"]
        raise ValueError(
            f"data set {dataset.name}: train has {len(train)} classes and {role} {len(other)}; they differ in "
            f"{', '.join(odd[:5])}. Give every split the same classes, in the same order"
        )


def refuse_bad_splits(dataset: Dataset) -> None:
    """Refuse a test split that is the train split, and class folders that differ between splits or hold no image.

    Raises:
        ValueError: names the data set and the split.
    """
    for key, files in dataset.files.items():
        role, _, kind = key.partition("_")
        train = dataset.files.get(f"train_{kind}" if kind else "train")
        if dataset.layout == "coco" and kind == "images":
            continue  # the json lists the images of a split, so all splits may share a folder
        if role in ("val", "test") and train is not None and _same_place(dataset, train, files):
            raise ValueError(
                f"data set {dataset.name}: {key} and train are both {files}; a score on training images means nothing"
            )
    if dataset.layout == "imagefolder":
        train = class_folders(dataset, dataset.files["train"])
        for role, files in dataset.files.items():
            refuse_other_classes(dataset, train, class_folders(dataset, files), role)
            _refuse_empty_classes(dataset, files, role, train)


def _refuse_empty_classes(dataset: Dataset, files: str, role: str, classes: Sequence[str]) -> None:
    root = dataset.root / folder_of(files)
    if empty := [name for name in classes if not _holds_image(root / name)]:
        raise ValueError(
            f"data set {dataset.name}: {role}: {root / empty[0]} holds no image ({len(empty)} of {len(classes)} class "
            "folders are empty); add images, or remove the class from every split"
        )


def _holds_image(folder: Path) -> bool:
    """Whether an image lies below a folder. Only a folder without one directly in it is walked."""
    from kdep.data.sources.names import is_image_name  # here, as in `_read_below`

    with os.scandir(folder) as entries:
        if any(is_image_name(e.name) and not e.name.startswith(".") and e.is_file() for e in entries):
            return True
    return bool(walk(folder, is_image_name).files)


def _same_place(dataset: Dataset, one: str, other: str) -> bool:
    """Whether two values of `files` mean the same list, folder or split, however they are spelled."""

    def places(value: str) -> set[Path]:
        return {Path(os.path.abspath(dataset.root / part.strip())) for part in value.split(",")}  # noqa: PTH100 - a link may have two names

    return places(one) == places(other)


def fingerprint(dataset: Dataset, *, without: str = "") -> str:
    """Hash a data set on disk by content: lists, json, packs, images, masks, boxes and classes, each with its name.

    Results are comparable only where it is equal. Files that no reader opens (hidden files, archives, texts beside
    images) do not count, nor those of the role `without`.
    """
    files = {key: value for key, value in dataset.files.items() if not without or key.partition("_")[0] != without}
    digest = hashlib.sha256(f"{dataset.layout}|{sorted(files.items())}|{dataset.classes}".encode())
    masks = {dataset.root / value for role, value in files.items() if role.endswith("_masks")}
    for path in sorted(set(paths(dataset, files))):
        images: list[Path] = []
        labels: list[Path] = []
        if path.is_file():
            with path.open("rb", buffering=0) as opened:
                digest_of(opened, digest)
            if dataset.layout == "voc" and path not in _class_list(dataset):
                images, labels = _listed(path)
        elif path in masks:
            labels = _read_below(path, dataset.layout)
        elif dataset.layout != "voc":
            images = _read_below(path, dataset.layout)
        for file, content in zip(images + labels, content_hashes(images + labels), strict=True):
            digest.update(os.fsencode(f"{file.relative_to(dataset.root)}|") + content.tobytes())
    return digest.hexdigest()


def _listed(split: Path) -> tuple[list[Path], list[Path]]:
    """Images of a VOC list, and their annotations and masks that exist.

    Masks are read by the whole line and boxes by its first word, so both count as names.
    """
    year = split.parents[2]
    lines = [line.strip() for line in read_utf8(split).splitlines() if line.strip()]
    names = [name for line in lines for name in dict.fromkeys((line, line.split()[0]))]
    names = [name for name in names if not name.startswith("/")]  # the readers refuse the others
    images: dict[Path, list[Path]] = {}  # by the path without suffix
    for folder in sorted({(year / "JPEGImages" / name).parent for name in names}):
        images |= {folder / stem: paths for stem, paths in images_by_stem(folder).items()}
    labels = [year / masks_of(split) / f"{name}.png" for name in names]
    if split.parent.name != "Segmentation":
        labels += [year / "Annotations" / f"{name}.xml" for name in names]
    found = [path for name in names for path in images.get(year / "JPEGImages" / name, ())]
    return found, [path for path in labels if path.is_file()]


def images_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Images of a folder by their names without suffix: a reader may take any of 0001.jpg and 0001.png."""
    from kdep.data.sources.names import is_image_name  # here, as in `_read_below`

    images: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        if is_image_name(path.name):
            images.setdefault(path.stem, []).append(path)
    return images


def _read_below(folder: Path, layout: str) -> list[Path]:
    """Files below a folder that a reader of the layout may open, sorted; follows links."""
    from kdep.data.sources.names import SUFFIXES  # here: it needs numpy, and the boards read this module without torch

    found = [Path(path) for path in walk(folder).files]
    if layout == "torchvision":
        found = [path for path in found if path.suffix.lower() not in ARCHIVES]
    else:
        found = [path for path in found if path.suffix.lower() in SUFFIXES]
    return sorted(found)
