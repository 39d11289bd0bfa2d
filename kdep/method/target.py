"""Compute the training target from teacher features: an aligner, then a scaler, both fixed by the statistics."""

import torch
import torch.nn.functional as F
from torch import nn

from kdep.config import Config
from kdep.method.align import ALIGNERS, LEADING, WIDENING, hadamard
from kdep.method.scale import Scaler, make_scaler
from kdep.method.statistics import Statistics, numerical_rank

Classifier = tuple[torch.Tensor, torch.Tensor]  # weight (classes, D), bias (classes,)


def make_target(
    config: Config,
    statistics: Statistics | None,
    dim: int,
    *,
    axes: int | None = None,
    classifier: Classifier | None = None,
    classes: int = 0,
) -> tuple[nn.Module, int]:
    """Make the module that turns teacher features into the target; return it with the width of the target.

    Args:
        config: names the aligner, scaler and loss.
        statistics: of the teacher's features; None for loss.name labels, which has no teacher.
        dim: the student's width.
        axes: as for `Target`.
        classifier: of the teacher, for loss.name logits.
        classes: number of classes, for loss.name labels.

    Returns:
        The module, and the width that the student must have after its projector or classifier.
    """
    scaler = make_scaler(config.scale.name, config.scale.options)
    if statistics is None:
        return nn.Identity(), classes
    if classifier is not None:
        return Logits(statistics, classifier, axes=axes), len(classifier[1])
    width = dim if config.project is None else len(statistics.mean)
    return Target(statistics, width, aligner=config.align.name, scaler=scaler, axes=axes), width


def axes_read(config: Config, dim: int) -> int | None:
    """Return the number of leading principal axes that a run reads: the student's width `dim`, or None for all."""
    return dim if config.align.name in LEADING and config.loss.name != "logits" else None


class Target(nn.Module):
    """Align teacher features to the student's width, then scale them.

    The module has only buffers and runs without gradient: the power function of PTS has none at 0.

    Args:
        statistics: of the teacher's features.
        dim: the student's width D_s.
        aligner: a key of `ALIGNERS`.
        scaler: see `kdep.method.scale.make_scaler`.
        axes: None for features of the teacher; for features of a bank, which are centred and projected on the leading
            principal axes, the number of these axes.

    Shape:
        (..., D_t or axes) -> (..., D_s), float32.

    Raises:
        ValueError: the widths do not fit (`check_widths`), or the aligner reads more axes than the bank stores.
    """

    def __init__(
        self, statistics: Statistics, dim: int, *, aligner: str, scaler: Scaler, axes: int | None = None
    ) -> None:
        super().__init__()
        width, rank = len(statistics.mean), numerical_rank(statistics)
        check_widths(aligner, width=width, dim=dim, rank=rank, images=statistics.count)
        matrix = ALIGNERS[aligner](statistics, dim)
        covariance = statistics.axes * statistics.variances[: statistics.axes.shape[1]] @ statistics.axes.T
        std = ((covariance @ matrix) * matrix).sum(0).clamp_min(0).sqrt()
        mean = statistics.mean
        if axes is not None:
            kept = statistics.axes[:, :axes]
            lost = matrix - kept @ (kept.T @ matrix)
            share = float(((covariance @ lost) * lost).sum() / std.square().sum())
            if share > 1e-9:
                raise ValueError(
                    f"align.name {aligner} needs more than the bank's {axes} axes, which lack {100 * share:.2g} % of "
                    f"the targets' variance: make a bank with bank.axes={width}"
                )
            matrix, mean = kept.T @ matrix, mean.new_zeros(axes)
        elif statistics.scale is not None:
            matrix = statistics.scale[:, None] * matrix
        self.register_buffer("mean", mean.float())
        self.register_buffer("matrix", matrix.float().contiguous())
        self.register_buffer("std", std.float())
        self.register_buffer("channels", statistics.channel_variances.sqrt().sort(descending=True).values.float())
        self.register_buffer("factor", torch.ones(()))  # set by scale.match
        self._scaler = scaler

    @torch.no_grad()
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Align and scale in float32, also under autocast: half precision would lose the small axes."""
        with torch.autocast(features.device.type, enabled=False):
            return self._scaler((features.float() - self.mean) @ self.matrix, self.std, self.channels) * self.factor


class Logits(nn.Module):
    """Compute the teacher's logits from its features: the target of classical distillation.

    Args:
        statistics: of the teacher's features.
        classifier: weight (classes, D_t) and bias (classes,).
        axes: as for `Target`; a bank must have all axes.

    Shape:
        (..., D_t) -> (..., classes), float32.

    Raises:
        ValueError: the classifier has another width than the features, or the bank lacks axes.
    """

    def __init__(self, statistics: Statistics, classifier: Classifier, *, axes: int | None = None) -> None:
        super().__init__()
        weight, bias = (tensor.double() for tensor in classifier)
        width = len(statistics.mean)
        check_classifier(weight, width)
        if axes is not None:
            if axes != width:
                raise ValueError(f"loss.name logits needs all axes: make the bank with bank.axes={width}")
            bias = weight @ statistics.mean + bias
            weight = weight @ torch.linalg.inv(statistics.basis).T
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    @torch.no_grad()
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the teacher's classifier in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float(), self.weight, self.bias)


def check_classifier(weight: torch.Tensor, width: int) -> None:
    """Raise a ValueError if a classifier (classes, D) does not fit the teacher's `width` features."""
    if weight.shape[1] != width:
        raise ValueError(
            f"loss.name logits: the classifier reads {weight.shape[1]} features, the teacher has {width}; take its "
            "features where its classifier does (teacher.tap=post)"
        )


def check_widths(aligner: str, *, width: int, dim: int, rank: int, images: int) -> None:
    """Check that an aligner can map the teacher's features to the student's width.

    Args:
        aligner: a key of `ALIGNERS`.
        width: channels of the teacher.
        dim: channels of the student.
        rank: upper bound for the rank of the teacher's features.
        images: number of images in the statistics.

    Raises:
        ValueError: the aligner cannot do this; the message names alternatives.
    """
    if aligner == "none" and dim != width:
        raise ValueError(
            f"align.name none: the teacher has {width} channels, the student {dim}; add a projector (project=linear), "
            "or use an aligner (align.name=svd)"
        )
    if dim > width and aligner not in WIDENING:
        raise ValueError(
            f"the student has {dim} channels, the teacher {width}, and align.name {aligner} cannot add channels. "
            "Use align.name=random (an isometry: it preserves distances), a learned projector (align.name=none "
            "project=linear), a wider teacher, or a narrower tap of the student"
        )
    if aligner in LEADING and dim > rank:
        few = rank >= images - 1  # one dimension goes to the mean
        if few:
            raise ValueError(
                f"a student with {dim} channels needs at least {dim + 1} images, and there are {images}, which span at "
                f"most {rank} dimensions. Use more images, or take a narrower student"
            )
        raise ValueError(
            f"the student has {dim} channels, but the teacher's features span at most {rank} of their {width} "
            "dimensions; the other axes are noise, which scaling would amplify. Tap the teacher after its final "
            "activation (teacher.tap: post), or take a narrower student"
        )
    if aligner == "phi_s":
        hadamard(dim)
