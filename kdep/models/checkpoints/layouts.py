"""Find a backbone's tensors in a weight file of another training tool, whatever prefix they have there.

A tool puts the backbone under words such as `state_dict`, `module.` or `backbone.`, with heads beside it: mmpretrain
`backbone.` beside `head.` and `neck.`, DINO `teacher` beside `student`, MoCo `module.encoder_q.` beside `encoder_k.`
and `queue`, the robustness library `module.model.` beside `attacker.` and `normalizer.`. The prefix is the one whose
tensors have the network's names and shapes. Where several do, known words decide; where none decides, the user must
name the prefix (FILE#PREFIX).
"""

import functools
import logging
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from kdep.models.checkpoints.checkpoint import LoadError, StateDict, load_exactly
from kdep.models.checkpoints.names import TORCHVISION_NAMES, export_weights, from_torchvision

logger = logging.getLogger("kdep")

# Of several networks in a file the one under the earlier word is meant: DINO publishes its teacher, not its student.
WORDS = (
    *("state_dict", "model_state_dict", "model_state", "module", "_orig_mod", "teacher", "student"),
    *("backbone", "encoder_q", "base_encoder", "encoder", "model"),
)
UNKNOWN = len(WORDS)
# Of torchvision's Swin, ConvNeXt, EfficientNet and MobileNet; of its ViT; of its RegNet.
TORCHVISIONS = re.compile(r"(^|\.)(features\.0\.0|encoder\.layers\.encoder_layer_0|trunk_output\.block1)\.")


@dataclass(frozen=True)
class Layout:
    """A file's tensors, sorted.

    Attributes:
        weights: the whole backbone under timm's names.
        prefix: where they are in the file.
        heads: all other tensors, by the part of their name that differs from the backbone's prefix.
        left_out: first words of `heads`.
        input: mean and std of the normaliser in the file, empty where there is none.
    """

    weights: StateDict
    prefix: str
    heads: StateDict
    left_out: tuple[str, ...]
    input: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Wanted:
    """The network to look for.

    Attributes:
        arch: timm's name of it.
        own: its tensors.
        shapes: their shapes under the names of timm and of torchvision.
        modules: first words of its modules' names, without the digits that number them.
        classifiers: the modules that are its classifier.
    """

    arch: str
    own: StateDict
    shapes: dict[str, torch.Size]
    modules: frozenset[str]
    classifiers: tuple[str, ...]


def take_apart(
    content: Mapping[str, Any], network: nn.Module, arch: str, source: str, *, prefix: str | None = None
) -> Layout:
    """Find the backbone `arch` in a file's content and load it into `network`, completely.

    Args:
        content: of the file; tensors may lie in nested dictionaries.
        network: the backbone without classifier.
        arch: timm's name of it.
        source: the file's name, for messages.
        prefix: where the backbone is; None to search.

    Raises:
        ValueError: there are no tensors at all, or none under the prefix.
        LoadError: no prefix holds exactly the network; names what is missing and unexpected under the closest. Or
            several prefixes do, and no known word decides between them.
    """
    tensors = dict(_tensors(content))
    if not tensors:
        raise ValueError(f"{source}: holds no tensors; expected a state dict, alone or under {', '.join(WORDS)}")
    wanted = _wanted(network, arch)
    given = prefix is not None
    prefix = f"{prefix.rstrip('.')}." if given else _find(tensors, wanted, source)
    inside = _under(prefix, tensors)
    if not inside:
        words = ", ".join(dict.fromkeys(name.partition(".")[0] for name in tensors))
        longer = dict.fromkeys(name.partition(f".{prefix}")[0] for name in tensors if f".{prefix}" in name)
        there = ", ".join(repr(f"{start}.{prefix}") for start in longer)
        said = f"there are some under {there}" if longer else f"names in the file start with {words}"
        raise ValueError(f"{source}: no tensors under {prefix!r}; {said}")
    weights = _without_heads(inside, wanted)
    heads = {name: tensor for name, tensor in inside.items() if name not in weights}
    heads |= {_parted(name, prefix): tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    try:
        load_exactly(network, _renamed(weights, wanted), f"{source}, closest under {prefix!r}," if prefix else source)
    except LoadError as error:
        foreign = next((name for name in inside if TORCHVISIONS.search(name) and name not in wanted.shapes), None)
        if foreign is None:
            raise
        raise LoadError(
            f"{error}; {foreign} is a name of torchvision's, whose names are read for ResNet, DenseNet and MobileNetV2 "
            "only: rename the tensors to timm's names, or take the weights that timm has of this network"
        ) from error
    left_out = tuple(dict.fromkeys(name.partition(".")[0] for name in heads))
    if prefix or left_out:
        logger.info("%s: %s under %r; left out: %s", source, arch, prefix, ", ".join(left_out) or "nothing")
    if not (given or Path(source).is_dir()) and (others := _others(tensors, wanted, prefix)):
        names = " or ".join(f"{source}#{other.rstrip('.')}" for other in others)
        logger.info("%s holds several %s; to take another one, name it: %s", source, arch, names)
    return Layout(_renamed(weights, wanted), prefix, heads, left_out, _normaliser(heads))


def classifier_names(arch: str) -> tuple[str, ...]:
    """Timm's names of the modules that are a network's classifier; of a user's own network none are known."""
    if not timm.is_model(arch):
        return ()
    names = timm.get_pretrained_cfg_value(arch, "classifier") or "fc"
    return (names,) if isinstance(names, str) else tuple(names)


def beside_classifier(arch: str, names: Iterable[str]) -> list[str]:
    """Those tensors of a head that are no classifier's, such as the BatchNorm before one in LeViT, sorted."""
    classifiers = classifier_names(arch)
    modules = tuple(f"{name.rpartition('.')[0]}." for name in classifiers if "." in name)
    own = tuple(f"{name}." for name in classifiers)
    beside = [name for name in names if modules and name.startswith(modules) and not name.startswith(own)]
    return sorted(set(beside) & _head_tensors(arch)) if beside else []


@functools.lru_cache(maxsize=64)
def _head_tensors(arch: str) -> frozenset[str]:
    """Tensors of timm's network that the same network without classes lacks."""
    with torch.device("meta"):
        whole, bare = (timm.create_model(arch, **options).state_dict() for options in ({}, {"num_classes": 0}))
    return frozenset(whole.keys() - bare.keys())


def _wanted(network: nn.Module, arch: str) -> Wanted:
    own = network.state_dict()
    named = {**own, **(export_weights(arch, own, "torchvision") if arch in TORCHVISION_NAMES else {})}
    parts = {*(name for name, _ in network.named_children()), *(name.partition(".")[0] for name in named)}
    modules = frozenset(part.rstrip(string.digits) for part in parts)
    return Wanted(arch, own, {name: t.shape for name, t in named.items()}, modules, classifier_names(arch))


def _tensors(content: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield f"{path}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{path}{name}.")


def _find(tensors: StateDict, wanted: Wanted, source: str) -> str:
    """Find the prefix that holds the network, or comes closest to it."""
    found = _fitting(tensors, wanted)
    near = _near(found, wanted)
    for prefix in near:
        if UNKNOWN not in _rank(prefix)[1] and _complete(prefix, tensors, wanted):
            return prefix
    if not near:
        closest = max(found, key=found.__getitem__, default="")
        return closest if 10 * found[closest] > len(wanted.own) else ""
    for other in near[1:]:
        if not _decided(near[0], other):
            raise LoadError(
                f"{source}: holds {wanted.arch}, or nearly, under {', '.join(map(repr, near))}; name the one that you "
                f"mean, as in {source}#{near[0].rstrip('.')}"
            )
    return near[0]


def _fitting(tensors: StateDict, wanted: Wanted) -> Counter[str]:
    """Count the tensors under each prefix that have a name and shape of the network."""
    found: Counter[str] = Counter()
    for name, tensor in tensors.items():
        words = name.split(".")
        for i in range(len(words)):
            if wanted.shapes.get(".".join(words[i:])) == tensor.shape:
                found["".join(f"{word}." for word in words[:i])] += 1
    return found


def _near(found: Counter[str], wanted: Wanted) -> list[str]:
    """Prefixes that hold most of the network, those of earlier words first.

    Incomplete networks are candidates too: a damaged backbone must not give way to its running mean beside it.
    """
    return sorted((prefix for prefix, count in found.items() if 2 * count > len(wanted.own)), key=_rank)


def _complete(prefix: str, tensors: StateDict, wanted: Wanted) -> bool:
    return _renamed(_without_heads(_under(prefix, tensors), wanted), wanted).keys() == wanted.own.keys()


def _others(tensors: StateDict, wanted: Wanted, prefix: str) -> list[str]:
    """Other prefixes that hold the whole network, with other weights."""
    taken = _under(prefix, tensors)
    near = [other for other in _near(_fitting(tensors, wanted), wanted) if other != prefix]
    return [
        other
        for other in near
        if _complete(other, tensors, wanted)
        and any(not torch.equal(taken[n], t) for n, t in _under(other, tensors).items() if n in taken)
    ]


def _rank(prefix: str) -> tuple[bool, list[int]]:
    ranks = [WORDS.index(word) if word in WORDS else UNKNOWN for word in prefix.split(".")[:-1]]
    return UNKNOWN in ranks, ranks


def _decided(one: str, other: str) -> bool:
    """Whether a known word decides between two prefixes where they part, or one of them holds the other."""
    words = zip(one.split(".")[:-1], other.split(".")[:-1], strict=False)
    return next((a in WORDS or b in WORDS for a, b in words if a != b), True)


def _under(prefix: str, tensors: StateDict) -> StateDict:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _without_heads(inside: StateDict, wanted: Wanted) -> StateDict:
    """Drop the classifier, and modules that the network does not have.

    Beside an incomplete backbone unknown modules stay: they may be a part of it by another name, and the error shows
    both.
    """
    classifiers = tuple(f"{name}." for name in wanted.classifiers)
    unknown = [name for name in inside if name not in wanted.shapes]
    heads = {*(name for name in unknown if name.startswith(classifiers)), *beside_classifier(wanted.arch, unknown)}
    kept = {name: t for name, t in inside.items() if name not in heads}
    if wanted.own.keys() - _renamed(kept, wanted).keys():
        return kept
    # Without digits: layer5 beside layer4, or conv2 beside conv1, is part of a larger network and not a head.
    firsts = {name: name.partition(".")[0].rstrip(string.digits) for name in kept}
    return {name: t for name, t in kept.items() if "." not in name or firsts[name] in wanted.modules}


def _renamed(weights: StateDict, wanted: Wanted) -> StateDict:
    """Rename torchvision's tensors to timm's."""
    resnet = wanted.arch in TORCHVISION_NAMES and wanted.arch.startswith("resnet")  # timm's names are torchvision's
    mobilenet = wanted.arch == "mobilenetv2_100" and any(name.startswith("features.") for name in weights)
    if not resnet and not mobilenet:
        return weights
    known = {name: tensor for name, tensor in weights.items() if name in wanted.shapes}
    unknown = {name: tensor for name, tensor in weights.items() if name not in wanted.shapes}
    return {**from_torchvision(wanted.arch, known), **unknown}


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
