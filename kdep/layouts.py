"""Weight files as training tools write them -> a backbone's tensors under timm's names, and what lies beside them.

A tool puts the backbone under words such as `state_dict`, `module.` or `backbone.`, with heads beside it: mmpretrain
`backbone.` beside `head.` and `neck.`, solo-learn beside `classifier.` and `projector.`, DINO once as `student` and
once as `teacher`, MoCo `module.encoder_q.` beside `encoder_k.` and `queue`, the robustness library `module.model.`
beside `attacker.` and `normalizer.`. Which words hold the backbone is read off the network's own names and shapes.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from kdep.checkpoint import LoadError, StateDict, load_exactly
from kdep.export import TORCHVISION_NAMES, from_torchvision

logger = logging.getLogger("kdep")

# Where several fit the first is taken: DINO's teacher is the running mean of its student, and the network it publishes.
WORDS = (
    *("state_dict", "model_state_dict", "model_state", "module", "_orig_mod", "teacher", "student"),
    *("backbone", "encoder_q", "base_encoder", "encoder", "model"),
)
# What tools hang on the backbone under its own words, unless the architecture has a module of that name.
HEADS = (
    *("fc", "head", "heads", "head_dist", "classifier", "neck", "projector", "projection_head", "predictor"),
    *("prototypes", "queue", "queue_ptr"),
)


@dataclass(frozen=True)
class Layout:
    """A file's tensors, told apart.

    Attributes:
        weights: the backbone's, every one, under timm's names.
        heads: all others, by name from where they part from the backbone's words.
        left_out: first words of `heads`.
        input: mean and std of the normaliser in the file, empty where there is none.
    """

    weights: StateDict
    heads: StateDict
    left_out: tuple[str, ...]
    input: dict[str, tuple[float, ...]]


def take_apart(content: Mapping[str, Any], network: nn.Module, arch: str, source: str) -> Layout:
    """Find the backbone `arch` in a file's content, and load it into `network`.

    Raises:
        ValueError: no tensors at all.
        LoadError: no words hold exactly the network; names what the closest lack and have too many.
    """
    tensors = dict(_tensors(content))
    if not tensors:
        raise ValueError(f"{source}: holds no tensors; expected a state dict, alone or under {', '.join(WORDS)}")
    own, classifiers = network.state_dict(), classifier_names(arch)
    prefix = min(_prefixes(tensors), key=lambda words: (_misfits(words, tensors, own, arch, classifiers), _rank(words)))
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    weights = {name: tensor for name, tensor in inside.items() if not _is_head(name, own, classifiers)}
    heads = {name: tensor for name, tensor in inside.items() if name not in weights}
    heads |= {_parted(name, prefix): tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    if _is_torchvisions(arch, weights):
        weights = from_torchvision(arch, weights)
    load_exactly(network, weights, f"{source}, under {prefix!r}," if prefix else source)
    left_out = tuple(dict.fromkeys(name.partition(".")[0] for name in heads))
    if prefix or left_out:
        logger.info("%s: %s under %r; left out: %s", source, arch, prefix, ", ".join(left_out) or "nothing")
    return Layout(weights, heads, left_out, _normaliser(heads))


def classifier_names(arch: str) -> tuple[str, ...]:
    """Timm's names of the modules that are a network's classifier."""
    names = timm.get_pretrained_cfg_value(arch, "classifier") or "fc"
    return (names,) if isinstance(names, str) else tuple(names)


def _tensors(content: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{path}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{path}{name}.")


def _prefixes(tensors: StateDict) -> set[str]:
    """Every run of known words that tensors begin with, and the empty one."""
    found = {""}
    for name in tensors:
        prefix = ""
        for word in name.split("."):
            if word not in WORDS:
                break
            prefix += f"{word}."
            found.add(prefix)
    return found


def _rank(prefix: str) -> tuple[int, ...]:
    return tuple(WORDS.index(word) for word in prefix.split(".")[:-1])


def _misfits(prefix: str, tensors: StateDict, own: StateDict, arch: str, classifiers: tuple[str, ...]) -> int:
    """How many tensors the network lacks, or does not know, or knows in another shape under these words."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    inside = {name: tensor for name, tensor in inside.items() if not _is_head(name, own, classifiers)}
    if _is_torchvisions(arch, inside):
        try:
            inside = from_torchvision(arch, inside)
        except LoadError:
            return len(own) + len(inside)
    shapes = [{name: tuple(tensor.shape) for name, tensor in weights.items()} for weights in (own, inside)]
    return len(shapes[0].items() ^ shapes[1].items())


def _is_torchvisions(arch: str, weights: StateDict) -> bool:
    resnet = arch in TORCHVISION_NAMES and arch.startswith("resnet")  # timm's names are torchvision's
    return resnet or (arch == "mobilenetv2_100" and any(name.startswith("features.") for name in weights))


def _is_head(name: str, own: StateDict, classifiers: tuple[str, ...]) -> bool:
    if name in own:
        return False
    first = name.partition(".")[0]
    foreign = first in HEADS and not any(known.startswith(f"{first}.") for known in own)
    return foreign or any(name.startswith(f"{classifier}.") for classifier in classifiers)


def _parted(name: str, prefix: str) -> str:
    """The name from where it parts from the prefix."""
    words, parts = prefix.split("."), name.split(".")
    common = next((i for i, (word, part) in enumerate(zip(words, parts, strict=False)) if word != part), 0)
    return ".".join(parts[common:])


def _normaliser(heads: StateDict) -> dict[str, tuple[float, ...]]:
    """The robustness library's, which stands before its network."""
    names = {"mean": "normalizer.new_mean", "std": "normalizer.new_std"}
    if not all(name in heads for name in names.values()):
        return {}
    return {key: tuple(round(v, 6) for v in heads[name].flatten().tolist()) for key, name in names.items()}
