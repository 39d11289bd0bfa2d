"""Multinomial logistic regression over a whole path of L2 penalties, to the optimum.

Minimises, for every penalty p of a path,

    mean over images of cross-entropy(x W + b, y)  +  p / 2 * |W|^2          (the bias b is not penalised)

on features standardised by the images they are fitted on. The penalty is per image, so that one chosen on a part of the
images holds for all of them; scikit-learn's C is 1 / (p * images).

What makes it fast: the features are rotated onto their principal axes, where the Hessian of class c is close to
a_c * diag(variances), with a_c the class's mean of q (1 - q) over its predicted probabilities q. L-BFGS that starts
from the inverse of this diagonal plus the penalty needs a few steps where plain L-BFGS needs hundreds. Axes without
variance drop out. Each penalty starts from the optima of the larger ones, extrapolated, and keeps what L-BFGS has
learnt there. Sums over images, parameters and search directions are float64; products too where they are small, and
float32 where they take time.

Images are read in blocks, so features may be a memory-mapped file that is larger than the memory: see
`kdep_benchmarks.tasks.axes`. A row of the arrays of parameters is a class: products of that shape are faster.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kdep_benchmarks.tasks.axes import Axes, Images, find_axes
from kdep_benchmarks.tasks.lbfgs import Memory

PAIRS = 30  # that L-BFGS keeps
AHEAD = 0.9  # share of the last change along the path that is expected to repeat
MAX_STEPS = 1000
FLOOR = 1e-4  # an objective below this is solved to the tolerance times this: all images are fitted then
SMALL = 2e7  # images * axes * classes up to which products in float64 cost next to nothing
ROWS = 2048  # images at a time: their logits stay in the processor's cache


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
        return torch.addmm(self.bias, features.to(self.weight.device), self.weight)

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N,) class numbers, block by block."""
        return torch.cat([self.scores(block).argmax(1) for block in features.split(ROWS)])


def fit_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    classes: int,
    penalties: Sequence[float],
    rows: torch.Tensor | None = None,
    device: torch.device | None = None,
    tolerance: float = 3e-6,
) -> list[Solution]:
    """Fit every penalty of a path; the solutions come in the order of the penalties. See `walk_path`."""
    known = {"classes": classes, "rows": rows, "device": device, "tolerance": tolerance}
    found = {solution.penalty: solution for solution in walk_path(features, labels, penalties=penalties, **known)}
    return [found[penalty] for penalty in penalties]


def walk_path(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    classes: int,
    penalties: Sequence[float],
    rows: torch.Tensor | None = None,
    device: torch.device | None = None,
    tolerance: float = 3e-6,
) -> Iterator[Solution]:
    """Fit one penalty after the other from the strongest to the weakest, each when it is asked for.

    The weaker a penalty, the more steps it takes: on photographs the weakest three of thirteen take two thirds of the
    time of all. Who stops early saves them.

    Args:
        features: (N, D) float32, in memory or memory-mapped; never copied as a whole where that would be large.
        labels: (N,) class numbers below `classes`, or (N, C) shares of each class that sum to 1.
        classes: number of classes C; one that does not occur gets a bias of its own far below the others.
        penalties: positive, in any order.
        rows: positions of the images to fit on, by default all; ascending is fastest on a memory-mapped file.
        device: where to compute, the features' own by default; blocks travel there.
        tolerance: the gap at which to stop.

    Raises:
        ValueError: a penalty is not positive, features are not finite, or the optimum was not reached.
    """
    device = device or features.device
    images = Images(features, labels, rows, block=ROWS, device=device)
    axes = find_axes(images)
    small = len(images) * len(axes.variances) * classes <= SMALL
    turned = images.on(axes, torch.float64 if small else torch.float32)
    yield from descend(turned, axes, classes=classes, penalties=penalties, tolerance=tolerance)


def descend(
    images: Images, axes: Axes, *, classes: int, penalties: Sequence[float], tolerance: float = 3e-6
) -> Iterator[Solution]:
    """`walk_path` on images that lie on axes already, which may be those of more images than are fitted.

    Raises:
        ValueError: a penalty is not positive, or the optimum was not reached.
    """
    if min(penalties) <= 0:
        raise ValueError(f"penalty {min(penalties)}: every penalty of the path must be positive")
    solver = Solver(images, axes, classes=classes)
    start = axes.variances.new_zeros(classes, len(axes.variances) + 1)
    start[:, -1] = _frequencies(images.labels, classes).clamp_min(1e-3 / len(images)).log()
    last: torch.Tensor | None = None
    for number, penalty in enumerate(sorted(set(penalties), reverse=True)):
        ahead = start if last is None else start + AHEAD * (start - last)
        optimum, objective, gap, steps = solver.minimise(ahead, penalty, tolerance=tolerance)
        last, start = (start if number else None), optimum
        yield Solution(penalty, *_as_given(optimum, axes), objective, gap, steps)


def _frequencies(labels: torch.Tensor, classes: int) -> torch.Tensor:
    if labels.ndim == 2:
        return labels.double().mean(0)
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def _as_given(optimum: torch.Tensor, axes: Axes) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters on the axes -> weight and bias for the features as they were given."""
    weight = axes.basis @ optimum[:, :-1].T
    return weight.float(), (optimum[:, -1] - axes.mean @ weight).float()


def measure_path(
    solutions: Sequence[Solution], features: torch.Tensor, labels: torch.Tensor, *, rows: torch.Tensor
) -> tuple[list[float], list[float]]:
    """Percent of the images at `rows` that each solution gets right, and its mean cross-entropy, block by block."""
    correct, loss = [0] * len(solutions), [0.0] * len(solutions)
    for part in rows.split(ROWS):
        block = features[part.to(features.device)].to(solutions[0].weight.device)
        truth = labels[part.to(labels.device)].to(block.device)
        for number, solution in enumerate(solutions):
            scores = solution.scores(block)
            correct[number] += int((scores.argmax(1) == truth).sum())
            loss[number] += float(F.cross_entropy(scores.double(), truth, reduction="sum"))
    return [100.0 * count / len(rows) for count in correct], [total / len(rows) for total in loss]


@dataclass(frozen=True)
class Point:
    """The objective at one set of parameters, its gradient, and the diagonal that stands for the Hessian."""

    value: float
    gradient: torch.Tensor
    diagonal: torch.Tensor


class Solver:
    """L-BFGS over parameters (C, axes + 1), the bias last; what it learns at one penalty serves the next."""

    def __init__(self, images: Images, axes: Axes, *, classes: int) -> None:
        self._images = images
        # Sums of rounded losses cannot tell points apart that lie closer.
        self._noise = 1e-14 if images.dtype == torch.float64 else 1e-7
        self._variances = torch.cat([axes.variances, axes.variances.new_ones(1)])
        self._penalised = self._variances.new_ones(classes, len(self._variances))
        self._penalised[:, -1] = 0
        self._memory = Memory(PAIRS, self._penalised.flatten())

    def minimise(
        self, start: torch.Tensor, penalty: float, *, tolerance: float
    ) -> tuple[torch.Tensor, float, float, int]:
        """Go on until the norm of the gradient, measured in the inverse Hessian, is small.

        Half its square is what a quadratic would still lose, at every penalty alike; the plain norm of the gradient
        stops far from the optimum where the penalty is small.

        Returns:
            Parameters, objective, gap, steps.
        """
        x, now = start, self._evaluate(start, penalty)
        for step in range(MAX_STEPS):
            direction = -self._memory.direction(now.gradient.flatten(), penalty, now.diagonal.flatten())
            slope = float(direction.dot(now.gradient.flatten()))
            gap = -slope / 2 / max(now.value, FLOOR)
            if gap <= tolerance:
                return x, now.value, gap, step
            length, direction = 1.0, direction.view_as(x)
            new = self._evaluate(x + direction, penalty)
            while new.value > now.value + 1e-4 * length * slope + self._noise * (now.value + 0.1):
                length /= 2
                new = self._evaluate(x + length * direction, penalty)
            moved = length * direction
            change = new.gradient - now.gradient - penalty * self._penalised * moved
            self._memory.add(moved.flatten(), change.flatten())
            x, now = x + moved, new
        raise ValueError(f"penalty {penalty:g}: no optimum in {MAX_STEPS} steps, gap {gap:.1e}; use larger penalties")

    def _evaluate(self, x: torch.Tensor, penalty: float) -> Point:
        loss, weight, bias = x.new_zeros(()), *self._images.parameters(x)
        slopes, biases, spread = torch.zeros_like(weight), torch.zeros_like(x[:, -1]), torch.zeros_like(x[:, -1])
        for block, labels in self._images:
            log_q = torch.addmm(bias, weight, block.T).log_softmax(0)
            soft = labels.T.to(log_q) if labels.ndim == 2 else None
            picked = log_q.gather(0, labels[None]) if soft is None else log_q * soft
            loss -= picked.sum(dtype=torch.float64)
            q = log_q.exp_()
            total = q.sum(1)
            spread += total - torch.linalg.vecdot(q, q)
            if soft is None:
                q[labels, torch.arange(len(labels), device=q.device)] -= 1
            else:
                q -= soft
            slopes.addmm_(q, block)
            biases += q.sum(1)
        count = len(self._images)
        shrunk = penalty * self._penalised * x
        gradient = torch.cat([self._images.gradient(slopes), biases[:, None]], 1) / count + shrunk
        diagonal = spread[:, None].clamp_min(0) / count * self._variances + penalty * self._penalised + 1e-12
        return Point(float(loss / count + 0.5 * (shrunk * x).sum()), gradient, diagonal)
