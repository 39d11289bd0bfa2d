"""Feature maps for the dense loss: which networks have one, its side, and its positions on another grid."""

import torch
import torch.nn.functional as F

from kdep.config import Config
from kdep.models.backbones.backbone import Backbone


def require_map(role: str, name: str, network: Backbone) -> None:
    """Raise a ValueError if a network has no map whose mean is its pooled features: the dense loss compares maps."""
    if not network.has_map:
        raise ValueError(
            f"loss.dense: the {role} {name} ({type(network.network).__name__}) has no feature map whose mean is its "
            f"pooled features. Take a {role} that has one (ResNet, EfficientNet, MobileNetV2), or loss.dense=0"
        )


def map_side(config: Config, student: Backbone) -> int:
    """Side of the student's feature map if the dense loss compares maps, else 0.

    Raises:
        ValueError: the student has no map.
    """
    if config.loss.dense == 0:
        return 0
    require_map("student", config.student.arch, student)
    with torch.no_grad():
        side = config.data.size
        return student.eval().feature_map(torch.zeros(1, 3, side, side, device=student.mean.device)).shape[-1]


def map_on_grid(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """Bring feature maps (B, D, H, W) onto another grid: (B, grid * grid, D), row by row.

    A coarser grid takes means, whose mean is again the pooled feature if the sides divide; a finer one interpolates.
    """
    if maps.shape[-1] >= grid and maps.shape[-2] >= grid:
        maps = F.adaptive_avg_pool2d(maps, grid)
    else:
        maps = F.interpolate(maps, (grid, grid), mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)
