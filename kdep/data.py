"""Image sources -> deterministic views; the same pixels for teacher and student.

View v of image i is a function of (seed, i, v) alone, and the order of an epoch is a function of (seed, epoch):
whatever the number of workers or processes, and wherever a run was interrupted, the same images come in the same order.
"""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif"}
# What Pillow and the zip formats below it raise on bytes that are no image.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class Source(Protocol):
    """Images by number."""

    names: Sequence[str]
    fingerprint: str

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        ...


class Files:
    """Image files, in the order given; the fingerprint covers relative names and sizes in bytes."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names
        lines = (f"{name}|{(root / name).stat().st_size if (root / name).exists() else -1}\n" for name in names)
        self.fingerprint = _hash(line.encode() for line in lines)

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        with Image.open(self.root / self.names[index]) as image:
            return image.convert("RGB")


class Pack:
    """Encoded images end to end in an .npz: SPLIT_blob, SPLIT_offsets (n + 1), optional SPLIT_labels and classes."""

    def __init__(self, path: Path, split: str) -> None:
        with np.load(path, allow_pickle=False) as content:
            splits = [key.removesuffix("_blob") for key in content.files if key.endswith("_blob")]
            if split not in splits:
                raise ValueError(f"{path}: no split {split!r}; there are {', '.join(splits) or 'none'}")
            self._blob, self._offsets = content[f"{split}_blob"], content[f"{split}_offsets"].astype(np.int64)
            labels = f"{split}_labels"
            self.labels = content[labels].astype(np.int64) if labels in content.files else None
            self.classes = tuple(str(name) for name in content["classes"]) if "classes" in content.files else ()
        if len(self._offsets) < 2 or self._offsets[-1] != len(self._blob) or (np.diff(self._offsets) < 0).any():
            raise ValueError(f"{path}: {split}_offsets do not cover {split}_blob")
        self.names = [f"{path.name}:{split}:{index}" for index in range(len(self._offsets) - 1)]
        self.fingerprint = _hash([self._blob.tobytes(), self._offsets.tobytes()])

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        data = self._blob[self._offsets[index] : self._offsets[index + 1]].tobytes()
        return Image.open(io.BytesIO(data)).convert("RGB")


class Torchvision:
    """A torchvision data set by class name, its training split."""

    def __init__(self, name: str, root: Path) -> None:
        self._images = torchvision_split(name, root, train=True)
        self.names = [f"{name}:{index}" for index in range(len(self._images))]
        self.fingerprint = _hash([f"torchvision:{name}:train:{len(self.names)}".encode()])

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return self._images[index][0].convert("RGB")


class Subset:
    """A seeded choice of another source's images, in ascending order."""

    def __init__(self, source: Source, count: int, seed: int) -> None:
        chosen = np.random.Generator(np.random.Philox(seed)).permutation(len(source.names))[:count]
        self._source, self._chosen = source, np.sort(chosen)
        self.names = [source.names[index] for index in self._chosen]
        self.fingerprint = _hash([source.fingerprint.encode(), self._chosen.astype(np.int64).tobytes()])

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return self._source.read(self._chosen[index])


def torchvision_split(name: str, root: Path, *, train: bool) -> Any:
    """Open (or download) a torchvision classification data set.

    Raises:
        ValueError: no such set, or it is not in `root` and cannot be downloaded.
    """
    import inspect

    import torchvision

    if not hasattr(torchvision.datasets, name):
        raise ValueError(
            f"torchvision:{name}: torchvision.datasets has no such class; examples are CIFAR10, DTD, STL10"
        )
    make = getattr(torchvision.datasets, name)
    accepted = inspect.signature(make).parameters
    options = {"train": train} if "train" in accepted else {"split": "train" if train else "test"}
    if "download" in accepted:
        options["download"] = True
    try:
        return make(root, **options)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"torchvision:{name}: not in {root} and not downloadable here ({error}); place its files in {root} as "
            f"torchvision.datasets.{name} lays them out"
        ) from error


def open_source(spec: str, *, root: Path | None = None, limit: int | None = None, seed: int = 0) -> Source:
    """Open images by their address.

    Args:
        spec: a folder (searched recursively, labels ignored), a .txt list of paths, FILE.npz:SPLIT, torchvision:NAME.
        root: where relative paths of a list start (default: the list's folder), or where torchvision's files are.
        limit: take a subset of this many images.
        seed: of the subset.

    Raises:
        ValueError: nothing there; says what was looked for.
    """
    source = _open(str(spec), root)
    if limit is not None and limit > len(source.names):
        raise ValueError(f"{spec}: data.limit {limit}, but there are only {len(source.names)} images")
    return source if limit is None else Subset(source, limit, seed)


def _open(spec: str, root: Path | None) -> Source:
    if spec.startswith("torchvision:"):
        return Torchvision(spec.partition(":")[2], root or Path("data"))
    file, _, split = spec.rpartition(":")
    if file.endswith(".npz"):
        if not Path(file).is_file():
            raise ValueError(f"{file}: no such file")
        return Pack(Path(file), split)
    path = Path(spec)
    if path.is_dir():
        names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not names:
            raise ValueError(f"{path}: no image below it ({', '.join(sorted(SUFFIXES))})")
        return Files(path, names)
    if path.suffix == ".txt" and path.is_file():
        names = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
        if not names:
            raise ValueError(f"{path}: an empty list")
        return Files(root or path.parent, names)
    raise ValueError(f"{spec}: not a folder, a .txt list, FILE.npz:SPLIT or torchvision:NAME")


@dataclass(frozen=True)
class Augmentation:
    """What a view draws; see `kdep.config.Data`."""

    size: int
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    jitter: float = 0.0
    lighting: float = 0.0


def view(image: Image.Image, augmentation: Augmentation, *, seed: int, index: int, number: int) -> tuple[Any, Any]:
    """Draw view `number` of image `index`.

    Returns:
        (3, size, size) uint8 RGB, and (6,) float32: factors of brightness, contrast, saturation, three colour shifts.
    """
    draw = np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, index]))
    box = _crop_box(draw, *image.size, augmentation.crop_scale)
    flip = draw.random() < 0.5
    colour = np.empty(6, np.float32)
    colour[:3] = draw.uniform(1 - augmentation.jitter, 1 + augmentation.jitter, 3)
    colour[3:] = draw.normal(0, 1, 3) * augmentation.lighting
    pixels = np.asarray(image.resize((augmentation.size, augmentation.size), Image.Resampling.BILINEAR, box=box))
    pixels = pixels[:, ::-1] if augmentation.flip and flip else pixels
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), torch.from_numpy(colour)


def _crop_box(
    draw: np.random.Generator, width: int, height: int, scale: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Random resized crop: area share uniform, aspect log-uniform in [3/4, 4/3]; the whole image after 10 misses."""
    for _ in range(10):
        area = width * height * draw.uniform(*scale)
        aspect = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = draw.integers(0, width - w + 1), draw.integers(0, height - h + 1)
            return (x, y, x + w, y + h)
    return (0, 0, width, height)


@dataclass(frozen=True)
class Batch:
    """Views of one step, and what could not be read.

    Attributes:
        images: (B, 3, S, S) uint8 RGB; None where no image of the step could be read.
        colour: (B, 6) float32, see `view`.
        unreadable: (name, reason).
        numbers: (B,) int64, the images' numbers in their source.
        stored: what `Views.stored` holds for these views (B, ...), None without it.
    """

    images: torch.Tensor | None
    colour: torch.Tensor | None
    unreadable: list[tuple[str, str]]
    numbers: torch.Tensor | None = None
    stored: torch.Tensor | None = None

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader for a GPU."""
        pinned = {
            entry.name: value.pin_memory()
            for entry in fields(self)
            if isinstance(value := getattr(self, entry.name), torch.Tensor)
        }
        return replace(self, **pinned)


class Stored(Protocol):
    """Something kept per view, such as targets of a bank."""

    def read(self, index: int, number: int) -> torch.Tensor:
        """What is kept for view `number` of image `index`."""
        ...


class Views(Dataset):
    """Views by (image, number of the view), each with what is stored for it."""

    def __init__(self, source: Source, augmentation: Augmentation, seed: int, *, stored: Stored | None = None) -> None:
        self.source, self.augmentation, self.seed, self.stored = source, augmentation, seed, stored

    def __getitem__(self, at: tuple[int, int]) -> tuple[Any, ...]:
        index, number = at
        try:
            image = self.source.read(index)
        except UNREADABLE as error:
            return self.source.names[index], f"{type(error).__name__}: {error}"
        pixels, colour = view(image, self.augmentation, seed=self.seed, index=index, number=number)
        entry = (pixels, colour, torch.tensor(index))
        return entry if self.stored is None else (*entry, self.stored.read(index, number))


def collate(entries: list[tuple[Any, ...]]) -> Batch:
    """Stack what was read; keep apart what was not."""
    views = [entry for entry in entries if isinstance(entry[0], torch.Tensor)]
    unreadable = [entry for entry in entries if not isinstance(entry[0], torch.Tensor)]
    if not views:
        return Batch(None, None, unreadable)
    images, colour, *rest = (torch.stack(part) for part in zip(*views, strict=True))
    return Batch(images, colour, unreadable, *rest)


@dataclass(frozen=True)
class Order:
    """Batches of (image, view) from step `start` on: epoch e shows view e of every image, in an order of its own.

    The last, incomplete batch of an epoch is dropped. With several processes each takes its share of every batch. With
    fewer `views` than epochs, epoch e shows view e modulo views.
    """

    images: int
    batch_size: int
    epochs: int
    seed: int
    start: int = 0
    rank: int = 0
    world: int = 1
    views: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.images // self.batch_size

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, skip = divmod(self.start, self.steps_per_epoch)
        for epoch in range(first, self.epochs):
            draw = np.random.Generator(np.random.Philox(key=[self.seed, epoch], counter=[0, 0, 1, 0]))
            order = draw.permutation(self.images)
            for step in range(skip, self.steps_per_epoch):
                batch = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(int(index), epoch % (self.views or self.epochs)) for index in batch[self.rank :: self.world]]
            skip = 0


def once(
    images: int, batch_size: int, *, count: int | None = None, seed: int = 0, rank: int = 0, world: int = 1
) -> list[list[tuple[int, int]]]:
    """Batches that show the first view of every image once, or of a seeded choice of `count`, for the statistics."""
    chosen = range(images)
    if count is not None and count < images:
        # Not the first ones: files sorted by folder would show a few classes only.
        chosen = np.sort(np.random.Generator(np.random.Philox(seed)).permutation(images)[:count]).tolist()
    share = [(index, 0) for index in chosen[rank::world]]
    return [share[at : at + batch_size] for at in range(0, len(share), batch_size)]


def load(views: Views, batches: Any, *, workers: int | str, pin: bool = False) -> DataLoader:
    """Decode in worker processes; 'auto' leaves the training its core."""
    if workers == "auto":
        workers = min(16, max(1, (os.cpu_count() or 2) // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) - 1))
    return DataLoader(
        views,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        # Its own, or every start of a loader would draw from the random state that a resumed run restores.
        generator=torch.Generator(),
    )


# Principal axes of the RGB values of ImageNet and their standard deviations (Krizhevsky et al. 2012).
LIGHT_STD = (0.2175, 0.0188, 0.0045)
LIGHT_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def recolour(images: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """uint8 views -> float32 in [0, 1] with their brightness, contrast, saturation and colour noise.

    In this fixed order, where torchvision draws one per image.

    Shape:
        (B, 3, S, S) uint8, (B, 6) -> (B, 3, S, S).
    """
    x = images.float() / 255
    brightness, contrast, saturation = colour[:, :3].T.reshape(3, -1, 1, 1, 1)
    grey_weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    x = (x * brightness).clamp_(0, 1)
    mean = (x * grey_weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp_(0, 1)
    grey = (x * grey_weights).sum(1, keepdim=True)
    x = (grey + (x - grey) * saturation).clamp_(0, 1)
    shift = (colour[:, 3:] * x.new_tensor(LIGHT_STD)) @ x.new_tensor(LIGHT_AXES).T
    return (x + shift[:, :, None, None]).clamp_(0, 1)


def write_subset(folder: Path, out: Path, *, per_class: int | None, fraction: float | None, seed: int) -> int:
    """Write a seeded list of image paths relative to `folder`; a class is a path's first folder.

    Returns:
        The number of images listed.
    """
    source = _open(str(folder), None)
    classes: dict[str, list[str]] = {}
    for name in source.names:
        classes.setdefault(Path(name).parts[0], []).append(name)
    draw = np.random.Generator(np.random.Philox(seed))
    chosen: list[str] = []
    for label in sorted(classes):
        names = classes[label]
        count = per_class if per_class is not None else round(len(names) * float(fraction or 1.0))
        chosen += [names[i] for i in sorted(draw.permutation(len(names))[:count])]
    from kdep.checkpoint import write_atomically

    header = (
        f"# {len(chosen)} of {len(source.names)} images of {Path(folder).name}, seed {seed}, relative to that folder\n"
    )
    write_atomically(out, lambda neighbour: neighbour.write_text(header + "\n".join(chosen) + "\n"))
    return len(chosen)


def _hash(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
