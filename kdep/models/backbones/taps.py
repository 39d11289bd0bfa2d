"""Find the taps of a network, the places where features are taken (paper, section 3.1).

pre          before the final activation, the paper's choice
post         after it: the network's own pooled output
before_head  before a last 1x1 convolution, in networks of the MobileNetV2 and EfficientNet family

In that family the last convolution commutes with pooling, so pooled `pre` features span no more dimensions than the
convolution has inputs (320 of 1280).
"""

import logging
from dataclasses import dataclass

import torch
from timm.models.byobnet import ByobNet
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import nn
from torch.utils.hooks import RemovableHandle

from kdep.models.backbones.own import PREFIX, described

logger = logging.getLogger("kdep")

TAPS = ("pre", "post", "before_head")
ACTIVATIONS = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
PROBE = 128  # pixels; networks that take one size only are probed at that size


@dataclass(frozen=True)
class Taps:
    """What `find_taps` found.

    Attributes:
        names: the taps that the network offers.
        activation: name of the module that applies the final activation; None where there is none to take off.
        has_map: the pooled features are the spatial mean of the last feature map.
        width: number of pooled features.
    """

    names: tuple[str, ...]
    activation: str | None
    has_map: bool
    width: int


def features(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Run a network up to its pooling: timm's `forward_features`, or all of a user's own module."""
    return network.forward_features(images) if hasattr(network, "forward_features") else network(images)


def pooled(network: nn.Module, found: torch.Tensor) -> torch.Tensor:
    """Pool what `features` returned: (B, dim)."""
    if hasattr(network, "forward_head"):
        return network.forward_head(found, pre_logits=True)
    return found.mean((2, 3)) if isinstance(found, torch.Tensor) and found.ndim == 4 else found


@torch.no_grad()
def find_taps(network: nn.Module) -> Taps:
    """Run a network on one image of noise and look for an activation whose output it pools or returns.

    Works on the meta device too, where tensors have no values.

    Raises:
        ValueError: the network returns neither (B, D) nor (B, D, h, w), or a user's own network fails.
    """
    noise = _noise(network)
    calls: dict[str, list[tuple[torch.Tensor, int]]] = {}
    weighted: list[str] = []  # modules with parameters, as they run

    def watch(name: str, module: nn.Module) -> RemovableHandle:
        def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if next(module.parameters(recurse=False), None) is not None:
                weighted.append(name)
            if type(module).__module__ in ACTIVATIONS and isinstance(output, torch.Tensor):
                calls.setdefault(name, []).append((output, output._version))

        return module.register_forward_hook(keep)

    handles = [watch(*named) for named in network.named_modules()]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        last = features(network, noise)
        weighted.clear()
        vector = pooled(network, last)
    except Exception as error:
        name = network_name(network)
        if not name.startswith(PREFIX):
            raise
        said = f"the network failed on {noise.shape[-1]} x {noise.shape[-1]} pixels of noise: {described(error, name)}"
        raise ValueError(f"{name}: {said}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    if not isinstance(vector, torch.Tensor) or vector.ndim != 2:
        shape = tuple(vector.shape) if isinstance(vector, torch.Tensor) else type(vector).__name__
        raise ValueError(f"{network_name(network)}: returned {shape}; expected features (B, D) or a map (B, D, h, w)")
    has_map = isinstance(last, torch.Tensor) and last.ndim == 4 and not weighted and _is_mean(last, vector)
    # A module that is called twice would be taken off in both places (Res2Net's shared ReLU).
    once = {name: outputs[0] for name, outputs in calls.items() if len(outputs) == 1}
    output = last if has_map else vector
    activation = next((name for name, (result, version) in once.items() if _is_same(result, version, output)), None)
    if activation is None:
        names: tuple[str, ...] = ("post",)
    elif isinstance(network, EfficientNet) and activation == "bn2.act":
        names = TAPS
    else:
        names = ("pre", "post")
    return Taps(names, activation, has_map, vector.shape[1])


def _noise(network: nn.Module) -> torch.Tensor:
    only, divisor = input_sides(network)
    own = getattr(network, "pretrained_cfg", {}).get("input_size", (3, PROBE, PROBE))[-1]
    side = only or min(own, 8 * divisor if divisor > 1 else PROBE)
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0), device="cpu")
    return image.to(next(network.parameters(), image).device)


def _is_mean(last: torch.Tensor, vector: torch.Tensor) -> bool:
    mean = last.mean((2, 3))
    if mean.shape != vector.shape or mean.is_meta:
        return mean.shape == vector.shape
    return torch.allclose(mean, vector, rtol=1e-3, atol=1e-5, equal_nan=True)


def _is_same(result: torch.Tensor, version: int, output: torch.Tensor) -> bool:
    """Whether an output is a view of an activation's result that nothing changed in place since."""
    same = result.untyped_storage()._cdata == output.untyped_storage()._cdata
    return same and result._version == version and result.numel() == output.numel()


def default_tap(network: nn.Module) -> str:
    """Tap of a teacher or a checkpoint: `pre` for ResNets, as in the paper; `post` for others, which may lose rank."""
    return "pre" if isinstance(network, ResNet) and "pre" in find_taps(network).names else "post"


def student_tap(network: nn.Module) -> str:
    """Default tap of a student: before a last 1x1 convolution, which adds no dimensions, or before the activation.

    The study taps_mobile compares the two.
    """
    taps = find_taps(network)
    for tap in ("before_head", "pre"):
        if tap in taps.names:
            return tap
    logger.info(
        "%s has no final activation to take off: the student's features are its pooled output (tap post)",
        network_name(network),
    )
    return "post"


def input_sides(network: nn.Module) -> tuple[int | None, int]:
    """The only input side in pixels that a network takes, None where it takes others too; and what divides a side."""
    embedding, config = getattr(network, "patch_embed", None), getattr(network, "pretrained_cfg", {})
    if getattr(embedding, "strict_img_size", True) is False:
        return None, embedding.feat_ratio()
    # CLIP's ResNets interpolate their position embeddings, in their attention pool.
    if config.get("fixed_input_size") and not isinstance(network, ByobNet):
        return config["input_size"][-1], 1
    return None, 1


def network_name(network: nn.Module) -> str:
    """The architecture's name, for messages."""
    return getattr(network, "pretrained_cfg", {}).get("architecture", type(network).__name__)
