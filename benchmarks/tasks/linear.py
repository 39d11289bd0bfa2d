"""Multinomial logistic regression over a whole path of L2 penalties, to the optimum.

Minimises, for every penalty p of a path,

    mean over images of cross-entropy(x W + b, y)  +  p / 2 * |W|^2          (the bias b is not penalised)

on features standardised by the images they are fitted on. The penalty is per image, so that one chosen on a part of the
images holds for all of them; scikit-learn's C is 1 / (p * images).

The solver is torch's L-BFGS on rescaled parameters. Features are first rotated onto their principal axes, where the
Hessian of class c is close to a_c * diag(variances), with a_c the mean of q (1 - q) over the class's predicted
probabilities q. Dividing by the square root of this diagonal plus the penalty brings the Hessian close to the identity,
so a few steps are enough where plain L-BFGS needs hundreds. Axes without variance are dropped. Each penalty starts from
the optima of the larger ones, extrapolated. Sums over images, parameters and search directions are float64. Products
are float64 where they are small, and float32 where they take time.

Images are read in blocks, so the features may be a memory-mapped file larger than the memory: see
`kdep_benchmarks.tasks.axes`. Parameters have a row per class: products of that shape are faster.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kdep_benchmarks.tasks.axes import Axes, Images, find_axes

PAIRS = 30  # steps that L-BFGS remembers
TRIALS = 40  # evaluations in one step's line search, at most
AHEAD = 0.9  # a penalty starts this share of the last change along the path beyond the last optimum
MAX_STEPS = 2000
ROUNDING = 1e-3  # a gap accepted where rounding of the objective stops the line search
FLOOR = 1e-4  # the tolerance is relative to the objective, or to this if the objective is smaller
SMALL = 2e7  # products are float64 up to this many images * axes * classes, where they cost little
ROWS = 2048  # images in a block: their logits stay in the processor's cache


@dataclass(frozen=True)
class Solution:
    """The optimum at one penalty, for the features as given.

    Attributes:
        weight: (D, C) float32; bias: (C,).
        objective: mean loss plus penalty.
        steps: steps that the solver took.
    """

    penalty: float
    weight: torch.Tensor
    bias: torch.Tensor
    objective: float
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
    """Fit the penalties lazily, from the strongest to the weakest.

    Weak penalties take the most steps: on photographs the weakest three of thirteen take two thirds of the time. A
    caller that stops early saves it.

    Args:
        features: (N, D) float32, in memory or memory-mapped; not copied as a whole if large.
        labels: (N,) class numbers below `classes`, or (N, C) shares of each class that sum to 1.
        classes: number of classes C. A class without images gets a very low bias.
        penalties: positive, in any order.
        rows: positions of the images to fit on [all]. Ascending order is fastest on a memory-mapped file.
        device: where to compute [the features' device].
        tolerance: the gap at which to stop, see `Solver.minimise`.

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
    """Do `walk_path` for images already rotated; the axes may come from more images than are fitted.

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
        optimum, objective, steps = solver.minimise(ahead, penalty, tolerance=tolerance)
        last, start = (start if number else None), optimum
        yield Solution(penalty, *_as_given(optimum, axes), objective, steps)


def _frequencies(labels: torch.Tensor, classes: int) -> torch.Tensor:
    if labels.ndim == 2:
        return labels.double().mean(0)
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def _as_given(optimum: torch.Tensor, axes: Axes) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters on the axes -> weight and bias for the features as they were given."""
    weight = axes.basis @ optimum[:, :-1].T
    return weight.float(), (optimum[:, -1] - axes.mean @ weight).float()


def measure(
    solution: Solution, features: torch.Tensor, labels: torch.Tensor, *, rows: torch.Tensor
) -> tuple[float, float]:
    """Return a solution's accuracy in percent and mean cross-entropy on the images at `rows`."""
    correct, loss = 0, 0.0
    for part in rows.split(ROWS):
        scores = solution.scores(features[part.to(features.device)])
        truth = labels[part.to(labels.device)].to(scores.device)
        correct += int((scores.argmax(1) == truth).sum())
        loss += float(F.cross_entropy(scores.double(), truth, reduction="sum"))
    return 100.0 * correct / len(rows), loss / len(rows)


@dataclass(frozen=True)
class Point:
    """The objective at one set of parameters, its gradient, and an approximation of the Hessian's diagonal."""

    value: float
    gradient: torch.Tensor
    diagonal: torch.Tensor


class Descent:
    """torch's L-BFGS on u = scale * x, whose Hessian is close to the identity.

    Attributes:
        x: the parameters after the last step; now: the objective there.
    """

    def __init__(self, evaluate: Callable[[torch.Tensor], Point], start: torch.Tensor) -> None:
        self._evaluate, self.now = evaluate, evaluate(start)
        # torch forgets steps with a curvature below 1e-10. Dividing by the objective keeps it well above that.
        self._unit = max(self.now.value, FLOOR)
        self._scale = (self.now.diagonal / self._unit).sqrt()
        self._u = torch.nn.Parameter(start * self._scale)
        self.x = self._u.detach() / self._scale
        limits = {"max_iter": 1, "max_eval": TRIALS, "tolerance_grad": 0, "tolerance_change": 0}
        self._optimizer = torch.optim.LBFGS([self._u], history_size=PAIRS, line_search_fn="strong_wolfe", **limits)

    def step(self) -> float:
        """Take one step. Returns how far the objective was above the optimum before it, were it quadratic."""
        if not self.now.gradient.any():
            return 0.0
        self._optimizer.step(self._loss)
        self._loss()  # the line search may have returned to an earlier trial
        state = self._optimizer.state[self._u]
        return -0.5 * self._unit * float(state["d"].dot(state["prev_flat_grad"]))

    def _loss(self) -> float:
        x = self._u.detach() / self._scale
        if not torch.equal(x, self.x):
            self.x, self.now = x, self._evaluate(x)
        self._u.grad = self.now.gradient / (self._unit * self._scale)
        return self.now.value / self._unit


class Solver:
    """Minimise the objective over parameters (C, axes + 1), the bias last."""

    def __init__(self, images: Images, axes: Axes, *, classes: int) -> None:
        self._images = images
        self._variances = torch.cat([axes.variances, axes.variances.new_ones(1)])
        self._penalised = self._variances.new_ones(classes, len(self._variances))
        self._penalised[:, -1] = 0

    def minimise(self, start: torch.Tensor, penalty: float, *, tolerance: float) -> tuple[torch.Tensor, float, int]:
        """Step until the estimated gap to the optimum, relative to the objective or FLOOR, is within the tolerance.

        The estimate is half the squared norm of the gradient in the inverse Hessian, which means the same at every
        penalty. The plain norm of the gradient would stop far from the optimum where the penalty is small.

        Returns:
            Parameters, objective, steps.
        """
        descent, fresh = Descent(lambda x: self._evaluate(x, penalty), start), True
        for step in range(1, MAX_STEPS + 1):
            before = descent.now.value
            gap = descent.step() / max(before, FLOOR)
            stuck = descent.now.value >= before
            if gap <= tolerance or (stuck and fresh and gap <= ROUNDING):
                return descent.x, descent.now.value, step
            if stuck and fresh:
                break
            if stuck:  # start again with the diagonal at this point and an empty memory
                descent = Descent(lambda x: self._evaluate(x, penalty), descent.x)
            fresh = stuck
        raise ValueError(f"penalty {penalty:g}: no optimum after {step} steps, gap {gap:.1e}; use larger penalties")

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
