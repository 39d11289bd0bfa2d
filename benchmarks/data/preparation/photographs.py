"""Make the packs of photographs that studies and the suite `photographs` use, from their owners' archives."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from kdep_benchmarks.data.preparation import owners
from kdep_benchmarks.data.preparation.archives import Archive, make_from, members, unpack_some
from kdep_benchmarks.data.preparation.packs import Packed, pack_folder, write_pack

TINY = Archive(
    "tiny-imagenet-200.zip",
    "cs231n.stanford.edu/tiny-imagenet-200.zip",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)
FLOWERS = Archive(
    "flowers-recognition.zip", "kaggle.com/datasets/alxmamaev/flowers-recognition, after registration, under this name"
)
GROCERY = Archive(
    "GroceryStoreDataset.zip",
    "github.com/marcusklasson/GroceryStoreDataset",
    "https://github.com/marcusklasson/GroceryStoreDataset/archive/refs/heads/master.zip",
)
PACKS = {
    "tiny_imagenet200": "tiny_imagenet200.npz",
    "flowers5": "flowers5_128px.npz",
    "cifar10s": "cifar10.npz",
    "grocery": "grocery_96px.npz",
}


def make_pack(name: str, data_root: Path, show: bool) -> None:
    """Write a pack below `classification`, unless it is there."""
    out = data_root / "classification" / PACKS[name]
    if not out.is_file():
        MAKERS[name](data_root, out, show)


def _tiny(data_root: Path, out: Path, show: bool) -> None:
    make_from(data_root, "tiny-imagenet-200", (TINY,), _tiny_folders, show)
    folder = data_root / "tiny-imagenet-200"
    names = dict(line.split("\t", 1) for line in (folder / "words.txt").read_text(encoding="utf-8").splitlines())
    pack_folder(folder, out, per_class={"train": 100, "val": 25}, names=names)


def _tiny_folders(archives: list[Path], into: Path, *, show: bool) -> None:
    """The owner's tree with its val images sorted into class folders."""
    val = {}
    for member in members(archives[0]):
        if member.name.endswith("/val/val_annotations.txt"):
            val = dict(line.split("\t")[:2] for line in member.read().decode().splitlines())

    def place(name: str) -> str | None:
        parts = PurePosixPath(name).parts[1:]
        if parts == ("words.txt",):
            return "words.txt"
        if not name.endswith(".JPEG") or parts[0] not in ("train", "val"):
            return None
        label = parts[1] if parts[0] == "train" else val.get(parts[-1])
        return None if label is None else f"{parts[0]}/{label}/{parts[-1]}"

    unpack_some(archives[0], into, place, "tiny-imagenet-200/train and val", show)


def _flowers(data_root: Path, out: Path, show: bool) -> None:
    make_from(data_root, "flowers-recognition", (FLOWERS,), _flowers_folders, show)
    pack_folder(data_root / "flowers-recognition", out, size=128)


def _flowers_folders(archives: list[Path], into: Path, *, show: bool) -> None:
    def place(name: str) -> str | None:
        parts = PurePosixPath(name).parts
        return "/".join(parts[-2:]) if len(parts) in (2, 3) and name.endswith(".jpg") else None

    unpack_some(archives[0], into, place, "CLASS/IMAGE.jpg", show)


def _cifar(data_root: Path, out: Path, show: bool) -> None:
    owners.RECIPES["cifar10"](data_root, show)
    import torchvision

    def images() -> list[Packed]:
        draw, packed = np.random.Generator(np.random.Philox(0)), []
        for split, count in (("train", 500), ("test", 200)):
            found = torchvision.datasets.CIFAR10(data_root / "cifar10", train=split == "train")
            labels = np.asarray(found.targets)
            for label, name in enumerate(found.classes):
                chosen = np.sort(draw.permutation(np.flatnonzero(labels == label))[:count])
                packed += [Packed(split, name, str(index), _lossless(found.data[index])) for index in chosen]
        return packed

    write_pack(out, images(), "of CIFAR-10, seed 0; an image is its position in the split")


def _lossless(pixels: np.ndarray) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "WEBP", lossless=True)
    return memory.getvalue()


def _grocery(data_root: Path, out: Path, show: bool) -> None:
    make_from(data_root, "grocery", (GROCERY,), _grocery_folders, show)
    pack_folder(data_root / "grocery", out, size=96)


def _grocery_folders(archives: list[Path], into: Path, *, show: bool) -> None:
    """The owner's splits; a class is the folder of the image, whatever it lies in."""

    def place(name: str) -> str | None:
        parts = PurePosixPath(name).parts[1:]
        if len(parts) < 4 or parts[0] != "dataset" or parts[1] not in ("train", "val", "test"):
            return None
        return f"{parts[1]}/{parts[-2]}/{parts[-1]}" if name.endswith(".jpg") else None

    unpack_some(archives[0], into, place, "dataset/SPLIT/.../CLASS/IMAGE.jpg", show)


MAKERS: dict[str, Callable[[Path, Path, bool], None]] = {
    "tiny_imagenet200": _tiny,
    "flowers5": _flowers,
    "cifar10s": _cifar,
    "grocery": _grocery,
}
RECIPES = {name: partial(make_pack, name) for name in PACKS}
