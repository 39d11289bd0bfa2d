"""What can be wrong with the labels of a classification set, told without stopping at the first mistake."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdep.data.sources import SUFFIXES, Pack
from kdep_benchmarks.data.cards import Dataset, class_folders
from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.huggingface import Rows
from kdep_benchmarks.data.images import images_below
from kdep_benchmarks.data.pictures import Picture, of_file


class Labels(NamedTuple):
    """Images of a split, a label each, and the names of the classes."""

    pictures: list[Picture]
    labels: np.ndarray
    classes: tuple[str, ...]


def read(dataset: Dataset, role: str) -> tuple[Labels | None, list[Finding]]:
    """Open a split as it is, or say why it does not open."""
    try:
        found = LAYOUTS[dataset.layout](dataset, dataset.files[role])
    except ValueError as error:
        return None, [Finding("split does not open", f"{role} {dataset.files[role]}", str(error))]
    findings = list(_wrong_labels(found, role))
    if dataset.layout == "imagefolder":
        findings += _ignored(dataset, dataset.files[role])
    return found, findings


def wrong_classes(splits: dict[str, Labels], dataset: Dataset, *, expected: int) -> Iterator[Finding]:
    """Compare the splits' classes with each other, with those named and with the number expected (0: any)."""
    train = splits.get("train")
    if train is None:
        return
    if len(train.classes) < 2:
        what = f"one only ({train.classes[0]}), so every answer is right; two at least"
        yield Finding("too few classes", f"classes of {dataset.files['train']}", what)
    for role, split in splits.items():
        if odd := sorted(set(split.classes) ^ set(train.classes)):
            yield Finding(
                "classes differ", f"train and {role}", f"{', '.join(odd[:5])} ({len(odd)}) only in one of them"
            )
    if dataset.classes and (odd := sorted(set(dataset.classes) ^ set(train.classes))):
        yield Finding("classes differ", "named and found", f"{', '.join(odd[:5])} ({len(odd)}) only in one of them")
    if expected and len(train.classes) != expected:
        yield Finding(
            "wrong count", f"classes of {dataset.files['train']}", f"{len(train.classes)}, expected {expected}"
        )


def _wrong_labels(split: Labels, role: str) -> Iterator[Finding]:
    count = len(split.classes)
    for index in np.flatnonzero((split.labels < 0) | (split.labels >= count)):
        what = f"{split.labels[index]}; the {count} classes are numbered from 0 to {count - 1}"
        yield Finding("label out of range", split.pictures[index].where, what)
    inside = split.labels[(split.labels >= 0) & (split.labels < count)]
    for label in np.flatnonzero(np.bincount(inside, minlength=count) == 0):
        yield Finding("empty class", f"class {split.classes[label]!r} of {role}", "has no image")


def _ignored(dataset: Dataset, folder: str) -> Iterator[Finding]:
    for path in sorted((dataset.root / folder).rglob("*")):
        if path.is_file() and path.suffix.lower() not in SUFFIXES and not path.name.startswith("."):
            what = f"not read: images end in {', '.join(sorted(SUFFIXES))}"
            yield Finding("file that is no image", str(path), what, defect=False)


def _folders(dataset: Dataset, files: str) -> Labels:
    root, classes = dataset.root / files, class_folders(dataset, files)
    pictures, labels = [], []
    for label, name in enumerate(classes):
        below = sorted(images_below(root / name))
        pictures += [of_file(path) for path in below]
        labels += [label] * len(below)
    return Labels(pictures, np.array(labels, dtype=np.int64), tuple(classes))


def _pack(dataset: Dataset, files: str) -> Labels:
    file, _, split = files.rpartition(":")
    pack = Pack(dataset.root / file, split)
    if pack.labels is None:
        raise ValueError(f"{dataset.root / file} has no {split}_labels")
    if len(pack.labels) != len(pack.names):
        raise ValueError(f"{len(pack.labels)} labels for {len(pack.names)} images")
    pictures = [Picture(name, partial(pack.read, index)) for index, name in enumerate(pack.names)]
    return Labels(pictures, pack.labels, dataset.classes or pack.classes or _numbered(pack.labels))


def _torchvision(dataset: Dataset, files: str) -> Labels:
    """Open what is there: unlike a training, a check downloads nothing."""
    import torchvision

    name, _, split = files.partition(":")
    make = getattr(torchvision.datasets, name, None)
    if make is None:
        raise ValueError(f"torchvision.datasets has no class {name}")
    options = {"train": split == "train"} if "train" in inspect.signature(make).parameters else {"split": split}
    try:
        images = make(dataset.root, **options)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"torchvision finds no complete {name} in {dataset.root} ({error})") from error
    labels = next((getattr(images, key) for key in ("targets", "labels", "_labels") if hasattr(images, key)), None)
    if labels is None:
        raise ValueError(f"torchvision.datasets.{name} keeps its labels in none of targets, labels, _labels")
    labels = np.asarray(labels, dtype=np.int64)
    pictures = [Picture(f"{files}:{index}", partial(_image, images, index)) for index in range(len(images))]
    return Labels(pictures, labels, tuple(getattr(images, "classes", None) or _numbered(labels)))


def _image(images: Any, index: int) -> Image.Image:
    return images[index][0]


def _huggingface(dataset: Dataset, files: str) -> Labels:
    rows = Rows(dataset.root, files, dataset.files)
    pictures = [Picture(name, partial(rows.encoded, index)) for index, name in enumerate(rows.names)]
    return Labels(pictures, rows.labels, rows.classes)


def _numbered(labels: Sequence[int] | np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(int(max(labels)) + 1))


LAYOUTS: dict[str, Callable[[Dataset, str], Labels]] = {
    "imagefolder": _folders,
    "npz": _pack,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
}
