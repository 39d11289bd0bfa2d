"""The loss between the student's features and the target, and the criteria to choose from."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from kdep.config import Loss
from kdep.method.rivals import Gather, QueueKL, cosine, log_sum, softened_logits

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mse(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean squared error over images and channels: the paper's criterion."""
    return F.mse_loss(predicted, wanted)


def distill_loss(
    learner: nn.Module, targets: torch.Tensor, images: torch.Tensor, loss: Loss, criterion: Criterion = mse
) -> torch.Tensor:
    """Compare the student's features of these images with the targets.

    loss.weight * criterion(pooled features) + loss.dense * mean squared error of feature maps, if targets have a map.

    Args:
        learner: (B, 3, S, S) -> (B, D), the student, with its head if it has one.
        targets: (B, 1 + positions, D), the pooled target first; or class numbers (B, 1).
        images: (B, 3, S, S), the same pixels that gave the targets.
        loss: weights of the two terms.
        criterion: (predicted, wanted) -> scalar.
    """
    if targets.shape[1] == 1:
        return loss.factor * criterion(learner(images).float(), targets[:, 0])
    pooled, maps = learner(images, with_map=True)
    dense = F.mse_loss(maps.float().flatten(2).transpose(1, 2), targets[:, 1:])
    return loss.factor * criterion(pooled.float(), targets[:, 0]) + loss.dense * dense


def make_criterion(loss: Loss, dim: int, gather: Gather) -> Criterion:
    """Make the criterion that a configuration names.

    Args:
        loss: its name and options.
        dim: width at which student and target are compared.
        gather: (b, D) -> (B, D), the rows of all processes; a queue is the same in each of them.
    """
    makers: dict[str, Callable[[], Criterion]] = {
        "mse": lambda: mse,
        "smooth_l1": lambda: partial(F.smooth_l1_loss, beta=loss.beta),  # quadratic within beta, linear beyond
        "cosine": lambda: cosine,
        "log_sum": lambda: log_sum,
        "queue_kl": lambda: QueueKL(dim, loss.queue, loss.temperature or 0.07, gather),
        "logits": lambda: partial(softened_logits, temperature=loss.temperature or 4.0),
        "labels": lambda: F.cross_entropy,  # against class numbers (B,): the supervised baseline
    }
    return makers[loss.name]()
