"""Fold the BatchNorm of a frozen network into its convolutions: the same features up to rounding, in less time."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batchnorm(network: nn.Module, size: int) -> nn.Module:
    """Copy a network in eval mode, with every BatchNorm that directly follows a convolution folded into it.

    Args:
        network: reads (B, 3, size, size).
        size: side of the images in pixels.
    """
    network = copy.deepcopy(network)
    for conv, name in _convolutions_before_batchnorm(network, size):
        bn = network.get_submodule(name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        # timm's BatchNorm may hold an activation and a dropout layer of its own.
        rest = [getattr(bn, part) for part in ("drop", "act") if hasattr(bn, part)]
        network.set_submodule(name, nn.Sequential(*rest) if rest else nn.Identity())
    return network


def _convolutions_before_batchnorm(network: nn.Module, size: int) -> list[tuple[nn.Conv2d, str]]:
    """Pairs of a convolution and the name of the BatchNorm that reads its output, found by a forward pass."""
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if not norms:
        return []
    pairs: list[tuple[nn.Conv2d, str]] = []
    made: dict[int, tuple[torch.Tensor, nn.Conv2d]] = {}

    def keep(conv: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        made[id(output)] = (output, conv)  # the tensor is kept alive, so that no other gets its id

    def look_up(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][1], name))

        return hook

    hooks = [norm.register_forward_pre_hook(look_up(name)) for name, norm in norms.items()]
    hooks += [conv.register_forward_hook(keep) for conv in network.modules() if isinstance(conv, nn.Conv2d)]
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return pairs
