"""Extract features of a frozen backbone, once per weights, images and preprocessing, and cache them on disk."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from kdep.cores import decoders
from kdep.data.loading.loader import Loader
from kdep.models.backbones.backbone import Backbone, build_backbone
from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep.models.teacher import fastest_form
from kdep.run.device import without_tf32
from kdep_benchmarks.data.images import Labelled
from kdep_benchmarks.tasks.axes import NOT_FINITE
from kdep_benchmarks.tasks.progress import Bar
from kdep_benchmarks.tasks.settings import Pixels
from kdep_benchmarks.tasks.store import key_of, new_array, of_checkpoint, stored

FORMAT = 2  # part of the cache key; raise it when a change of code changes the features


class Extracted(NamedTuple):
    """Features of some images.

    Attributes:
        taps: tap -> (N, D) float32 in the order of the images, memory-mapped.
        seconds: time to decode the images and run the network; None if the features were cached.
    """

    taps: dict[str, torch.Tensor]
    seconds: float | None


def extract(
    checkpoint: Checkpoint,
    images: Labelled,
    *,
    pixels: Pixels,
    cache: Path,
    device: torch.device,
    work_dir: Path | None = None,
) -> Extracted:
    """Extract the features at every tap, or open them if they are cached.

    One process extracts while it holds a lock; others wait. The progress is written to `work_dir`.

    Raises:
        ValueError: an image cannot be read.
        LoadError: the weights do not fit their architecture.
    """

    def make(folder: Path) -> float:
        backbone = fastest_form(build_backbone(checkpoint).eval(), pixels.size, device)
        started = time.perf_counter()
        frozen_features(backbone, images, folder, pixels=pixels, device=device, work_dir=work_dir)
        return time.perf_counter() - started

    key = cache_key(checkpoint, images.fingerprint, pixels)
    arrays, seconds = stored(cache / key, make)
    for tap, array in arrays.items():
        if array.dtype != np.float32 or array.ndim != 2 or len(array) != len(images):
            place = f"{cache / key / tap}.npy: {array.dtype} {array.shape}"
            raise ValueError(
                f"{place}, expected float32 features of {len(images)} images; remove {cache / key}, it is made again"
            )
    return Extracted({tap: torch.from_numpy(array) for tap, array in arrays.items()}, seconds)


def cache_key(checkpoint: Checkpoint, images: str, pixels: Pixels) -> str:
    """Name the folder of the features."""
    shown = {"images": images, "pixels": [pixels.size, pixels.resize]}
    return key_of({"format": FORMAT, **of_checkpoint(checkpoint), "tap": checkpoint.tap, **shown})


def feature_folder(work_dir: Path, checkpoint: Checkpoint) -> Path:
    """Return the folder that all tasks of a checkpoint share; `work_dir` is <sha8>/<task>/<protocol>/<seed>.work."""
    above = list(work_dir.absolute().parents)[:3]
    named = next((folder for folder in above if folder.name == checkpoint.identity[:8]), work_dir)
    return named / "features"


def frozen_features(
    backbone: Backbone,
    images: Labelled,
    folder: Path,
    *,
    pixels: Pixels,
    device: torch.device,
    work_dir: Path | None = None,
) -> dict[str, np.ndarray]:
    """Run the frozen backbone over the images and write TAP.npy into a folder, batch by batch; see `extract`."""
    written: dict[str, np.ndarray] = {}
    bar, done = Bar(work_dir, total=len(images), desc="features", unit="img"), 0
    with bar, frozen(backbone), torch.no_grad(), without_tf32():  # the bar ends its line: an error has one of its own
        for batch in frames(images, np.arange(len(images)), pixels=pixels, device=device):
            for tap, features in backbone.pooled_taps(as_input(batch, device)).items():
                if tap not in written:
                    shape = (len(images), features.shape[1])
                    written[tap] = new_array(folder / f"{tap}.npy", np.float32, shape)
                found = features.float().cpu().numpy()
                if not np.isfinite(found).all():
                    raise ValueError(NOT_FINITE)
                written[tap][done : done + len(batch)] = found
            done += len(batch)
            bar.update(len(batch))
    for array in written.values():
        array.flush()
    return written


@contextlib.contextmanager
def frozen(backbone: torch.nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and check afterwards that none of its tensors changed.

    Raises:
        RuntimeError: a parameter or a BatchNorm statistic changed.
    """
    backbone.eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    yield
    changed = [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])]
    if changed:
        raise RuntimeError(f"a frozen network has changed: {len(changed)} tensors, first {changed[:3]}")


def as_input(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Convert (B, 3, S, S) uint8 to float32 in [0, 1] on the device."""
    return batch.to(device, non_blocking=True).float() / 255


def frames(images: Labelled, positions: np.ndarray, *, pixels: Pixels, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield batches (B, 3, size, size) uint8 of the images at `positions`, in that order, for a network on the device.

    Raises:
        ValueError: an image cannot be read; the message names it.
    """
    workers = pixels.workers
    if workers == "auto" and len(positions) <= 4 * pixels.batch_size:
        workers = 0  # starting a worker process takes longer than decoding a few batches
    elif workers == "auto":
        workers = max(1, torch.get_num_threads() - 1) if device.type == "cpu" else decoders()
    shown = _Frames(images, positions, pixels)
    yield from Loader(shown, num_workers=workers, batch_size=pixels.batch_size, collate_fn=torch.stack)


class _Frames(Dataset):
    def __init__(self, images: Labelled, positions: np.ndarray, pixels: Pixels) -> None:
        self.images, self.positions, self.pixels = images, positions, pixels

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> torch.Tensor:
        image = self.images.read(int(self.positions[number]))
        return centre(image, size=self.pixels.size, resize=self.pixels.resize or self.pixels.size)


def centre(image: Image.Image, *, size: int, resize: int) -> torch.Tensor:
    """Resize the short side to `resize` pixels and crop the centre: (3, size, size) uint8 RGB."""
    short = min(image.size)
    if short != resize:
        width, height = (max(resize, round(side * resize / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
