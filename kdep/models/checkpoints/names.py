"""Translate tensor names between timm and torchvision, mmseg, mmdet and detectron2.

Only names change, never values. timm's ResNet has torchvision's names, and so has the plain `ResNet` (not `ResNetV1c`)
of mmseg and mmdet. detectron2 names a ResNet's tensors differently, and each library names MobileNetV2's differently.
"""

import re
from collections.abc import Mapping
from typing import Any

import timm
import torch

from kdep.models.checkpoints import keras_resnet
from kdep.models.checkpoints.checkpoint import LoadError, StateDict

TIMM_NAMES = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "mobilenet_v2": "mobilenetv2_100",
}
TORCHVISION_NAMES = {arch: name for name, arch in TIMM_NAMES.items()}

# Blocks per stage, the same in every library.
MOBILENETV2_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
HEAD = ("conv_head", "bn2")  # the last 1x1 convolution, 320 -> 1280 channels
WITHOUT_HEAD = {
    "mmseg": "mmseg's MobileNetV2 ends with the 320 channels of its last block",
    "detectron2": "a feature pyramid reads the outputs of the blocks",
}
# Names of MobileNetV2's convolutions and BatchNorms in each library: outside the blocks (`ends`), of a block, and in a
# block. Blocks of stage 0 (`first`) have no expansion.
SPELLINGS: dict[str, dict[str, Any]] = {
    "timm": {
        "ends": ("conv_stem", "bn1", *HEAD),
        "block": "blocks.{stage}.{index}",
        "first": ("conv_dw", "bn1", "conv_pw", "bn2"),
        "others": ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
    },
    "torchvision": {
        "ends": ("features.0.0", "features.0.1", "features.18.0", "features.18.1"),
        "block": "features.{number}.conv",
        "first": ("0.0", "0.1", "1", "2"),
        "others": ("0.0", "0.1", "1.0", "1.1", "2", "3"),
    },
    "mmseg": {
        "ends": ("conv1.conv", "conv1.bn", None, None),
        "block": "layer{layer}.{index}.conv",
        "first": ("0.conv", "0.bn", "1.conv", "1.bn"),
        "others": ("0.conv", "0.bn", "1.conv", "1.bn", "2.conv", "2.bn"),
    },
    "mmdet": {
        "ends": ("conv1.conv", "conv1.bn", "conv2.conv", "conv2.bn"),
        "block": "layer{layer}.{index}",
        "first": tuple(f"{unit}_conv.{kind}" for unit in ("depthwise", "linear") for kind in ("conv", "bn")),
        "others": tuple(f"{unit}_conv.{kind}" for unit in ("expand", "depthwise", "linear") for kind in ("conv", "bn")),
    },
    # The printed class holds timm's network without its head as `network`.
    "detectron2": {
        "ends": ("network.conv_stem", "network.bn1", None, None),
        "block": "network.blocks.{stage}.{index}",
        "first": ("conv_dw", "bn1", "conv_pw", "bn2"),
        "others": ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
    },
}


def export_weights(arch: str, weights: Mapping[str, torch.Tensor], target: str) -> StateDict:
    """Rename a backbone's tensors to the names in a target library, without prefix.

    MobileNetV2's `conv_head` and `bn2` are left out if the target lacks them (`WITHOUT_HEAD`). For detectron2 the
    MobileNetV2 backbone is the class in the printed snippet, which holds timm's network as `network`.

    Args:
        arch: timm's name of the network.
        weights: tensors under timm's names, no classifier.
        target: one of `SPELLINGS`.

    Raises:
        ValueError: the target is unknown or does not have the network; the message lists the known ones.
        LoadError: the network does not have one of the tensors.
    """
    if target not in SPELLINGS:
        raise ValueError(f"export target {target!r}: there are {', '.join(SPELLINGS)}")
    if target == "timm":
        if not timm.is_model(arch) or arch == keras_resnet.ARCH:  # ARCH is registered by kdep, not by timm
            raise ValueError(f"export to timm: timm has no network {arch!r}")
        return dict(weights)
    if arch not in TORCHVISION_NAMES:
        raise ValueError(
            f"export of {arch!r} to {target}: there are {', '.join(TORCHVISION_NAMES)}; other timm networks go to timm"
        )
    if arch == "mobilenetv2_100":
        return _rename_modules(weights, mobilenetv2_modules(target), arch)
    rename = detectron2_resnet_name if target == "detectron2" else str
    return {rename(name): tensor for name, tensor in weights.items()}


def from_torchvision(arch: str, weights: Mapping[str, torch.Tensor]) -> StateDict:
    """Rename a torchvision state dict to timm's names, without its classifier.

    Files from before torch 0.4.1 lack BatchNorm's batch counters. The counters do not affect outputs (the momentum is
    constant), so missing ones are set to zero. All other tensors must be there.

    Raises:
        ValueError: the architecture is not in `TORCHVISION_NAMES`.
        LoadError: torchvision's network does not have one of the tensors.
    """
    if arch not in TORCHVISION_NAMES:
        raise ValueError(
            f"torchvision's names of {arch!r} are not known; known (timm's spelling): {', '.join(TORCHVISION_NAMES)}"
        )
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(("fc.", "classifier."))}
    for name in [name for name in weights if name.endswith(".running_mean")]:
        counter = name.replace("running_mean", "num_batches_tracked")
        weights.setdefault(counter, torch.tensor(0))
    if arch != "mobilenetv2_100":
        return weights
    modules = {theirs: own for own, theirs in mobilenetv2_modules("torchvision").items() if theirs is not None}
    return _rename_modules(weights, modules, f"torchvision's {TORCHVISION_NAMES[arch]}")


def detectron2_resnet_name(name: str) -> str:
    """Translate a ResNet tensor's name to detectron2's: layer1.0.bn1.bias -> res2.0.conv1.norm.bias.

    As in detectron2's tools/convert-torchvision-to-d2.py and detectron2/modeling/backbone/resnet.py.
    """
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
    return name if name.startswith("res") else f"stem.{name}"


def mobilenetv2_modules(target: str) -> dict[str, str | None]:
    """Map timm's mobilenetv2_100 modules that hold tensors to the target's; None if the target lacks the module."""
    return dict(zip(_mobilenetv2_spelled("timm"), _mobilenetv2_spelled(target), strict=True))


def _mobilenetv2_spelled(library: str) -> list[str | None]:
    spelling = SPELLINGS[library]
    names, number = list(spelling["ends"]), 0
    for stage, depth in enumerate(MOBILENETV2_DEPTHS):
        for index in range(depth):
            number += 1
            block = spelling["block"].format(stage=stage, layer=stage + 1, index=index, number=number)
            names += [f"{block}.{module}" for module in spelling["first" if stage == 0 else "others"]]
    return names


def _rename_modules(weights: Mapping[str, torch.Tensor], modules: Mapping[str, str | None], network: str) -> StateDict:
    renamed, unknown = {}, []
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        if module not in modules:
            unknown.append(name)
        elif modules[module] is not None:
            renamed[f"{modules[module]}.{kind}"] = tensor
    if unknown:
        raise LoadError(f"{network} does not have {len(unknown)} of {len(weights)} given tensors (first {unknown[:3]})")
    return renamed
