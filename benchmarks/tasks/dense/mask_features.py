"""Frozen features for segmentation: drawn positions of train images and all positions of test images."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdep.data.decoding.opening import read_header
from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep.probe.positions import draw_positions, soft_counts
from kdep_benchmarks.data.cards import Dataset, fingerprint
from kdep_benchmarks.tasks.dense.maps import Geometry, Side, as_type, in_half, on_grid, open_network, run_maps
from kdep_benchmarks.tasks.dense.readers import Masks, open_masks
from kdep_benchmarks.tasks.settings import DensePositions
from kdep_benchmarks.tasks.store import key_of, new_array, of_checkpoint, stored

FORMAT = 2  # raised when the same key would give other numbers; 2: positions by their own pixels (decision 0041)


@dataclass(frozen=True)
class MaskFeatures:
    """Features of a segmentation data set; P positions drawn from train, Q of all test images.

    Attributes:
        train: (P, D) float16, or float32 where features are too large for it; labels: (P, C) shares of the classes;
            image: (P,) the train image of each; weight: (P,) how many positions each stands for.
        test: (Q, D) of the same type, image by image; grids: (N, 2) rows and columns of each test image's positions.
        masks: of test.
        counts: images of train that take part and of test; absent: classes that train does not have, if any.
        cost: images_per_second of the extraction; empty where the features were there.
    """

    train: torch.Tensor
    labels: torch.Tensor
    image: torch.Tensor
    weight: torch.Tensor
    test: torch.Tensor
    grids: np.ndarray
    masks: Masks
    counts: dict[str, int]
    absent: dict[str, list[str]]
    cost: dict[str, float]

    def test_images(self) -> Iterator[tuple[Side, torch.Tensor]]:
        """Grid and features (rows * columns, D) of each test image."""
        start = 0
        for rows, columns in self.grids.tolist():
            yield (rows, columns), self.test[start : start + rows * columns]
            start += rows * columns


def mask_features(
    checkpoint: Checkpoint, dataset: Dataset, settings: DensePositions, *, cache: Path, device: torch.device
) -> MaskFeatures:
    """Extract the features, or open them where a cell of the same checkpoint has done so.

    Raises:
        ValueError: masks that cannot be, of one class alone, or of points or lines only; a network without maps.
        LoadError: weights that do not load completely.
    """
    train, test = (open_masks(dataset, role) for role in ("train", "test"))
    key = {"format": FORMAT, "kind": "masks", "data": fingerprint(dataset), **of_checkpoint(checkpoint)}
    key |= {name: getattr(settings, name) for name in ("size", "stride", "positions", "images", "balance")}

    def make(folder: Path) -> float:
        started = time.perf_counter()
        in_half(lambda dtype: _extract(checkpoint, train, test, settings, folder, device, dtype))
        return time.perf_counter() - started

    arrays, seconds = stored(cache / key_of(key), make)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "grids"}
    counts = {"train": min(len(train.images), settings.images), "test": len(test.images)}
    cost = {} if seconds is None else {"images_per_second": sum(counts.values()) / seconds}
    shares = tensors["labels"].sum(0).tolist()
    train.refuse_one_class(shares)
    never = [name for name, share in zip(train.names, shares, strict=True) if not share]
    absent = {"classes_not_in_train": never} if never else {}
    return MaskFeatures(**tensors, grids=arrays["grids"], masks=test, counts=counts, absent=absent, cost=cost)


def _extract(
    checkpoint: Checkpoint,
    train: Masks,
    test: Masks,
    settings: DensePositions,
    folder: Path,
    device: torch.device,
    dtype: type[np.floating],
) -> None:
    backbone, geometry = open_network(checkpoint, settings, device)
    used = taken(len(train.images), settings.images)
    paths = [train.images[number] for number in used]
    shown, grids = _plan(paths, geometry, settings)
    counts = [soft_counts(train.read(n), grid, len(train.names)) for n, grid in zip(used, grids, strict=True)]
    draw = draw_positions(counts, total=settings.positions, balance=settings.balance)
    np.save(folder / "labels.npy", draw.labels)
    np.save(folder / "image.npy", draw.image)
    np.save(folder / "weight.npy", draw.weight)
    rows: list[np.ndarray] = [np.flatnonzero(draw.image == number) for number in range(len(paths))]
    features: np.ndarray | None = None
    for batch, maps in run_maps(backbone, paths, shown, pixels=settings, device=device):
        found = on_grid(maps, grids[batch[0]]).flatten(2).transpose(1, 2)
        if features is None:
            shape = (len(draw.image), found.shape[2])
            features = new_array(folder / "train.npy", dtype, shape)
        for number, positions in zip(batch, found, strict=True):
            cells = torch.from_numpy(draw.cell[rows[number]]).to(device)
            features[rows[number]] = as_type(positions[cells], dtype)
    shown, grids = _plan(test.images, geometry, settings)
    starts = np.concatenate([[0], np.cumsum([height * width for height, width in grids])])
    features = new_array(folder / "test.npy", dtype, (int(starts[-1]), features.shape[1]))
    for batch, maps in run_maps(backbone, test.images, shown, pixels=settings, device=device):
        found = on_grid(maps, grids[batch[0]]).flatten(2).transpose(1, 2)
        for number, positions in zip(batch, found, strict=True):
            features[starts[number] : starts[number + 1]] = as_type(positions, dtype)
    np.save(folder / "grids.npy", np.array(grids))


def taken(count: int, most: int) -> list[int]:
    """Which of the train images take part: all, or a draw of `most` that is always the same."""
    if count <= most:
        return list(range(count))
    return sorted(np.random.default_rng(0).choice(count, most, replace=False).tolist())


def _plan(images: Sequence[Path], geometry: Geometry, settings: DensePositions) -> tuple[list[Side], list[Side]]:
    """The size at which each image is shown, and its grid."""
    shown = [geometry.shown(read_header(path).size[::-1], settings.size) for path in images]
    return shown, [geometry.grid(side, settings.stride) for side in shown]
