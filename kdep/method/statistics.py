"""One streaming pass over teacher features -> mean, principal axes and variances, in float64.

Why moments and not the feature matrix: for N x D features the thin SVD F - mean = U S V' has axes V = eigenvectors and
variances S^2 / N = eigenvalues of the covariance, which takes D^2 numbers at any N (34 MB at D = 2048, against 10 GB
for 1.28 million images). Why float64 and centring per batch (Chan, Golub & LeVeque 1983): in float32 E[xx'] - mm'
cancels where |mean| >> std, down to negative variances.

    count = n + m,  delta = mean_m - mean_n
    mean = mean_n + delta * m / count
    scatter = scatter_n + scatter_m + delta delta' * n * m / count
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import scipy.linalg
import torch

STRIPS = 8  # of the scatter matrix on a CPU: the part above the diagonal that they still compute is a sixteenth


class Moments:
    """Count, mean and scatter matrix of (B, D) batches; order, batching and merging change rounding only.

    Of the scatter matrix only the part on and below the diagonal is meant: the rest says the same or nothing.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, features: torch.Tensor) -> None:
        """Take in a batch (B, D) of any float type.

        Raises:
            ValueError: a feature is NaN or infinite, or the width is another.
        """
        if features.shape[1:] != self.mean.shape:
            raise ValueError(f"features {tuple(features.shape)}: expected (B, {len(self.mean)})")
        x = features.detach().double()
        total = x.sum(0)
        if not bool(torch.isfinite(total).all()):  # one feature that is not is enough
            raise ValueError("teacher features hold NaN or Inf: check its weights and input normalisation")
        mean = total / max(len(x), 1)
        centred = x - mean
        if centred.device == self.scatter.device:
            # In place, since a matrix more would double the memory; the BLAS of most builds has no faster syrk.
            rows = -(-len(mean) // STRIPS)
            for start in range(0, len(mean), rows):
                end = min(start + rows, len(mean))
                self.scatter[start:end, :end].addmm_(centred[:, start:end].T, centred[:, :end])
        else:
            self.scatter.add_((centred.T @ centred).cpu())
        self._move_mean(len(x), mean.cpu())

    def merge(self, other: "Moments") -> None:
        """Take in what another process has seen."""
        self.scatter.add_(other.scatter)
        self._move_mean(other.count, other.mean)

    def _move_mean(self, count: int, mean: torch.Tensor) -> None:
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.scatter.addr_(delta, delta, alpha=self.count * count / total)
        self.count = total


def merged(parts: Iterable[Moments]) -> Moments:
    """Moments of all that the parts have seen, in the first of them."""
    first, *others = parts
    for part in others:
        first.merge(part)
    return first


@dataclass(frozen=True)
class Statistics:
    """Moments of a teacher's features in their principal axes.

    Attributes:
        count: images seen.
        mean: (D,) float64.
        axes: (D, D), or fewer columns where only the leading ones are read; float64, one axis per COLUMN, leading
            first, the largest entry of each positive.
        variances: (D,) float64, descending, along the axes; squared singular values / count.
        channel_variances: (D,) float64, of the features as they come.
        teacher, data: fingerprints of what was seen.
        scale: (D,) float64, by which centred features are multiplied before all of the above; None: by 1.
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
        """Like `axes`: centred features times this are the features on their axes."""
        return self.axes if self.scale is None else self.scale[:, None] * self.axes

    def leading(self, count: int | None) -> "Statistics":
        """With this many axes only, all variances kept; None: as it is."""
        if count is None or count >= self.axes.shape[1]:
            return self
        # A copy: a view would keep, and save, the whole matrix.
        return replace(self, axes=self.axes[:, :count].clone(memory_format=torch.contiguous_format))

    def as_dict(self) -> dict[str, Any]:
        """Plain tensors and values, for a file."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


def finish(moments: Moments, *, teacher: str, data: str, widths: Sequence[int] = ()) -> Statistics:
    """Turn moments into principal axes; the moments are used up, since their matrix is overwritten.

    With the `widths` of several teachers side by side, each teacher (not each channel) is first divided by one number,
    the root of the mean variance of its channels: without it the axes would be those of the teacher with the largest
    features. How the channels of one teacher relate to each other stays as it is.

    Raises:
        ValueError: fewer than two images.
    """
    if moments.count < 2:
        raise ValueError(f"statistics of {moments.count} images: at least 2 are needed")
    covariance = moments.scatter.div_(moments.count).numpy()
    scale = None
    if len(widths) > 1:
        blocks = np.split(covariance.diagonal(), np.cumsum(widths)[:-1])
        scale = np.concatenate([np.full(len(block), block.mean() ** -0.5) for block in blocks])
        covariance *= scale[:, None] * scale
    channel_variances = covariance.diagonal().copy()
    # MRRR overwrites its input and needs no other square matrix than the result; torch's solver needs four. In the
    # order of Fortran the matrix is its transpose, and its upper part the one that counts.
    variances, vectors = scipy.linalg.eigh(
        covariance.T, lower=False, overwrite_a=True, check_finite=False, driver="evr"
    )
    # An axis is defined up to its sign; without a convention two machines would teach two different students.
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
    """Number of axes that carry more than rounding noise of float32 features.

    The threshold is the usual one for a matrix rank, D * eps times the largest singular value.
    """
    std = statistics.variances.sqrt()
    threshold = std[0] * len(std) * torch.finfo(torch.float32).eps
    return int((std > threshold).sum())


def std_ratio(std: torch.Tensor) -> float:
    """Largest over smallest standard deviation of the channels (paper, section 3.3); inf where one is constant."""
    return float(std.max() / std.min()) if float(std.min()) > 0 else float("inf")


def explained(statistics: Statistics, dim: int) -> float:
    """Share of the variance in the leading `dim` axes, in [0, 1]."""
    return float(statistics.variances[:dim].sum() / statistics.variances.sum())


def effective_rank(statistics: Statistics) -> float:
    """Exp of the entropy of the normalised variances (Roy & Vetterli 2007): 1 for a line, D for a sphere."""
    share = statistics.variances / statistics.variances.sum()
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()))
