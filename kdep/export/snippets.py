"""What to paste into another library: a config or code that loads an exported backbone, every tensor of it.

Each snippet sets what the library would otherwise do differently from pretraining, and says why beside it.
"""

from collections.abc import Callable
from pathlib import Path
from textwrap import indent

from kdep.models.checkpoint import Checkpoint

DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50}
# Channels of the four maps that dense tasks read, strides 4 to 32.
CHANNELS = {
    "resnet18": [64, 128, 256, 512],
    "resnet34": [64, 128, 256, 512],
    "resnet50": [256, 512, 1024, 2048],
    "mobilenetv2_100": [24, 32, 96, 320],
}

TIMM = """\
import timm

# Every tensor loads, or timm raises an error. num_classes=10 adds a classifier of 10 classes.
network = timm.create_model("local-dir:{path}", pretrained=True, num_classes=0)
{untrained}transform = timm.data.create_transform(
    input_size=(3, {size}, {size}), mean={mean}, std={std}, is_training=False
)
"""

ONNX = """\
import numpy
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{path}")
image = Image.open("photo.jpg").convert("RGB").resize(({size}, {size}))
images = numpy.asarray(image, numpy.float32).transpose(2, 0, 1)[None] / 255  # RGB in [0, 1]; the file normalises them
(features,) = session.run(None, {{"images": images}})  # at the tap {tap}
"""

TORCHVISION = """\
import torch
import torchvision
from torchvision.transforms import v2

network = torchvision.models.{name}(weights=None)
network.{classifier} = torch.nn.Identity()  # the file has no classifier; put yours here after loading
network.load_state_dict(torch.load("{path}", weights_only=True))  # strict: every tensor or an error
{untrained}transform = v2.Compose([
    v2.Resize({size}),
    v2.CenterCrop({size}),
    v2.ToImage(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(mean={mean}, std={std}),
])
"""

OPENMMLAB_HOOK = """\
# If mmcv has no compiled operators (mmcv-lite), run this before anything imports {toolbox}:
#     from kdep_benchmarks.openmmlab import ops; ops.install()

# ---- load_student.py, beside the config; put its folder on PYTHONPATH ----
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class LoadStudent(Hook):
    \"\"\"Load every tensor of the backbone or stop.

    init_cfg=dict(type='Pretrained') passes over names that do not fit, and what is loaded before Runner.train() is
    overwritten there by init_weights().
    \"\"\"

    def __init__(self, path):
        self.path = path

    def before_train(self, runner):
        if runner.iter > 0:
            return  # a resumed run keeps its own weights
        weights = torch.load(self.path, map_location="cpu", weights_only=True)["state_dict"]
        model = getattr(runner.model, "module", runner.model)
        model.backbone.load_state_dict({name.removeprefix("backbone."): weight for name, weight in weights.items()})


"""

MMSEG = """\
# ---- the config ----
_base_ = "mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py"
custom_imports = dict(imports=["load_student"], allow_failed_imports=False)
custom_hooks = [dict(type="LoadStudent", path="{path}")]
model = dict(
    pretrained=None,  # the base would download another network's weights
    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=True),
{backbone}
    decode_head=dict(in_channels={last}),
    auxiliary_head=dict(in_channels={third}),
)
"""

MMSEG_RESNET = """\
# ResNet, not the base's ResNetV1c: its stem of three convolutions has no counterpart in the file.
backbone=dict(type="ResNet", depth={depth}),"""

MMSEG_MOBILENETV2 = """\
# Without the last convolution (320 -> 1280), for which mmseg's MobileNetV2 has no place.
backbone=dict(
    _delete_=True,
    type="MobileNetV2",
    strides=(1, 2, 2, 1, 1, 1, 1),
    dilations=(1, 1, 1, 2, 2, 4, 4),
    out_indices=(1, 2, 4, 6),
    norm_cfg=dict(type="SyncBN", requires_grad=True),
),"""

MMDET = """\
# ---- the config ----
_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["load_student"], allow_failed_imports=False)
custom_hooks = [dict(type="LoadStudent", path="{path}")]
{extra}model = dict(
    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=True),
    # The base freezes the first stage and BatchNorm, which suits its own ImageNet weights; here everything trains.
{backbone}
    neck=dict(in_channels={channels}),
)
"""

MMDET_RESNET = """\
backbone=dict(
    depth={depth},
    frozen_stages=-1,
    norm_eval=False,
    norm_cfg=dict(type="SyncBN", requires_grad=True),
    init_cfg=None,  # the base would download another network's weights
),"""

MMDET_MOBILENETV2 = """\
backbone=dict(
    _delete_=True,
    type="MobileNetV2",
    out_indices=(1, 2, 4, 6),
    frozen_stages=-1,
    norm_eval=False,
    norm_cfg=dict(type="SyncBN", requires_grad=True),
),"""

DETECTRON2 = """\
# ---- student.yaml, in the folder of detectron2's configs ----
_BASE_: "Base-RCNN-FPN.yaml"
MODEL:
  WEIGHTS: "{path}"
  PIXEL_MEAN: {mean}
  PIXEL_STD: {std}
  BACKBONE:
{backbone}
    FREEZE_AT: 0  # the default, 2, freezes the stem and the first stage
{resnets}
INPUT:
  FORMAT: "RGB"  # the default, BGR, is that of the weights which detectron2 ships

# ---- after DetectionCheckpointer(model).load(...), which only logs what it does not find ----
# import torch
# from detectron2.checkpoint import DetectionCheckpointer
# loaded = DetectionCheckpointer(model)._load_file("{path}")["model"]
# own = model.state_dict()
# for name, weight in loaded.items():
#     assert torch.equal(own["backbone.bottom_up." + name].cpu(), torch.as_tensor(weight)), name
"""

DETECTRON2_RESNETS = """\
  RESNETS:
    DEPTH: {depth}
    RES2_OUT_CHANNELS: {width}
    STRIDE_IN_1X1: False  # torchvision's and timm's place of the stride in a bottleneck
    NORM: "SyncBN"  # the default, FrozenBN, would never adapt BatchNorm"""

DETECTRON2_MOBILENETV2 = '''\
# ---- timm_mobilenetv2.py; import it before the model is built ----
# detectron2 ships no MobileNetV2. The last convolution (320 -> 1280) is left out: FPN reads the blocks.
import timm
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

STAGES = ("res2", "res3", "res4", "res5")


class TimmMobileNetV2(Backbone):
    """timm's MobileNetV2 as four feature maps of strides 4 to 32."""

    def __init__(self):
        super().__init__()
        network = timm.create_model("mobilenetv2_100", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4))
        self.network = timm.layers.convert_sync_batchnorm(network)

    def forward(self, images):
        return dict(zip(STAGES, self.network(images)))

    def output_shape(self):
        info = self.network.feature_info
        return {
            name: ShapeSpec(channels=channels, stride=stride)
            for name, channels, stride in zip(STAGES, info.channels(), info.reduction())
        }


@BACKBONE_REGISTRY.register()
def build_timm_mobilenetv2_fpn_backbone(cfg, input_shape):
    fpn = cfg.MODEL.FPN
    return FPN(TimmMobileNetV2(), STAGES, fpn.OUT_CHANNELS, norm=fpn.NORM, top_block=LastLevelMaxPool())


'''


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
    return checkpoint.resample or checkpoint.size


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
