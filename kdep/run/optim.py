"""Make the optimizer, and compute the learning rate of a step."""

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdep.config import Optim


def make_optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """Make the optimizer that the configuration names, from timm."""
    from timm.optim import create_optimizer_v2

    optimizer = create_optimizer_v2(
        model,
        opt="momentum" if optim.name == "sgd" else optim.name,  # timm's "sgd" has Nesterov momentum, the paper plain
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        momentum=optim.momentum,
        filter_bias_and_bn=not optim.decay_all,
        fused=True,
    )
    if optim.name == "sgd" and optim.momentum:
        # torch's fused SGD makes the buffers with `torch.empty` and fills them in its first step. Where the gradient
        # scaler skips that step, the second one reads what was never written. From zeros every step has the same bits.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def make_average(student: nn.Module, optim: Optim) -> AveragedModel | None:
    """Make the running average of optim.ema, of weights and BatchNorm statistics; None without one.

    It begins with the weights after the first step.
    """
    if optim.ema is None:
        return None
    return AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(optim.ema), use_buffers=True)


def learning_rate(optim: Optim, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then decay by 10 at steps, or by a cosine to 0."""
    epoch = step / steps_per_epoch
    if epoch < optim.warmup_epochs:
        return optim.lr * (step + 1) / (optim.warmup_epochs * steps_per_epoch + 1)
    if optim.schedule == "step":
        return optim.lr * 0.1 ** (step // steps_per_epoch // optim.lr_step_epochs)
    epochs = optim.total(steps_per_epoch) / steps_per_epoch
    share = (epoch - optim.warmup_epochs) / max(epochs - optim.warmup_epochs, 1e-9)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
