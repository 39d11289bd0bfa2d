"""The parts of a run, opened from its configuration: views of the images, the frozen teacher, the student."""

import dataclasses
import logging
from collections.abc import Callable

import torch
from torch import nn

from kdep.config import Config
from kdep.data.cache import open_cache
from kdep.data.decode import PIXELS
from kdep.data.sources import labels_of, open_source
from kdep.data.views import Augmentation, Batch, Views, recolour
from kdep.method.align import refuse_classifier, refuse_widths
from kdep.method.loss import PROJECTORS
from kdep.models import taps
from kdep.models.backbone import Backbone, Teachers, build_backbone, create_network
from kdep.models.checkpoint import fingerprint, load_exactly
from kdep.models.weights import open_checkpoint, open_classifier
from kdep.run.device import Process

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
    """The teacher at its tap, or several, frozen, resampling the shared view to the size they know.

    For `loss.name` logits the tap is `post`, where its classifier reads.
    """
    given = config.teacher.source
    members = []
    for source in given if isinstance(given, list) else [given]:
        checkpoint = open_checkpoint(source, arch=config.teacher.arch)
        checkpoint = dataclasses.replace(checkpoint, resample=config.teacher.size or checkpoint.resample)
        members.append(build_backbone(checkpoint, tap="post" if config.loss.name == "logits" else config.teacher.tap))
    teacher = members[0] if len(members) == 1 else Teachers(members)
    return teacher.eval().requires_grad_(False)


def open_student(config: Config) -> Backbone:
    """The student's backbone, seeded or from given weights."""
    torch.manual_seed(config.seed)
    network = create_network(config.student.arch)
    tap = student_tap(config, network)
    if config.student.weights is None:
        return Backbone(network, tap=tap)
    start = open_checkpoint(config.student.weights, arch=config.student.arch)
    load_exactly(network, start.weights, config.student.weights)
    return Backbone(network, tap=tap, mean=start.mean, std=start.std)


def student_tap(config: Config, network: nn.Module) -> str:
    """Where the student's features are taken.

    A classifier reads them after the final activation, as in any network. Otherwise they end before a last 1x1
    convolution by default, which could only blow up their dimensions: the study `mobilenetv2_taps_small`.

    Raises:
        ValueError: a classifier on features before the last convolution, which would stay untrained.
    """
    tap = config.student.tap
    if not config.loss.classifies:
        return tap or taps.student_tap(network)
    if tap == "before_head":
        raise ValueError(
            f"student.tap before_head: with loss.name {config.loss.name} a classifier reads the features after the "
            "final activation; leave student.tap out, or take student.tap=post"
        )
    return "post"


def refuse_impossible(config: Config, student: Backbone, teacher: Backbone | Teachers, images: int) -> None:
    """Refuse, before the teacher has looked at any of the images, what its answers could not make possible.

    Raises:
        ValueError: a dense term without a map of the teacher; logits without a classifier of the teacher's features; a
            width, projector or scaler that does not fit.
    """
    source = config.teacher.source
    if config.loss.dense:
        refuse_without_map("teacher", str(source), teacher)
    if config.loss.name == "logits":
        assert isinstance(source, str)
        weight, _ = open_classifier(source, arch=config.teacher.arch)
        return refuse_classifier(weight, teacher.dim)
    if config.project is not None and config.project not in PROJECTORS:
        raise ValueError(f"project {config.project!r}: there are {', '.join(PROJECTORS)}")
    wanted = student.dim if config.project is None else teacher.dim
    images = min(images, config.align.images or images)
    rank = min(largest_rank(teacher), images - 1)  # one dimension goes to the mean
    refuse_widths(config.align.name, width=teacher.dim, dim=wanted, rank=rank, images=images)
    if config.scale.name == "sm" and wanted > teacher.dim:
        raise ValueError(
            f"scale.name sm: the student's {wanted} channels cannot take the deviations of the teacher's "
            f"{teacher.dim}; scale.name=unit, sn or pts can scale them"
        )
    return None


def refuse_without_map(role: str, name: str, network: Backbone) -> None:
    """Raise a ValueError where a network's pooled features are not the mean of a map, which the dense term compares."""
    if not network.has_map:
        raise ValueError(
            f"loss.dense: the {role} {name} ({type(network.network).__name__}) has no feature map whose mean its "
            f"pooled features are. Take a {role} that has one (ResNet, EfficientNet, MobileNetV2), or loss.dense=0"
        )


def largest_rank(teacher: Backbone | Teachers) -> int:
    """Dimensions that pooled features span at most: a last 1x1 convolution before the tap cannot add any."""
    if isinstance(teacher, Teachers):
        return sum(largest_rank(member) for member in teacher.members)
    head = getattr(teacher.network, "conv_head", None)
    return min(teacher.dim, head.in_channels) if teacher.tap == "pre" and head is not None else teacher.dim


def teacher_identity(teacher: Backbone | Teachers) -> str:
    """Fingerprint of everything that shapes the teacher's features."""
    if isinstance(teacher, Teachers):
        return "+".join(teacher_identity(member) for member in teacher.members)
    shape = torch.tensor([teacher.resample or 0, taps.TAPS.index(teacher.tap)])
    return fingerprint({**teacher.network.state_dict(), ".mean": teacher.mean, ".std": teacher.std, ".shape": shape})


def teacher_arch(teacher: Backbone | Teachers) -> str:
    """Name of the network in timm: two architectures can share their tensors and compute different features."""
    if isinstance(teacher, Teachers):
        return "+".join(teacher_arch(member) for member in teacher.members)
    return str(teacher.network.pretrained_cfg["architecture"])


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
