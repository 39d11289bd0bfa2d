"""Write a student for another library, completely or not at all, and read such files again."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdep.export.snippets import SNIPPETS
from kdep.files import save, write_atomically
from kdep.models.backbone import create_network
from kdep.models.checkpoint import Checkpoint, LoadError, StateDict, load_exactly
from kdep.models.foreign import read_weights
from kdep.models.names import HEAD, WITHOUT_HEAD, export_weights

SUFFIXES = {
    "timm": (".pth", ".safetensors"),
    "torchvision": (".pth",),
    "mmseg": (".pth",),
    "mmdet": (".pth",),
    # detectron2 takes tensors from a .pth too, which, unlike a .pkl, opens without running anything in it.
    "detectron2": (".pkl", ".pth"),
}
TARGETS = tuple(SUFFIXES)


def write_export(checkpoint: Checkpoint, target: str, path: Path) -> str:
    """Write a checkpoint for a library, completely or not at all, and say how to load it there.

    Returns:
        what to paste: a config or code, with the input normalisation, that loads every tensor or stops.

    Raises:
        ValueError: the target, its networks or the file's suffix do not fit.
        LoadError: the checkpoint does not fill its own network.
    """
    path = Path(path)
    weights = export_weights(checkpoint.arch, checkpoint.weights, target)
    if path.suffix not in SUFFIXES[target]:
        raise ValueError(f"{path}: an export to {target} ends in {' or '.join(SUFFIXES[target])}")
    load_exactly(create_network(checkpoint.arch), checkpoint.weights, checkpoint.name)
    # A clone each: a view would drag the whole storage that it looks at into the file.
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    WRITERS[target](checkpoint, target, weights, path)
    return SNIPPETS[target](checkpoint, path.absolute())


def _write_plain(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    if path.suffix == ".safetensors":
        from safetensors import torch as safetensors

        # As bytes: given a path, safetensors raises an error of its own when the disk is full.
        content = safetensors.save(weights, metadata=_strings(_meta(checkpoint, target)))
        write_atomically(path, lambda neighbour: neighbour.write_bytes(content))
    else:
        save(weights, path)


def _write_openmmlab(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    prefixed = {f"backbone.{name}": tensor for name, tensor in weights.items()}
    save({"state_dict": prefixed, "meta": _meta(checkpoint, target)}, path)


def _write_detectron2(checkpoint: Checkpoint, target: str, weights: StateDict, path: Path) -> None:
    # The heuristics match names by suffix, which puts res2.0... at backbone.bottom_up.res2.0...; without them the names
    # would have to be those of the user's whole detector.
    content = {"model": weights, "__author__": "kdep", "matching_heuristics": True, "meta": _meta(checkpoint, target)}
    if path.suffix == ".pth":
        save(content, path)
        return
    content["model"] = {name: tensor.numpy() for name, tensor in weights.items()}
    write_atomically(path, lambda neighbour: neighbour.write_bytes(pickle.dumps(content, protocol=4)))


WRITERS: dict[str, Callable[[Checkpoint, str, StateDict, Path], None]] = {
    "timm": _write_plain,
    "torchvision": _write_plain,
    "mmseg": _write_openmmlab,
    "mmdet": _write_openmmlab,
    "detectron2": _write_detectron2,
}


def _meta(checkpoint: Checkpoint, target: str) -> dict[str, Any]:
    """Say in plain values what a file holds and where it came from."""
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


def _strings(meta: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in meta.items()}


def read_export(path: Path, target: str) -> StateDict:
    """Read an exported file, of ours or of others, as the plain names of the target's backbone.

    Raises:
        ValueError: not a file of weights, or one that could run code when opened.
        LoadError: tensors outside the prefix under which the target looks for its backbone; names them.
    """
    path = Path(path)
    if path.suffix == ".pkl":
        raise ValueError(
            f"{path}: a pickle can run code when it is opened, so it is not; export to .pth and audit that"
        )
    content = read_weights(path)
    if target == "detectron2":
        return dict(content.get("model", content))
    if target not in ("mmseg", "mmdet"):
        return dict(content)
    weights = content.get("state_dict", content)
    outside = [name for name in weights if not name.startswith("backbone.")]
    if outside:
        raise LoadError(
            f"{path}: {len(outside)} of {len(weights)} tensors are not under 'backbone.' (first {outside[:3]}); "
            f"{target} would leave its backbone at random values and say nothing"
        )
    return {name.removeprefix("backbone."): tensor for name, tensor in weights.items()}
