"""Open image sources by address: a folder, a list of paths, a pack of encoded images or a torchvision data set."""

import hashlib
import inspect
import os
import sys
import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from kdep.data.decoding.decode import Encoded, Picture, Pixels, as_tensor
from kdep.data.decoding.opening import as_rgb, open_image, read_image
from kdep.data.sources.contents import content_hashes
from kdep.data.sources.disk import retried
from kdep.data.sources.lists import read_list
from kdep.data.sources.manifest import FILE, Fingerprint, check_folder, open_manifest
from kdep.data.sources.names import Names, list_images
from kdep.data.sources.root import data_root, located
from kdep.data.sources.shards import open_shards
from kdep.guard import Skipped, printable, read_regular, refuse_bomb

ADDRESSES = "a folder of images, a .txt list of paths, FILE.npz:SPLIT, manifest:FILE, wds:PATTERN or torchvision:NAME"


class Source(Protocol):
    """Images by index. Sources for pretraining also have `open(index) -> Picture`, which does not decode yet."""

    names: Sequence[str]
    fingerprint: str

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        ...


class Files:
    """Image files in the given order.

    `skipped` has the paths in the folder that are no images although their names say so.
    """

    def __init__(
        self, root: Path, names: Sequence[str], fingerprint: str | None = None, *, skipped: Sequence[Skipped] = ()
    ) -> None:
        self.root, self.names = root, names if isinstance(names, Names) else Names(names)
        self.skipped = tuple(skipped)
        if fingerprint is not None:
            self.fingerprint = fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """Hash of names and contents; a manifest has it already."""
        found = Fingerprint()
        for name, content in zip(self.names, content_hashes([self.root / name for name in self.names]), strict=True):
            found.add(name, content.tobytes())
        return found.text()

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return as_rgb(open_image(self._bytes(index)))

    def open(self, index: int) -> Picture:
        """Open image `index` without decoding it."""
        return Encoded(self._bytes(index))

    def _bytes(self, index: int) -> bytes:
        path = os.path.join(self.root, self.names[index])  # noqa: PTH118 - a Path takes as long as reading the file
        return retried(lambda: read_regular(path), path)


class Pack:
    """Concatenated image files in an .npz: SPLIT_blob, SPLIT_offsets (n + 1), optional SPLIT_labels and classes."""

    def __init__(self, path: Path, split: str) -> None:
        try:
            self._read(path, split)
        except (zipfile.BadZipFile, zlib.error, EOFError, MemoryError, RuntimeError) as error:
            raise ValueError(f"{path}: damaged or not an .npz archive ({error}); copy the file again") from error
        if len(self._offsets) < 2 or self._offsets[-1] != len(self._blob) or (np.diff(self._offsets) < 0).any():
            raise ValueError(f"{path}: {split}_offsets do not cover {split}_blob")
        self.names = Names(f"{path.name}:{split}:{index}" for index in range(len(self._offsets) - 1))
        self.fingerprint = _hash([self._blob.tobytes(), self._offsets.tobytes()])

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return as_rgb(open_image(self._bytes(index)))

    def open(self, index: int) -> Picture:
        """Open image `index` without decoding it."""
        return Encoded(self._bytes(index))

    def _read(self, path: Path, split: str) -> None:
        with _archive(path) as content:
            names = [key.removesuffix("_blob") for key in content.files if key.endswith("_blob")]
            splits = [name for name in names if f"{name}_offsets" in content.files]
            if split not in splits:
                raise ValueError(f"{path}: no split {split!r}; expected {path}:SPLIT, of {', '.join(splits) or 'none'}")
            self._blob, self._offsets = content[f"{split}_blob"], content[f"{split}_offsets"].astype(np.int64)
            labels = f"{split}_labels"
            self.labels = content[labels].astype(np.int64) if labels in content.files else None
            if self.labels is not None and len(self.labels) != len(self._offsets) - 1:
                counts = f"{len(self.labels)} entries for {len(self._offsets) - 1} images"
                raise ValueError(f"{path}: {labels} has {counts}; make the pack again")
            self.classes = tuple(str(name) for name in content["classes"]) if "classes" in content.files else ()

    def _bytes(self, index: int) -> bytes:
        return self._blob[self._offsets[index] : self._offsets[index + 1]].tobytes()


def _archive(path: Path) -> Any:
    if not zipfile.is_zipfile(path):  # numpy would try to read a pickle
        raise zipfile.BadZipFile("not a zip file")
    refuse_bomb(path, path)
    return np.load(path, allow_pickle=False)


class Torchvision:
    """One split of a torchvision data set, by class name; `files` are its images', None where they have none."""

    def __init__(self, name: str, root: Path, split: str = "train", *, download: bool = True) -> None:
        self.images = torchvision_split(name, root, split, download=download)
        self.files = torchvision_files(self.images)
        self.names = Names(f"{name}:{split}:{index}" for index in range(len(self.images)))
        self.fingerprint = _hash([f"torchvision:{name}:{split}:{len(self.names)}".encode()])

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return as_rgb(self.images[index][0] if self.files is None else read_image(self.files[index]))

    def open(self, index: int) -> Picture:
        """Open image `index`, which is decoded whole."""
        return Pixels(as_tensor(self.read(index)))

    @cached_property
    def labels(self) -> np.ndarray:
        """Class numbers (N,) int64, under any name that torchvision's classes have for them."""
        found = next(
            (getattr(self.images, key) for key in ("targets", "labels", "_labels") if hasattr(self.images, key)), None
        )
        if found is None:  # pairs of image and label; those of files are not decoded
            samples = getattr(self.images, "_samples", None) or self.images
            found = [int(samples[index][1]) for index in range(len(samples))]
        return np.asarray(found, dtype=np.int64)


def choose(total: int, count: int, seed: int) -> np.ndarray:
    """Draw `count` of the numbers below `total` without replacement, in ascending order."""
    return np.sort(np.random.Generator(np.random.Philox(seed)).permutation(total)[:count])


class Subset:
    """A seeded random subset of another source, in ascending order."""

    def __init__(self, source: Source, count: int, seed: int) -> None:
        self._source, self._chosen = source, choose(len(source.names), count, seed)
        self.names = Names(source.names[index] for index in self._chosen)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the choice and of the images it was made from; of files, only those that were chosen are read."""
        files = isinstance(self._source, Files)
        images = Files(self._source.root, self.names) if files else self._source
        return _hash([images.fingerprint.encode(), self._chosen.astype(np.int64).tobytes()])

    @property
    def starts(self) -> np.ndarray | None:
        """The first image of every tar shard, see `Shards`; None for other sources."""
        starts = getattr(self._source, "starts", None)
        return None if starts is None else np.searchsorted(self._chosen, starts)

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return self._source.read(self._chosen[index])

    def open(self, index: int) -> Picture:
        """Open image `index` of the subset."""
        return self._source.open(self._chosen[index])


def labels_of(source: Source) -> np.ndarray:
    """Return class numbers (N,) int64, for the supervised baseline.

    A pack and a torchvision data set have labels. In a folder or a list, the first folder of each path is its class.

    Raises:
        ValueError: the source has no labels.
    """
    if isinstance(source, Subset):
        return labels_of(source._source)[source._chosen]
    if isinstance(source, Files):
        parts = [Path(name).parts for name in source.names]
        if any(len(part) < 2 for part in parts):
            raise ValueError(f"{source.root}: loss.name labels needs a folder per class; {source.names[0]} is in none")
        return np.unique([part[0] for part in parts], return_inverse=True)[1].astype(np.int64)
    found = getattr(source, "labels", None)
    if found is None:
        raise ValueError(
            f"{source.names[0]}: has no label, which loss.name labels needs; folders of classes have them, and packs "
            "and shards that were made with labels"
        )
    return np.asarray(found, dtype=np.int64)


def torchvision_files(images: Any) -> list[Path] | None:
    """Return a data set's image files in order, under any name that torchvision's classes have for them.

    None if the images are in memory or in one file. Torchvision itself would open files of any format.
    """
    for name in ("_image_files", "_images", "samples", "_samples"):
        entries = getattr(images, name, ())
        paths = [entry[0] if isinstance(entry, tuple | list) else entry for entry in entries]
        if len(paths) == len(images) and all(isinstance(path, str | Path) for path in paths):
            return [Path(path).absolute() for path in paths]
    return None


def torchvision_split(name: str, root: Path, split: str, *, download: bool = True) -> Any:
    """Open one split (train, val, test) of a torchvision classification set, an indexable of (image, label).

    Raises:
        ValueError: torchvision has no such set or split, or it is not in `root` and cannot be downloaded.
    """
    import torchvision

    address, make = f"torchvision:{name}", getattr(torchvision.datasets, name, None)
    if make is None:
        raise ValueError(f"{address}: torchvision.datasets has no such class; examples are CIFAR10, DTD, STL10")
    accepted = inspect.signature(make).parameters
    if split not in ("train", "val", "test") or (split == "val" and "split" not in accepted):
        raise ValueError(f"{address}: no split {split!r}; there are train, test and, as far as the class has it, val")
    options = {"train": split == "train"} if "train" in accepted else {"split": split}
    if download and "download" in accepted:
        options["download"] = True
    try:
        return make(root, **options)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        said = ", and the download failed" if download else ""
        raise ValueError(
            f"{address}:{split}: not complete in {root}{said} ({error}); put its files there as "
            f"torchvision.datasets.{name} expects them"
        ) from error


def open_source(spec: str, *, root: Path | None = None, limit: int | None = None, seed: int = 0) -> Source:
    """Open images by their address.

    Args:
        spec: a folder (searched recursively; its kdep-manifest.parquet is used if there is one), a .txt list of paths,
            FILE.npz:SPLIT, manifest:FILE, wds:PATTERN or torchvision:NAME. A relative path is looked up in the current
            folder, then below the data root (see `kdep.data.sources.root`).
        root: folder to which the paths of a list or manifest are relative (default: the list's folder), or of
            torchvision's files.
        limit: take a random subset of this many images.
        seed: seed of the subset.

    Raises:
        ValueError: the source is missing, empty or of an unknown type.
    """
    source = _open(str(spec), root)
    if limit is not None and limit > len(source.names):
        raise ValueError(f"{spec}: data.limit {limit} exceeds its {len(source.names)} images")
    return source if limit is None else Subset(source, limit, seed)


def _open(spec: str, root: Path | None) -> Source:
    if spec.startswith("torchvision:"):
        return Torchvision(spec.partition(":")[2], root or data_root())
    if spec.startswith("wds:"):
        return open_shards(spec.removeprefix("wds:"), show=sys.stderr.isatty())
    if reason := absent_address(spec):
        raise ValueError(reason)
    path, split = _path_of(spec)
    if spec.startswith("manifest:"):
        return _listed(path, root)
    if path.suffix == ".npz":
        return Pack(path, split)
    if path.is_dir():
        return _listed(path / FILE, path) if (path / FILE).is_file() else Files(path, list_images(path))
    if path.suffix == ".txt":
        root = None if root is None else located(root)
        if root is not None and not root.is_dir():
            raise ValueError(f"{_absent(root)}; expected the folder to which the paths in {spec} are relative")
        names = read_list(path)
        if not names:
            raise ValueError(f"{path}: the list is empty")
        _refuse_lost(path, names, root or path.parent)
        return Files(root or path.parent, names)
    raise ValueError(f"{spec}: not an image source; expected {ADDRESSES}")


def _refuse_lost(path: Path, names: Sequence[str], root: Path) -> None:
    """Raise a ValueError where the first files of a list are all missing, as they are below another folder."""
    first = names[:8]
    if not any((root / name).exists() for name in first):
        raise ValueError(
            f"{path}: {printable(first[0])} and the next {len(first) - 1} of its {len(names)} files are not below "
            f"{root}; data.root names the folder to which the paths of a list are relative"
        )


def _listed(file: Path, root: Path | None) -> Source:
    """Open the images of a manifest; `root` is their folder, if it is not where they were when it was made."""
    manifest = open_manifest(file, str(file))
    beside = file.parent if file.name == FILE else None
    folder = root or beside or Path(manifest.about["folder"])
    check_folder(manifest, folder, str(file))
    return Files(folder, manifest.names, manifest.about["fingerprint"])


def absent_address(spec: str) -> str | None:
    """Return an error message if the path of an address does not exist, else None. The content is not read.

    For torchvision data sets and tar shards the answer is None: they report missing files when they are opened.
    """
    if spec.startswith(("torchvision:", "wds:")):
        return None
    path, _ = _path_of(spec)
    return None if path.exists() else f"{_absent(path)}; expected {ADDRESSES}"


def _path_of(spec: str) -> tuple[Path, str]:
    """Split an address into its file or folder and the split of a pack."""
    if spec.startswith("manifest:"):
        return located(Path(spec.removeprefix("manifest:"))), ""
    file, _, split = spec.rpartition(":")
    return (located(Path(file)), split) if file.endswith(".npz") else (located(Path(spec)), "")


def _absent(path: Path) -> str:
    """Describe a missing path by its first missing part."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    missing = f"no {path.absolute().relative_to(there).parts[0]} in {there}"
    below = "" if path.is_absolute() else f", nor below the data root {data_root()}; KDEP_DATA names another"
    return f"{path} is not there ({missing}{below})"


def _hash(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
