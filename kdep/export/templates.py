"""Templates of the snippets that load an exported backbone in other libraries; filled in by `kdep.export.snippets`."""

TIMM = """\
import timm

# Every tensor loads, or timm raises an error. network.reset_classifier(10) adds a classifier of 10 classes afterwards.
network = timm.create_model("local-dir:{path}", pretrained=True, num_classes=0)
{untrained}transform = timm.data.create_transform(
    input_size=(3, {size}, {size}), interpolation="bilinear", crop_pct=1.0, mean={mean}, std={std}, is_training=False
)
"""

ONNX = """\
import numpy
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{path}")
image = Image.open("photo.jpg").convert("RGB")
width, height = ({size} * side // min(image.size) for side in image.size)
left, top = round((width - {size}) / 2), round((height - {size}) / 2)
image = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + {size}, top + {size}))
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
