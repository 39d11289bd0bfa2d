"""Features of a frozen backbone on labelled images, extracted once per (weights, images, pixels) and kept on disk."""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from kdep.models.backbone import Backbone, build_backbone
from kdep.models.checkpoint import Checkpoint
from kdep.models.teacher import fastest_form
from kdep.run.device import without_tf32
from kdep_benchmarks.data.images import Labelled
from kdep_benchmarks.tasks.progress import Bar
from kdep_benchmarks.tasks.settings import Pixels

FORMAT = 2  # raised when the same key would give other numbers


class Extracted(NamedTuple):
    """Features of some images.

    Attributes:
        taps: tap -> (N, D) float32, in the images' order; memory-mapped: those of a million images need not fit into
            memory.
        seconds: that it took to decode the images and run them through; None where the features were there.
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
    """Features at every tap that one forward gives.

    One process extracts them while it holds a lock; others wait for it. `work_dir` is told how far the extraction is.

    Raises:
        ValueError: an image cannot be read.
        LoadError: the weights do not fit their architecture.
    """
    folder, seconds = cache / cache_key(checkpoint, images.remembered_fingerprint(cache), pixels), None
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{folder.name}.lock"):
            if not folder.is_dir():  # nobody extracted them while this process waited
                backbone = fastest_form(build_backbone(checkpoint).eval(), pixels.size, device)
                part = cache / f".{folder.name}.part"
                shutil.rmtree(part, ignore_errors=True)  # of a killed process
                part.mkdir()
                try:
                    started = time.perf_counter()
                    frozen_features(backbone, images, part, pixels=pixels, device=device, work_dir=work_dir)
                    seconds = time.perf_counter() - started
                    part.rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    # Copy on write, so that torch takes it for writable; nothing here writes.
    taps = {path.stem: torch.from_numpy(np.load(path, mmap_mode="c")) for path in sorted(folder.glob("*.npy"))}
    return Extracted(taps, seconds)


def cache_key(checkpoint: Checkpoint, images: str, pixels: Pixels) -> str:
    """Everything that shapes the features, the images by their fingerprint, as a folder's name."""
    parts = {
        "format": FORMAT,
        "weights": checkpoint.sha256,
        "arch": checkpoint.arch,  # two architectures can share their tensors and differ in padding
        "tap": checkpoint.tap,
        "input": [checkpoint.resample, *checkpoint.mean, *checkpoint.std],
        "images": images,
        "pixels": [pixels.size, pixels.resize],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def feature_folder(work_dir: Path, checkpoint: Checkpoint) -> Path:
    """One folder for all tasks of a checkpoint, where `work_dir` is results/<sha8>/<task>/<protocol>/<seed>.work."""
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
    with frozen(backbone), torch.no_grad(), without_tf32():
        bar, done = Bar(work_dir, total=len(images), desc="features", unit="img"), 0
        for batch in frames(images, np.arange(len(images)), pixels=pixels):
            for tap, features in backbone.pooled_taps(as_input(batch, device)).items():
                if tap not in written:
                    shape = (len(images), features.shape[1])
                    written[tap] = np.lib.format.open_memmap(folder / f"{tap}.npy", "w+", np.float32, shape)
                written[tap][done : done + len(batch)] = features.float().cpu().numpy()
            done += len(batch)
            bar.update(len(batch))
        bar.close()
    for array in written.values():
        array.flush()
    return written


@contextlib.contextmanager
def frozen(backbone: torch.nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and make sure that nothing in it has changed afterwards.

    Raises:
        RuntimeError: a parameter or a BatchNorm statistic has changed.
    """
    backbone.eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    yield
    changed = [name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])]
    if changed:
        raise RuntimeError(f"a frozen network has changed: {len(changed)} tensors, first {changed[:3]}")


def as_input(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(B, 3, S, S) uint8 -> float32 in [0, 1] on the device, channels first: a network's own layout decides."""
    return batch.to(device, non_blocking=True).float() / 255


def frames(images: Labelled, positions: np.ndarray, *, pixels: Pixels) -> Iterator[torch.Tensor]:
    """Batches (B, 3, size, size) uint8 of the images at `positions`, in that order.

    Raises:
        ValueError: an image cannot be read; names it.
    """
    workers = pixels.workers
    if workers == "auto":
        # Starting a process costs more than decoding a few batches.
        workers = 0 if len(positions) <= 4 * pixels.batch_size else max(1, torch.get_num_threads() - 1)
    loader = DataLoader(
        _Frames(images, positions, pixels), batch_size=pixels.batch_size, num_workers=workers, collate_fn=list
    )
    for batch in loader:
        for entry in batch:
            if isinstance(entry, ValueError):
                raise entry
        yield torch.stack(batch)


class _Frames(Dataset):
    def __init__(self, images: Labelled, positions: np.ndarray, pixels: Pixels) -> None:
        self.images, self.positions, self.pixels = images, positions, pixels

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> Any:
        # Handed over rather than raised: a DataLoader would wrap it in the traceback of its worker.
        try:
            image = self.images.read(int(self.positions[number]))
        except ValueError as error:
            return error
        return centre(image, size=self.pixels.size, resize=self.pixels.resize or self.pixels.size)


def centre(image: Image.Image, *, size: int, resize: int) -> torch.Tensor:
    """Bring the short side to `resize` pixels and cut out the middle: (3, size, size) uint8 RGB."""
    short = min(image.size)
    if short != resize:
        width, height = (max(resize, round(side * resize / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
