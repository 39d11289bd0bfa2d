"""Print the code or config with which another library loads an exported backbone completely.

Each snippet overrides the library's defaults that differ from pretraining; a comment beside each says why.
"""

from collections.abc import Callable
from pathlib import Path
from textwrap import indent

from kdep.export.templates import (
    DETECTRON2,
    DETECTRON2_MOBILENETV2,
    DETECTRON2_RESNETS,
    MMDET,
    MMDET_MOBILENETV2,
    MMDET_RESNET,
    MMSEG,
    MMSEG_MOBILENETV2,
    MMSEG_RESNET,
    ONNX,
    OPENMMLAB_HOOK,
    TIMM,
    TORCHVISION,
)
from kdep.models.backbones.backbone import create_network
from kdep.models.backbones.taps import input_sides
from kdep.models.checkpoints.checkpoint import Checkpoint

DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50}
# Channels of the four maps that dense tasks read, strides 4 to 32.
CHANNELS = {
    "resnet18": [64, 128, 256, 512],
    "resnet34": [64, 128, 256, 512],
    "resnet50": [256, 512, 1024, 2048],
    "mobilenetv2_100": [24, 32, 96, 320],
}


def _timm(checkpoint: Checkpoint, path: Path) -> str:
    return TIMM.format(
        path=path,
        untrained=_untrained(checkpoint, "conv_head and bn2"),
        size=_side(checkpoint),
        mean=tuple(checkpoint.mean),
        std=tuple(checkpoint.std),
    )


def _onnx(checkpoint: Checkpoint, path: Path) -> str:
    return ONNX.format(path=path, size=checkpoint.size, tap=checkpoint.tap)


def _untrained(checkpoint: Checkpoint, layers: str) -> str:
    """Warn that the last convolution is untrained where the student's features end before it."""
    if checkpoint.tap != "before_head":
        return ""
    return f"# {layers} are untrained: the student learned the layers before them.\n"


def _torchvision(checkpoint: Checkpoint, path: Path) -> str:
    resnet = checkpoint.arch in DEPTHS
    return TORCHVISION.format(
        name=checkpoint.arch if resnet else "mobilenet_v2",
        classifier="fc" if resnet else "classifier",
        path=path,
        untrained=_untrained(checkpoint, "features.18, the last convolution,"),
        size=_side(checkpoint),
        mean=list(checkpoint.mean),
        std=list(checkpoint.std),
    )


def _mmseg(checkpoint: Checkpoint, path: Path) -> str:
    backbone = MMSEG_RESNET if checkpoint.arch in DEPTHS else MMSEG_MOBILENETV2
    channels = CHANNELS[checkpoint.arch]
    return OPENMMLAB_HOOK.replace("{toolbox}", "mmseg") + MMSEG.format(
        path=path,
        backbone=indent(backbone.format(depth=DEPTHS.get(checkpoint.arch)), "    "),
        third=channels[2],
        last=channels[3],
        **_in_bytes(checkpoint),
    )


def _mmdet(checkpoint: Checkpoint, path: Path) -> str:
    resnet = checkpoint.arch in DEPTHS
    # mmdet's MobileNetV2 computes its last convolution although no map of it is read.
    extra = (
        ""
        if resnet
        else "find_unused_parameters = True  # DistributedDataParallel: conv2 runs, but FPN does not read it\n"
    )
    return OPENMMLAB_HOOK.replace("{toolbox}", "mmdet") + MMDET.format(
        path=path,
        extra=extra,
        backbone=indent(
            (MMDET_RESNET if resnet else MMDET_MOBILENETV2).format(depth=DEPTHS.get(checkpoint.arch)), "    "
        ),
        channels=CHANNELS[checkpoint.arch],
        **_in_bytes(checkpoint),
    )


def _detectron2(checkpoint: Checkpoint, path: Path) -> str:
    resnet = checkpoint.arch in DEPTHS
    name = "build_resnet_fpn_backbone" if resnet else "build_timm_mobilenetv2_fpn_backbone"
    yaml = DETECTRON2.format(
        path=path,
        backbone=f'    NAME: "{name}"',
        resnets=DETECTRON2_RESNETS.format(depth=DEPTHS[checkpoint.arch], width=CHANNELS[checkpoint.arch][0])
        if resnet
        else "",
        **_in_bytes(checkpoint),
    )
    return yaml if resnet else DETECTRON2_MOBILENETV2 + yaml


def _side(checkpoint: Checkpoint) -> int:
    """The side in pixels of the images that `kdep.load` prepares."""
    only, _ = input_sides(create_network(checkpoint.arch))
    return only or checkpoint.resample or checkpoint.size


def _in_bytes(checkpoint: Checkpoint) -> dict[str, list[float]]:
    """Mean and standard deviation for pixels from 0 to 255."""
    return {
        "mean": [round(255 * value, 4) for value in checkpoint.mean],
        "std": [round(255 * value, 4) for value in checkpoint.std],
    }


SNIPPETS: dict[str, Callable[[Checkpoint, Path], str]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "mmseg": _mmseg,
    "mmdet": _mmdet,
    "detectron2": _detectron2,
    "onnx": _onnx,
}
