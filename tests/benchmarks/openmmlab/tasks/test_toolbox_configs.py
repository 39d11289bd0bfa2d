"""What must not be left to a toolbox's default, held for every config and every network on the model that is built."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from kdep.shipped import FOLDER as CONFIGS
from kdep_benchmarks.openmmlab.tasks import detect, segment
from tests.helpers import toolbox_trees as trees

pytestmark = pytest.mark.openmmlab
NAMES = sorted(path.stem for path in (CONFIGS / "transfer").glob("*_*.py"))


def built(name, arch, tmp_path, *, kind=None):
    kind = kind or name.partition("_")[0]
    task = trees.task(kind, {"segment": trees.voc, "detect": trees.coco}[kind](tmp_path / "data"), name)
    (tmp_path / "work").mkdir()
    cell = trees.cell(trees.student(arch), task, tmp_path / "work")
    config = {"segment": segment, "detect": detect}[kind].train_config(cell)
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    model.train()
    return cell.checkpoint, config, model


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100", "test_resnet"])
@pytest.mark.parametrize("name", NAMES)
def test_all_of_the_student_trains_on_its_own_pixels(name, arch, tmp_path):
    checkpoint, config, model = built(name, arch, tmp_path)
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(module.training and module.track_running_stats for module in norms)
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    assert config.model.get("pretrained") is None and config.model.backbone.get("init_cfg") is None
    assert not config.model.backbone.get("pretrained", False)  # timm's wrapper would download otherwise
    # The readers decode to BGR in 0..255; what enters the network is RGB, normalised as the student learnt it.
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    entering = model.data_preprocessor({"inputs": [pixels.flip(0)], "data_samples": None}, False)["inputs"][0]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (checkpoint.mean, checkpoint.std))
    assert torch.allclose(entering, (pixels / 255 - mean) / std, atol=1e-4)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100"])
@pytest.mark.parametrize(
    ("kind", "base", "backbone"),
    [
        # A frozen stem, BatchNorm as it is and a download; then BatchNorm without gradient.
        ("detect", "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", ""),
        ("detect", "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "style='pytorch'"),
        ("segment", "mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py", "type='ResNet', frozen_stages=2"),
    ],
)
def test_the_backbone_of_an_own_config_trains_as_a_whole_and_nothing_is_downloaded(
    kind, base, backbone, arch, tmp_path
):
    own = tmp_path / "own.py"
    own.write_text(f'_base_ = "{base}"\nmodel = dict(backbone=dict({backbone}))\n')
    _, config, model = built(str(own), arch, tmp_path, kind=kind)
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert norms and all(module.training for module in norms)
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    assert config.model.get("pretrained") is None and config.model.backbone.get("init_cfg") is None


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        ("segment", "mmseg::_base_/models/upernet_r50.py"),  # a head that reads four maps
        ("segment", "mmseg::_base_/models/ocrnet_r50-d8.py"),  # two main heads
        ("segment", "mmseg::_base_/models/fpn_r50.py"),  # a neck, whose maps the head reads
        ("detect", "mmdet::_base_/models/cascade-rcnn_r50_fpn.py"),  # three heads
    ],
)
def test_heads_of_an_own_config_fit_the_student_and_the_classes(kind, base, tmp_path):
    own = tmp_path / "own.py"
    default = base.partition("::")[0] + "::_base_/default_runtime.py"
    own.write_text(f'_base_ = ["{base}", "{default}"]\nmodel = dict(backbone=dict(type="ResNet"))\n')
    _, _, model = built(str(own), "resnet18", tmp_path, kind=kind)
    maps = model.backbone(torch.zeros(2, 3, 64, 64))
    if kind == "segment":
        maps = model.neck(maps) if model.with_neck else maps
        heads = model.decode_head if isinstance(model.decode_head, torch.nn.ModuleList) else [model.decode_head]
        found = heads[0](maps)
        for head in heads[1:]:
            found = head(maps, found)
        assert found.shape[1] == len(trees.CLASSES) + 1  # and the background
    else:
        assert [head.num_classes for head in model.roi_head.bbox_head] == [len(trees.CLASSES)] * 3


@pytest.mark.parametrize(
    ("arch", "theirs", "own"),
    [
        ("resnet18", "pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512", {"type": "ResNet", "depth": 18}),
        ("mobilenetv2_100", "mobilenet_v2/mobilenet-v2-d8_pspnet_4xb2-80k_cityscapes-512x1024", {}),
    ],
)
def test_a_task_with_output_stride_8_trains_the_convolutions_of_mmsegs_own_config(arch, theirs, own, tmp_path):
    from mmengine.config import Config
    from mmengine.registry import MODELS

    model = built("segment_pspnet", arch, tmp_path)[2]
    (tmp_path / "theirs.py").write_text(f'_base_ = "mmseg::{theirs}.py"\n')
    backbone = MODELS.build(Config.fromfile(tmp_path / "theirs.py").model.backbone | own)

    def convolutions(network):
        return [(conv.stride, conv.dilation) for conv in network.modules() if isinstance(conv, torch.nn.Conv2d)]

    assert convolutions(model.backbone) == convolutions(backbone)


def test_there_is_a_config_of_each_kind():
    assert {name.partition("_")[0] for name in NAMES} == {"segment", "detect"} and len(NAMES) >= 4
