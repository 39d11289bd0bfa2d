"""Read images and labels of the classification layouts: imagefolder, npz, torchvision, huggingface."""

import inspect
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdep.data.names import SUFFIXES
from kdep.data.sources import Files, Pack, Source
from kdep_benchmarks.data.cards import Dataset, class_folders, folder_of
from kdep_benchmarks.data.huggingface import Rows
from kdep_benchmarks.data.pictures import Picture, of_file
from kdep_benchmarks.data.splits import hold_out


class LabelledSource(NamedTuple):
    """Images of a split with a label each, as they are on disk; nothing is checked yet.

    Attributes:
        source: the images.
        labels: (N,) int64 class numbers.
        classes: names by class number.
        where: the split, for messages.
    """

    source: Source
    labels: np.ndarray
    classes: tuple[str, ...]
    where: str


class TorchvisionSplit:
    """Images of an opened torchvision data set."""

    def __init__(self, images: Any, name: str) -> None:
        self.images = images
        self.names = [f"{name}:{index}" for index in range(len(images))]

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return self.images[index][0].convert("RGB")

    @property
    def files(self) -> list[Path] | None:
        """The images' files in order, under any name that torchvision's classes have for them; None without files."""
        for name in ("_image_files", "_images", "samples", "_samples"):
            entries = getattr(self.images, name, ())
            paths = [entry[0] if isinstance(entry, tuple | list) else entry for entry in entries]
            if len(paths) == len(self.names) and all(isinstance(path, str | Path) for path in paths):
                return [Path(path).absolute() for path in paths]
        return None


def read_labelled(dataset: Dataset, role: str, *, download: bool = True) -> LabelledSource:
    """Open the images of one role: train, val or test.

    Args:
        dataset: of one of the classification layouts.
        role: a key of its files.
        download: let torchvision download what is missing.

    Raises:
        ValueError: a file, split or column is missing.
    """
    return LAYOUTS[dataset.layout](dataset, dataset.files[role], download)


def pictures_of(source: Source, *, full_paths: bool = True) -> list[Picture]:
    """Every image of a source by name, undecoded where it has a file of its own, so that equal files are recognised."""
    if isinstance(source, Files):
        return [of_file(source.root / name, None if full_paths else name) for name in source.names]
    content = source.encoded if isinstance(source, Rows) else source.read
    return [Picture(name, partial(content, index)) for index, name in enumerate(source.names)]


def images_below(folder: Path) -> Iterator[Path]:
    """Image files anywhere below a folder, links followed."""
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent) / name for name in names if Path(name).suffix.lower() in SUFFIXES)


def _read_folders(dataset: Dataset, files: str, _: bool) -> LabelledSource:
    """Class folders, sorted by name; images anywhere below them. `FOLDER:test` is what `hold_out` draws with seed 0."""
    folder = folder_of(files)
    root, classes = dataset.root / folder, class_folders(dataset, files)
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(images_below(root / name))
        names += [str(path.relative_to(root)) for path in found]
        labels += [label] * len(found)
    if files != folder:
        train, test = hold_out(np.asarray(labels), seed=0)
        kept = test if files.endswith(":test") else train
        names, labels = [names[position] for position in kept], [labels[position] for position in kept]
    return LabelledSource(Files(root, names), np.array(labels, dtype=np.int64), tuple(classes), str(root))


def _read_pack(dataset: Dataset, files: str, _: bool) -> LabelledSource:
    file, _, split = files.rpartition(":")
    path = dataset.root / file
    if not path.is_file():
        raise ValueError(f"data set {dataset.name}: {path} is not there; an npz split is written FILE.npz:SPLIT")
    pack = Pack(path, split)
    if pack.labels is None:
        raise ValueError(f"data set {dataset.name}: {path} has no {split}_labels")
    classes = pack.classes or dataset.classes or _numbered(pack.labels)
    return LabelledSource(pack, pack.labels, classes, f"{path}:{split}")


def _read_torchvision(dataset: Dataset, files: str, download: bool) -> LabelledSource:
    name, _, split = files.partition(":")
    images = open_torchvision(name, split, dataset.root, download=download)
    labels = next((getattr(images, key) for key in ("targets", "labels", "_labels") if hasattr(images, key)), None)
    if labels is None and (samples := getattr(images, "_samples", None)):
        labels = [int(sample[1]) for sample in samples]  # pairs of image and label, not decoded
    if labels is None:
        labels = [int(images[index][1]) for index in range(len(images))]
    labels = np.asarray(labels, dtype=np.int64)
    classes = tuple(map(str, getattr(images, "classes", None) or _numbered(labels)))
    return LabelledSource(TorchvisionSplit(images, files), labels, classes, f"torchvision {files}")


def open_torchvision(name: str, split: str, root: Path, *, download: bool = True) -> Any:
    """Open one split (train, val, test) of a torchvision set, an indexable of (image, label).

    Raises:
        ValueError: no such class or split, or the files are neither there nor to be downloaded.
    """
    import torchvision

    address, make = f"torchvision {name}:{split}", getattr(torchvision.datasets, name, None)
    if make is None:
        raise ValueError(f"{address}: torchvision.datasets has no class {name}")
    accepted = inspect.signature(make).parameters
    if split not in ("train", "val", "test") or (split == "val" and "split" not in accepted):
        raise ValueError(f"{address}: a split is CLASS:train, CLASS:val or CLASS:test, as far as the class has it")
    options = {"train": split == "train"} if "train" in accepted else {"split": split}
    if download and "download" in accepted:
        options["download"] = True
    try:
        return make(root, **options)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        said = "and cannot be downloaded " if download else ""
        raise ValueError(f"{address}: not complete in {root} {said}({error})") from error


def _read_huggingface(dataset: Dataset, files: str, _: bool) -> LabelledSource:
    rows = Rows(dataset.root, files, dataset.files)
    return LabelledSource(rows, rows.labels, rows.classes, f"huggingface {files}")


def _numbered(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(int(max(labels)) + 1))


LAYOUTS: dict[str, Callable[[Dataset, str, bool], LabelledSource]] = {
    "imagefolder": _read_folders,
    "npz": _read_pack,
    "torchvision": _read_torchvision,
    "huggingface": _read_huggingface,
}
