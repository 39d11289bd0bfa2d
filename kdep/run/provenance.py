"""What is said about a run, at its start and in its student: teacher, statistics, data, configuration."""

import logging
from typing import Any

from torch import nn

from kdep.config import Config
from kdep.data.views import Views
from kdep.method.align import Target
from kdep.method.statistics import Statistics, effective_rank, explained, numerical_rank, std_ratio
from kdep.models.backbone import Backbone
from kdep.models.checkpoint import Checkpoint, fingerprint
from kdep.run.folder import provenance_of_code
from kdep.teaching import Known

logger = logging.getLogger("kdep")


def report(config: Config, statistics: Statistics, student: Backbone, target: Target) -> None:
    """Say what the student is asked to learn."""
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
            "the student's %d pooled features before its final activation move in %d dimensions only (its last "
            "convolution commutes with the pooling): it can match at most that many target axes",
            student.dim,
            head.in_channels,
        )


def as_checkpoint(
    config: Config, student: Backbone, known: Known, views: Views, seen: int, forms: dict[str, str]
) -> Checkpoint:
    """The student with where it came from."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.network.state_dict().items()}
    return Checkpoint(
        name=config.name,
        arch=config.student.arch,
        weights=weights,
        # Rounded: the buffers are float32, and 0.485 would come back as 0.48500001430511475.
        mean=tuple(round(value, 6) for value in student.mean.flatten().tolist()),
        std=tuple(round(value, 6) for value in student.std.flatten().tolist()),
        size=config.data.size,
        tap=student.tap,
        sha256=fingerprint(weights),
        provenance={
            "kind": "student",
            "method": method_of(config),
            **teacher_provenance(config, student, known),
            "data": {
                "source": config.data.source,
                "images": len(views.source.names),
                "fingerprint": views.source.fingerprint,
            },
            "images_seen": seen,
            "views": known.views or config.optim.epochs,
            "bank": known.bank.description.code if known.bank else None,
            "forms": dict(forms),
            "config": config.model_dump(mode="json"),
            **provenance_of_code(),
        },
    )


def method_of(config: Config) -> str:
    """The run in a few words, for the board."""
    if config.loss.classifies:
        return config.loss.name
    parts = [config.project or config.align.name, config.scale.name]
    return " ".join(["kdep", *parts, *([] if config.loss.name == "mse" else [config.loss.name])])


def teacher_provenance(config: Config, student: Backbone, known: Known) -> dict[str, Any]:
    """Whose features these are, and what they are like; nothing for labels."""
    if known.statistics is None:
        return {}
    statistics, std = known.statistics, known.statistics.variances.sqrt()
    return {
        "teacher": {"source": config.teacher.source, "tap": known.tap, "sha256": statistics.teacher},
        "statistics": {
            "images": statistics.count,
            "numerical_rank": numerical_rank(statistics),
            "explained": explained(statistics, student.dim),
            "std_ratio_channels": std_ratio(statistics.channel_variances.sqrt()),
            "std_ratio_axes": std_ratio(std[: student.dim]),
        },
    }
