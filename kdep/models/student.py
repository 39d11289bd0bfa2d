"""Open the student: its network, its weights at the start, and the tap at which its features are taken."""

import torch
from torch import nn

from kdep.config import Config
from kdep.models.backbones import taps
from kdep.models.backbones.backbone import Backbone, create_network
from kdep.models.backbones.own import code_of
from kdep.models.checkpoints.checkpoint import LoadError, fingerprint, load_exactly
from kdep.models.weights import open_checkpoint, split_size


def open_student(config: Config) -> Backbone:
    """Open the student with seeded random weights, or with those of `student.weights`.

    Raises:
        LoadError: these are of another architecture, or do not load completely.
        ValueError: they are named with an input size, as `FILE@128`.
    """
    torch.manual_seed(config.weight_seed)
    network = create_network(config.student.arch)
    tap = student_tap(config, network)
    spec = config.student.weights
    if spec is None:
        return Backbone(network, tap=tap)
    if (size := split_size(spec)[1]) is not None:
        raise ValueError(f"student.weights {spec}: a student sees data.size pixels; leave out @{size}")
    start = open_checkpoint(spec, arch=config.student.arch)
    arch = taps.network_name(network)
    if start.arch not in (arch, config.student.arch):  # two can share their tensors and compute different features
        raise LoadError(f"student.weights {spec} is of {start.arch}, and student.arch is {arch}")
    load_exactly(network, start.weights, spec)
    return Backbone(network, tap=tap, mean=start.mean, std=start.std)


def student_sources(config: Config, student: Backbone) -> dict[str, str]:
    """Hashes of what a student begins with: its starting weights, and the code of a network of one's own."""
    found = {"student": fingerprint(student.network.state_dict())} if config.student.weights else {}
    code = code_of(config.student.arch)
    return found | ({"code of the student": code} if code else {})


def student_tap(config: Config, network: nn.Module) -> str:
    """Choose where the student's features are taken.

    A classifier (loss.name logits or labels) reads them after the final activation, as in any network. Otherwise the
    default is before a last 1x1 convolution, which adds channels but no dimensions: study `taps_mobile`.

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
