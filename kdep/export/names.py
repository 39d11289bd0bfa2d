"""Student weights under the names of timm, torchvision, mmseg, mmdet and detectron2.

Only names change, never values. timm's ResNet has torchvision's names, and so have the `ResNet` (not `ResNetV1c`) of
mmseg and mmdet; detectron2 spells it in its own way, and MobileNetV2 has a spelling in each library.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from kdep.export.snippets import SNIPPETS
from kdep.models import keras_resnet
from kdep.models.backbone import create_network
from kdep.models.checkpoint import Checkpoint, LoadError, StateDict, load_exactly, read, save, write_atomically

SUFFIXES = {
    "timm": (".pth", ".safetensors"),
    "torchvision": (".pth",),
    "mmseg": (".pth",),
    "mmdet": (".pth",),
    # detectron2 takes tensors from a .pth too, which, unlike a .pkl, opens without running anything in it.
    "detectron2": (".pkl", ".pth"),
}
TARGETS = tuple(SUFFIXES)

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
# Where each library keeps MobileNetV2's convolutions and their BatchNorms: outside the blocks; the blocks, by stage and
# index or by running number; and inside a block, whose first kind (stage 0) has no expansion.
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
    # timm's network without its head, as `network` of the printed class.
    "detectron2": {
        "ends": ("network.conv_stem", "network.bn1", None, None),
        "block": "network.blocks.{stage}.{index}",
        "first": ("conv_dw", "bn1", "conv_pw", "bn2"),
        "others": ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"),
    },
}


def export_weights(arch: str, weights: Mapping[str, torch.Tensor], target: str) -> StateDict:
    """Rename a backbone's tensors to those of a target library's backbone, without prefix.

    MobileNetV2 loses its `conv_head` and `bn2` where the target has no place for them (`WITHOUT_HEAD`). For detectron2
    it is the module of the printed snippet, which holds timm's network as `network`.

    Args:
        arch: timm's name of the network.
        weights: tensors under timm's names, no classifier.
        target: one of `TARGETS`.

    Raises:
        ValueError: the target is unknown, or has no such network; lists what there is.
        LoadError: a tensor that the network does not have.
    """
    if target not in TARGETS:
        raise ValueError(f"export target {target!r}: there are {', '.join(TARGETS)}")
    if target == "timm":
        if not timm.is_model(arch) or arch == keras_resnet.ARCH:  # which kdep adds to timm's
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

    Files from before torch 0.4.1 lack BatchNorm's batch counters. They take no part in any output here (the momentum is
    a constant), so they are set to zero; everything else must be there.

    Raises:
        ValueError: torchvision's network is not among those whose names are known.
        LoadError: tensors that are not torchvision's.
    """
    if arch not in TORCHVISION_NAMES:
        raise ValueError(
            f"{arch!r} under torchvision's names: there are {', '.join(TORCHVISION_NAMES)} (timm's spelling)"
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
    """Say where detectron2's ResNet keeps a tensor: layer1.0.bn1.bias -> res2.0.conv1.norm.bias.

    As in detectron2's tools/convert-torchvision-to-d2.py and detectron2/modeling/backbone/resnet.py.
    """
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"\bbn(\d)", r"conv\1.norm", name)
    return name if name.startswith("res") else f"stem.{name}"


def mobilenetv2_modules(target: str) -> dict[str, str | None]:
    """Modules of timm's mobilenetv2_100 that hold tensors -> the target's, None where the target has none."""
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


def write_export(checkpoint: Checkpoint, target: str, path: Path) -> str:
    """Write a checkpoint for a library, completely or not at all, and say how to load it there.

    Returns:
        what to paste: a config or code, with the input normalisation, that loads every tensor or stops.

    Raises:
        ValueError: the target, its networks or the file's suffix do not fit.
        LoadError: the checkpoint does not fill its own network.
    """
    path = Path(path)
    weights = export_weights(checkpoint.arch, checkpoint.weights, target)
    if path.suffix not in SUFFIXES[target]:
        raise ValueError(f"{path}: an export to {target} ends in {' or '.join(SUFFIXES[target])}")
    load_exactly(create_network(checkpoint.arch), checkpoint.weights, checkpoint.name)
    # A clone each: a view would drag the whole storage that it looks at into the file.
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    WRITERS[target](checkpoint, target, weights, path)
    return SNIPPETS[target](checkpoint, path.absolute())


def _write_plain(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    if path.suffix == ".safetensors":
        from safetensors import torch as safetensors

        # As bytes: given a path, safetensors raises an error of its own when the disk is full.
        content = safetensors.save(weights, metadata=_strings(_meta(checkpoint, target)))
        write_atomically(path, lambda neighbour: neighbour.write_bytes(content))
    else:
        save(weights, path)


def _write_openmmlab(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    prefixed = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    save({"state_dict": prefixed, "meta": _meta(checkpoint, target)}, path)


def _write_detectron2(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    # The heuristics match names by suffix, which puts res2.0... at backbone.bottom_up.res2.0...; without them the names
    # would have to be those of the user's whole detector.
    content = {"model": weights, "__author__": "kdep", "matching_heuristics": True, "meta": _meta(checkpoint, target)}
    if path.suffix == ".pth":
        save(content, path)
        return
    content["model"] = {name: tensor.numpy() for name, tensor in weights.items()}
    write_atomically(path, lambda neighbour: neighbour.write_bytes(pickle.dumps(content, protocol=4)))


WRITERS: dict[str, Callable[[Checkpoint, str, StateDict, Path], None]] = {
    "timm": _write_plain,
    "torchvision": _write_plain,
    "mmseg": _write_openmmlab,
    "mmdet": _write_openmmlab,
    "detectron2": _write_detectron2,
}


def _meta(checkpoint: Checkpoint, target: str) -> dict[str, Any]:
    """Say in plain values what a file holds and where it came from."""
    meta = {
        "author": "kdep",
        "target": target,
        "name": checkpoint.name,
        "arch": checkpoint.arch,
        "sha256": checkpoint.sha256,
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "size": checkpoint.size,
        "provenance": checkpoint.provenance,
    }
    if checkpoint.arch == "mobilenetv2_100" and target in WITHOUT_HEAD:
        meta["dropped"] = f"{', '.join(HEAD)}: {WITHOUT_HEAD[target]}"
    return meta


def _strings(meta: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in meta.items()}


def read_export(path: Path, target: str) -> StateDict:
    """Read an exported file, of ours or of others, as the plain names of the target's backbone.

    Raises:
        ValueError: not a file of weights, or one that could run code when opened.
        LoadError: tensors outside the prefix under which the target looks for its backbone; names them.
    """
    path = Path(path)
    if path.suffix == ".pkl":
        raise ValueError(
            f"{path}: a pickle can run code when it is opened, so it is not; export to .pth and audit that"
        )
    content = read(path)
    if target == "detectron2":
        return dict(content.get("model", content))
    if target not in ("mmseg", "mmdet"):
        return dict(content)
    weights = content.get("state_dict", content)
    outside = [name for name in weights if not name.startswith("backbone.")]
    if outside:
        raise LoadError(
            f"{path}: {len(outside)} of {len(weights)} tensors are not under 'backbone.' (first {outside[:3]}); "
            f"{target} would leave its backbone at random values and say nothing"
        )
    return {name.removeprefix("backbone."): tensor for name, tensor in weights.items()}
