"""Count a network's parameters and multiply-adds, of timm's networks without memory for their weights."""

import logging
from functools import lru_cache

import torch
from torch import nn

from kdep.models.backbones.backbone import create_network
from kdep.models.backbones.own import PREFIX
from kdep.models.backbones.taps import input_sides

logger = logging.getLogger("kdep")


@lru_cache(maxsize=4)
def outline(arch: str) -> nn.Module:
    """Make a network in eval mode, on torch's meta device: drawing random weights only to count them takes seconds.

    A network of the user's own is made on the CPU. Its code may ask tensors for their values, which meta ones have not.
    """
    with torch.device("cpu" if arch.startswith(PREFIX) else "meta"):
        return create_network(arch).eval()


def parameters(arch: str) -> int:
    """Count the parameters of a backbone."""
    return sum(parameter.numel() for parameter in outline(arch).parameters())


@torch.no_grad()
def gmacs(arch: str) -> float | None:
    """Billions of multiply-adds for one image of 224 px, or of the only side that the network takes.

    None where it cannot be counted: a score is worth more than this number beside it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    network = outline(arch)
    side, device = input_sides(network)[0] or 224, next(network.parameters(), torch.empty(0)).device
    try:
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, side, side, device=device))
    except Exception as error:  # whatever the code of a network raises
        logger.warning("%s: its multiply-adds are not known (%s: %s)", arch, type(error).__name__, error)
        return None
    return counter.get_total_flops() / 2e9
