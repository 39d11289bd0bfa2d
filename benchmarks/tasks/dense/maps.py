"""Feature maps of a frozen backbone on whole images, batch by batch.

An image is resized as a whole: its short side becomes `size` pixels, then both sides are rounded to a multiple of what
the network divides by, so maps cover the image exactly and a position on a map is a share of the image's sides.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from kdep.cores import decoders
from kdep.data.decoding.decode import Encoded, reason
from kdep.data.decoding.opening import UNREADABLE
from kdep.data.loading.loader import Loader
from kdep.guard import printable, read_regular
from kdep.models.backbones.backbone import Backbone, build_backbone
from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep.models.teacher import fastest_form
from kdep.run.device import without_tf32
from kdep_benchmarks.tasks.axes import NOT_FINITE
from kdep_benchmarks.tasks.features import as_input, frozen
from kdep_benchmarks.tasks.settings import WholeImages

LONGEST = 4  # long side over short side; longer images are squeezed
FINEST = 6  # maps of a smaller stride are left out: the first stage holds edges and most of the bytes

Side = tuple[int, int]  # height, width
Batches = Iterator[tuple[list[int], list[torch.Tensor]]]  # positions of images, and their maps


@dataclass(frozen=True)
class Geometry:
    """How a network sees images.

    Attributes:
        multiple: of which both sides of an image are.
        fixed: side in pixels of the square it resamples every image to; None where it takes any.
        plain: the stride of its only map, None where it has several.
    """

    multiple: int
    fixed: int | None
    plain: float | None

    def shown(self, image: Side, size: int) -> Side:
        """Height and width at which an image enters the network."""
        if self.fixed is not None:
            return (self.fixed, self.fixed)
        scale = size / min(image)
        sides = (min(side * scale, LONGEST * size) for side in image)
        return tuple(self.multiple * max(1, round(side / self.multiple)) for side in sides)

    def grid(self, shown: Side, stride: int) -> Side:
        """Rows and columns of positions: one per `stride` pixels, or those of the only map."""
        return tuple(max(1, round(side / (self.plain or stride))) for side in shown)


def open_network(checkpoint: Checkpoint, pixels: WholeImages, device: torch.device) -> tuple[Backbone, Geometry]:
    """Build the backbone in its fastest form, and look how it sees images.

    Raises:
        ValueError: it has no maps.
        LoadError: the weights do not fit their architecture.
    """
    backbone = build_backbone(checkpoint).to(device).eval()
    multiple = 32 if 32 % backbone.divisor == 0 else backbone.divisor
    side = backbone.resample or multiple * max(1, round(pixels.size / multiple))
    with torch.no_grad():
        maps = backbone.stage_maps(torch.zeros(1, 3, side, side, device=device))
    plain = side / maps[0].shape[2] if len(maps) == 1 else None
    return fastest_form(backbone, side, device), Geometry(multiple, backbone.resample, plain)


def run_maps(
    backbone: Backbone, paths: Sequence[Path], shown: Sequence[Side], *, pixels: WholeImages, device: torch.device
) -> Batches:
    """Run the network over images, those of one shape together.

    Yields:
        Positions in `paths`, and the maps (B, C, h, w) of these images on the device, largest first, without the
        finest stage.

    Raises:
        ValueError: an image cannot be read; names it.
    """
    batches = batches_of_one_shape(shown, pixels.batch_size)
    workers = pixels.workers if pixels.workers != "auto" else automatic_workers(len(paths), device)
    loader = Loader(_Images(paths, shown, batches), num_workers=workers, batch_size=None, collate_fn=as_it_is)
    bar = tqdm(total=len(paths), desc="maps", unit="img", mininterval=1)
    with frozen(backbone), torch.no_grad(), without_tf32(), contextlib.closing(bar):
        for batch, images in zip(batches, loader, strict=True):
            maps = backbone.stage_maps(as_input(images, device))
            coarse = [m.float() for m in maps if images.shape[-1] / m.shape[-1] >= FINEST]
            yield batch, coarse or [maps[-1].float()]
            bar.update(len(batch))


def automatic_workers(images: int, device: torch.device) -> int:
    """Count the processes that decode: none for a few images; on a CPU one, because the network needs its cores."""
    if images <= 64:
        return 0
    return min(torch.get_num_threads() - 1, 1) if device.type == "cpu" else decoders()


def on_grid(maps: Sequence[torch.Tensor], grid: Side) -> torch.Tensor:
    """Bring maps to one grid, finer ones by their mean over a position, and concatenate them: (B, D, rows, columns)."""
    return torch.cat([_resized(m, grid) for m in maps], 1)


def _resized(features: torch.Tensor, grid: Side) -> torch.Tensor:
    if features.shape[2] > grid[0] or features.shape[3] > grid[1]:
        return F.adaptive_avg_pool2d(features, grid)
    if features.shape[2:] == grid:
        return features
    return F.interpolate(features, grid, mode="bilinear", align_corners=False)


class TooLargeError(ValueError):
    """Features that are finite, but not in float16."""


def in_half(write: Callable[[type[np.floating]], None]) -> None:
    """Write features as float16, or all of them anew as float32 where some are too large, as an untrained ResNet-101's.

    Float16 is half the disk; its rounding of 0.05 % is far below what a probe sees.
    """
    try:
        write(np.float16)
    except TooLargeError:
        write(np.float32)


def as_type(features: torch.Tensor, dtype: type[np.floating]) -> np.ndarray:
    """Features in a type of numpy.

    Raises:
        TooLargeError: the type does not hold them.
        ValueError: they are not finite.
    """
    full = features.float()
    if not full.isfinite().all():
        raise ValueError(NOT_FINITE)
    found = full.half() if dtype is np.float16 else full
    if not found.isfinite().all():
        raise TooLargeError("features beyond float16")
    return found.cpu().numpy()


def batches_of_one_shape(shown: Sequence[Side], batch_size: int) -> list[list[int]]:
    """Positions of images in batches of equal height and width, in the order of the list within a shape."""
    by_shape: dict[Side, list[int]] = {}
    for position, shape in enumerate(shown):
        by_shape.setdefault(shape, []).append(position)
    return [
        positions[start : start + batch_size]
        for positions in by_shape.values()
        for start in range(0, len(positions), batch_size)
    ]


def read_image(path: Path, shown: Side) -> torch.Tensor:
    """A whole image, resized to height and width: (3, H, W) uint8 RGB.

    Raises:
        ValueError: it cannot be read; names it.
    """
    try:
        image = Encoded(read_regular(path))
        return image.crop((0, 0, *image.size), (shown[1], shown[0]))
    except UNREADABLE as error:
        raise ValueError(f"{printable(path)}: cannot be read: {reason(error)}") from error


class _Images(Dataset):
    def __init__(self, paths: Sequence[Path], shown: Sequence[Side], batches: list[list[int]]) -> None:
        self.paths, self.shown, self.batches = paths, shown, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> torch.Tensor:
        return torch.stack([read_image(self.paths[k], self.shown[k]) for k in self.batches[number]])


def as_it_is(images: torch.Tensor) -> torch.Tensor:
    """Return a batch that the data set has made."""
    return images
