"""Open the images a run trains on: found by their address, cropped into views, coloured on the device."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from kdep.config import Config
from kdep.data.decoding.decode import PIXELS
from kdep.data.loading.keep import keep
from kdep.data.loading.views import Augmentation, Batch, Views, recolour
from kdep.data.sources.source import Source, labels_of, open_source

SAMPLE = 50_000  # images for the statistics of tar shards: docs/speed.md says what more would gain


def open_images(config: Config) -> tuple[Source, np.ndarray | None]:
    """Open the images of a recipe, with their labels for `loss.name` labels; None for other losses.

    Raises:
        ValueError: no images there, or as `check_images`.
    """
    source = source_of(config)
    return source, check_images(config, source)


def source_of(config: Config) -> Source:
    """The images of a recipe.

    Raises:
        ValueError: there are none.
    """
    data = config.data
    return open_source(data.source, root=data.root, limit=data.limit, seed=config.view_seed)


def check_images(config: Config, source: Source) -> np.ndarray | None:
    """Check that images suffice for the schedule, and return their labels for `loss.name` labels.

    Raises:
        ValueError: fewer than a batch, too few for the warm-up, or no labels for `loss.name` labels.
    """
    data = config.data
    if len(source.names) < config.optim.batch_size:
        raise ValueError(
            f"{data.source}: {len(source.names)} images do not fill optim.batch_size={config.optim.batch_size}; take "
            "more images, or a smaller batch"
        )
    config.optim.total(len(source.names) // config.optim.batch_size)  # refuses a warm-up that does not fit
    if config.loss.name != "labels":
        return None
    labels = labels_of(source)
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"{data.source}: loss.name labels needs two classes, and all images are of one; the first folder of a path "
            "is its class, also in a list"
        )
    return labels


def open_views(config: Config, *, show: bool = True) -> Views:
    """Open the images and say how they are cropped and coloured.

    Args:
        config: of the run.
        show: log how much memory decoded images take.

    Raises:
        ValueError: no images there, fewer than a batch, or no labels for `loss.name` labels.
    """
    data = config.data
    source, labels = open_images(config)
    source = keep(source, data.memory, show=show)
    source.fingerprint  # noqa: B018 - hashed here, where the first process is alone; others find it remembered
    augmentation = Augmentation(data.size, data.crop_scale, data.flip, data.jitter, data.lighting)
    views = Views(source, augmentation, config.view_seed)
    views.labels = labels
    return views


def sample_for_statistics(config: Config, source: Source) -> Config:
    """Set `align.images` for tar shards, if the recipe leaves it open: a pass over all of them takes too long."""
    if not hasattr(source, "starts") or source.starts is None or config.align.images is not None:
        return config
    count = min(SAMPLE, len(source.names))
    return config.model_copy(update={"align": config.align.model_copy(update={"images": count})})


def data_identity(views: Views) -> str:
    """Fingerprint of the images and of how their views are drawn."""
    return f"{views.source.fingerprint}:{views.seed}:{dataclasses.astuple(views.augmentation)}:pixels{PIXELS}"


def make_pixels(augmentation: Augmentation, device: torch.device) -> Callable[[Batch], torch.Tensor]:
    """Make the function that turns a batch into RGB float32 in [0, 1] on the device, for teacher and student alike."""
    coloured = augmentation.jitter > 0 or augmentation.lighting > 0

    def pixels(batch: Batch) -> torch.Tensor:
        images = batch.images.to(device, non_blocking=True)
        return recolour(images, batch.colour.to(device, non_blocking=True)) if coloured else images.float().div_(255)

    return pixels
