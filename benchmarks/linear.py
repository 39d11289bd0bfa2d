"""Multinomial logistic regression over a whole path of L2 penalties, to the optimum.

Minimises, for every penalty p of a path,

    mean over images of cross-entropy(x W + b, y)  +  p / 2 * |W|^2          (the bias b is not penalised)

on features standardised by the images they are fitted on. The penalty is per image, so that one chosen on a part of the
images holds for all of them; scikit-learn's C is 1 / (p * images).

What makes it fast: the features are rotated onto their principal axes, where the Hessian of class c is close to
a_c * diag(variances), with a_c the class's mean of q (1 - q) over its predicted probabilities q. L-BFGS that starts
from the inverse of this diagonal plus the penalty needs a few steps where plain L-BFGS needs hundreds. Axes without
variance drop out. Each penalty starts from the optima of the larger ones, extrapolated, and keeps what L-BFGS has
learnt there: its pairs (s, y) describe the loss without the penalty, whose share p * s is known. Sums over images,
parameters and search directions are float64; products too where they are small, and float32 where they take time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

MEMORY = 30  # pairs that L-BFGS keeps
AHEAD = 0.9  # share of the last change along the path that is expected to repeat
MAX_STEPS = 1000
FLOOR = 1e-4  # an objective below this is solved to the tolerance times this: all images are fitted then
SMALL = 2e7  # images * axes * classes up to which products in float64 cost next to nothing
ROWS = 4096  # images at a time: their logits stay in the processor's cache


@dataclass(frozen=True)
class Solution:
    """The optimum at one penalty, in terms of the features as they were given.

    Attributes:
        weight: (D, C) float32; bias: (C,).
        objective: its value there, penalty included.
        gap: estimate of what the objective still lies above the optimum, as a share of it (of FLOOR if it is less).
        steps: of the solver.
    """

    penalty: float
    weight: torch.Tensor
    bias: torch.Tensor
    objective: float
    gap: float
    steps: int

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, C): log-probabilities up to a constant per image."""
        return features @ self.weight + self.bias


@dataclass(frozen=True)
class Axes:
    """Standardised features on their principal axes: z = (x - mean) @ basis, with the variance of each column."""

    rotated: torch.Tensor
    mean: torch.Tensor
    basis: torch.Tensor
    variances: torch.Tensor

    def unrotate(self, optimum: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Parameters on the axes -> weight and bias for the features as they were given."""
        weight = self.basis @ optimum[:-1]
        return weight.float(), (optimum[-1] - self.mean @ weight).float()


def fit_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    classes: int,
    penalties: Sequence[float],
    device: torch.device | None = None,
    tolerance: float = 3e-6,
) -> list[Solution]:
    """Fit every penalty of a path.

    Args:
        features: (N, D) float32.
        labels: (N,) class numbers below `classes`.
        classes: number of classes C; one that does not occur gets a bias of its own far below the others.
        penalties: positive, in any order; the solutions come in the same order.
        device: where to compute, the features' own by default.
        tolerance: the gap at which to stop.

    Raises:
        ValueError: a penalty is not positive, features are not finite, or the optimum was not reached.
    """
    if min(penalties) <= 0:
        raise ValueError(f"penalty {min(penalties)}: every penalty of the path must be positive")
    if not torch.isfinite(features).all():
        raise ValueError("features are not finite; the network diverges on these images or its weights are broken")
    device = device or features.device
    axes, labels = rotate(features.to(device)), labels.to(device)
    frequencies = torch.bincount(labels, minlength=classes).double() / len(labels)
    start = torch.zeros(len(axes.variances) + 1, classes, dtype=torch.float64, device=device)
    start[-1] = frequencies.clamp_min(1e-3 / len(labels)).log()
    solver = Solver(axes, labels, classes=classes)
    solutions: dict[float, Solution] = {}
    last: torch.Tensor | None = None
    for penalty in sorted(set(penalties), reverse=True):
        ahead = start if last is None else start + AHEAD * (start - last)
        optimum, objective, gap, steps = solver.minimise(ahead, penalty, tolerance=tolerance)
        last, start = (start if solutions else None), optimum
        solutions[penalty] = Solution(penalty, *axes.unrotate(optimum), objective, gap, steps)
    return [solutions[penalty] for penalty in penalties]


def rotate(features: torch.Tensor) -> Axes:
    """Standardise by these features' own statistics and rotate onto the principal axes that have variance.

    A constant feature (a unit that never fires, up to float32 rounding) carries nothing and is left out: dividing by
    its deviation would blow rounding noise up to the size of a feature.
    """
    mean = features.double().mean(0)
    centred = features.double() - mean
    deviation = centred.square().mean(0).sqrt()
    used = deviation > 1e-6 * mean.abs().clamp_min(1e-30)
    scale = torch.where(used, 1 / deviation.clamp_min(1e-30), torch.zeros_like(deviation))
    standardised = centred * scale
    count, dim = standardised.shape
    if count < dim:
        _, singular, axes = torch.linalg.svd(standardised, full_matrices=False)
        variances, vectors = singular.square() / count, axes.T
    else:
        variances, vectors = torch.linalg.eigh(standardised.T @ standardised / count)
    kept = variances > 1e-12 * variances.max().clamp_min(1e-30)
    vectors = vectors[:, kept]
    return Axes(standardised @ vectors, mean, scale[:, None] * vectors, variances[kept])


class Solver:
    """L-BFGS over parameters (axes + 1, C), the bias last; what it learns at one penalty serves the next."""

    def __init__(self, axes: Axes, labels: torch.Tensor, *, classes: int) -> None:
        small = axes.rotated.numel() * classes <= SMALL
        self._rotated = axes.rotated if small else axes.rotated.float()
        # Sums of rounded losses cannot tell points apart that lie closer.
        self._noise = 1e-14 if small else 1e-7
        self._labels, self._variances = labels, torch.cat([axes.variances, axes.variances.new_ones(1)])
        self._pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # of the loss without the penalty

    def minimise(
        self, start: torch.Tensor, penalty: float, *, tolerance: float
    ) -> tuple[torch.Tensor, float, float, int]:
        """Go on until the norm of the gradient, measured in the inverse Hessian, is small.

        Half its square is what a quadratic would still lose, at every penalty alike; the plain norm of the gradient
        stops far from the optimum where the penalty is small.

        Returns:
            Parameters, objective, gap, steps.
        """
        penalties = torch.full_like(start[:, :1], penalty)
        penalties[-1] = 0
        x, (value, gradient, diagonal) = start, self._evaluate(start, penalties)
        for step in range(MAX_STEPS):
            pairs = [(s, y + penalties * s) for s, y in self._pairs]
            direction = -inverse_hessian(pairs, diagonal, gradient)
            slope = float((direction * gradient).sum())
            gap = -slope / 2 / max(value, FLOOR)
            if gap <= tolerance:
                return x, value, gap, step
            length = 1.0
            new = self._evaluate(x + direction, penalties)
            while new[0] > value + 1e-4 * length * slope + self._noise * (value + 0.1):
                length /= 2
                new = self._evaluate(x + length * direction, penalties)
            moved = length * direction
            self._pairs = [*self._pairs, (moved, new[1] - gradient - penalties * moved)][-MEMORY:]
            x, (value, gradient, diagonal) = x + moved, new
        raise ValueError(f"penalty {penalty:g}: no optimum in {MAX_STEPS} steps, gap {gap:.1e}; use larger penalties")

    def _evaluate(self, x: torch.Tensor, penalties: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Objective, gradient, and the diagonal that stands for the Hessian."""
        near, count = x.to(self._rotated.dtype), len(self._labels)
        loss = x.new_zeros(())
        gradient, spread = torch.zeros_like(x), torch.zeros_like(x[-1])
        for rotated, labels in zip(self._rotated.split(ROWS), self._labels.split(ROWS), strict=True):
            log_q = torch.addmm(near[-1], rotated, near[:-1]).log_softmax(1)
            loss -= log_q.gather(1, labels[:, None]).sum(dtype=torch.float64)
            q = log_q.exp_()
            spread += (q.sum(0) - q.square().sum(0)).double()
            q[torch.arange(len(labels), device=labels.device), labels] -= 1
            gradient[:-1] += rotated.T @ q
            gradient[-1] += q.sum(0)
        diagonal = self._variances[:, None] * spread.clamp_min(0) / count + penalties + 1e-12
        objective = float(loss / count + 0.5 * (penalties * x.square()).sum())
        return objective, gradient / count + penalties * x, diagonal


def inverse_hessian(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], diagonal: torch.Tensor, gradient: torch.Tensor
) -> torch.Tensor:
    """The inverse Hessian of L-BFGS times the gradient (Nocedal and Wright, algorithm 7.4), from a diagonal on."""
    # Rounding can turn the curvature along a tiny step negative; such a pair says nothing.
    usable = [(s, y, product) for s, y in pairs if (product := float((s * y).sum())) > 0]
    direction, shares = gradient, []
    for s, y, product in reversed(usable):
        shares.append(float((s * direction).sum()) / product)
        direction = direction - shares[-1] * y
    if usable:
        _, y, product = usable[-1]
        direction = direction * (product / float((y.square() / diagonal).sum()))
    direction = direction / diagonal
    for (s, y, product), share in zip(usable, reversed(shares), strict=True):
        direction = direction + (share - float((y * direction).sum()) / product) * s
    return direction
