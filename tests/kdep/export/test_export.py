import errno
import importlib.util
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
import yaml
from PIL import Image
from torch import nn

from kdep.export.audit import TOLERANCE, audit, fixed_batch, student_stages
from kdep.export.snippets import SNIPPETS
from kdep.export.write import write_export
from kdep.models.backbones.backbone import build_backbone, create_network
from kdep.models.checkpoints.checkpoint import LoadError, fingerprint, load_exactly, write_student
from kdep.models.checkpoints.names import TORCHVISION_NAMES, export_weights, from_torchvision
from kdep.models.load import load, preprocess
from kdep.models.weights import open_checkpoint
from tests.helpers.students import scrambled

ARCHS = tuple(TORCHVISION_NAMES)


def student_output(checkpoint):
    network = create_network(checkpoint.arch)
    load_exactly(network, checkpoint.weights, "test")
    with torch.no_grad():
        return network.eval()(fixed_batch())


def run(snippet):
    names = {}
    exec(snippet, names)
    with torch.no_grad():
        return names["network"].eval()(fixed_batch()), names


def photograph():
    """Smooth with a fine grain; the sides are no multiples of an input size."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 12, 3), np.uint8)).resize((403, 301), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(coarse) + draw.normal(0, 8, (301, 403, 3)), 0, 255).astype(np.uint8))


def read_config(snippet):
    names = {}
    exec(snippet.partition("# ---- the config ----")[2], names)
    return names


def detectron2_stages(weights, images):
    """ResNet as detectron2 writes it, told by its tensor names alone."""

    def unit(name, x, stride=1):
        kernel = weights[f"{name}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        norm = (weights[f"{name}.norm.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *norm, eps=1e-5)

    def block(name, x, stride):
        shortcut = unit(f"{name}.shortcut", x, stride) if f"{name}.shortcut.weight" in weights else x
        if f"{name}.conv3.weight" not in weights:
            return F.relu(unit(f"{name}.conv2", F.relu(unit(f"{name}.conv1", x, stride))) + shortcut)
        x = F.relu(unit(f"{name}.conv2", F.relu(unit(f"{name}.conv1", x)), stride))
        return F.relu(unit(f"{name}.conv3", x) + shortcut)

    x, stages = F.max_pool2d(F.relu(unit("stem.conv1", images, 2)), 3, 2, 1), []
    for stage in (2, 3, 4, 5):
        for index in range(sum(name.startswith(f"res{stage}.") for name in weights)):
            if f"res{stage}.{index}.conv1.weight" in weights:
                x = block(f"res{stage}.{index}", x, 2 if stage > 2 and index == 0 else 1)
        stages.append(x)
    return stages


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100"])  # the stages of all are compared in test_audit
def test_the_torchvision_snippet_loads_strictly_and_gives_the_student_s_features(arch, tmp_path):
    student = scrambled(arch)
    output, _ = run(write_export(student, "torchvision", tmp_path / "student.pth"))
    expected = student_output(student)
    assert expected.std() > 1e-3
    # Same operations in the same order, up to float32 rounding.
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("target", "name"), [("timm", "folder/model.safetensors"), ("torchvision", "student.pth")])
def test_an_export_to_a_full_disk_names_the_file_and_leaves_nothing(target, name, tmp_path, a_full_disk):
    path = tmp_path / name
    with a_full_disk(50_000), pytest.raises(OSError) as caught:
        write_export(scrambled("resnet18"), target, path.parent if target == "timm" else path)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(("target", "layers"), [("timm", "conv_head and bn2"), ("torchvision", "features.18")])
def test_a_snippet_says_which_layers_a_student_never_trained(target, layers, tmp_path):
    student, suffix = scrambled("mobilenetv2_100"), "" if target == "timm" else ".pth"
    assert "untrained" not in write_export(student, target, tmp_path / f"whole{suffix}")
    snippet = write_export(replace(student, tap="before_head"), target, tmp_path / f"student{suffix}")
    assert f"# {layers}" in snippet and "are untrained" in snippet
    run(snippet)


@pytest.mark.parametrize("arch", ["mobilenetv2_100", "test_convnext", "test_vit", "swin_tiny_patch4_window7_224"])
def test_timm_opens_the_folder_with_the_students_features_and_kdep_the_same_checkpoint(arch, tmp_path):
    student = replace(scrambled(arch), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), size=64)
    found = audit(student, "timm")
    assert found.tensors == found.expected and found.max_difference <= TOLERANCE
    names = {}
    exec(write_export(student, "timm", tmp_path / "student"), names)
    network = timm.create_model(f"local-dir:{tmp_path / 'student'}", pretrained=True, num_classes=0).eval()
    backbone, images = build_backbone(student).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for opened in (network, names["network"].eval()):
            torch.testing.assert_close(opened((images - backbone.mean) / backbone.std), backbone(images))
    assert timm.data.resolve_model_data_config(network)["mean"] == pytest.approx(student.mean)
    normalise = names["transform"].transforms[-1]
    assert normalise.mean.tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert normalise.std.tolist() == pytest.approx([0.2, 0.3, 0.4])
    again = open_checkpoint(str(tmp_path / "student"))
    assert (again.sha256, again.identity, again.provenance) == (student.sha256, student.identity, student.provenance)
    assert (again.name, again.tap, again.size) == (student.name, student.tap, 64)


def test_a_folder_of_timms_own_opens_and_another_is_refused(tmp_path):
    network = timm.create_model("test_resnet", num_classes=5)
    timm.models.save_for_hf(network, tmp_path / "own", safe_serialization=True)
    opened = open_checkpoint(str(tmp_path / "own"))
    assert (opened.name, opened.tap, opened.provenance["left_out"]) == ("own", "pre", ["fc"])
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    (tmp_path / "own" / "config.json").write_text(json.dumps({**config, "model_args": {"act_layer": "gelu"}}))
    with pytest.raises(ValueError, match="model_args act_layer: only plain networks are opened"):
        open_checkpoint(str(tmp_path / "own"))
    clip = {"architecture": "vit_base_patch32_clip_224", "pretrained_cfg": {"tag": "openai"}}
    (tmp_path / "own" / "config.json").write_text(json.dumps(clip))
    with pytest.raises(ValueError, match="vit_base_patch32_clip_224.openai: these weights were trained with QuickGELU"):
        open_checkpoint(str(tmp_path / "own"))
    (tmp_path / "own" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json: architecture is missing; not timm's format"):
        open_checkpoint(str(tmp_path / "own"))
    (tmp_path / "own" / "config.json").write_text(json.dumps({**config, "architecture": "resnet1"}))
    with pytest.raises(ValueError, match="config.json: 'resnet1' is not a timm network; close: .*resnet18"):
        open_checkpoint(str(tmp_path / "own"))


def test_onnx_gives_the_students_features_for_any_batch_size(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    student = replace(scrambled("test_vit"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), size=64)
    snippet = write_export(student, "onnx", tmp_path / "student.onnx")
    session, backbone = runtime.InferenceSession(tmp_path / "student.onnx"), build_backbone(student).eval()
    for count in (1, 3):
        images = torch.rand(count, 3, 64, 64)
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), backbone(images), rtol=1e-4, atol=1e-5)
    convolutional = replace(scrambled("test_resnet"), mean=student.mean, std=student.std, size=64)
    assert audit(convolutional, "onnx").max_difference <= TOLERANCE
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=generator)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
    names = {}
    exec(snippet.replace("photo.jpg", str(tmp_path / "photo.png")), names)
    with torch.no_grad():
        expected = backbone(pixels.permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(torch.from_numpy(names["features"]), expected, rtol=1e-4, atol=1e-5)


def test_the_onnx_snippet_prepares_images_as_kdep_does():
    student = replace(scrambled("resnet18"), size=64)
    lines = SNIPPETS["onnx"](student, "student.onnx").splitlines()
    steps = lines[lines.index('image = Image.open("photo.jpg").convert("RGB")') + 1 : -1]  # the last runs the file
    for image in (photograph(), photograph().transpose(Image.Transpose.ROTATE_90), Image.new("RGB", (20, 33), "red")):
        names = {"Image": Image, "image": image, "numpy": np}
        exec("\n".join(steps), names)
        torch.testing.assert_close(torch.from_numpy(names["images"])[0], preprocess(image, size=64))


@pytest.mark.parametrize("missing", [["onnx", "onnxscript", "onnxruntime"], ["onnxruntime"]])
def test_without_the_extra_onnx_it_is_said_what_to_install(tmp_path, monkeypatch, missing):
    student, found = scrambled("test_resnet"), importlib.util.find_spec("json")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else found)
    with pytest.raises(ValueError, match=rf"^{', '.join(missing)} not installed: .*\[onnx\]"):
        write_export(student, "onnx", tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())


def test_the_torchvision_snippet_normalises_as_the_student_does(tmp_path):
    student = replace(scrambled("resnet18"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    _, names = run(write_export(student, "torchvision", tmp_path / "student.pth"))
    normalise = names["transform"].transforms[-1]
    assert list(normalise.mean) == [0.5, 0.4, 0.3]
    assert list(normalise.std) == [0.2, 0.3, 0.4]


@pytest.mark.parametrize("target", ["timm", "torchvision"])
def test_a_snippet_makes_images_of_the_side_that_the_student_is_fed(target, tmp_path):
    student = replace(scrambled("resnet18"), size=64, resample=96)
    _, names = run(write_export(student, target, tmp_path / ("student" if target == "timm" else "student.pth")))
    assert names["transform"](Image.new("RGB", (130, 110))).shape == (3, 96, 96)


@pytest.mark.parametrize(
    ("target", "arch", "resample"),
    [
        ("timm", "resnet18", None),
        ("timm", "resnet18", 96),
        ("timm", "test_vit", None),
        ("timm", "swin_tiny_patch4_window7_224", None),
        ("timm", "mixer_s32_224", None),  # takes one size only, which is not the student's
        ("torchvision", "resnet18", None),
        ("torchvision", "resnet18", 96),
    ],
)
def test_a_snippet_and_timms_config_prepare_images_as_kdep_does(target, arch, resample, tmp_path):
    student = replace(scrambled(arch), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), size=64, resample=resample)
    names, place = {}, tmp_path / ("student" if target == "timm" else "student.pth")
    exec(write_export(student, target, place), names)
    transforms = [names["transform"]]
    if target == "timm":
        network = timm.create_model(f"local-dir:{place}", pretrained=True, num_classes=0)
        transforms.append(timm.data.create_transform(**timm.data.resolve_model_data_config(network)))
    write_student(student, tmp_path / "own.pth")
    own = load(f"{tmp_path / 'own.pth'}{f'@{resample}' if resample else ''}")
    image = photograph()
    expected = (own.preprocess(image) - own.mean[0]) / own.std[0]
    for transform in transforms:
        torch.testing.assert_close(transform(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_torchvision_names_and_back_is_the_identity(arch):
    student = scrambled(arch)
    back = from_torchvision(arch, export_weights(arch, student.weights, "torchvision"))
    assert fingerprint(back) == student.sha256


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100"])
def test_a_whole_torchvision_model_comes_in_without_classifier_and_counters(arch):
    model = torchvision.models.get_model(TORCHVISION_NAMES[arch]).eval()
    # As torchvision's files of 2018 are: no num_batches_tracked.
    old = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    network = create_network(arch).eval()
    load_exactly(network, from_torchvision(arch, old), "torchvision")
    model.fc = model.classifier = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(network(fixed_batch()), model(fixed_batch()), rtol=1e-4, atol=1e-5)


def test_names_that_are_not_torchvision_s_are_named():
    weights = torchvision.models.mobilenet_v2().state_dict()
    weights["features.19.weight"] = weights.pop("features.0.0.weight")
    with pytest.raises(LoadError, match=r"does not have 1 of 312 given tensors \(first \['features\.19\.weight'\]\)"):
        from_torchvision("mobilenetv2_100", weights)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_detectron2_s_names_give_the_student_s_stages(arch):
    student = scrambled(arch)
    outputs = detectron2_stages(export_weights(arch, student.weights, "detectron2"), fixed_batch())
    for output, expected in zip(outputs, student_stages(student, fixed_batch()).values(), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_detectron2_s_pickle_is_what_its_loader_takes_as_its_own(tmp_path):
    write_export(scrambled("resnet18"), "detectron2", tmp_path / "student.pkl")
    content = pickle.loads((tmp_path / "student.pkl").read_bytes())
    # DetectionCheckpointer takes a .pkl with these keys as it is, and matches names by suffix.
    assert content["__author__"] == "kdep"
    assert content["matching_heuristics"] is True
    assert content["model"]["res3.0.shortcut.norm.running_var"].shape == (128,)
    assert {type(array).__name__ for array in content["model"].values()} == {"ndarray"}


def test_detectron2_s_config_sets_what_its_defaults_would_change(tmp_path):
    snippet = write_export(scrambled("resnet50"), "detectron2", tmp_path / "student.pth")
    config = yaml.safe_load(snippet)
    assert config["INPUT"]["FORMAT"] == "RGB"
    assert config["MODEL"]["PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])
    assert config["MODEL"]["PIXEL_STD"] == pytest.approx([58.395, 57.12, 57.375])
    assert config["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0
    expected = {"DEPTH": 50, "RES2_OUT_CHANNELS": 256, "STRIDE_IN_1X1": False, "NORM": "SyncBN"}
    assert config["MODEL"]["RESNETS"] == expected


def test_the_printed_class_makes_mobilenetv2_a_backbone_of_detectron2(tmp_path):
    student = scrambled("mobilenetv2_100")
    snippet = write_export(student, "detectron2", tmp_path / "student.pth")
    source = snippet[snippet.index("STAGES =") : snippet.index("@BACKBONE_REGISTRY")]
    names = {"timm": timm, "Backbone": nn.Module, "ShapeSpec": dict}
    exec(source, names)
    backbone = names["TimmMobileNetV2"]().eval()
    load_exactly(backbone, torch.load(tmp_path / "student.pth", weights_only=True)["model"], "test")
    stages = student_stages(student, fixed_batch())
    for output, stage in zip(backbone(fixed_batch()).values(), (1, 2, 4, 6), strict=True):
        torch.testing.assert_close(output, stages[f"blocks.{stage}"])
    assert backbone.output_shape()["res5"] == {"channels": 320, "stride": 32}


@pytest.mark.parametrize("target", ["mmseg", "mmdet"])
def test_toolbox_files_hold_plain_values_under_the_backbone_s_prefix(target, tmp_path):
    write_export(scrambled("mobilenetv2_100"), target, tmp_path / "student.pth")
    content = torch.load(tmp_path / "student.pth", weights_only=True)
    assert all(name.startswith("backbone.") for name in content["state_dict"])
    assert content["meta"]["arch"] == "mobilenetv2_100"
    assert ("conv_head, bn2" in content["meta"].get("dropped", "")) == (target == "mmseg")


@pytest.mark.parametrize("target", ["mmseg", "mmdet"])
def test_toolbox_configs_normalise_as_the_student_does(target, tmp_path):
    student = replace(scrambled("resnet18"), mean=(0.5, 0.4, 0.2), std=(0.2, 0.4, 0.6))
    model = read_config(write_export(student, target, tmp_path / "student.pth"))["model"]
    expected = {"mean": [127.5, 102, 51], "std": [51, 102, 153], "bgr_to_rgb": True}
    assert model["data_preprocessor"] == expected


def test_a_network_that_a_library_lacks_is_refused_with_those_it_has():
    with pytest.raises(
        ValueError, match="resnet18, resnet34, resnet50, mobilenetv2_100; other timm networks go to timm"
    ):
        export_weights("convnext_atto", {}, "mmseg")


def test_an_unknown_target_is_refused_with_the_list():
    with pytest.raises(ValueError, match="there are timm, torchvision, mmseg, mmdet, detectron2"):
        export_weights("resnet18", {}, "keras")


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.pkl or \.pth"):
        write_export(scrambled("resnet18"), "detectron2", tmp_path / "student.safetensors")


def test_an_incomplete_checkpoint_writes_no_file(tmp_path):
    student = scrambled("resnet18")
    del student.weights["layer3.0.bn1.running_mean"]
    with pytest.raises(LoadError, match=r"layer3\.0\.bn1\.running_mean"):
        write_export(student, "mmseg", tmp_path / "student.pth")
    assert list(tmp_path.iterdir()) == []
