"""Open a frozen teacher, or several side by side, and identify it."""

import dataclasses

import torch

from kdep.config import Config
from kdep.models.backbones.backbone import Backbone, Teachers, build_backbone
from kdep.models.backbones.fold import fold_batchnorm
from kdep.models.backbones.own import code_of
from kdep.models.backbones.taps import TAPS
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.models.weights import open_checkpoint


def open_teacher(config: Config) -> Backbone | Teachers:
    """Open the teacher, or several, at its tap: in eval mode, without gradients, with all its weights loaded.

    It resamples the shared view to the size it knows. For `loss.name` logits the tap is `post`, which its classifier
    reads.

    Raises:
        ValueError: as `teacher_size`, or as `open_checkpoint`.
    """
    given = config.teacher.source
    members = []
    for source in given if isinstance(given, list) else [given]:
        checkpoint = open_checkpoint(source, arch=config.teacher.arch)
        checkpoint = dataclasses.replace(checkpoint, resample=teacher_size(config, checkpoint.resample))
        members.append(build_backbone(checkpoint, tap="post" if config.loss.name == "logits" else config.teacher.tap))
    teacher = members[0] if len(members) == 1 else Teachers(members)
    return teacher.eval().requires_grad_(False)


def teacher_size(config: Config, named: int | None) -> int | None:
    """The side to which a teacher resamples its input: `teacher.size`, or that behind its name; None for neither.

    Raises:
        ValueError: both are given and differ.
    """
    if config.teacher.size is not None and named not in (None, config.teacher.size):
        raise ValueError(
            f"teacher.size is {config.teacher.size}, and @{named} stands behind a teacher's name; leave the second "
            f"out, and set teacher.size={named} if that is meant"
        )
    return config.teacher.size or named


def fastest_form(teacher: Backbone | Teachers, size: int, device: torch.device) -> Backbone | Teachers:
    """Copy a frozen network to the device with its BatchNorm folded, channels last; the same up to rounding.

    Args:
        teacher: in eval mode.
        size: side of the images in pixels.
        device: where it computes from now on.
    """
    return fold_batchnorm(teacher, size).to(device, memory_format=torch.channels_last)


def teacher_identity(teacher: Backbone | Teachers) -> str:
    """Fingerprint of everything that shapes the teacher's features; to be taken before BatchNorm is folded."""
    if isinstance(teacher, Teachers):
        return "+".join(teacher_identity(member) for member in teacher.members)
    shape = torch.tensor([teacher.resample or 0, TAPS.index(teacher.tap)])
    parts = {".mean": teacher.mean, ".std": teacher.std, ".shape": shape}
    if code := code_of(teacher_arch(teacher)):  # the same tensors in other code are another teacher
        parts[".code"] = torch.frombuffer(bytearray(code.encode()), dtype=torch.uint8)
    return fingerprint({**teacher.network.state_dict(), **parts})


def teacher_arch(teacher: Backbone | Teachers) -> str:
    """Name of the network in timm: two architectures can share their tensors and compute different features."""
    if isinstance(teacher, Teachers):
        return "+".join(teacher_arch(member) for member in teacher.members)
    return str(teacher.network.pretrained_cfg["architecture"])


def largest_rank(teacher: Backbone | Teachers) -> int:
    """Dimensions that the pooled features can span: a last 1x1 convolution before the tap cannot add any."""
    if isinstance(teacher, Teachers):
        return sum(largest_rank(member) for member in teacher.members)
    head = getattr(teacher.network, "conv_head", None)
    return min(teacher.dim, head.in_channels) if teacher.tap == "pre" and head is not None else teacher.dim
