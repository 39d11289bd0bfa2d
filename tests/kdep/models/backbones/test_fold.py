import pytest
import torch
from timm.layers import StdConv2d
from torch import nn

from kdep.models.backbones.backbone import Teachers, build_backbone
from kdep.models.backbones.fold import fold_batchnorm
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.models.teacher import fastest_form
from kdep.models.weights import open_checkpoint

CPU = torch.device("cpu")


def backbone(name, tap=None):
    return unlike_new(build_backbone(open_checkpoint(f"random:{name}"), tap=tap).eval())


def unlike_new(network):
    """Give it BatchNorm statistics unlike those of a new one."""
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


class Changed(nn.Module):
    """BatchNorm reads the tensor that a convolution has made, after something has changed it in place."""

    def __init__(self, change):
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in range(2))
        self.change = change

    def forward(self, x):
        x = self.first(x)
        made = self.second[0](x)
        return self.second[1](made.relu_() if self.change == "relu" else made.add_(x))


class Shared(nn.Module):
    """BatchNorm is not the only reader of the convolution, as in CoATNet's first block."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.conv(x)
        return x + self.bn(x).relu()


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (Changed("relu"), 1),
        (Changed("add"), 1),
        (Shared(), 1),
        (nn.Sequential(StdConv2d(3, 8, 3), nn.BatchNorm2d(8)), 1),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), 0),
    ],
)
def test_what_cannot_be_folded_keeps_its_batchnorm(network, left):
    unlike_new(network.eval())
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        folded = fold_batchnorm(network, 16)
        assert torch.allclose(folded(images), network(images), atol=1e-5)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == left


def test_a_stage_map_that_is_read_before_its_batchnorm_is_not_folded():
    class Maps(nn.Sequential):
        def stage_maps(self, images):
            return [self[0](images)]

    network = unlike_new(Maps(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval())
    with torch.no_grad():
        images = torch.rand(2, 3, 16, 16)
        assert torch.equal(fold_batchnorm(network, 16).stage_maps(images)[0], network.stage_maps(images)[0])


def test_several_teachers_are_folded_and_a_network_without_batchnorm_stays_as_it_is():
    teachers, images = (
        Teachers([backbone("test_resnet"), backbone("test_efficientnet")]).eval(),
        torch.rand(2, 3, 64, 64),
    )
    with torch.no_grad():
        assert torch.allclose(fold_batchnorm(teachers, 64)(images), teachers(images), atol=1e-4)
    plain = backbone("test_vit")
    assert fingerprint(fold_batchnorm(plain, 160).state_dict()) == fingerprint(plain.state_dict())
