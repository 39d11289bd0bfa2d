"""Aligners: fixed matrices (D_t, D_s) that map centred teacher features to the student's width.

Nothing here is learned. An aligner is a function of the teacher's statistics and of the student's width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from kdep.method.statistics import Statistics


def svd(statistics: Statistics, dim: int) -> torch.Tensor:
    """Return the leading principal axes (paper, section 3.2)."""
    return statistics.axes[:, :dim]


def top_variance(statistics: Statistics, dim: int) -> torch.Tensor:
    """Select the `dim` channels with the largest variance, in the teacher's order."""
    chosen = statistics.channel_variances.topk(dim).indices.sort().values
    return torch.eye(len(statistics.mean), dtype=torch.float64)[:, chosen]


def random_channels(statistics: Statistics, dim: int) -> torch.Tensor:
    """Select random channels (seed 0), in the teacher's order."""
    chosen = torch.randperm(len(statistics.mean), generator=torch.Generator().manual_seed(0))[:dim].sort().values
    return torch.eye(len(statistics.mean), dtype=torch.float64)[:, chosen]


def random_orthonormal(statistics: Statistics, dim: int) -> torch.Tensor:
    """Return a random orthonormal projection (seed 0).

    For a student wider than the teacher it is an isometry: distances between images are preserved.
    """
    generator, width = torch.Generator().manual_seed(0), len(statistics.mean)
    square = torch.randn(max(width, dim), min(width, dim), dtype=torch.float64, generator=generator)
    basis = torch.linalg.qr(square).Q
    return basis if dim <= width else basis.T.contiguous()


def identity(statistics: Statistics, dim: int) -> torch.Tensor:
    """Keep the teacher's features: for a learned projector on the student's side, or for equal widths."""
    return torch.eye(dim, dtype=torch.float64)


def _interpolation(mode: str) -> Callable[[Statistics, int], torch.Tensor]:
    """Resample the channels, as a signal, to the student's width; the resampling is linear, so it is a matrix."""

    def matrix(statistics: Statistics, dim: int) -> torch.Tensor:
        # Row i is the resampled unit vector of channel i.
        return F.interpolate(torch.eye(len(statistics.mean), dtype=torch.float64)[None], dim, mode=mode)[0]

    return matrix


def phi_s(statistics: Statistics, dim: int) -> torch.Tensor:
    """Rotate the leading axes by a Hadamard matrix and divide by one scalar, so that every channel has unit variance.

    PHI-S (Ranzinger et al. 2024) makes the std ratio 1 without re-weighting any direction.

    Raises:
        ValueError: neither Sylvester's nor Paley's construction gives a Hadamard matrix of this size.
    """
    scale = statistics.variances[:dim].mean().sqrt()
    return statistics.axes[:, :dim] @ hadamard(dim).T / (scale * dim**0.5)


def hadamard(size: int) -> torch.Tensor:
    """Build a matrix of +-1 with orthogonal rows: Paley's of size q + 1 (q prime) or 1, doubled by Sylvester."""
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
            f"align.name phi_s: no Hadamard matrix of size {size}; take 2^k or 2^k (q + 1), q prime and 3 mod 4"
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
    "nearest": _interpolation("nearest"),  # "interpolation" in the authors' code: every fourth channel
    "linear": _interpolation("linear"),
    "area": _interpolation("area"),
    "none": identity,
}
# Aligners that also work for a student wider than the teacher.
WIDENING = ("random", "nearest", "linear", "area")
# Aligners that read the first D_s principal axes; the others read all axes.
LEADING = ("svd", "phi_s")
