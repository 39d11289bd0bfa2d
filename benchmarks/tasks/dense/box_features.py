"""Frozen features of proposals: RoIAlign of a backbone's maps, extracted once per (weights, data set, settings)."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import roi_align

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.data.cards import Dataset, fingerprint
from kdep_benchmarks.data.readers.boxed import BoxedImage
from kdep_benchmarks.tasks.dense.maps import Batches, as_type, in_half, open_network, run_maps
from kdep_benchmarks.tasks.dense.mask_features import taken
from kdep_benchmarks.tasks.dense.proposals import Proposals, propose
from kdep_benchmarks.tasks.dense.readers import open_boxes
from kdep_benchmarks.tasks.settings import Box
from kdep_benchmarks.tasks.store import key_of, of_checkpoint, stored

FORMAT = 1  # raised when the same key would give other numbers
NAMES = ("whole", "parts")  # of what is stored
BINS = 4  # per side, of the finest map around the box: where in it an object lies
AROUND = 1.5  # sides of what is seen around a box, in sides of the box
CHANNELS = 128  # of the finest map in bins; more are mixed down by a fixed random matrix


@dataclass(frozen=True)
class Part:
    """The proposals of a split with their features.

    Attributes:
        whole: (R, D) float16, or float32 where features are too large for it: the mean of every map over the box, side
            by side.
        parts: (R, CHANNELS * BINS * BINS) at most, of the same type, the finest map around the box in bins.
        classes: their number, background not counted.
        images: those that take part, by the proposals' numbers.
        left_out: boxes of the split that are no proposals, by reason.
    """

    classes: int
    images: list[BoxedImage]
    proposals: Proposals
    whole: torch.Tensor
    parts: torch.Tensor
    left_out: dict[str, int] = field(default_factory=dict)


def box_features(
    checkpoint: Checkpoint, dataset: Dataset, settings: Box, *, cache: Path, device: torch.device
) -> tuple[Part, Part, dict[str, float]]:
    """Features of train and test, and the images_per_second of their extraction if it was done here.

    Raises:
        ValueError: boxes that cannot be, a network without maps.
        LoadError: weights that do not load completely.
    """
    read = {role: open_boxes(dataset, role) for role in ("train", "test")}
    numbers = {"train": taken(len(read["train"].images), settings.images)}
    numbers["test"] = list(range(len(read["test"].images)))
    classes = len(read["train"].classes)
    proposals = {role: propose(read[role].images, numbers[role], classes) for role in read}
    images = {role: [read[role].images[n] for n in numbers[role]] for role in read}
    key: dict[str, Any] = {"format": FORMAT, "kind": "boxes", "data": fingerprint(dataset)}
    key |= of_checkpoint(checkpoint) | {"size": settings.size, "images": settings.images}

    def make(folder: Path) -> float:
        started = time.perf_counter()
        in_half(lambda dtype: write(folder, dtype))
        return time.perf_counter() - started

    def write(folder: Path, dtype: type[np.floating]) -> None:
        backbone, geometry = open_network(checkpoint, settings, device)
        for role in read:
            shown = [geometry.shown(image.size[::-1], settings.size) for image in images[role]]
            batches = run_maps(backbone, [i.path for i in images[role]], shown, pixels=settings, device=device)
            for name, array in zip(NAMES, _extract(batches, images[role], proposals[role], dtype), strict=True):
                np.save(folder / f"{role}_{name}.npy", array)

    arrays, seconds = stored(cache / key_of(key), make)
    found = {role: [torch.from_numpy(arrays[f"{role}_{name}"]) for name in NAMES] for role in read}
    train, test = (
        Part(classes, images[role], proposals[role], *found[role], dict(read[role].left_out)) for role in read
    )
    count = sum(map(len, images.values()))
    return train, test, {} if seconds is None else {"images_per_second": count / seconds}


def _extract(
    batches: Batches, images: list[BoxedImage], proposals: Proposals, dtype: type[np.floating]
) -> list[np.ndarray]:
    """Features of all proposals, by NAMES."""
    found: list[np.ndarray] = []
    starts = np.searchsorted(proposals.image, np.arange(len(images) + 1))
    for batch, maps in batches:
        rows = [np.arange(starts[number], starts[number + 1]) for number in batch]
        regions = [
            torch.from_numpy(proposals.box[r] / np.tile(images[number].size, 2)).to(maps[0])
            for number, r in zip(batch, rows, strict=True)
        ]
        features = region_features(maps, regions)
        if not found:
            found = [np.zeros((len(proposals.image), values.shape[1]), dtype) for values in features]
        for array, values in zip(found, features, strict=True):
            array[np.concatenate(rows)] = as_type(values, dtype)
    return found


def region_features(maps: list[torch.Tensor], regions: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """RoIAlign of boxes given as shares of their image's sides.

    Args:
        maps: (B, C, h, w) each, the finest first.
        regions: for each of the B images (n, 4).

    Returns:
        The mean of every map over each box, side by side (R, D), and the finest map around each box in bins.
    """
    whole = [_aligned(m, regions, 1) for m in maps]
    wider = [enlarged(boxes) for boxes in regions]
    return torch.cat(whole, 1).flatten(1), _aligned(fewer_channels(maps[0]), wider, BINS).flatten(1)


def enlarged(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes (n, 4) with their surroundings; what lies outside the image reads as 0."""
    middle, half = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * AROUND
    return torch.cat([middle - half, middle + half], 1)


def fewer_channels(features: torch.Tensor) -> torch.Tensor:
    """Mix a map's channels down to CHANNELS where it has more: distances stay about the same."""
    count = features.shape[1]
    if count <= CHANNELS:
        return features
    mixing = torch.randn(CHANNELS, count, generator=torch.Generator().manual_seed(0)) / CHANNELS**0.5
    return torch.einsum("dc,bchw->bdhw", mixing.to(features), features)


def _aligned(features: torch.Tensor, regions: list[torch.Tensor], bins: int) -> torch.Tensor:
    height, width = features.shape[2:]
    scale = torch.tensor([width, height, width, height], device=features.device)
    # As many samples per bin as it has positions: a fixed number would look at a few points of a large box.
    return roi_align(features, [boxes * scale for boxes in regions], bins, sampling_ratio=-1, aligned=True)
