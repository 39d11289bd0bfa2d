"""Compute mean, principal axes and variances of teacher features in one streaming pass, in float64.

The thin SVD F - mean = U S V' of N x D features gives axes V and variances S^2 / N. They are the eigenvectors and
eigenvalues of the covariance, which has D^2 entries at any N (34 MB at D = 2048; the features of 1.28 million images
have 10 GB). Batches are centred and merged in float64 (Chan, Golub & LeVeque 1983): in float32 E[xx'] - mm' cancels
where |mean| >> std and gives negative variances.

    count = n + m,  delta = mean_m - mean_n
    mean = mean_n + delta * m / count
    scatter = scatter_n + scatter_m + delta delta' * n * m / count
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import numpy as np
import scipy.linalg
import torch
from pydantic import Field, model_validator

from kdep.settings import Stored, dense, validate

STRIPS = 8  # row blocks of the scatter matrix; 1/16 of it is computed in vain above the diagonal


class Moments:
    """Count, mean and scatter matrix of (B, D) batches. Batch order and merging only change rounding.

    Only the lower triangle of the scatter matrix is valid. The sums are on the device of the first batch: a copy of the
    matrix for each batch would take longer than the batch.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, features: torch.Tensor) -> None:
        """Add a batch (B, D) of any float type.

        Raises:
            ValueError: a feature is NaN or infinite, or the batch has another width.
        """
        if features.shape[1:] != self.mean.shape:
            raise ValueError(f"features {tuple(features.shape)}: expected (B, {len(self.mean)})")
        x = features.detach().double()
        total = x.sum(0)
        if not bool(torch.isfinite(total).all()):  # NaN and Inf survive the sum
            raise ValueError("teacher features contain NaN or Inf: check the teacher's weights and input normalisation")
        if self.count == 0:
            self._move_to(x.device)
        mean = total / max(len(x), 1)
        centred = x - mean
        # In place: a second D x D matrix would double the memory. syrk is no faster in most BLAS builds.
        rows = -(-len(mean) // STRIPS)
        for start in range(0, len(mean), rows):
            end = min(start + rows, len(mean))
            self.scatter[start:end, :end].addmm_(centred[:, start:end].T, centred[:, :end])
        self._move_mean(len(x), mean)

    def on_cpu(self) -> "Moments":
        """Bring the sums to the CPU, in place: gloo exchanges them and LAPACK solves there."""
        self._move_to(torch.device("cpu"))
        return self

    def _move_to(self, device: torch.device) -> None:
        self.mean, self.scatter = self.mean.to(device), self.scatter.to(device)

    def _move_mean(self, count: int, mean: torch.Tensor) -> None:
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.scatter.addr_(delta, delta, alpha=self.count * count / total)
        self.count = total


def sum_moments(own: Moments, total: Callable[[torch.Tensor], torch.Tensor]) -> Moments:
    """Sum the moments of several processes; `own` is overwritten.

    mean = sum(n_i mean_i) / sum(n_i)
    scatter = sum(scatter_i + n_i (mean_i - mean) (mean_i - mean)')

    Args:
        own: of this process.
        total: sums a tensor over the processes, in place.
    """
    own.on_cpu()
    sums = total(torch.cat([own.mean * own.count, own.mean.new_tensor([own.count])]))
    mean = sums[:-1] / sums[-1].clamp_min(1)
    own.scatter = total(own.scatter.addr_(own.mean - mean, own.mean - mean, alpha=own.count))
    own.mean, own.count = mean, int(sums[-1])
    return own


@dataclass(frozen=True)
class Statistics:
    """Mean, principal axes and variances of a teacher's features.

    Attributes:
        count: number of images.
        mean: (D,) float64.
        axes: (D, D) float64, or only the leading columns; one axis per COLUMN, largest variance first, the largest
            entry of each axis positive.
        variances: (D,) float64, descending, along the axes; squared singular values / count.
        channel_variances: (D,) float64, of the channels.
        teacher, data: fingerprints of the teacher and of the images.
        scale: (D,) float64 factors of the centred features, applied before the axes and variances; None means 1.
    """

    count: int
    mean: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor
    channel_variances: torch.Tensor
    teacher: str
    data: str
    scale: torch.Tensor | None = None

    @property
    def basis(self) -> torch.Tensor:
        """(D, axes) float64: centred features times this matrix are the coordinates on the axes."""
        return self.axes if self.scale is None else self.scale[:, None] * self.axes

    def leading(self, count: int | None) -> "Statistics":
        """Return a copy with the first `count` axes and all variances; None keeps all axes."""
        if count is None or count >= self.axes.shape[1]:
            return self
        # Cloned, because a view keeps the whole matrix in memory and in the saved file.
        return replace(self, axes=self.axes[:, :count].clone(memory_format=torch.contiguous_format))

    def as_dict(self) -> dict[str, Any]:
        """Return plain tensors and values for a file."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


class StatisticsFile(Stored):
    """Statistics in a file, as `Statistics.as_dict` gives them."""

    count: Annotated[int, Field(ge=2, lt=2**63)]
    mean: torch.Tensor
    axes: torch.Tensor
    variances: torch.Tensor
    channel_variances: torch.Tensor
    teacher: str
    data: str
    scale: torch.Tensor | None = None

    @model_validator(mode="after")
    def _fits(self) -> "StatisticsFile":
        dim = len(self.mean) if self.mean.ndim else 0
        shapes = {
            "mean": (dim,),
            "axes": (dim, None),
            "variances": (dim,),
            "channel_variances": (dim,),
            "scale": (dim,),
        }
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is None:
                continue
            dense(tensor)
            fits = tensor.ndim == len(shape) and all(b in (None, a) for a, b in zip(tensor.shape, shape, strict=True))
            if not fits or tensor.dtype != torch.float64 or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, expected finite float64 for {dim}")
        if not dim or not float(self.variances[0]) > 0:
            raise ValueError("variances do not begin above 0")
        return self


def parse_statistics(content: Any, source: str, *, remedy: str) -> Statistics:
    """Read what `Statistics.as_dict` gave.

    Raises:
        ValueError: something is missing, of another type or shape, or not finite; names `source`.
    """
    known = validate(StatisticsFile, content, source, remedy=remedy)
    return Statistics(**{name: getattr(known, name) for name in StatisticsFile.model_fields})


def finish(moments: Moments, *, teacher: str, data: str, widths: Sequence[int] = ()) -> Statistics:
    """Compute the principal axes. The scatter matrix of the moments is overwritten.

    With the `widths` of several concatenated teachers, the features of each teacher are first divided by the root of
    the mean variance of its channels. Otherwise the teacher with the largest features would determine the axes. Ratios
    between the channels of one teacher do not change.

    Raises:
        ValueError: fewer than two images.
    """
    if moments.count < 2:
        raise ValueError(f"statistics of {moments.count} images: at least 2 are needed")
    covariance = moments.on_cpu().scatter.div_(moments.count).numpy()
    scale = None
    if len(widths) > 1:
        blocks = np.split(covariance.diagonal(), np.cumsum(widths)[:-1])
        scale = np.concatenate([np.full(len(block), block.mean() ** -0.5) for block in blocks])
        covariance *= scale[:, None] * scale
    channel_variances = covariance.diagonal().copy()
    # MRRR overwrites its input and needs no square matrix but the result; torch's solver needs four. LAPACK needs
    # column-major memory: the transposed view, whose upper triangle is the valid one.
    variances, vectors = scipy.linalg.eigh(
        covariance.T, lower=False, overwrite_a=True, check_finite=False, driver="evr"
    )
    # The sign of an axis is arbitrary; without a convention the targets would differ between machines.
    signs = np.where(vectors.max(0) >= -vectors.min(0), 1.0, -1.0)
    axes = np.multiply(vectors[:, ::-1], signs[::-1], out=covariance)
    return Statistics(
        count=moments.count,
        mean=moments.mean,
        axes=torch.from_numpy(axes),
        variances=torch.from_numpy(variances[::-1].clip(0).copy()),
        channel_variances=torch.from_numpy(channel_variances),
        teacher=teacher,
        data=data,
        scale=None if scale is None else torch.from_numpy(scale),
    )


def numerical_rank(statistics: Statistics) -> int:
    """Count the axes whose variance exceeds the rounding noise of float32 features.

    The threshold is the usual one for a matrix rank: D * eps times the largest singular value.
    """
    std = statistics.variances.sqrt()
    threshold = std[0] * len(std) * torch.finfo(torch.float32).eps
    return int((std > threshold).sum())


def std_ratio(std: torch.Tensor) -> float:
    """Divide the largest by the smallest standard deviation (paper, section 3.3); inf if a channel is constant."""
    return float(std.max() / std.min()) if float(std.min()) > 0 else float("inf")


def ratio_or_none(std: torch.Tensor) -> float | None:
    """Std ratio; None where a channel is constant and there is none (JSON has no infinity)."""
    ratio = std_ratio(std)
    return ratio if ratio < float("inf") else None


def explained(statistics: Statistics, dim: int) -> float:
    """Return the share of the variance on the leading `dim` axes, in [0, 1]."""
    return float(statistics.variances[:dim].sum() / statistics.variances.sum())


def effective_rank(statistics: Statistics) -> float:
    """Return exp(entropy of the normalised variances) (Roy & Vetterli 2007): 1 for a line, D for a sphere."""
    share = statistics.variances / statistics.variances.sum()
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()))
