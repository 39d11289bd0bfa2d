"""Configure a student as a backbone of mmseg or mmdet, rename its tensors, and compare its maps with the student's."""

import copy
import importlib
from typing import Any

import timm
import torch
from torch import nn

from kdep.export.audit import compare_stages
from kdep.export.snippets import CHANNELS, DEPTHS
from kdep.models.backbones.backbone import create_network
from kdep.models.checkpoints.checkpoint import Checkpoint, LoadError, StateDict, load_exactly
from kdep.models.checkpoints.names import export_weights
from kdep_benchmarks.openmmlab import compat

STRIDES = (4, 8, 16, 32)
# Options for a last stride of 8, 16 or 32 (8 is `d8` in mmseg's configs). They do not change the weights.
DILATIONS: dict[str, dict[int, dict[str, Any]]] = {
    "ResNet": {
        8: {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
        16: {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)},
        32: {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
    },
    "MobileNetV2": {
        8: {"strides": (1, 2, 2, 1, 1, 1, 1), "dilations": (1, 1, 1, 2, 2, 4, 4)},
        16: {"strides": (1, 2, 2, 2, 1, 1, 1), "dilations": (1, 1, 1, 1, 1, 2, 2)},
        32: {},
    },
    "TIMMBackbone": {8: {"output_stride": 8}, 16: {"output_stride": 16}, 32: {}},
}
TOOLBOXES = ("mmseg", "mmdet")


def backbone_config(arch: str, toolbox: str, *, output_stride: int = 32) -> dict[str, Any]:
    """Configure the toolbox's own backbone for a timm network, or mmseg's wrapper around timm where it has none.

    All stages train, with BatchNorm in training mode, and nothing is loaded by the toolbox.

    Args:
        arch: timm's name of the network.
        toolbox: mmseg or mmdet.
        output_stride: stride of the last map; 8 and 16 use dilation, which mmdet's MobileNetV2 does not have.

    Raises:
        ValueError: an unknown toolbox, or a network without maps at strides 4, 8, 16 and 32.
    """
    if toolbox not in TOOLBOXES:
        raise ValueError(f"toolbox {toolbox!r}: expected one of {', '.join(TOOLBOXES)}")
    trained = {"norm_cfg": {"type": "BN", "requires_grad": True}, "norm_eval": False, "frozen_stages": -1}
    if arch in DEPTHS:
        # ResNet, not ResNetV1c: that one has another stem, which the student's weights cannot fill.
        own = {"type": f"{toolbox}.ResNet", "depth": DEPTHS[arch], "out_indices": (0, 1, 2, 3), **trained}
        own |= {"style": "pytorch", "num_stages": 4}
    elif arch == "mobilenetv2_100":
        own = {"type": f"{toolbox}.MobileNetV2", "out_indices": (1, 2, 4, 6), **trained}
        if output_stride != 32 and toolbox == "mmdet":
            raise ValueError("mmdet's MobileNetV2 has no dilation; detection reads maps at strides 4 to 32")
    else:
        # pretrained=False, or the wrapper would download timm's weights.
        own = {"type": "mmseg.TIMMBackbone", "model_name": arch, "features_only": True, "pretrained": False}
        own["out_indices"] = tuple(index for index, _ in timm_maps(arch))
    return own | DILATIONS[own["type"].partition(".")[2]][output_stride]


def channels(arch: str) -> tuple[int, ...]:
    """Channels of the maps at strides 4, 8, 16 and 32."""
    return tuple(CHANNELS[arch]) if arch in CHANNELS else tuple(number for _, number in timm_maps(arch))


def timm_maps(arch: str) -> list[tuple[int, int]]:
    """Index and channels of a timm network's last map at each of the strides 4, 8, 16 and 32.

    Raises:
        ValueError: the network does not have these maps; a plain vision transformer, for example.
    """
    if not timm.is_model(arch):
        raise ValueError(f"{arch}: not a timm network; segmentation and detection need one with feature maps")
    try:
        with torch.device("meta"):  # without its weights, which would be drawn for seconds
            info = timm.create_model(arch, features_only=True, pretrained=False).feature_info
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"{arch}: timm offers no feature maps of it ({error}); use a network with stages") from error
    pairs = zip(info.reduction(), info.channels(), strict=True)
    last = {stride: (index, number) for index, (stride, number) in enumerate(pairs)}
    if not set(STRIDES) <= set(last):
        raise ValueError(f"{arch} has maps at strides {sorted(last)}; segmentation and detection need {list(STRIDES)}")
    return [last[stride] for stride in STRIDES]


def toolbox_weights(arch: str, weights: StateDict, toolbox: str) -> StateDict:
    """Rename timm's tensors for the toolbox's backbone, without a prefix and without layers after its last map."""
    if arch in CHANNELS:
        return export_weights(arch, weights, toolbox)
    target = timm.create_model(arch, features_only=True, pretrained=False).state_dict()
    # timm replaces dots by underscores in the modules of a features_only network: stages.0 becomes stages_0.
    own = {name.replace(".", "_"): tensor for name, tensor in weights.items()}
    missing = [name for name in target if name.replace(".", "_") not in own]
    if missing:
        raise LoadError(f"{arch}: {len(missing)} of {len(target)} tensors are missing (first {missing[:3]})")
    return {f"timm_model.{name}": own[name.replace(".", "_")] for name in target}


def build_module(config: dict[str, Any], toolbox: str) -> nn.Module:
    """Build a module of a toolbox from its config, on the CPU and in evaluation mode."""
    compat.prepare()
    import mmengine.registry

    # mmdet uses mmseg's wrapper around timm.
    for name in {toolbox, "mmseg"}:
        importlib.import_module(f"{name}.models")
    mmengine.registry.init_default_scope(toolbox)
    module = mmengine.registry.MODELS.build(copy.deepcopy(config))
    module.eval()  # not chained: MobileNetV2.train of both toolboxes returns None
    return module


def undilated(config: dict[str, Any]) -> dict[str, Any]:
    """Remove dilation from a backbone's config, so that its outputs can be compared with the student's."""
    return {name: value for name, value in config.items() if name not in ("strides", "dilations", "output_stride")}


@torch.no_grad()
def student_maps(checkpoint: Checkpoint, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run the student in timm and return its last map at each of the strides 4, 8, 16 and 32."""
    network = create_network(checkpoint.arch)
    load_exactly(network, checkpoint.weights, checkpoint.name)
    maps = network.eval().forward_intermediates(images, intermediates_only=True)
    last = {images.shape[-1] // features.shape[-1]: features for features in maps}
    return {f"stride {stride}": last[stride] for stride in STRIDES}


@torch.no_grad()
def map_difference(
    config: dict[str, Any], weights: StateDict, checkpoint: Checkpoint, preprocessor: nn.Module, toolbox: str
) -> float:
    """Compare a toolbox's feature maps with the student's on the same raw image.

    The toolbox gets the image as its readers deliver it, BGR in 0..255, so colour order and normalisation are compared
    too. Dilation is removed first, because it changes the maps.

    Returns:
        The largest difference, relative to the largest value of the map.

    Raises:
        LoadError: tensors do not fit, a map has another shape, or the difference is above rounding.
    """
    pixels = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    module = build_module(undilated(config), toolbox)
    load_exactly(module, weights, f"{checkpoint.name} in {toolbox}")
    theirs = module(preprocessor({"inputs": [pixels.flip(0)], "data_samples": None}, False)["inputs"].cpu())
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (checkpoint.mean, checkpoint.std))
    ours = student_maps(checkpoint, ((pixels / 255 - mean) / std)[None])
    return max(compare_stages(ours, theirs, target=f"{checkpoint.name} in {toolbox}").values())
