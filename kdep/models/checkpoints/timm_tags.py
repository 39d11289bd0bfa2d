"""Read from timm's names and tags where weights lie on the hub and how they were trained."""

import re
from typing import Any

import timm

# Words in timm's tags: fine-tuned after something else, weak or no labels, masked images, noisy student, distilled.
MORE_THAN_LABELS = {
    *("ft", "in12k", "in21k", "in22k", "jft", "ssl", "swsl", "wsl", "swag", "seer", "dino", "clip", "mae", "mim"),
    *("fcmae", "ijepa", "ns", "c2ns", "dist", "distilled", "ssld", "usi", "teacher"),
}
# Architectures whose weights are of that kind whatever their tag says. VOLO learned from a network's token labels.
MORE_THAN_LABELS_ARCHS = ("distilled", "beit", "clip", "volo")


def network_file(name: str) -> str:
    """Complete a timm network's name with the tag of its default weights where it has none."""
    if "." in name:
        return name
    tag = timm.get_pretrained_cfg(name).tag
    return f"{name}.{tag}" if tag else name


def repository(name: str) -> str:
    """Name the repository on the hub with a timm network's weights. One file may serve networks of several names."""
    return getattr(timm_config(name), "hf_hub_id", None) or f"timm/{network_file(name)}"


def timm_config(name: str) -> Any:
    """Return timm's description of the weights `name`, None where timm does not know the network.

    Raises:
        ValueError: the network has no weights of this tag.
    """
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        arch = name.partition(".")[0]
        tags = ", ".join(timm.list_pretrained(f"{arch}.*")) or f"{arch} alone, without a tag"
        raise ValueError(f"{name}: timm has no such weights; there are {tags}") from error


def refuse_other_activation(name: str) -> None:
    """Raise a ValueError for CLIP's weights that were trained with QuickGELU if the network `name` computes GELU.

    Every tensor would load, but the features would be wrong. timm notes such weights in their pretrained_cfg.
    """
    arch = name.split(".")[0]
    notes = getattr(timm_config(name), "notes", None) or ()
    if "quickgelu" not in arch and "quickgelu" in "".join(notes).lower():
        right = network_file(name).replace("_clip_", "_clip_quickgelu_", 1)
        raise ValueError(f"{name}: these weights were trained with QuickGELU, this network computes GELU; take {right}")


def training_kind(name: str) -> str:
    """Return `supervised` for timm's weights trained from scratch on ImageNet-1k's labels alone, `other` for the rest.

    Supervised rows are the scoreboard's baseline. Weights that learned from more images, without labels or from a
    teacher are not supervised, and neither are weights whose tag leaves it open.
    """
    arch, _, tag = network_file(name).partition(".")
    *recipe, data = re.sub(r"_\d+$", "", tag).split("_")  # a_recipe_in1k_384: the size of the images
    marked = MORE_THAN_LABELS.intersection(recipe) or any(word in arch for word in MORE_THAN_LABELS_ARCHS)
    return "supervised" if data == "in1k" and not marked else "other"
