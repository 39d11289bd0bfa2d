import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kdep.export.audit import (
    BACKBONES,
    TOLERANCE,
    audit,
    compare_stages,
    complete_audit,
    fixed_batch,
    stage_outputs,
    student_stages,
)
from kdep.export.write import write_export
from kdep.models.backbones.backbone import create_network
from kdep.models.checkpoints.checkpoint import LoadError
from kdep.models.checkpoints.names import TORCHVISION_NAMES, export_weights
from kdep.models.weights import open_checkpoint
from tests.helpers.students import scrambled

ARCHS = tuple(TORCHVISION_NAMES)
KINDS = ("resnet18", "resnet50", "mobilenetv2_100")  # resnet34 is made of the blocks of resnet18
without_detectron2 = pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is not None, reason="it is compared then"
)


def changed(weights, name, tensor):
    return {**weights, name: tensor}


def without(weights, name):
    return {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize(("arch", "target"), [*((arch, "torchvision") for arch in ARCHS), ("mobilenetv2_100", "timm")])
def test_every_tensor_loads_and_every_stage_is_the_student_s(arch, target):
    student = scrambled(arch)
    result = audit(student, target)
    assert result.tensors == result.expected == len(student.weights)
    assert len(BACKBONES[target](arch)[1]) == (8 if arch == "mobilenetv2_100" else 4)
    assert result.max_difference <= TOLERANCE


def test_stages_end_after_their_activation():
    stages = student_stages(scrambled("resnet18"), fixed_batch())
    assert [tuple(stage.shape[1:]) for stage in stages.values()] == [
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
    ]
    assert all(stage.min() >= 0 and stage.max() > 0 for stage in stages.values())


def test_a_network_without_known_stages_has_its_last_map():
    network = create_network("test_convnext").eval()
    (output,) = stage_outputs(network, fixed_batch())
    assert torch.equal(output, network.forward_features(fixed_batch()))


def test_a_network_that_needs_more_than_64_pixels_is_compared_at_its_checkpoint_s_size():
    student = replace(open_checkpoint("random:inception_v3"), size=80)
    assert audit(student, "timm").max_difference == 0.0


def test_values_of_another_network_are_refused_at_the_stage_where_they_differ():
    student = scrambled("resnet18")
    weights = changed(student.weights, "layer3.1.bn2.running_mean", torch.zeros(256))
    with pytest.raises(LoadError, match="layer3 differs"):
        audit(student, "torchvision", weights=weights)


def test_the_difference_of_an_audit_is_that_of_its_worst_stage():
    own = {name: torch.tensor([100.0]) for name in ("layer1", "layer2", "layer3")}
    theirs = [torch.tensor([100 + difference]) for difference in (0.0, 0.005, 0.001)]
    assert complete_audit("test", torch.nn.Identity(), own, theirs).max_difference == pytest.approx(5e-5, rel=1e-2)


@pytest.mark.parametrize("name", ["bn1.running_var", "layer4.1.bn2.num_batches_tracked"])
def test_a_missing_tensor_is_named(name):
    student = scrambled("resnet18")
    with pytest.raises(LoadError, match=rf"1 missing \(first \['{name}'\]\)"):
        audit(student, "torchvision", weights=without(student.weights, name))


def test_outputs_that_are_not_numbers_are_refused():
    with pytest.raises(LoadError, match="layer1 differs"):
        compare_stages({"layer1": torch.ones(2)}, [torch.tensor([1.0, float("nan")])], target="test")


def test_differences_are_shares_of_the_largest_output():
    own = {"layer1": torch.tensor([0.0, -200.0])}
    assert compare_stages(own, [torch.tensor([0.01, -200.0])], target="test") == pytest.approx({"layer1": 5e-5})
    with pytest.raises(LoadError, match=r"layer1 differs .* by 2\.0e-04"):
        compare_stages(own, [torch.tensor([0.04, -200.0])], target="test")


def test_another_stride_is_refused_by_its_shape():
    with pytest.raises(LoadError, match=r"layer4 gives \(1, 2, 8, 8\) where the student gives \(1, 2, 4, 4\)"):
        compare_stages({"layer4": torch.ones(1, 2, 4, 4)}, [torch.ones(1, 2, 8, 8)], target="test")


@without_detectron2
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_without_detectron2_its_names_are_checked_and_the_rest_is_said(arch):
    result = audit(scrambled(arch), "detectron2")
    assert result.tensors == result.expected
    assert result.max_difference is None
    assert "outputs were not compared" in result.note


@without_detectron2
def test_a_name_that_detectron2_lacks_is_refused():
    student = scrambled("resnet18")
    weights = changed(
        export_weights("resnet18", student.weights, "detectron2"), "res2.0.shortcut.weight", torch.ones(1)
    )
    with pytest.raises(LoadError, match=r"1 unexpected \(first \['res2\.0\.shortcut\.weight'\]\)"):
        audit(student, "detectron2", weights=weights)


def test_mobilenetv2_for_detectron2_is_compared_without_detectron2():
    assert audit(scrambled("mobilenetv2_100"), "detectron2").max_difference <= TOLERANCE


def test_an_unknown_target_is_refused_with_the_list():
    with pytest.raises(ValueError, match="timm, torchvision, detectron2, onnx, and in kdep_benchmarks mmseg, mmdet"):
        audit(scrambled("resnet18"), "mmseg")


@pytest.mark.openmmlab
@pytest.mark.parametrize("target", ["mmseg", "mmdet"])
@pytest.mark.parametrize("arch", KINDS)
def test_the_toolbox_s_own_backbone_gives_the_student_s_stages(arch, target):
    from kdep_benchmarks.openmmlab.audit import audit_openmmlab

    result = audit_openmmlab(scrambled(arch), target)
    assert result.tensors == result.expected
    assert result.max_difference <= TOLERANCE


@pytest.mark.openmmlab
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: without(weights, "layer2.0.bn1.bias"), r"1 missing \(first \['layer2\.0\.bn1\.bias'"),
        (lambda weights: changed(weights, "fc.bias", torch.ones(9)), r"1 unexpected \(first \['fc\.bias'"),
        (lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()}, r"module\.conv1"),
        (lambda weights: changed(weights, "bn1.bias", torch.ones(64)), "layer1 differs"),
    ],
    ids=["missing", "extra", "prefix", "value"],
)
def test_damaged_weights_are_refused_with_names(damage, message):
    from kdep_benchmarks.openmmlab.audit import audit_openmmlab

    student = scrambled("resnet18")
    assert audit_openmmlab(student, "mmdet").tensors == 120
    with pytest.raises(LoadError, match=message):
        audit_openmmlab(student, "mmdet", weights=damage(student.weights))


@pytest.mark.openmmlab
@pytest.mark.parametrize("target", ["mmseg", "mmdet"])
@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100"])
def test_the_printed_config_builds_a_model_that_takes_every_tensor(arch, target, tmp_path, monkeypatch):
    from kdep_benchmarks.openmmlab.compat import prepare

    prepare()
    student = scrambled(arch)
    hook, _, config = write_export(student, target, tmp_path / "student.pth").partition("# ---- the config ----")
    model, load, merged = build_pasted(hook, config, target, tmp_path, monkeypatch)
    own = next(model.backbone.parameters()).clone()
    load.before_train(SimpleNamespace(iter=1, model=model))
    assert torch.equal(own, next(model.backbone.parameters())), "a resumed run keeps its own weights"
    load.before_train(SimpleNamespace(iter=0, model=model))
    expected = export_weights(arch, student.weights, target)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.backbone.state_dict().items())
    model.train()
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    assert all(module.training for module in model.backbone.modules())
    assert "://" not in str(merged), "the base's weights would be downloaded"
    check_maps(model, arch, target)


def check_maps(model, arch, target):
    """The heads read the maps that they name, of the width that they expect, at the strides of the toolbox's base."""
    maps = model.eval().backbone(torch.zeros(1, 3, 64, 64))
    sides = [64 // features.shape[-1] for features in maps]
    widths = [features.shape[1] for features in maps]
    assert widths == [64, 128, 256, 512] if arch == "resnet18" else widths == [24, 32, 96, 320]
    if target == "mmdet":
        assert sides == [4, 8, 16, 32] and len(model.neck(maps)) == 5
        return
    assert sides == [4, 8, 8, 8]  # d8 in the name of the base
    for head in (model.decode_head, model.auxiliary_head):
        assert head.in_channels == widths[head.in_index]
        assert head(maps).shape[-1] == 8


def build_pasted(hook, config, target, folder, monkeypatch):
    """What `Runner` makes of the two pasted files: the model, the hook, and the model's config with its base."""
    from mmengine.config import Config
    from mmengine.registry import HOOKS, MODELS, init_default_scope

    (folder / "load_student.py").write_text(hook)
    (folder / "config.py").write_text(config)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "load_student", raising=False)
    HOOKS.module_dict.pop("LoadStudent", None)  # left there by the test before
    loaded = Config.fromfile(folder / "config.py")
    importlib.import_module(f"{target}.models")
    init_default_scope(target)
    return MODELS.build(loaded.model), HOOKS.build(loaded.custom_hooks[0]), loaded.model
