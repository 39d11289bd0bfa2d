"""Read images and labels of the classification layouts: imagefolder, npz, torchvision."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdep.data.sources.contents import HASH
from kdep.data.sources.names import is_image_name, warn_of_the_rest
from kdep.data.sources.source import Files, Pack, Source, Torchvision
from kdep.guard import Skipped, walk_all
from kdep_benchmarks.data.cards import Dataset, class_folders, folder_of
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


def files_of(source: Any) -> list[Path] | None:
    """The files of a source's images, in order; None where they are in memory or in one file."""
    if isinstance(source, Files):
        return [Path(source.root).absolute() / name for name in source.names]
    return source.files if isinstance(source, Torchvision) else None


def pictures_of(source: Source, *, full_paths: bool = True) -> list[Picture]:
    """Every image of a source by name, undecoded where it has a file of its own, so that equal files are recognised."""
    if isinstance(source, Files):
        return [of_file(source.root / name, None if full_paths else name) for name in source.names]
    return [Picture(name, partial(source.read, index)) for index, name in enumerate(source.names)]


def hash_of(content: bytes | Image.Image) -> bytes:
    """Hash an image's file as `kdep.data.sources.contents` does, or its pixels."""
    data = content if isinstance(content, bytes) else f"{content.mode}{content.size}".encode() + content.tobytes()
    return hashlib.blake2b(data, digest_size=HASH).digest()


def images_of(root: Path, classes: Sequence[str]) -> tuple[dict[str, list[Path]], list[Skipped]]:
    """Image files below the class folders of `root` by class, sorted, and what was skipped, which is logged."""
    tree = walk_all([root / name for name in classes], is_image_name)
    warn_of_the_rest(root, tree)
    found: dict[str, list[Path]] = {name: [] for name in classes}
    for path in sorted(map(Path, tree.files)):
        found[path.relative_to(root).parts[0]].append(path)
    return found, tree.skipped


def _read_folders(dataset: Dataset, files: str, _: bool) -> LabelledSource:
    """Class folders, sorted by name; images anywhere below them. `FOLDER:test` is what `hold_out` draws with seed 0."""
    folder = folder_of(files)
    root, classes = dataset.root / folder, class_folders(dataset, files)
    names: list[str] = []
    labels: list[int] = []
    by_class, skipped = images_of(root, classes)
    for label, name in enumerate(classes):
        names += [str(path.relative_to(root)) for path in by_class[name]]
        labels += [label] * len(by_class[name])
    if files != folder:
        if single := [name for name, images in by_class.items() if len(images) == 1]:
            raise ValueError(
                f"data set {dataset.name}: class {single[0]!r} has one image in {root / single[0]}, and {files} needs "
                f"two, one each for train and test ({len(single)} of {len(classes)} classes have one); add images, or "
                "move the folder away"
            )
        train, test = hold_out(np.asarray(labels), seed=0)
        kept = test if files.endswith(":test") else train
        names, labels = [names[position] for position in kept], [labels[position] for position in kept]
    return LabelledSource(
        Files(root, names, skipped=skipped), np.array(labels, dtype=np.int64), tuple(classes), str(root)
    )


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
    source = Torchvision(name, dataset.root, split, download=download)
    classes = tuple(map(str, getattr(source.images, "classes", None) or _numbered(source.labels)))
    return LabelledSource(source, source.labels, classes, f"torchvision {files}")


def _numbered(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(label) for label in range(int(max(labels)) + 1))


LAYOUTS: dict[str, Callable[[Dataset, str, bool], LabelledSource]] = {
    "imagefolder": _read_folders,
    "npz": _read_pack,
    "torchvision": _read_torchvision,
}
