"""Read features in blocks, standardise them and rotate them onto principal axes, without a float64 copy of all."""

from collections.abc import Iterator
from dataclasses import dataclass

import scipy.linalg
import torch

NOT_FINITE = "features are not finite; the network diverges on these images or its weights are broken"
KEPT = 2**31  # bytes of rotated features kept in memory; larger sets are rotated at every pass


@dataclass(frozen=True)
class Axes:
    """Principal axes of standardised features: z = (x - mean) @ basis, with the variance of each column of z."""

    mean: torch.Tensor
    basis: torch.Tensor
    variances: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class _Turned:
    """Either `kept`, the rotated features, or the mean and basis with which to rotate the parameters."""

    dtype: torch.dtype
    kept: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    basis: torch.Tensor | None = None


class Images:
    """Features and labels, read in blocks. After `on`, iteration yields rotated blocks (R, axes) and labels (R,).

    If the rotated features are too large to keep, blocks are only centred and the parameters are rotated instead:
    x @ (basis @ w) equals (x @ basis) @ w.

    Args:
        features: (N, D); labels: (N,).
        rows: positions in both [all].
        block: images in a block.
        device: device of blocks and labels.
    """

    def __init__(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        rows: torch.Tensor | None,
        *,
        block: int,
        device: torch.device,
    ) -> None:
        self._features, self._block, self._device = features, block, device
        self._rows = None if rows is None else rows.to(features.device)
        self.labels = (labels if rows is None else labels[rows.to(labels.device)]).to(device)
        self._turned: _Turned | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dim(self) -> int:
        """Number of features D."""
        return self._features.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the rotated blocks."""
        return self._turned.dtype

    def raw(self) -> Iterator[torch.Tensor]:
        """Yield blocks (R, D) as given."""
        for start in range(0, len(self), self._block):
            part = slice(start, start + self._block)
            yield self._features[part if self._rows is None else self._rows[part]].to(self._device)

    def on(self, axes: Axes, dtype: torch.dtype) -> "Images":
        """Return the images rotated onto axes, in blocks of a type; the rotation is computed in that type."""
        turned = _Turned(dtype=dtype, mean=axes.mean, basis=axes.basis)
        if len(self) * len(axes.variances) * dtype.itemsize <= KEPT:
            kept = axes.mean.new_empty(len(self), len(axes.variances), dtype=dtype)
            for part, block in zip(kept.split(self._block), self.raw(), strict=True):
                part.copy_((block.double() - axes.mean).to(dtype) @ axes.basis.to(dtype))
            turned = _Turned(dtype=dtype, kept=kept)
        copy = Images(self._features, self.labels, None, block=self._block, device=self._device)
        copy._rows, copy._turned = self._rows, turned
        return copy

    def only(self, rows: torch.Tensor) -> "Images":
        """Select some of the images, after `on`."""
        copy = Images(self._features, self.labels, None, block=self._block, device=self._device)
        rows, turned = rows.to(self._device), self._turned
        copy.labels = self.labels[rows]
        if turned.kept is not None:
            copy._turned = _Turned(dtype=self.dtype, kept=turned.kept[rows])
            return copy
        own = rows.to(self._features.device)
        copy._rows, copy._turned = own if self._rows is None else self._rows[own], turned
        return copy

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        turned = self._turned
        if turned.kept is not None:
            blocks = iter(turned.kept.split(self._block))
        else:
            mean = turned.mean.to(turned.dtype)
            blocks = (block.to(turned.dtype) - mean for block in self.raw())
        return zip(blocks, self.labels.split(self._block), strict=True)

    def parameters(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Convert parameters (C, axes + 1) to weight (C, columns of a block) and bias (C, 1) for the blocks."""
        weight = x[:, :-1] if self._turned.kept is not None else x[:, :-1] @ self._turned.basis.T
        return weight.to(self.dtype), x[:, -1:].to(self.dtype)

    def gradient(self, slopes: torch.Tensor) -> torch.Tensor:
        """Convert the gradient of the weights from `parameters` to float64 on the axes."""
        return slopes.double() if self._turned.kept is not None else slopes.double() @ self._turned.basis


def find_axes(images: Images, products: torch.dtype = torch.float64) -> Axes:
    """Standardise features by their mean and deviation on these images, and find the principal axes with variance.

    A constant feature, such as a unit that never fires, is dropped: dividing by its deviation would amplify rounding.

    Args:
        images: before rotation.
        products: type of the products of features. float32 is several times faster. It makes axes with less than a
            millionth of the largest variance arbitrary, which costs the solver steps but changes no optimum.

    Raises:
        ValueError: features are not finite.
    """
    mean, covariance = moments(images, products)
    if not torch.isfinite(covariance).all():
        raise ValueError(NOT_FINITE)
    deviation = covariance.diagonal().sqrt()
    used = deviation > 1e-6 * mean.abs().clamp_min(1e-30)
    scale = torch.where(used, 1 / deviation.clamp_min(1e-30), torch.zeros_like(deviation))
    if len(images) < images.dim:
        # With few images the features fit in memory, and their SVD is more precise than that of the covariance.
        standardised = torch.cat([(block.double() - mean) * scale for block in images.raw()])
        _, singular, axes = torch.linalg.svd(standardised, full_matrices=False)
        variances, vectors = singular.square() / len(images), axes.T
    else:
        variances, vectors = eigenpairs(scale[:, None] * covariance * scale)
    kept = variances > 1e-12 * variances.max().clamp_min(1e-30)
    return Axes(mean, scale[:, None] * vectors[:, kept], variances[kept])


def eigenpairs(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (D,), ascending, and eigenvectors (D, D) in columns, of a symmetric float64 matrix (D, D).

    Computed on the CPU by SciPy. torch's solver does not converge on some matrices of networks most of whose units
    never fire.
    """
    values, vectors = scipy.linalg.eigh(matrix.cpu().numpy())
    return torch.from_numpy(values).to(matrix.device), torch.from_numpy(vectors).to(matrix.device)


def moments(images: Images, products: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean (D,) and covariance (D, D) in float64, in one pass over the features."""
    shift: torch.Tensor | None = None
    total: torch.Tensor | None = None
    square: torch.Tensor | None = None
    for block in images.raw():
        if shift is None:
            # Subtract the mean of the first block: squares of large offsets would swamp the variances.
            shift = block.double().mean(0)
            total, square = torch.zeros_like(shift), shift.new_zeros(len(shift), len(shift))
        centred = block.double() - shift
        total += centred.sum(0)
        rounded = centred.to(products)
        square += rounded.T @ rounded
    offset = total / len(images)
    covariance = square / len(images) - offset[:, None] * offset
    # Rounding can make the variance of a constant feature negative.
    covariance.diagonal().clamp_(min=0)
    return shift + offset, covariance
