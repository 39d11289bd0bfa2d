"""Fold the BatchNorm of a frozen network into its convolutions: the same features up to rounding, in less time."""

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

LARGEST = 1e-3  # difference of folded features, relative to the features; rounding gives 5e-5 at most


def fold_batchnorm(network: nn.Module, size: int) -> nn.Module:
    """Copy a network in eval mode, with every BatchNorm that directly follows a convolution folded into it.

    A network whose features change by it is copied as it is: something else may read the convolution (CoATNet), or the
    convolution may change its weights before it uses them (timm's StdConv2d).

    Args:
        network: reads (B, 3, size, size).
        size: side of the images in pixels.
    """
    folded = copy.deepcopy(network)
    pairs = _convolutions_before_batchnorm(folded, size)
    for conv, name in pairs:
        bn = folded.get_submodule(name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
        # timm's BatchNorm may hold an activation and a dropout layer of its own.
        rest = [getattr(bn, part) for part in ("drop", "act") if hasattr(bn, part)]
        folded.set_submodule(name, nn.Sequential(*rest) if rest else nn.Identity())
    return folded if not pairs or _same_features(network, folded, size) else copy.deepcopy(network)


def _same_features(network: nn.Module, folded: nn.Module, size: int) -> bool:
    """Whether both compute the same of noise, up to rounding; stage maps too, where there are any.

    On the CPU in float32: TF32 and half precision round by as much as a wrong fold may differ.
    """
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        pair = [_features(copy.deepcopy(one).cpu(), images) for one in (network, folded)]
    return all(float((one - other).norm()) <= LARGEST * float(one.norm()) for one, other in zip(*pair, strict=True))


def _features(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    maps = []
    if hasattr(network, "stage_maps"):
        with contextlib.suppress(Exception):  # it has none; a dense task has looked before
            maps = network.stage_maps(images)
    return [network(images), *maps]


def _convolutions_before_batchnorm(network: nn.Module, size: int) -> list[tuple[nn.Conv2d, str]]:
    """Pairs of a convolution and the name of the BatchNorm that reads its output, found by a forward pass."""
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    if not norms:
        return []
    pairs: list[tuple[nn.Conv2d, str]] = []
    made: dict[int, tuple[torch.Tensor, nn.Conv2d, int]] = {}

    def keep(conv: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        # The tensor is kept alive, so that no other gets its id. Its version counts changes in place, as of a ReLU.
        made[id(output)] = (output, conv, output._version)

    def look_up(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            _, conv, version = made.get(id(inputs[0]), (None, None, None))
            if conv is not None and inputs[0]._version == version:
                pairs.append((conv, name))

        return hook

    hooks = [norm.register_forward_pre_hook(look_up(name)) for name, norm in norms.items()]
    hooks += [conv.register_forward_hook(keep) for conv in network.modules() if isinstance(conv, nn.Conv2d)]
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return pairs
