"""Write a student for another library, completely or not at all."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdep.export.onnx_file import onnx_bytes
from kdep.export.snippets import SNIPPETS
from kdep.files import save, write_bytes, write_text
from kdep.models.backbones.backbone import create_network, size_options
from kdep.models.checkpoints.checkpoint import Checkpoint, StateDict, load_exactly
from kdep.models.checkpoints.names import HEAD, WITHOUT_HEAD, export_weights

SUFFIXES = {
    "torchvision": (".pth",),
    "mmseg": (".pth",),
    "mmdet": (".pth",),
    # detectron2 reads a .pth too, which opens without running code, unlike a .pkl.
    "detectron2": (".pkl", ".pth"),
    "onnx": (".onnx",),
}
TARGETS = ("timm", *SUFFIXES)  # timm's is a folder


def write_export(checkpoint: Checkpoint, target: str, path: Path) -> str:
    """Write a checkpoint for a library, completely or not at all.

    Args:
        checkpoint: the student.
        target: one of `TARGETS`.
        path: the file to write; for timm the folder.

    Returns:
        code or a config to paste, with the input normalisation, that loads every tensor or stops.

    Raises:
        ValueError: the target does not exist, lacks the network, or its files have another suffix.
        LoadError: the checkpoint does not fill its own network.
    """
    path = Path(path)
    if target not in TARGETS:
        raise ValueError(f"export target {target!r}: there are {', '.join(TARGETS)}")
    weights = dict(checkpoint.weights)
    if target != "onnx":
        weights = export_weights(checkpoint.arch, checkpoint.weights, target)
    suffixes = SUFFIXES.get(target, ())
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{path}: an export to {target} ends in {' or '.join(suffixes)}")
    if not suffixes and path.is_file():
        raise ValueError(f"{path}: a file; an export to {target} is a folder")
    load_exactly(create_network(checkpoint.arch), checkpoint.weights, checkpoint.name)
    # Cloned, because a view would bring the whole storage that it looks at into the file.
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    WRITERS[target](checkpoint, target, weights, path)
    return SNIPPETS[target](checkpoint, path.absolute())


def _write_timm(checkpoint: Checkpoint, target: str, weights: StateDict, folder: Path) -> None:
    from safetensors import torch as safetensors

    # As bytes: given a path, safetensors raises an error of its own when the disk is full.
    content = safetensors.save(weights, metadata={"format": "pt"})
    (folder / "config.json").unlink(missing_ok=True)  # of an earlier export: it must not describe these weights
    write_bytes(folder / "model.safetensors", content)
    write_text(folder / "config.json", json.dumps(timm_config(checkpoint), indent=2, allow_nan=False) + "\n")


def timm_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe a checkpoint as timm's config.json does; the key `kdep` has what timm does not know."""
    network = create_network(checkpoint.arch)
    known, side = network.pretrained_cfg, checkpoint.resample or checkpoint.size
    options: dict[str, Any] = dict(size_options(checkpoint.arch))
    if known.get("fixed_input_size") and options:
        # Without it timm takes input_size, and would resample the position embeddings as it loads them.
        options["img_size"] = known["input_size"][-1]
    elif known.get("fixed_input_size"):
        side = known["input_size"][-1]
    kept = ("fixed_input_size", "first_conv", "classifier")
    config = {key: known[key] for key in kept if known.get(key) is not None}
    config |= {"num_classes": 0, "mean": checkpoint.mean, "std": checkpoint.std, "input_size": (3, side, side)}
    # As `kdep.models.load.preprocess` and the tasks make images; timm's own weights have other values.
    config |= {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "center"}
    return {
        "architecture": checkpoint.arch,
        "num_classes": 0,
        "num_features": network.num_features,
        "model_args": options,
        "pretrained_cfg": config,
        "kdep": {
            "name": checkpoint.name,
            "tap": checkpoint.tap,
            "size": checkpoint.size,
            "resample": checkpoint.resample,
            "provenance": checkpoint.provenance,
        },
    }


def _write_torchvision(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    save(weights, path)


def _write_onnx(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    write_bytes(path, onnx_bytes(checkpoint))


def _write_openmmlab(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    prefixed = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    save({"state_dict": prefixed, "meta": _meta(checkpoint, target)}, path)


def _write_detectron2(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    # The heuristics match names by suffix: res2.0... becomes backbone.bottom_up.res2.0... Without them the names would
    # have to be those of the user's whole detector.
    content = {"model": weights, "__author__": "kdep", "matching_heuristics": True, "meta": _meta(checkpoint, target)}
    if path.suffix == ".pth":
        save(content, path)
        return
    content["model"] = {name: tensor.numpy() for name, tensor in weights.items()}
    write_bytes(path, pickle.dumps(content, protocol=4))


WRITERS: dict[str, Callable[[Checkpoint, str, StateDict, Path], None]] = {
    "timm": _write_timm,
    "torchvision": _write_torchvision,
    "mmseg": _write_openmmlab,
    "mmdet": _write_openmmlab,
    "detectron2": _write_detectron2,
    "onnx": _write_onnx,
}


def _meta(checkpoint: Checkpoint, target: str) -> dict[str, Any]:
    """Describe the content and origin of a file in plain values."""
    meta = {
        "author": "kdep",
        "target": target,
        "name": checkpoint.name,
        "arch": checkpoint.arch,
        "sha256": checkpoint.sha256,
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "size": checkpoint.size,
        "provenance": checkpoint.provenance,
    }
    if checkpoint.arch == "mobilenetv2_100" and target in WITHOUT_HEAD:
        meta["dropped"] = f"{', '.join(HEAD)}: {WITHOUT_HEAD[target]}"
    return meta
