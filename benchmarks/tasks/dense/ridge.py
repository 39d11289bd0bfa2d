"""Ridge regression over a whole path of penalties, from the principal axes of the features."""

from collections.abc import Callable, Sequence

import torch

from kdep_benchmarks.tasks.axes import Images, find_axes
from kdep_benchmarks.tasks.linear import ROWS

Map = Callable[[torch.Tensor], torch.Tensor]


def ridge_path(
    features: torch.Tensor, goals: torch.Tensor, rows: torch.Tensor, penalties: Sequence[float], device: torch.device
) -> list[Map]:
    """Minimise mean |x W + b - y|^2 + penalty * |W|^2 on standardised features, for every penalty.

    Args:
        features: (N, D).
        goals: (N, K).
        rows: positions of those to fit on.
        penalties: per row; the intercept is not penalised.
        device: where to compute.

    Returns:
        For each penalty a function from features (M, D) to (M, K).
    """
    images = Images(features, goals.to(device), rows, block=ROWS, device=device)
    axes = find_axes(images, products=torch.float32)
    turned = images.on(axes, torch.float32)
    middle = images.labels.double().mean(0)
    moment = sum(block.double().T @ (goal.double() - middle) for block, goal in turned) / len(images)
    return [_map(axes.mean, axes.basis @ (moment / (axes.variances + p)[:, None]), middle) for p in penalties]


def _map(mean: torch.Tensor, weight: torch.Tensor, middle: torch.Tensor) -> Map:
    bias = (middle - mean @ weight).float()
    single = weight.float()

    def apply(features: torch.Tensor) -> torch.Tensor:
        return torch.addmm(bias, features.to(single.device).float(), single)

    return apply
