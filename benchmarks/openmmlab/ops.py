"""Replace mmcv's compiled operators, `mmcv._ext`, with torchvision's where mmcv has none (mmcv-lite).

Without `mmcv._ext`, mmdet and mmseg cannot be imported, and compiling it takes about 20 minutes. torchvision has the
operators that Faster R-CNN, RetinaNet, FCN and PSPNet need. A compiled mmcv is used as it is.

Names, argument order and in-place outputs follow mmcv/ops/csrc/pytorch/pybind.cpp.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import torchvision

NAME = "mmcv._ext"
STAND_IN, COMPILED = "torchvision stand-in", "compiled mmcv"


def install() -> None:
    """Register the stand-in if mmcv has no compiled operators. Must run before anything imports mmdet or mmseg.

    Raises:
        ValueError: mmcv is not installed.
    """
    if NAME in sys.modules or _compiled():
        return
    module = ModuleType(NAME, "torchvision's operators under mmcv's names")
    module.__spec__ = ModuleSpec(NAME, loader=None, origin=STAND_IN)
    for name, operator in OPERATORS.items():
        setattr(module, name, operator)
    module.__getattr__ = _missing
    sys.modules[NAME] = module


def backend() -> str:
    """Return the source of mmcv's operators: 'compiled mmcv' or 'torchvision stand-in'."""
    known = sys.modules.get(NAME)
    if known is not None and known.__spec__ is not None and known.__spec__.origin == STAND_IN:
        return STAND_IN
    return COMPILED if _compiled() else STAND_IN


def _compiled() -> bool:
    if importlib.util.find_spec("mmcv") is None:
        raise ValueError("mmcv is not installed; segmentation and detection need: pip install '.[openmmlab]'")
    return importlib.util.find_spec(NAME) is not None


def _missing(name: str) -> Callable[..., Any]:
    """Return a function that raises when called, for any other operator: mmcv looks up all names at import."""
    if name.startswith("__"):
        raise AttributeError(name)

    def unavailable(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            f"mmcv's operator {name} has no stand-in in torchvision; install an mmcv with compiled operators "
            "(pip install mmcv==2.1.0 builds it) to use this model"
        )

    return unavailable


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> torch.Tensor:
    """Return the indices of the kept boxes, highest score first. With offset 1 a box is x2 - x1 + 1 pixels wide."""
    # Moving the far corners by one adds that pixel to every width, height and overlap.
    boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def roi_align_forward(
    input: torch.Tensor,
    rois: torch.Tensor,
    output: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average maps in boxes into `output`: input (B, C, H, W), rois (N, 5) as (image, x1, y1, x2, y2)."""
    if pool_mode != 1:
        raise NotImplementedError("roi_align with pool_mode='max' has no stand-in in torchvision; use 'avg'")
    size = (aligned_height, aligned_width)
    output.copy_(torchvision.ops.roi_align(input, rois, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: torch.Tensor,
    rois: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    grad_input: torch.Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Compute the gradient of `roi_align_forward` into `grad_input` (B, C, H, W) from grad_output (N, C, h, w)."""
    size = (aligned_height, aligned_width)
    shape = grad_input.shape
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output, rois, spatial_scale, *size, *shape, sampling_ratio, aligned
        )
    )


def sigmoid_focal_loss_forward(
    input: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, output: torch.Tensor, gamma: float, alpha: float
) -> None:
    """Compute the focal loss (Lin et al. 2017) of every logit into `output`.

    Shapes: input (N, C); target (N), where C means background; weight (C) or empty.
    """
    positive, p, log_p, log_q = _focal_terms(input, target)
    loss = torch.where(positive, -alpha * (1 - p) ** gamma * log_p, -(1 - alpha) * p**gamma * log_q)
    output.copy_(loss * _of_targets(weight, target))


def sigmoid_focal_loss_backward(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    grad_input: torch.Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Compute the derivative of each loss by its logit into `grad_input`."""
    positive, p, log_p, log_q = _focal_terms(input, target)
    of_positive = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * log_p)
    of_negative = -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_q - p)
    grad_input.copy_(torch.where(positive, of_positive, of_negative) * _of_targets(weight, target))


def _focal_terms(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    # logsigmoid, because log(sigmoid(x)) is -inf in float32 below about x = -88.
    return positive, logits.sigmoid(), torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)


def _of_targets(weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    # mmcv reads past the end of `weight` for background targets; here they raise IndexError.
    return weight[target][:, None] if weight.numel() else weight.new_ones(1)


OPERATORS: dict[str, Callable[..., Any]] = {
    "nms": nms,
    "roi_align_forward": roi_align_forward,
    "roi_align_backward": roi_align_backward,
    "sigmoid_focal_loss_forward": sigmoid_focal_loss_forward,
    "sigmoid_focal_loss_backward": sigmoid_focal_loss_backward,
}
