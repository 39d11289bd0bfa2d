"""Weight files as training tools write them -> a backbone's tensors under timm's names, and what lies beside them.

A tool puts the backbone under words such as `state_dict`, `module.` or `backbone.`, with heads beside it: mmpretrain
`backbone.` beside `head.` and `neck.`, solo-learn beside `classifier.` and `projector.`, DINO once as `student` and
once as `teacher`, MoCo `module.encoder_q.` beside `encoder_k.` and `queue`, the robustness library `module.model.`
beside `attacker.` and `normalizer.`. Which words hold the backbone is read off the network's own names and shapes.
Known words come first; where none of them does, any other counts, such as `net.`, an attribute of a user's own module.
"""

import logging
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from kdep.models.checkpoint import LoadError, StateDict, load_exactly
from kdep.models.names import TORCHVISION_NAMES, export_weights, from_torchvision

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


@dataclass(frozen=True)
class Wanted:
    """The network that is looked for.

    Attributes:
        arch: timm's name of it.
        own: its tensors.
        names: of its tensors, in timm and in torchvision.
        modules: first words of its parts, those without tensors too, without the digits that number them.
        classifiers: modules that are its classifier.
    """

    arch: str
    own: StateDict
    names: frozenset[str]
    modules: frozenset[str]
    classifiers: tuple[str, ...]


def take_apart(content: Mapping[str, Any], network: nn.Module, arch: str, source: str) -> Layout:
    """Find the backbone `arch` in a file's content, and load it into `network`.

    Raises:
        ValueError: no tensors at all.
        LoadError: no words hold exactly the network; names what the closest lack and have too many. Or several do, and
            none of `WORDS` says which of them is meant.
    """
    tensors = dict(_tensors(content))
    if not tensors:
        raise ValueError(f"{source}: holds no tensors; expected a state dict, alone or under {', '.join(WORDS)}")
    wanted = _wanted(network, arch)
    prefix = _find(tensors, wanted, source)
    inside = _under(prefix, tensors)
    weights, heads = _part(inside, wanted, lenient=True)
    if _distance(weights, wanted)[0]:
        # Beside an incomplete backbone what is unknown may be a part of it by another name: the error shows both.
        weights, heads = _part(inside, wanted, lenient=False)
    heads |= {_parted(name, prefix): tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    if _is_torchvisions(arch, weights):
        weights = from_torchvision(arch, weights)
    load_exactly(network, weights, f"{source}, closest under {prefix!r}," if prefix else source)
    left_out = tuple(dict.fromkeys(name.partition(".")[0] for name in heads))
    if prefix or left_out:
        logger.info("%s: %s under %r; left out: %s", source, arch, prefix, ", ".join(left_out) or "nothing")
    return Layout(weights, heads, left_out, _normaliser(heads))


def classifier_names(arch: str) -> tuple[str, ...]:
    """Timm's names of the modules that are a network's classifier."""
    names = timm.get_pretrained_cfg_value(arch, "classifier") or "fc"
    return (names,) if isinstance(names, str) else tuple(names)


def _wanted(network: nn.Module, arch: str) -> Wanted:
    own = network.state_dict()
    names = {*own, *export_weights(arch, own, "torchvision")} if arch in TORCHVISION_NAMES else set(own)
    parts = {*(name for name, _ in network.named_children()), *(name.partition(".")[0] for name in names)}
    modules = frozenset(part.rstrip(string.digits) for part in parts)
    return Wanted(arch, own, frozenset(names), modules, classifier_names(arch))


def _tensors(content: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{path}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{path}{name}.")


def _find(tensors: StateDict, wanted: Wanted, source: str) -> str:
    """The words that hold the network, or that come closest to it."""

    def distance(prefix: str, *, lenient: bool) -> tuple[int, int]:
        weights, _ = _part(_under(prefix, tensors), wanted, lenient=lenient)
        return _distance(weights, wanted)

    known = sorted(_prefixes(tensors), key=_rank)
    for prefix in known:
        if distance(prefix, lenient=False) == (0, 0):
            return prefix
    every = {prefix: distance(prefix, lenient=True) for prefix in (*known, *_others(tensors, wanted))}
    # What nearly fits counts as well: a damaged backbone must not give way to its running mean beside it.
    near = [prefix for prefix, (_, misfits) in every.items() if 2 * misfits < len(wanted.own)]
    meant = [one for one in near if all(one == other or _is_before(one, other) for other in near)]
    if near and not meant:
        raise LoadError(
            f"{source}: holds {wanted.arch}, or nearly, under {', '.join(map(repr, near))}, and no word that is known "
            "says which of them is meant; keep one of them in the file"
        )
    return meant[0] if meant else min(every, key=every.__getitem__)


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


def _others(tensors: StateDict, wanted: Wanted) -> list[str]:
    """Whatever stands before at least half of the network's names."""
    parted = (name.split(".") for name in tensors)
    found = Counter(
        "".join(f"{word}." for word in words[:i])
        for words in parted
        for i in range(len(words))
        if ".".join(words[i:]) in wanted.names
    )
    return [prefix for prefix, count in found.items() if 2 * count >= len(wanted.own)]


def _rank(prefix: str) -> tuple[int, ...]:
    return tuple(WORDS.index(word) for word in prefix.split(".")[:-1])


def _is_before(one: str, other: str) -> bool:
    """Whether a known word says so where the two part: the earlier one, or the only one; or one holds the other."""
    for word, others in zip(one.split(".")[:-1], other.split(".")[:-1], strict=False):
        if word != others:
            return word in WORDS and (others not in WORDS or WORDS.index(word) < WORDS.index(others))
    return len(one) < len(other)


def _under(prefix: str, tensors: StateDict) -> StateDict:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _part(inside: StateDict, wanted: Wanted, *, lenient: bool) -> tuple[StateDict, StateDict]:
    """Backbone and heads; if `lenient`, all modules that the network has not are heads."""
    heads = {name for name in inside if _is_head(name, wanted)}
    if lenient:
        # Without digits: layer5 beside layer4, or conv2 beside conv1, is a larger network, and not a head.
        firsts = {name: name.partition(".")[0].rstrip(string.digits) for name in inside if "." in name}
        heads |= {name for name, first in firsts.items() if first not in wanted.modules}
    weights = {name: tensor for name, tensor in inside.items() if name not in heads}
    return weights, {name: inside[name] for name in inside if name in heads}


def _distance(weights: StateDict, wanted: Wanted) -> tuple[int, int]:
    """How many of the network's names are missing, and how many tensors are, or are unknown, or of another shape.

    Names come first: a larger network's file has all of them and more, and less of both under its first block.
    """
    own = wanted.own
    if _is_torchvisions(wanted.arch, weights):
        try:
            weights = from_torchvision(wanted.arch, weights)
        except LoadError:
            return len(own), len(own) + len(weights)
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (own, weights)]
    return len(own.keys() - weights.keys()), len(shapes[0].items() ^ shapes[1].items())


def _is_torchvisions(arch: str, weights: StateDict) -> bool:
    resnet = arch in TORCHVISION_NAMES and arch.startswith("resnet")  # timm's names are torchvision's
    return resnet or (arch == "mobilenetv2_100" and any(name.startswith("features.") for name in weights))


def _is_head(name: str, wanted: Wanted) -> bool:
    if name in wanted.own:
        return False
    first = name.partition(".")[0]
    foreign = first in HEADS and not any(known.startswith(f"{first}.") for known in wanted.own)
    return foreign or any(name.startswith(f"{classifier}.") for classifier in wanted.classifiers)


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
