"""Aligners: teacher features (B, D_t) -> the student's width (B, D_s), without parameters.

Every one of them is a centring followed by a fixed matrix (D_t, D_s); they differ in the matrix. Nothing here is
learned, so nothing here is transferred.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from kdep.method.statistics import Statistics


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
