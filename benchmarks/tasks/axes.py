"""Features read in blocks, their standardisation and principal axes; nothing of the size of all features in float64."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

KEPT = 2**31  # bytes of rotated features that are kept; more is rotated again whenever it is read


@dataclass(frozen=True)
class Axes:
    """Principal axes of standardised features: z = (x - mean) @ basis, with the variance of each column of z."""

    mean: torch.Tensor
    basis: torch.Tensor
    variances: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class _Turned:
    """How blocks are brought onto axes: `kept`, the rotated images, or `axes`, by which to rotate the parameters."""

    dtype: torch.dtype
    kept: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    basis: torch.Tensor | None = None


class Images:
    """Images in blocks: as they are until `on` brings them onto axes, where a block is (R, axes) with labels (R,).

    Where the rotated images are too many to keep, blocks are only centred, and the rotation moves to the other factor
    of every product: x @ basis @ w is a product with few columns more.

    Args:
        features: (N, D); labels: (N,).
        rows: positions in both, by default all.
        block: images at a time.
        device: where blocks and labels go.
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
        """Of the blocks on the axes."""
        return self._turned.dtype

    def raw(self) -> Iterator[torch.Tensor]:
        """Blocks (R, D) as they were given."""
        for start in range(0, len(self), self._block):
            part = slice(start, start + self._block)
            yield self._features[part if self._rows is None else self._rows[part]].to(self._device)

    def on(self, axes: Axes, dtype: torch.dtype) -> "Images":
        """The same images on axes, in blocks of a type; float32 is rotated in float32."""
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
        """Some of the images, on the axes on which all of them lie and are kept."""
        copy = Images(self._features, self.labels, None, block=self._block, device=self._device)
        rows = rows.to(self._device)
        copy.labels, copy._turned = self.labels[rows], _Turned(dtype=self.dtype, kept=self._turned.kept[rows])
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
        """Parameters (C, axes + 1) on the axes -> weight (C, columns of a block) and bias (C, 1) for the blocks."""
        weight = x[:, :-1] if self._turned.kept is not None else x[:, :-1] @ self._turned.basis.T
        return weight.to(self.dtype), x[:, -1:].to(self.dtype)

    def gradient(self, slopes: torch.Tensor) -> torch.Tensor:
        """The gradient for the weights of `parameters` -> float64, on the axes."""
        return slopes.double() if self._turned.kept is not None else slopes.double() @ self._turned.basis


def find_axes(images: Images, products: torch.dtype = torch.float64) -> Axes:
    """Standardise by these images' own statistics and find the principal axes that have variance.

    A constant feature (a unit that never fires, up to float32 rounding) carries nothing and is left out: dividing by
    its deviation would blow rounding noise up to the size of a feature.

    Args:
        images: as they are.
        products: type in which features are multiplied with each other, a block at a time. float32 is several times
            faster; axes with less than a millionth of the largest variance then are arbitrary, which costs the solver
            steps and changes no optimum.

    Raises:
        ValueError: features are not finite.
    """
    mean, covariance = moments(images, products)
    if not torch.isfinite(covariance).all():
        raise ValueError("features are not finite; the network diverges on these images or its weights are broken")
    deviation = covariance.diagonal().sqrt()
    used = deviation > 1e-6 * mean.abs().clamp_min(1e-30)
    scale = torch.where(used, 1 / deviation.clamp_min(1e-30), torch.zeros_like(deviation))
    if len(images) < images.dim:
        # The covariance of few images squares their rounding; they are small enough to be taken whole.
        standardised = torch.cat([(block.double() - mean) * scale for block in images.raw()])
        _, singular, axes = torch.linalg.svd(standardised, full_matrices=False)
        variances, vectors = singular.square() / len(images), axes.T
    else:
        variances, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
    kept = variances > 1e-12 * variances.max().clamp_min(1e-30)
    return Axes(mean, scale[:, None] * vectors[:, kept], variances[kept])


def moments(images: Images, products: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and covariance (D, D) in float64, in one pass: a large file is read once."""
    shift: torch.Tensor | None = None
    total: torch.Tensor | None = None
    square: torch.Tensor | None = None
    for block in images.raw():
        if shift is None:
            # About a mean of some images, or the squares of large offsets would drown the variances.
            shift = block.double().mean(0)
            total, square = torch.zeros_like(shift), shift.new_zeros(len(shift), len(shift))
        centred = block.double() - shift
        total += centred.sum(0)
        rounded = centred.to(products)
        square += rounded.T @ rounded
    offset = total / len(images)
    covariance = square / len(images) - offset[:, None] * offset
    # Rounding can turn the variance of a constant feature negative.
    covariance.diagonal().clamp_(min=0)
    return shift + offset, covariance
