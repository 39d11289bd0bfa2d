"""What must not be left to a toolbox's default, held for every config and every network on the model that is built."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from kdep.shipped import FOLDER as CONFIGS
from kdep_benchmarks.openmmlab.tasks import detect, segment
from tests.helpers import toolbox_trees as trees

pytestmark = pytest.mark.openmmlab
NAMES = sorted(path.stem for path in (CONFIGS / "transfer").glob("*_*.py"))


def built(name, arch, tmp_path):
    kind = name.partition("_")[0]
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
