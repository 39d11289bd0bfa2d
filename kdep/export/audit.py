"""Check an export: every tensor loads, and the target's backbone gives the student's own outputs.

A network with another stride, padding or epsilon takes the same tensors and computes something else. Only its outputs
show that.
"""

import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import timm
import torch
import torchvision
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import nn
from torch.utils.hooks import RemovableHandle

from kdep.export.onnx_file import onnx_bytes, run_onnx
from kdep.models.backbones.backbone import build_backbone, create_network
from kdep.models.checkpoints.checkpoint import Checkpoint, LoadError, StateDict, load_exactly
from kdep.models.checkpoints.names import MOBILENETV2_DEPTHS, TORCHVISION_NAMES, export_weights

# Largest difference allowed, as a share of the stage's largest output. Two float32 programs that sum the same numbers
# in another order differ by 1e-7 to 1e-5 after fifty layers; the mildest real mistake known, BatchNorm with epsilon
# 1e-3 for 1e-5, moves outputs by 5e-4 per layer.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Audit:
    """What was compared, and how far it differed.

    Attributes:
        target: the library.
        tensors: tensors of the export.
        expected: tensors of the target's backbone.
        max_difference: largest difference of any stage's output from the student's, as a share of the largest output of
            that stage; None where only names could be checked.
        note: what was not checked, and why.
    """

    target: str
    tensors: int
    expected: int
    max_difference: float | None
    note: str = ""


def fixed_batch(arch: str | None = None, *, size: int = 64) -> torch.Tensor:
    """Make the images on which outputs are compared, (2, 3, S, S), normalised already, the same in every run.

    S is the network's own input size where `arch` takes no other. Else it is 64 for a network whose stages are known,
    and `size` for others: Inception v3 needs 75 pixels.
    """
    side = 64
    if arch is not None:
        network = create_network(arch)
        if network.pretrained_cfg.get("fixed_input_size"):
            side = network.pretrained_cfg["input_size"][-1]
        elif not stage_names(network):
            side = size
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def stage_names(network: nn.Module) -> list[str]:
    """Modules of a timm network after which its stages end, activation included; empty where they are not known."""
    if isinstance(network, ResNet):
        return [f"layer{stage}" for stage in (1, 2, 3, 4)]
    if isinstance(network, EfficientNet) and hasattr(network, "bn2"):
        return [*(f"blocks.{stage}" for stage in range(len(network.blocks))), "bn2"]
    return []


def stage_outputs(
    network: nn.Module, images: torch.Tensor, *, names: Sequence[str] | None = None
) -> list[torch.Tensor]:
    """Run a network in eval mode and collect the outputs of its stages.

    Of a timm network whose stages are not known there is one: its last feature map.

    Args:
        network: in eval mode.
        images: normalised, (B, 3, H, W).
        names: modules to listen to, by default those of `stage_names`.
    """
    assert not network.training, "BatchNorm would use, and change, other statistics"
    names = stage_names(network) if names is None else names
    outputs: dict[str, torch.Tensor] = {}
    handles = [_keep_output(network, name, outputs) for name in names]
    try:
        with torch.no_grad():
            last = network.forward_features(images) if hasattr(network, "forward_features") else network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [outputs[name] for name in names] or [last]


def _keep_output(network: nn.Module, name: str, outputs: dict[str, torch.Tensor]) -> RemovableHandle:
    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        outputs[name] = output.detach().clone()  # the next layer may work in place

    return network.get_submodule(name).register_forward_hook(keep)


def student_stages(checkpoint: Checkpoint, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run the student's own network, final activation included: stage -> output."""
    network = create_network(checkpoint.arch)
    load_exactly(network, checkpoint.weights, checkpoint.name)
    network.eval()
    return dict(zip(stage_names(network) or ["features"], stage_outputs(network, images), strict=True))


def compare_stages(own: Mapping[str, torch.Tensor], theirs: Sequence[torch.Tensor], *, target: str) -> dict[str, float]:
    """Measure how far a target's outputs are from the student's: stage -> share of the stage's largest output.

    Raises:
        LoadError: another number of stages, another shape, or a difference above `TOLERANCE`; names the stage.
    """
    if len(own) != len(theirs):
        raise LoadError(f"{target}: the backbone has {len(theirs)} stages, the student {len(own)} ({', '.join(own)})")
    differences = {}
    for (stage, expected), output in zip(own.items(), theirs, strict=True):
        if expected.shape != output.shape:
            raise LoadError(
                f"{target}: {stage} gives {tuple(output.shape)} where the student gives {tuple(expected.shape)}: "
                "another width, stride or dilation"
            )
        largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
        differences[stage] = ((expected - output).abs().max() / largest).item()
        if not differences[stage] <= TOLERANCE:  # written so that NaN fails, too
            raise LoadError(
                f"{target}: all tensors loaded, but {stage} differs from the student's output by "
                f"{differences[stage]:.1e} of its largest value; at most {TOLERANCE:g} is rounding. "
                "The backbone computes something else"
            )
    return differences


def audit(checkpoint: Checkpoint, target: str, *, weights: StateDict | None = None) -> Audit:
    """Load an export into the target's own backbone and compare all stage outputs with the student's.

    Args:
        checkpoint: the student.
        target: timm, torchvision, detectron2 or onnx; mmseg and mmdet are audited by `kdep_benchmarks.openmmlab.audit`.
        weights: what to audit, under the names of the target's backbone; by default what `export_weights` makes.

    Raises:
        LoadError: some tensor does not load, or some stage's output differs.
        ValueError: the target is unknown, or has no such network.
    """
    if target == "onnx":
        return _audit_onnx(checkpoint)
    if target not in BACKBONES:
        raise ValueError(
            f"unknown library {target!r}: there are {', '.join(BACKBONES)}, onnx, and in kdep_benchmarks mmseg, mmdet"
        )
    weights = export_weights(checkpoint.arch, checkpoint.weights, target) if weights is None else weights
    if target == "detectron2" and checkpoint.arch in RESNET_BLOCKS and not importlib.util.find_spec("detectron2"):
        return _audit_names(checkpoint, weights)
    images = fixed_batch(checkpoint.arch, size=checkpoint.size)
    own = student_stages(checkpoint, images)
    network, stages = BACKBONES[target](checkpoint.arch)
    load_exactly(network, weights, f"{checkpoint.name} for {target}")
    network.eval()
    theirs = stage_outputs(network, images, names=list(stages.values()))
    return complete_audit(target, network, {stage: own[stage] for stage in stages or own}, theirs)


def _audit_onnx(checkpoint: Checkpoint) -> Audit:
    images = torch.rand(3, 3, checkpoint.size, checkpoint.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = build_backbone(checkpoint).eval()(images)
    differences = compare_stages({"features": own}, [run_onnx(onnx_bytes(checkpoint), images)], target="onnx")
    tensors = len(checkpoint.weights)
    return Audit("onnx", tensors, tensors, differences["features"])


def complete_audit(
    target: str, network: nn.Module, own: Mapping[str, torch.Tensor], theirs: Sequence[torch.Tensor]
) -> Audit:
    """Compare the stages of a network that is loaded exactly, and put the figures together."""
    differences = compare_stages(own, theirs, target=target)
    tensors = len(network.state_dict())
    return Audit(target, tensors, tensors, max(differences.values()))


def _timm(arch: str) -> tuple[nn.Module, dict[str, str]]:
    network = timm.create_model(arch, pretrained=False, num_classes=0)
    return network, {name: name for name in stage_names(network)}


def _torchvision(arch: str) -> tuple[nn.Module, dict[str, str]]:
    network = torchvision.models.get_model(TORCHVISION_NAMES[arch], weights=None)
    if arch in RESNET_BLOCKS:
        network.fc = nn.Identity()
        return network, {f"layer{stage}": f"layer{stage}" for stage in (1, 2, 3, 4)}
    network.classifier = nn.Identity()
    ends = accumulate(MOBILENETV2_DEPTHS)
    stages = {f"blocks.{stage}": f"features.{end}" for stage, end in enumerate(ends)}
    return network, {**stages, "bn2": "features.18"}


def _detectron2(arch: str) -> tuple[nn.Module, dict[str, str]]:
    if arch not in RESNET_BLOCKS:
        # What the printed class holds; the class itself only puts names to these maps.
        holder = nn.Sequential(OrderedDict(network=timm.create_model(arch, pretrained=False, features_only=True)))
        return holder, {name: f"network.{name}" for name in holder.network.feature_info.module_name()}
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.resnet import build_resnet_backbone

    config = get_cfg()
    config.MODEL.BACKBONE.FREEZE_AT = 0
    config.MODEL.RESNETS.DEPTH = int(arch.removeprefix("resnet"))
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = 256 if arch == "resnet50" else 64
    config.MODEL.RESNETS.STRIDE_IN_1X1 = False
    config.MODEL.RESNETS.NORM = "BN"
    config.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    network = build_resnet_backbone(config, ShapeSpec(channels=3))
    return network, {f"layer{stage}": f"res{stage + 1}" for stage in (1, 2, 3, 4)}


# target -> a function of the architecture: the target's backbone at random values, and which of its modules end the
# student's stages.
BACKBONES: dict[str, Callable[[str], tuple[nn.Module, dict[str, str]]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "detectron2": _detectron2,
}

RESNET_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def detectron2_resnet_names(arch: str) -> list[str]:
    """List the tensors of detectron2's ResNet, from its structure and not from the student's names."""
    convolutions = 3 if arch == "resnet50" else 2
    modules = ["stem.conv1"]
    for stage, blocks in enumerate(RESNET_BLOCKS[arch], 2):
        # A block has a shortcut where its width differs from its input's; after the stem that takes a bottleneck.
        first = ["shortcut"] if stage > 2 or arch == "resnet50" else []
        for block in range(blocks):
            units = [*(first if block == 0 else []), *(f"conv{unit + 1}" for unit in range(convolutions))]
            modules += [f"res{stage}.{block}.{unit}" for unit in units]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [f"{module}.{kind}" for module in modules for kind in ("weight", *(f"norm.{kind}" for kind in norm))]


def _audit_names(checkpoint: Checkpoint, weights: StateDict) -> Audit:
    expected = detectron2_resnet_names(checkpoint.arch)
    missing, unexpected = [n for n in expected if n not in weights], [n for n in weights if n not in set(expected)]
    if missing or unexpected:
        raise LoadError(
            f"{checkpoint.name} for detectron2: {len(missing)} tensors missing (first {missing[:3]}), "
            f"{len(unexpected)} unexpected (first {unexpected[:3]})"
        )
    note = "detectron2 is not installed: all names are there, the outputs were not compared"
    return Audit("detectron2", len(weights), len(expected), None, note=note)
