"""Count a network's parameters and multiply-adds on the meta device, without memory for its weights."""

from functools import lru_cache

import torch
from torch import nn

from kdep.models.backbones.backbone import create_network


@lru_cache(maxsize=4)
def outline(arch: str) -> nn.Module:
    """Make a network on torch's meta device, in eval mode; drawing random weights only to count them takes seconds."""
    with torch.device("meta"):
        return create_network(arch).eval()


def parameters(arch: str) -> int:
    """Count the parameters of a backbone."""
    return sum(parameter.numel() for parameter in outline(arch).parameters())


@torch.no_grad()
def gmacs(arch: str) -> float:
    """Billions of multiply-adds for one image of 224 px."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        outline(arch)(torch.zeros(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops() / 2e9
