"""Describe a run: in the log at its start, and in student.pth at its end."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdep.config import Config
from kdep.data.loading.views import Views
from kdep.method.statistics import (
    Statistics,
    effective_rank,
    explained,
    numerical_rank,
    ratio_or_none,
    std_ratio,
)
from kdep.models.backbones.backbone import Backbone
from kdep.models.backbones.taps import network_name
from kdep.models.checkpoints.checkpoint import Checkpoint, fingerprint

logger = logging.getLogger("kdep")


def report(statistics: Statistics, student: Backbone) -> None:
    """Log ranks and std ratios of the teacher's features; warn if the student cannot match them."""
    std = statistics.variances.sqrt()
    logger.info(
        "teacher: %d features, numerical rank %d, effective rank %.0f; std ratio %.1f of the channels, %.1f of the %d "
        "leading axes, which hold %.1f %% of the variance",
        len(std),
        numerical_rank(statistics),
        effective_rank(statistics),
        std_ratio(statistics.channel_variances.sqrt()),
        std_ratio(std[: student.dim]),
        student.dim,
        100 * explained(statistics, student.dim),
    )
    head = getattr(student.network, "conv_head", None)
    if student.tap == "pre" and isinstance(head, nn.Conv2d) and head.in_channels < student.dim:
        logger.warning(
            "the student's %d pooled features before its final activation span only %d dimensions (its last "
            "convolution commutes with pooling), so it can match at most that many target axes",
            student.dim,
            head.in_channels,
        )


def as_checkpoint(
    config: Config,
    student: Backbone,
    views: Views,
    seen: int,
    statistics: Statistics | None,
    tap: str,
    facts: dict[str, Any],
) -> Checkpoint:
    """Make the checkpoint of a trained student, with its provenance.

    Args:
        config: as the user gave it.
        student: after training.
        views: the images.
        seen: number of training images, counted with repetitions.
        statistics: of the teacher's features; None for labels.
        tap: where the teacher's features were taken.
        facts: how the run computed, such as its precision; plain values.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.network.state_dict().items()}
    return Checkpoint(
        name=config.name,
        arch=network_name(student.network),
        weights=weights,
        # Rounded: 0.485 in a float32 buffer reads as 0.48500001430511475.
        mean=tuple(round(value, 6) for value in student.mean.flatten().tolist()),
        std=tuple(round(value, 6) for value in student.std.flatten().tolist()),
        size=config.data.size,
        tap=student.tap,
        sha256=fingerprint(weights),
        provenance={
            "kind": "student",
            "method": method_of(config),
            **teacher_provenance(config, student, statistics, tap),
            "data": {
                "source": config.data.source,
                "images": len(views.source.names),
                "fingerprint": views.source.fingerprint,
            },
            "images_seen": seen,
            **facts,
            "config": config.model_dump(mode="json"),
            **provenance_of_code(),
        },
    )


def method_of(config: Config) -> str:
    """Name the method in a few words, for the board."""
    if config.loss.classifies:
        return config.loss.name
    parts = [config.project or config.align.name, config.scale.name]
    return " ".join(["kdep", *parts, *([] if config.loss.name == "mse" else [config.loss.name])])


def teacher_provenance(config: Config, student: Backbone, statistics: Statistics | None, tap: str) -> dict[str, Any]:
    """Describe the teacher and the statistics of its features; empty for loss.name labels."""
    if statistics is None:
        return {}
    std = statistics.variances.sqrt()
    return {
        "teacher": {"source": config.teacher.source, "tap": tap, "sha256": statistics.teacher},
        "statistics": {
            "images": statistics.count,
            "numerical_rank": numerical_rank(statistics),
            "explained": explained(statistics, student.dim),
            "std_ratio_channels": ratio_or_none(statistics.channel_variances.sqrt()),
            "std_ratio_axes": ratio_or_none(std[: student.dim]),
        },
    }


def provenance_of_code() -> dict[str, str]:
    """Return the git commit and the versions of kdep, torch, timm and Python; `unknown` if not available."""
    import platform
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    here = Path(__file__).resolve()
    try:
        # An installed kdep may lie in the virtual environment of another repository, whose commit is not kdep's.
        git("ls-files", "--error-unmatch", here.name)
        commit = git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    try:
        own = version("kdep")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "commit": commit,
        "kdep": own,
        "torch": str(torch.__version__),  # TorchVersion, a subclass of str, cannot be read with weights_only=True
        "timm": version("timm"),
        "python": platform.python_version(),
    }
