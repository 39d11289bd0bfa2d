"""Aligners: teacher features (B, D_t) -> the student's width (B, D_s), without parameters.

Every one of them is a centring followed by a fixed matrix (D_t, D_s); they differ in the matrix. Nothing here is
learned, so nothing here is transferred.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from kdep.method.scale import Scaler
from kdep.method.statistics import Statistics, numerical_rank


def svd(statistics: Statistics, dim: int) -> torch.Tensor:
    """The leading principal axes (paper, section 3.2)."""
    return statistics.axes[:, :dim]


def top_variance(statistics: Statistics, dim: int) -> torch.Tensor:
    """Channel selection: the `dim` channels of largest variance, in their own order."""
    chosen = statistics.channel_variances.topk(dim).indices.sort().values
    return torch.eye(len(statistics.mean), dtype=torch.float64)[:, chosen]


def random_channels(statistics: Statistics, dim: int) -> torch.Tensor:
    """Channel selection at random, always the same one (seed 0), in their own order."""
    chosen = torch.randperm(len(statistics.mean), generator=torch.Generator().manual_seed(0))[:dim].sort().values
    return torch.eye(len(statistics.mean), dtype=torch.float64)[:, chosen]


def random_orthonormal(statistics: Statistics, dim: int) -> torch.Tensor:
    """A random orthonormal projection, always the same one (seed 0).

    For a student wider than the teacher an isometry: distances between images stay, spread over all channels.
    """
    generator, width = torch.Generator().manual_seed(0), len(statistics.mean)
    square = torch.randn(max(width, dim), min(width, dim), dtype=torch.float64, generator=generator)
    basis = torch.linalg.qr(square).Q
    return basis if dim <= width else basis.T.contiguous()


def identity(statistics: Statistics, dim: int) -> torch.Tensor:
    """The teacher's features as they are: for a learned projector on the student's side, or equal widths."""
    return torch.eye(dim, dtype=torch.float64)


def _interpolation(mode: str) -> Callable[[Statistics, int], torch.Tensor]:
    """The channels as a signal that is resampled to the student's length; a linear map, so a matrix."""

    def matrix(statistics: Statistics, dim: int) -> torch.Tensor:
        # One output channel per column: what each of the teacher's channels contributes to it.
        return F.interpolate(torch.eye(len(statistics.mean), dtype=torch.float64)[None], dim, mode=mode)[0]

    return matrix


def phi_s(statistics: Statistics, dim: int) -> torch.Tensor:
    """Leading axes, rotated by a Hadamard matrix and divided by one scalar: every channel has unit variance.

    PHI-S (Ranzinger et al. 2024) on the leading axes: it makes the std ratio 1 without re-weighting any direction.

    Raises:
        ValueError: neither Sylvester's nor Paley's construction gives a Hadamard matrix of this size.
    """
    scale = statistics.variances[:dim].mean().sqrt()
    return statistics.axes[:, :dim] @ hadamard(dim).T / (scale * dim**0.5)


def hadamard(size: int) -> torch.Tensor:
    """A matrix of +-1 with orthogonal rows: Sylvester's doubling of 1 or of Paley's q + 1, q prime."""
    base, doublings = size, 0
    while base % 2 == 0 and _paley_prime(base) is None and base > 2:
        base, doublings = base // 2, doublings + 1
    if base in (1, 2):
        matrix = torch.ones(1, 1, dtype=torch.float64)
        doublings += base - 1
    elif (q := _paley_prime(base)) is not None:
        squares = {(i * i) % q for i in range(1, q)}
        character = [0] + [1 if i in squares else -1 for i in range(1, q)]
        jacobsthal = torch.tensor([[character[(i - j) % q] for j in range(q)] for i in range(q)], dtype=torch.float64)
        skew = torch.zeros(base, base, dtype=torch.float64)
        skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal
        matrix = skew + torch.eye(base, dtype=torch.float64)
    else:
        raise ValueError(
            f"align phi_s: no Hadamard matrix of size {size}; a power of two, times q + 1 (q prime, 3 mod 4), has one"
        )
    for _ in range(doublings):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _paley_prime(size: int) -> int | None:
    q = size - 1
    is_prime = q > 2 and all(q % d for d in range(2, int(q**0.5) + 1))
    return q if is_prime and q % 4 == 3 else None


ALIGNERS: dict[str, Callable[[Statistics, int], torch.Tensor]] = {
    "svd": svd,
    "top_variance": top_variance,
    "random_channels": random_channels,
    "random": random_orthonormal,
    "phi_s": phi_s,
    "nearest": _interpolation("nearest"),  # what the authors' code called interpolation: every fourth channel
    "linear": _interpolation("linear"),
    "area": _interpolation("area"),
    "none": identity,
}
# These widen a narrow teacher too.
WIDENING = ("random", "nearest", "linear", "area")
# These read single axes, the leading ones as many as the student has channels; the others read all of them.
LEADING = ("svd", "phi_s")


def refuse_widths(aligner: str, *, width: int, dim: int, rank: int, images: int) -> None:
    """Raise a ValueError where an aligner cannot take a teacher's features to the student's width.

    Args:
        aligner: a key of `ALIGNERS`.
        width: channels of the teacher.
        dim: channels of the student.
        rank: dimensions that the teacher's features span at most, of all that is known of them.
        images: that the statistics are of.
    """
    if aligner not in ALIGNERS:
        raise ValueError(f"align.name {aligner!r}: there are {', '.join(ALIGNERS)}")
    if aligner == "none" and dim != width:
        raise ValueError(
            f"align.name none: the teacher has {width} channels, the student {dim}; add a projector (project=linear), "
            "or align them (align.name=svd)"
        )
    if dim > width and aligner not in WIDENING:
        raise ValueError(
            f"the student has {dim} channels, the teacher {width}, and align.name {aligner} cannot add channels. "
            "Take align.name=random (an isometry: distances stay), a learned projector (align.name=none "
            "project=linear), a wider teacher, or a narrower tap of the student"
        )
    if aligner in LEADING and dim > rank:
        few = rank >= images - 1  # one dimension goes to the mean
        way = "Use more images" if few else "Tap the teacher after its final activation (teacher.tap: post)"
        raise ValueError(
            f"the student has {dim} channels, but the teacher's features span at most {rank} of their {width} "
            f"dimensions ({images} images); the axes beyond are noise, which scaling would teach. "
            f"{way}, or take a narrower student"
        )
    if aligner == "phi_s":
        hadamard(dim)


class Target(nn.Module):
    """Teacher features -> what the student imitates: align, then scale.

    Buffers only. Runs without gradient: the power function of PTS has none at 0.

    Args:
        statistics: of the teacher's features.
        dim: the student's width D_s.
        aligner: a key of `ALIGNERS`.
        scaler: see `kdep.method.scale.make_scaler`.
        axes: the features come as a target bank keeps them, centred and on this many leading axes.

    Shape:
        (..., D_t or axes) -> (..., D_s), float32.

    Raises:
        ValueError: what `refuse_widths` refuses, or an aligner that reads more axes than the bank keeps.
    """

    def __init__(
        self, statistics: Statistics, dim: int, *, aligner: str, scaler: Scaler, axes: int | None = None
    ) -> None:
        super().__init__()
        width, rank = len(statistics.mean), numerical_rank(statistics)
        refuse_widths(aligner, width=width, dim=dim, rank=rank, images=statistics.count)
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
                    f"align.name {aligner} needs more than the {axes} axes that the bank keeps ({100 * share:.2g} % of "
                    f"its targets' variance lies beyond): make one with bank.axes={width}"
                )
            matrix, mean = kept.T @ matrix, mean.new_zeros(axes)
        elif statistics.scale is not None:
            matrix = statistics.scale[:, None] * matrix
        self.register_buffer("mean", mean.float())
        self.register_buffer("matrix", matrix.float().contiguous())
        self.register_buffer("std", std.float())
        self.register_buffer("channels", statistics.channel_variances.sqrt().sort(descending=True).values.float())
        self.register_buffer("factor", torch.ones(()))
        self._scaler = scaler

    @torch.no_grad()
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Align and scale, in float32 whatever autocast says: small components matter here."""
        with torch.autocast(features.device.type, enabled=False):
            return self._scaler((features.float() - self.mean) @ self.matrix, self.std, self.channels) * self.factor


class Logits(nn.Module):
    """Teacher features -> its logits: the baseline of classical distillation.

    Shape:
        (..., D_t), or a bank's (..., D_t) on all axes -> (..., classes), float32.

    Raises:
        ValueError: the classifier does not read these features, or the bank does not keep all axes.
    """

    def __init__(
        self, statistics: Statistics, classifier: tuple[torch.Tensor, torch.Tensor], *, axes: int | None = None
    ) -> None:
        super().__init__()
        weight, bias = (tensor.double() for tensor in classifier)
        width = len(statistics.mean)
        refuse_classifier(weight, width)
        if axes is not None:
            if axes != width:
                raise ValueError(f"loss.name logits needs all axes: make the bank with bank.axes={width}")
            bias = weight @ statistics.mean + bias
            weight = weight @ torch.linalg.inv(statistics.basis).T
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())

    @torch.no_grad()
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The teacher's classifier, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.float(), self.weight, self.bias)


def refuse_classifier(weight: torch.Tensor, width: int) -> None:
    """Raise a ValueError where a classifier (classes, D) does not read a teacher's `width` features."""
    if weight.shape[1] != width:
        raise ValueError(
            f"loss.name logits: the classifier reads {weight.shape[1]} features, the teacher gives {width}; tap it "
            "where its classifier does (teacher.tap=post)"
        )


def map_on_grid(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """Feature maps (B, D, H, W) at the positions of another grid: (B, grid * grid, D), row by row.

    A coarser grid takes means, whose mean is again the pooled feature where the sides divide; a finer one interpolates.
    """
    if maps.shape[-1] >= grid and maps.shape[-2] >= grid:
        maps = F.adaptive_avg_pool2d(maps, grid)
    else:
        maps = F.interpolate(maps, (grid, grid), mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)
