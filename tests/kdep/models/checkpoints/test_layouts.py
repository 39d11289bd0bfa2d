"""Weight files as published: each layout's words and heads, with the tensors of a small network under them."""

import pytest
import timm
import torch

from kdep.files import save
from kdep.models.backbones.backbone import create_network
from kdep.models.checkpoints.checkpoint import LoadError
from kdep.models.checkpoints.layouts import take_apart
from kdep.models.classifier import open_classifier
from kdep.models.weights import open_checkpoint

ARCH = "test_resnet"
OWN = create_network(ARCH).state_dict()
OTHER = {name: tensor + 1 for name, tensor in OWN.items()}  # a second network of the same kind beside it
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
FC = {"fc.weight": torch.ones(10, 96), "fc.bias": torch.ones(10)}
MLP = {
    f"{i}.{kind}": torch.ones(96, 96) if kind == "weight" else torch.ones(96)
    for i in (0, 2)
    for kind in ("weight", "bias")
}


def under(prefix, weights):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


LAYOUTS = {
    "plain": (OWN, []),
    "timm": ({"state_dict": {**OWN, **FC}, "epoch": 3, "state_dict_ema": {**OTHER, **FC}}, ["fc", "state_dict_ema"]),
    "data parallel": ({"model": under("module.", {**OWN, **FC})}, ["fc"]),
    "compiled": (under("_orig_mod.", OWN), []),
    "mmpretrain": (
        {"meta": {"epoch": 1}, "state_dict": {**under("backbone.", OWN), **under("neck.", MLP), **under("head.", FC)}},
        ["neck", "head"],
    ),
    "dino": (
        {
            "student": under("module.", {**under("backbone.", OTHER), **under("head.mlp.", MLP)}),
            "teacher": {**under("backbone.", OWN), **under("head.mlp.", MLP)},
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 100,
        },
        ["student", "head", "optimizer"],
    ),
    "solo-learn": (
        {
            "state_dict": {
                **under("momentum_backbone.", OTHER),
                **under("backbone.", OWN),
                **{name.replace("fc", "classifier"): tensor for name, tensor in FC.items()},
                **under("projector.", MLP),
            }
        },
        ["momentum_backbone", "classifier", "projector"],
    ),
    "robustness": (
        {
            "model": {
                **under("module.normalizer.", {"new_mean": MEAN, "new_std": STD}),
                **under("module.model.", {**OWN, **FC}),
                **under("module.attacker.normalize.", {"new_mean": MEAN, "new_std": STD}),
                **under("module.attacker.model.", {**OWN, **FC}),
            }
        },
        ["fc", "normalizer", "attacker"],
    ),
    "moco": (
        {
            "arch": "resnet50",
            "state_dict": {
                **under("module.encoder_q.", {**OWN, **under("fc.", MLP)}),
                **under("module.encoder_k.", {**OTHER, **under("fc.", MLP)}),
                **under("module.", {"queue": torch.ones(8, 16), "queue_ptr": torch.zeros(1)}),
            },
        },
        ["fc", "encoder_k", "queue", "queue_ptr"],
    ),
    "moco v3": (
        {"state_dict": {**under("module.base_encoder.", OWN), **under("module.momentum_encoder.", OTHER)}},
        ["momentum_encoder"],
    ),
    "swav": (
        under("module.", {**OWN, **under("projection_head.", MLP), "prototypes.weight": torch.ones(30, 96)}),
        ["projection_head", "prototypes"],
    ),
    "detector": (
        {"state_dict": {**under("backbone.", OWN), **under("rpn_head.", FC), **under("roi_head.bbox_head.", FC)}},
        ["rpn_head", "roi_head"],
    ),
    "lightning": (
        {
            "state_dict": {**under("net.", OWN), **{f"loss.{name}": tensor for name, tensor in FC.items()}},
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(2)}}}],
            "hyper_parameters": {"lr": 0.1},
        },
        ["loss"],
    ),
    "classifier beside the attribute": ({"state_dict": {**under("lit.net.", OWN), **under("lit.", FC)}}, ["fc"]),
    "unknown heads": ({**OWN, **under("depth_head.", MLP), **under("momentum.", OTHER)}, ["depth_head", "momentum"]),
    "unknown heads under an unknown name": (under("net.", {**OWN, **under("depth_head.", MLP)}), ["depth_head"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backbone_of_a_published_file_opens_completely_and_its_heads_are_named(tmp_path, layout, caplog):
    content, heads = LAYOUTS[layout]
    save(content, tmp_path / "w.pth")
    caplog.set_level("INFO", "kdep")
    checkpoint = open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)
    assert set(checkpoint.weights) == set(OWN)
    assert all(torch.equal(OWN[name], tensor) for name, tensor in checkpoint.weights.items())
    assert checkpoint.provenance.get("left_out", []) == heads
    if heads:
        assert f"left out: {', '.join(heads)}" in caplog.text


# Where each layout keeps the backbone: a tensor taken away, added or cut there must stop the load.
PLACES = {
    "plain": [],
    "mmpretrain": ["state_dict", "backbone."],
    "dino": ["teacher", "backbone."],
    "solo-learn": ["state_dict", "backbone."],
    "robustness": ["model", "module.model."],
    "moco": ["state_dict", "module.encoder_q."],
    "lightning": ["state_dict", "net."],
    "unknown heads": [],
}


@pytest.mark.parametrize("change", ["missing", "unexpected", "of another shape"])
@pytest.mark.parametrize("layout", PLACES)
def test_a_backbone_that_fits_only_in_part_is_refused_with_the_tensors_name(tmp_path, layout, change):
    *wrapper, prefix = PLACES[layout] or [""]
    content = dict(LAYOUTS[layout][0])
    if layout == "dino":
        del content["student"]
    weights = dict(content[wrapper[0]] if wrapper else content)
    if change == "missing":
        del weights[f"{prefix}layer1.0.bn1.running_var"]
    elif change == "unexpected":
        weights[f"{prefix}layer1.0.bn1.running_var2"] = torch.ones(1)
    else:
        weights[f"{prefix}layer1.0.bn1.running_var"] = torch.ones(7)
    save({**content, wrapper[0]: weights} if wrapper else weights, tmp_path / "w.pth")
    with pytest.raises(
        LoadError, match=rf"w.pth.* does not fit ResNet.*: 1 {change} .first \['layer1.0.bn1.running_var"
    ):
        open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)


def refused(tmp_path, content, message):
    save(content, tmp_path / "w.pth")
    with pytest.raises(LoadError, match=message):
        open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)


@pytest.mark.parametrize(
    "name", ["layer1.0.extra.weight", "layer5.0.conv1.weight", "conv2.weight", "maxpool.0.weight", "reg_token"]
)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_what_changes_the_network_is_not_taken_for_a_head(tmp_path, prefix, name):
    content = under(prefix, {**OWN, name: torch.ones(1, 3), **under("depth_head.", MLP)})
    refused(tmp_path, content, rf"ResNet .test_resnet, \d+ tensors.: 1 unexpected .first \['{name}'\]")


@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_network_with_another_stem_is_refused(tmp_path, prefix):
    """As ResNetV1c, whose three convolutions stand for the one of a plain ResNet."""
    weights = {f"stem{name[5:]}" if name.startswith("conv1.") else name: tensor for name, tensor in OWN.items()}
    refused(
        tmp_path,
        under(prefix, weights),
        r"missing .first \['conv1.0.weight', .*unexpected .first \['stem.0.weight', ",
    )


def test_two_networks_under_unknown_names_are_refused_with_both(tmp_path):
    content = {"state_dict": {**under("net.", OWN), **under("net_ema.", OTHER)}}
    refused(tmp_path, content, r"under 'state_dict.net.', 'state_dict.net_ema.'; name the one .*w.pth#state_dict.net")
    checkpoint = open_checkpoint(f"{tmp_path / 'w.pth'}#state_dict.net_ema", arch=ARCH)
    assert all(torch.equal(OTHER[name], tensor) for name, tensor in checkpoint.weights.items())
    assert checkpoint.name == "w#state_dict.net_ema"
    with pytest.raises(ValueError, match=r"no tensors under 'nets.'; names in the file start with state_dict"):
        open_checkpoint(f"{tmp_path / 'w.pth'}#nets", arch=ARCH)
    with pytest.raises(ValueError, match=r"no tensors under 'net.'; there are some under 'state_dict.net.'$"):
        open_checkpoint(f"{tmp_path / 'w.pth'}#net", arch=ARCH)


def test_a_damaged_network_under_an_unknown_name_does_not_give_way_to_the_one_beside_it(tmp_path):
    damaged = {name: tensor for name, tensor in OWN.items() if name != "layer1.0.bn1.running_var"}
    refused(
        tmp_path, {**under("net.", damaged), **under("net_ema.", OTHER)}, "holds test_resnet, or nearly, under 'net"
    )
    refused(tmp_path, {**under("model.", damaged), **under("ema.", OTHER)}, r"closest under 'model.', .* 1 missing")


@pytest.mark.parametrize(
    ("meant", "other"),
    [
        ("lit.teacher.net.", "lit.student.net."),
        ("lit.backbone.", "lit.momentum_backbone."),
        ("student.", "teacher.net."),  # what known words alone hold comes before all others
        ("encoder.", "a_net."),
    ],
)
def test_a_known_word_says_which_of_two_networks_is_meant(tmp_path, meant, other):
    save({**under(other, OTHER), **under(meant, OWN)}, tmp_path / "w.pth")
    weights = open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH).weights
    assert all(torch.equal(OWN[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("taken", "other"), [("state_dict.teacher", "state_dict.student"), ("state_dict", "state_dict_ema")]
)
def test_where_a_known_word_decides_it_is_said_what_was_taken_and_how_to_take_the_other(tmp_path, taken, other, caplog):
    file = tmp_path / "w.pth"
    save({**under(f"{other}.", OTHER), **under(f"{taken}.", OWN)}, file)
    caplog.set_level("INFO", "kdep")
    assert open_checkpoint(str(file), arch=ARCH).provenance["prefix"] == taken
    assert caplog.messages[-2:] == [
        f"{file}: {ARCH} under '{taken}.'; left out: {other.removeprefix('state_dict.')}",
        f"{file} holds several {ARCH}; to take another one, name it: {file}#{other}",
    ]
    caplog.clear()
    named = open_checkpoint(f"{file}#{other}", arch=ARCH)
    assert (named.provenance["prefix"], named.weights["conv1.0.weight"].sum()) == (other, OTHER["conv1.0.weight"].sum())
    assert "several" not in caplog.text


@pytest.mark.parametrize("content", [{**under("backbone.", OWN), **under("other.", OWN)}, LAYOUTS["robustness"][0]])
def test_two_copies_of_one_network_are_not_called_several(tmp_path, content, caplog):
    save(content, tmp_path / "w.pth")
    caplog.set_level("INFO", "kdep")
    open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)
    assert "several" not in caplog.text


def test_a_student_is_found_under_an_unknown_name_beside_a_teacher_of_another_width(tmp_path):
    wide = {name: torch.cat([tensor, tensor]) if tensor.ndim else tensor for name, tensor in OTHER.items()}
    save({"state_dict": {**under("teacher.", wide), **under("net.", OWN)}}, tmp_path / "w.pth")
    checkpoint = open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)
    assert all(torch.equal(OWN[name], tensor) for name, tensor in checkpoint.weights.items())
    assert checkpoint.provenance["left_out"] == ["teacher"]


def test_a_file_of_another_network_is_refused_under_the_words_that_hold_it(tmp_path):
    save(under("net.", create_network("resnet10t").state_dict()), tmp_path / "w.pth")
    with pytest.raises(LoadError, match=r"w.pth, closest under 'net.', does not fit ResNet .*of another shape"):
        open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)


def test_a_larger_network_that_holds_all_of_the_students_names_and_shapes_is_not_taken_for_it(tmp_path):
    """As ResNet-34 holds ResNet-18's."""
    larger = {**OTHER, "layer4.1.conv1.weight": torch.ones(96, 96, 3, 3)}
    save({**under("teacher.", larger), **under("student.", OWN)}, tmp_path / "w.pth")
    checkpoint = open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)
    assert all(torch.equal(OWN[name], tensor) for name, tensor in checkpoint.weights.items())
    assert checkpoint.provenance["left_out"] == ["teacher"]


def test_the_normaliser_in_a_file_of_the_robustness_library_feeds_its_network(tmp_path):
    save(LAYOUTS["robustness"][0], tmp_path / "w.pth")
    checkpoint = open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)
    assert checkpoint.mean == (0.4, 0.5, 0.6) and checkpoint.std == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("prefix", ["module.", "net."])
def test_torchvisions_mobilenet_opens_under_a_prefix_and_without_counters(tmp_path, prefix):
    import torchvision

    theirs = torchvision.models.mobilenet_v2().state_dict()
    theirs = {name: tensor for name, tensor in theirs.items() if not name.endswith("num_batches_tracked")}
    save({"state_dict": under(prefix, {**theirs, **under("depth_head.", MLP)})}, tmp_path / "w.pth")
    weights = open_checkpoint(str(tmp_path / "w.pth"), arch="mobilenetv2_100").weights
    assert torch.equal(weights["conv_stem.weight"], theirs["features.0.0.weight"])


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("vit_b_16", "vit_base_patch16_224"),
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("convnext_tiny", "convnext_tiny"),
        ("mobilenet_v3_small", "mobilenetv3_small_100"),
        ("regnet_y_400mf", "regnety_004"),
    ],
)
def test_names_of_torchvision_that_are_not_read_are_said_to_be_torchvisions(name, arch):
    import torchvision

    theirs, network = torchvision.models.get_model(name).state_dict(), create_network(arch)
    for content in (theirs, {"state_dict": under("module.", theirs)}):
        with pytest.raises(LoadError, match=r"missing .*; \S+ is a name of torchvision's, .* only: rename the tensors"):
            take_apart(content, network, arch, "w.pth")


def test_a_damaged_network_of_readable_names_is_not_said_to_be_of_others():
    import torchvision

    theirs, network = torchvision.models.mobilenet_v2().state_dict(), create_network("mobilenetv2_100")
    del theirs["features.0.1.bias"]
    with pytest.raises(LoadError, match=r"1 missing \(first \['bn1.bias'\]\)$"):
        take_apart(theirs, network, "mobilenetv2_100", "w.pth")


def test_the_head_of_an_architecture_that_is_its_own_is_kept(tmp_path):
    full = timm.create_model("test_convnext", num_classes=10).state_dict()
    save({"model": full}, tmp_path / "w.pth")
    checkpoint = open_checkpoint(str(tmp_path / "w.pth"), arch="test_convnext")
    assert {name for name in full if name not in checkpoint.weights} == {"head.fc.weight", "head.fc.bias"}
    assert "head.norm.weight" in checkpoint.weights
    save({"model": {**full, "head.norm2.weight": torch.ones(3)}}, tmp_path / "w.pth")
    with pytest.raises(LoadError, match=r"1 unexpected .first \['head.norm2.weight"):
        open_checkpoint(str(tmp_path / "w.pth"), arch="test_convnext")


def test_batchnorm_before_a_classifier_is_left_out_and_its_logits_are_refused(tmp_path):
    full = timm.create_model("efficientvit_m0").state_dict()
    save(full, tmp_path / "w.pth")
    checkpoint = open_checkpoint(str(tmp_path / "w.pth"), arch="efficientvit_m0")
    assert {name.rpartition(".")[0] for name in full if name not in checkpoint.weights} == {"head.bn", "head.linear"}
    with pytest.raises(ValueError, match=r"efficientvit_m0 has layers before its classifier \(head.bn.bias\)"):
        open_classifier(str(tmp_path / "w.pth"), arch="efficientvit_m0")


@pytest.mark.parametrize("layout", ["timm", "mmpretrain", "solo-learn", "robustness"])
def test_the_classifier_beside_a_backbone_is_found(tmp_path, layout):
    save(LAYOUTS[layout][0], tmp_path / "w.pth")
    weight, bias = open_classifier(str(tmp_path / "w.pth"), arch=ARCH)
    assert weight.shape == (10, 96) and bias.shape == (10,)


@pytest.mark.parametrize("layout", ["moco", "swav", "dino"])
def test_a_projector_is_not_taken_for_a_classifier(tmp_path, layout):
    save(LAYOUTS[layout][0], tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no linear classifier among its tensors"):
        open_classifier(str(tmp_path / "w.pth"), arch=ARCH)


def test_a_file_without_tensors_is_refused(tmp_path):
    save({"state_dict": {}, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="w.pth: holds no tensors; expected a state dict"):
        open_checkpoint(str(tmp_path / "w.pth"), arch=ARCH)
