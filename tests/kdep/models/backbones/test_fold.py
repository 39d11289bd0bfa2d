import pytest
import torch
from torch import nn

from kdep.models.backbones.backbone import Teachers, build_backbone
from kdep.models.backbones.fold import fold_batchnorm
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.models.teacher import fastest_form
from kdep.models.weights import open_checkpoint

CPU = torch.device("cpu")


def backbone(name, tap=None):
    """A network whose BatchNorm statistics are unlike those of a new one."""
    network = build_backbone(open_checkpoint(f"random:{name}"), tap=tap).eval()
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        ("resnet10t", "pre"),
        ("test_efficientnet", "post"),
        ("test_efficientnet", "before_head"),
        ("mobilenetv2_035", "pre"),
    ],
)
def test_a_folded_network_has_no_batchnorm_and_the_same_features(name, tap):
    network, images = backbone(name, tap), torch.rand(2, 3, 64, 64)
    before = fingerprint(network.state_dict())
    with torch.no_grad():
        expected = network(images)
        folded = fastest_form(network, 64, CPU)
        found = folded(images)
    wide = [m.weight for m in folded.modules() if isinstance(m, nn.Conv2d) and min(m.weight.shape[1:]) > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in wide)
    left = [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) == (1 if tap == "before_head" else 0)  # the head's, which is not used
    assert float((found - expected).norm() / expected.norm()) < 5e-5 and float(expected.std()) > 0.01
    assert fingerprint(network.state_dict()) == before  # the given network stays as it was


def test_several_teachers_are_folded_and_a_network_without_batchnorm_stays_as_it_is():
    teachers, images = (
        Teachers([backbone("test_resnet"), backbone("test_efficientnet")]).eval(),
        torch.rand(2, 3, 64, 64),
    )
    with torch.no_grad():
        assert torch.allclose(fold_batchnorm(teachers, 64)(images), teachers(images), atol=1e-4)
    plain = backbone("test_vit")
    assert fingerprint(fold_batchnorm(plain, 160).state_dict()) == fingerprint(plain.state_dict())
