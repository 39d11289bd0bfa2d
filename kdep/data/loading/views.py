"""Draw deterministic views (random crops) of images, load them in batches and recolour them.

View v of image i is a function of (seed, i, v), and the order of an epoch is a function of (seed, epoch). Neither
depends on the number of workers or on where a run was interrupted; of processes, only the order of tar shards does.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
import threadpoolctl
import torch
from PIL import Image
from torch.utils.data import Dataset

from kdep.cores import decoders
from kdep.data.decoding.decode import Picture, as_tensor, reason
from kdep.data.decoding.opening import UNREADABLE
from kdep.data.loading.loader import Loader
from kdep.data.loading.order import LANES
from kdep.data.sources.source import Source


@dataclass(frozen=True)
class Augmentation:
    """Size and random changes of a view; see `kdep.config.Data`."""

    size: int
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    jitter: float = 0.0
    lighting: float = 0.0


def view(
    image: Picture | Image.Image, augmentation: Augmentation, *, seed: int, index: int, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw view `number` of image `index`. Pillow resamples a Pillow image; a `Picture` resamples itself.

    Returns:
        (3, size, size) uint8 RGB, and (6,) float32: factors of brightness, contrast, saturation, and colour shifts.
    """
    pixels, flip, colour = _draw(image, augmentation, seed=seed, index=index, number=number)
    return (pixels.flip(-1) if flip else pixels).contiguous(), torch.from_numpy(colour)


def _draw(
    image: Picture | Image.Image, augmentation: Augmentation, *, seed: int, index: int, number: int
) -> tuple[torch.Tensor, bool, np.ndarray]:
    """Draw a view; return it before its flip, whether to flip it, and its colour."""
    draw = np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, index]))
    box = _crop_box(draw, *image.size, augmentation.crop_scale)
    flip = augmentation.flip & (draw.random() < 0.5)  # always drawn: colours must not depend on `flip`
    colour = np.empty(6, np.float32)
    colour[:3] = draw.uniform(1 - augmentation.jitter, 1 + augmentation.jitter, 3)
    colour[3:] = draw.normal(0, 1, 3) * augmentation.lighting
    size = (augmentation.size, augmentation.size)
    if isinstance(image, Image.Image):
        return as_tensor(image.resize(size, Image.Resampling.BILINEAR, box=box)), flip, colour
    return image.crop(box, size), flip, colour


LOG_ASPECT = (np.log(3 / 4), np.log(4 / 3))


def _crop_box(
    draw: np.random.Generator, width: int, height: int, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw a random resized crop: area uniform, aspect log-uniform in [3/4, 4/3]; the whole image after 10 misses."""
    for _ in range(10):
        area = width * height * draw.uniform(*scale)
        aspect = float(np.exp(draw.uniform(*LOG_ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(draw.integers(0, width - w + 1)), int(draw.integers(0, height - h + 1))
            return (x, y, x + w, y + h)
    return (0, 0, width, height)


@dataclass(frozen=True)
class Batch:
    """The views of one step, and the images that could not be read.

    Attributes:
        images: (B, 3, S, S) uint8 RGB; None if no image of the step could be read.
        colour: (B, 6) float32, see `view`.
        unreadable: (name, reason) of each unreadable image.
        numbers: (B,) int64, the images' indices in their source.
        stored: (B, ...) the entries of `Views.stored` for these views, or None.
    """

    images: torch.Tensor | None
    colour: torch.Tensor | None
    unreadable: list[tuple[str, str]]
    numbers: torch.Tensor | None = None
    stored: torch.Tensor | None = None

    def pin_memory(self) -> "Batch":
        """Pin the tensors; a DataLoader calls this for a GPU."""
        pinned = {
            entry.name: value.pin_memory()
            for entry in fields(self)
            if isinstance(value := getattr(self, entry.name), torch.Tensor)
        }
        return replace(self, **pinned)


class Stored(Protocol):
    """Tensors stored per view, such as a target bank."""

    def read(self, index: int, number: int) -> torch.Tensor | None:
        """Read the entry of view `number` of image `index`; None if there is none."""
        ...


class Views(Dataset):
    """A data set of views, indexed by (image, view), each with its stored entry."""

    def __init__(self, source: Source, augmentation: Augmentation, seed: int, *, stored: Stored | None = None) -> None:
        self.source, self.augmentation, self.seed, self.stored = source, augmentation, seed, stored
        self.labels: np.ndarray | None = None  # class numbers (N,), for the supervised baseline

    def __getitem__(self, at: tuple[int, int]) -> tuple[Any, ...]:
        index, number = at
        # Fine-tuning sources have no `open`: their protocol resamples whole Pillow images.
        open_image = getattr(self.source, "open", self.source.read)
        try:
            entry = _draw(open_image(index), self.augmentation, seed=self.seed, index=index, number=number)
        except UNREADABLE as error:
            return self.source.names[index], reason(error)
        if self.stored is None:
            return (*entry, index)
        kept = self.stored.read(index, number)
        if kept is None:
            return self.source.names[index], "no stored target: the image was unreadable when the targets were made"
        return (*entry, index, kept)


def collate(entries: list[tuple[Any, ...]]) -> Batch:
    """Flip and stack the views; list the unreadable images separately."""
    views = [entry for entry in entries if isinstance(entry[0], torch.Tensor)]
    unreadable = [entry for entry in entries if not isinstance(entry[0], torch.Tensor)]
    if not views:
        return Batch(None, None, unreadable)
    pixels, flips, colours, numbers, *stored = zip(*views, strict=True)
    images = torch.empty((len(views), *pixels[0].shape), dtype=torch.uint8)
    for row, part, flip in zip(images, pixels, flips, strict=True):
        row.copy_(part.flip(-1) if flip else part)
    colour = torch.from_numpy(np.stack(colours))
    return Batch(images, colour, unreadable, torch.tensor(numbers), *(torch.stack(part) for part in stored))


def mix(images: torch.Tensor, *, seed: int, step: int) -> torch.Tensor:
    """Apply MixUp to pairs: lambda x_i + (1 - lambda) x_j, with one lambda per batch, uniform in [0, 1].

    The draw is a function of (seed, step), so a resumed run repeats it.
    """
    draw = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 2, 0]))
    share, other = float(draw.random()), torch.from_numpy(draw.permutation(len(images)))
    other = other.to(images.device, non_blocking=True)  # does not wait for the GPU
    return share * images + (1 - share) * images[other]


class Threaded:
    """Batches that the threads of this process decode on request, between the training steps.

    On a CPU a training step uses every core. A worker process that decodes at the same time delays one core, and all
    others wait for it. Decoding between the steps uses all cores for both.
    """

    def __init__(self, views: Views, batches: Any, threads: int) -> None:
        self._views, self._batches, self._threads = views, batches, threads

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(self._threads, initializer=_compute_alone) as pool:
            for batch in self._batches:
                size = -(-len(batch) // self._threads)
                shares = [batch[start : start + size] for start in range(0, len(batch), size)]
                yield collate([entry for entries in pool.map(self._decode, shares) for entry in entries])

    def _decode(self, share: list[tuple[int, int]]) -> list[tuple[Any, ...]]:
        return [self._views[at] for at in share]


def _compute_alone() -> None:
    """Limit OpenMP to one thread in the calling thread.

    With more threads than cores OpenMP stops busy-waiting permanently, in the main thread too, which makes the training
    step a tenth slower.
    """
    torch.get_num_threads()  # initialises torch's threading here; a later initialisation would reset the limit
    threadpoolctl.threadpool_limits(1, user_api="openmp")


def load(views: Views, batches: Any, *, workers: int | str, pin: bool = False) -> Loader | Threaded:
    """Load batches of (image, view) with this many worker processes.

    'auto' means as many as `decoders` counts for a GPU (`pin`). On a CPU it means torch's threads, between the steps.
    """
    if workers == "auto":
        if not pin:
            return Threaded(views, batches, torch.get_num_threads())
        workers = decoders()
        if getattr(views.source, "is_remote", False):  # every process then fetches the blocks of its own lanes only
            workers = max(count for count in range(1, workers + 1) if LANES % count == 0)
    return Loader(
        views,
        num_workers=workers,
        batch_sampler=batches,
        collate_fn=collate,
        pin_memory=pin,
        # Its own generator: the default one is the random state that a resumed run restores.
        generator=torch.Generator(),
    )


# Principal axes of the RGB values of ImageNet and their standard deviations (Krizhevsky et al. 2012).
LIGHT_STD = (0.2175, 0.0188, 0.0045)
LIGHT_AXES = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
GREY = (0.299, 0.587, 0.114)
# Values per chunk on a CPU: a chunk stays in the cache of a core during the dozen operations on it.
PART = 2**17


@cache
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return LIGHT_STD, LIGHT_AXES and GREY on a device. Cached, because each copy to a GPU waits for its queue."""
    return tuple(torch.tensor(values, dtype=torch.float32, device=device) for values in (LIGHT_STD, LIGHT_AXES, GREY))


def recolour(images: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Convert uint8 views to float32 in [0, 1] and apply brightness, contrast, saturation and colour noise.

    The order is fixed; torchvision draws one per image. There is no matrix product, which autocast would round.

    Shape:
        (B, 3, S, S) uint8, (B, 6) -> (B, 3, S, S).
    """
    deviation, axes, _ = _constants(colour.device)
    shift = (colour[:, None, 3:] * deviation * axes).sum(2)
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    share = max(1, PART // images[0].numel()) if images.device.type == "cpu" else len(images)
    parts = (part.split(share) for part in (images.flatten(2), colour[:, :3], shift[:, :, None], out.flatten(2)))
    for part in zip(*parts, strict=True):
        _recolour_part(*part)
    return out


def _recolour_part(images: torch.Tensor, factors: torch.Tensor, shift: torch.Tensor, out: torch.Tensor) -> None:
    """Recolour (b, 3, S * S) uint8 into `out`."""
    brightness, contrast, saturation = factors.T.reshape(3, -1, 1, 1)
    weights = _constants(out.device)[2].view(1, 3, 1)
    out.copy_(images).mul_(brightness / 255).clamp_(max=1)
    mean = (out.mean(2, keepdim=True) * weights).sum(1, keepdim=True)
    out.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    red, green, blue = ((1 - saturation) * weights).split(1, dim=1)
    grey = (out[:, :1] * red).addcmul_(out[:, 1:2], green).addcmul_(out[:, 2:], blue)
    out.mul_(saturation).add_(grey).clamp_(0, 1).add_(shift).clamp_(0, 1)
