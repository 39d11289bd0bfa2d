"""Each family of teachers opens, at its own input size and at others."""

import pytest
import timm
import torch
import torch.nn.functional as F

from kdep.models.backbones.backbone import Backbone, build_backbone, create_network
from kdep.models.backbones.taps import default_tap
from kdep.models.checkpoints.timm_tags import refuse_other_activation, training_kind
from kdep.models.weights import open_checkpoint, published

# docs/teachers.md says the same: name, side of the images, own side, width, taps.
FAMILIES = [
    ("resnet50", 64, 224, 2048, ("pre", "post")),
    ("tf_efficientnet_lite0", 64, 224, 1280, ("pre", "post", "before_head")),
    ("convnext_atto", 64, 224, 320, ("post",)),
    ("resnet50_clip", 64, 224, 2048, ("post",)),
    ("vit_xsmall_patch16_clip_224", 64, 224, 256, ("post",)),
    ("vit_tiny_patch16_224", 64, 224, 192, ("post",)),
    ("deit_tiny_distilled_patch16_224", 64, 224, 192, ("post",)),
    ("vit_small_patch14_dinov2", 56, 518, 384, ("post",)),
    ("eva02_tiny_patch14_224", 56, 224, 192, ("post",)),
    ("swin_tiny_patch4_window7_224", 64, 224, 768, ("post",)),
    ("pit_ti_224", 64, 224, 256, ("post",)),  # takes 224 px only, and resamples
]


@pytest.mark.parametrize(("arch", "side", "own", "width", "taps"), FAMILIES, ids=[family[0] for family in FAMILIES])
@torch.no_grad()
def test_every_family_gives_finite_features_of_images_of_another_size(arch, side, own, width, taps):
    checkpoint = open_checkpoint(f"random:{arch}")
    backbone = build_backbone(checkpoint).eval()
    found = backbone.pooled_taps(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)))
    assert backbone.taps == taps and checkpoint.size == own != side
    for tap, features in found.items():
        assert features.shape == (2, width) and features.isfinite().all(), tap
        assert not torch.allclose(features[0], features[1])


@pytest.mark.parametrize("arch", ["test_vit", "test_vit3"])
@torch.no_grad()
def test_at_its_own_size_a_network_computes_what_timms_own_does(arch):
    network, theirs = create_network(arch).eval(), timm.create_model(arch, num_classes=0).eval()
    theirs.load_state_dict(network.state_dict())
    images = torch.rand(1, *network.pretrained_cfg["input_size"])
    backbone = Backbone(network, tap="post", mean=(0,) * 3, std=(1,) * 3).eval()
    assert torch.allclose(backbone(images), theirs(images), atol=1e-6)


@torch.no_grad()
def test_at_other_sizes_position_embeddings_are_interpolated():
    network = create_network("test_vit").eval()
    smaller = timm.create_model("test_vit", num_classes=0, img_size=80).eval()
    weights = network.state_dict()
    grid = weights["pos_embed"][:, 1:].unflatten(1, (10, 10)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (5, 5), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    smaller.load_state_dict({**weights, "pos_embed": torch.cat([weights["pos_embed"][:, :1], grid], 1)})
    images = torch.rand(2, 3, 80, 80)
    backbone = Backbone(network, tap="post", mean=(0,) * 3, std=(1,) * 3).eval()
    assert torch.allclose(backbone(images), smaller(images), atol=1e-5)


@torch.no_grad()
def test_a_network_of_one_size_resamples_to_it_and_refuses_another():
    network = create_network("pit_ti_224").eval()
    backbone = Backbone(network, tap="post").eval()
    images = torch.rand(2, 3, 64, 64)
    larger = F.interpolate(images, (224, 224), mode="bilinear", antialias=True)
    assert torch.equal(backbone(images), backbone(larger))
    with pytest.raises(ValueError, match="pit_ti_224 takes 224 pixels only, to which it resamples: not size 128"):
        Backbone(network, tap="post", resample=128)


def test_a_side_that_no_patches_fill_is_refused_with_those_that_they_do():
    network = create_network("eva02_tiny_patch14_224")
    message = r"eva02_tiny_patch14_224 takes .* of 14 pixels, not 64: show images at 56 or 70, or .*teacher.size=56"
    with pytest.raises(ValueError, match=message):
        Backbone(network, tap=default_tap(network))(torch.rand(1, 3, 64, 64))
    assert Backbone(network, tap="post", resample=56)(torch.rand(1, 3, 64, 64)).shape == (1, 192)


KINDS = {
    "supervised": (
        *(
            "resnet50.a1_in1k",
            "resnet50.tv_in1k",
            "resnet50d.ra2_in1k",
            "efficientnet_lite0.ra_in1k",
            "resnet18.fb_x_in1k",
        ),
        *("convnext_tiny.fb_in1k", "swin_tiny_patch4_window7_224.ms_in1k", "vgg16.tv_in1k", "pit_ti_224.in1k"),
        *(
            "maxvit_tiny_tf_384.in1k",
            "convnext_large.fb_in1k_384",
            "resnet50",
            "test_resnet",
        ),  # the latter by default tag
    ),
    "other": (
        *("resnet50.fb_swsl_ig1b_ft_in1k", "resnet50.fb_ssl_yfcc100m_ft_in1k", "resnext101_32x8d.fb_wsl_ig1b_ft_in1k"),
        *("resnet50_clip.openai", "resnet50_clip.cc12m", "vit_base_patch32_clip_224.laion2b_ft_in1k"),
        *("vit_small_patch16_224.dino", "vit_small_patch14_dinov2.lvd142m", "vit_base_patch16_224.mae"),
        *("convnextv2_atto.fcmae_ft_in1k", "hiera_base_224.mae_in1k_ft_in1k", "vit_huge_patch14_gap_224.in1k_ijepa"),
        *("deit_tiny_distilled_patch16_224.fb_in1k", "levit_128s.fb_dist_in1k", "hgnet_small.ssld_in1k"),
        *("edgenext_small.usi_in1k", "beit_base_patch16_224.in22k_ft_in22k_in1k", "tf_efficientnet_b0.ns_jft_in1k"),
        *("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "regnety_160.swag_ft_in1k", "regnety_320.seer"),
        *("vit_tiny_patch16_224.augreg_in21k", "vit_small_patch14_dinov2", "volo_d1_224.sail_in1k", "resnet50.untold"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_supervised_is_said_of_weights_that_learned_from_imagenets_labels_alone(kind):
    assert {name: training_kind(name) for name in KINDS[kind]} == dict.fromkeys(KINDS[kind], kind)


OFFLINE = {
    # The tag is what says that this network's images are normalised as ImageNet's.
    "timm:vit_small_patch16_224.dino": "huggingface.co/timm/vit_small_patch16_224.dino .* `arch` vit_.*_224.dino,",
    "timm:resnet18": "huggingface.co/timm/resnet18.a1_in1k and pass it with `arch` resnet18.a1_in1k,",
    # One file for two networks.
    "timm:vit_base_patch32_clip_quickgelu_224.openai": (
        "huggingface.co/timm/vit_base_patch32_clip_224.openai and pass it with `arch` "
        "vit_base_patch32_clip_quickgelu_224.openai,"
    ),
}


@pytest.mark.parametrize("name", OFFLINE)
def test_without_a_network_it_is_said_what_to_fetch_and_how_to_pass_it(monkeypatch, name):
    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("kdep.models.weights.create_network", lambda arch: None)  # a large one need not be made
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        ValueError, match=f"weights are neither cached nor .* fetch model.safetensors of {OFFLINE[name]}"
    ):
        open_checkpoint(name)


@pytest.mark.parametrize("given", ["vit_base_patch32_clip_224.openai", "vit_huge_patch14_clip_378"])
def test_clips_weights_are_refused_under_the_activation_they_were_not_trained_with(tmp_path, given):
    (tmp_path / "clip.pth").touch()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "clip.pth")
    for open_it in (
        lambda: open_checkpoint(f"timm:{given}"),
        lambda: open_checkpoint(str(tmp_path / "clip.pth"), arch=given),
    ):
        with pytest.raises(ValueError, match="were trained with QuickGELU, .* take vit_.*_clip_quickgelu_"):
            open_it()
    for fine in (
        "vit_base_patch32_clip_quickgelu_224.openai",
        "vit_base_patch32_clip_224",
        "resnet50_clip.openai",
        "x",
    ):
        refuse_other_activation(fine)


def test_a_tag_that_timm_does_not_have_is_answered_with_those_it_has():
    with pytest.raises(
        ValueError, match="vit_small_patch16_224.mae: timm has no such weights; there are .*augreg_in1k"
    ):
        open_checkpoint("timm:vit_small_patch16_224.mae")


def test_torchvisions_weights_are_its_newest_or_those_that_are_named():
    assert published("resnet50")[1].name == "IMAGENET1K_V2" and published("mobilenet_v2")[0] == "mobilenetv2_100"
    assert published("resnet50.IMAGENET1K_V1")[1].url.endswith("resnet50-0676ba61.pth")
    with pytest.raises(ValueError, match="torchvision:swin_t: there are resnet18, .*; take others as timm:NAME"):
        open_checkpoint("torchvision:swin_t")
    with pytest.raises(ValueError, match="resnet18 has IMAGENET1K_V1, DEFAULT"):
        open_checkpoint("torchvision:resnet18.IMAGENET1K_V2")


def test_a_checkpoint_of_timms_says_how_it_was_trained(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: create(name, **options))
    names = ("test_resnet.r160_in1k", "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m")
    assert [open_checkpoint(f"timm:{name}").provenance["kind"] for name in names] == ["supervised", "other"]
