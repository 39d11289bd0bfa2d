"""The parts of a run, opened from its configuration: views of the images, the frozen teacher, the student."""

import dataclasses
import logging
from collections.abc import Callable

import torch

from kdep.backbone import TAPS, Backbone, Teachers, build_backbone, create_network, default_tap
from kdep.cache import open_cache
from kdep.checkpoint import fingerprint, load_exactly
from kdep.config import Config
from kdep.data import Augmentation, Batch, Views, recolour
from kdep.decode import PIXELS
from kdep.device import Process
from kdep.sources import labels_of, open_source
from kdep.weights import open_checkpoint

logger = logging.getLogger("kdep")


def open_views(config: Config, process: Process | None = None) -> Views:
    """Images and how they are cropped and coloured; the first process decodes them for `data.cache`."""
    data = config.data
    source = open_source(data.source, root=data.root, limit=data.limit, seed=config.view_seed)
    if len(source.names) < config.optim.batch_size:
        raise ValueError(
            f"{data.source}: {len(source.names)} images do not fill optim.batch_size={config.optim.batch_size}"
        )
    labels = labels_of(source) if config.loss.name == "labels" else None
    if data.cache is not None:
        if process is None or process.is_first:
            open_cache(source, data.cache, size=data.size)
        if process is not None:
            process.wait()
        source = open_cache(source, data.cache, size=data.size, show=False)
        lost = source.lost_detail(data.size, data.crop_scale)
        if lost is not None and (process is None or process.is_first):
            logger.warning("data.cache %s: %s", data.cache, lost)
    augmentation = Augmentation(data.size, data.crop_scale, data.flip, data.jitter, data.lighting)
    views = Views(source, augmentation, config.view_seed)
    views.labels = labels
    return views


def open_teacher(config: Config) -> Backbone | Teachers:
    """The teacher at its tap, or several, frozen, resampling the shared view to the size they know."""
    given = config.teacher.source
    members = []
    for source in given if isinstance(given, list) else [given]:
        checkpoint = open_checkpoint(source, arch=config.teacher.arch)
        checkpoint = dataclasses.replace(checkpoint, resample=config.teacher.size or checkpoint.resample)
        members.append(build_backbone(checkpoint, tap=config.teacher.tap))
    teacher = members[0] if len(members) == 1 else Teachers(members)
    return teacher.eval().requires_grad_(False)


def open_student(config: Config) -> Backbone:
    """The student's backbone, seeded or from given weights."""
    torch.manual_seed(config.seed)
    network = create_network(config.student.arch)
    tap = config.student.tap or default_tap(network)
    if config.student.weights is None:
        return Backbone(network, tap=tap)
    start = open_checkpoint(config.student.weights, arch=config.student.arch)
    load_exactly(network, start.weights, config.student.weights)
    return Backbone(network, tap=tap, mean=start.mean, std=start.std)


def teacher_identity(teacher: Backbone | Teachers) -> str:
    """Fingerprint of everything that shapes the teacher's features."""
    if isinstance(teacher, Teachers):
        return "+".join(teacher_identity(member) for member in teacher.members)
    shape = torch.tensor([teacher.resample or 0, TAPS.index(teacher.tap)])
    return fingerprint({**teacher.network.state_dict(), ".mean": teacher.mean, ".std": teacher.std, ".shape": shape})


def data_identity(views: Views) -> str:
    """Fingerprint of the images and of how their views are drawn."""
    return f"{views.source.fingerprint}:{views.seed}:{dataclasses.astuple(views.augmentation)}:pixels{PIXELS}"


def make_pixels(augmentation: Augmentation, device: torch.device) -> Callable[[Batch], torch.Tensor]:
    """How a batch becomes RGB float32 in [0, 1] on the device: one function for teacher, statistics and student."""
    coloured = augmentation.jitter > 0 or augmentation.lighting > 0

    def pixels(batch: Batch) -> torch.Tensor:
        images = batch.images.to(device, non_blocking=True)
        return recolour(images, batch.colour.to(device, non_blocking=True)) if coloured else images.float().div_(255)

    return pixels
