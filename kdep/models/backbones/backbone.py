"""Networks without classifier, and the features that they yield: pooled (B, D) or as a map (B, D, h, w)."""

import copy
import difflib
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import nn

import kdep.models.checkpoints.keras_resnet  # noqa: F401 - adds its network to timm's
from kdep.models.backbones import own
from kdep.models.backbones.taps import features, find_taps, input_sides, network_name, pooled
from kdep.models.checkpoints.checkpoint import Checkpoint, load_exactly

# Modules of timm whose networks take other input sizes than their own if an option says so: position embeddings are
# interpolated and attention masks computed at each forward pass. At their own size nothing changes.
OTHER_SIZES: dict[str, dict[str, bool]] = {
    **dict.fromkeys(("vision_transformer", "vision_transformer_hybrid", "deit", "eva"), {"dynamic_img_size": True}),
    **dict.fromkeys(("swin_transformer", "swin_transformer_v2"), {"strict_img_size": False}),
}
ZERO_INIT = {"resnet", "keras_resnet", "regnet"}  # modules whose networks have the option zero_init_last
SIZE_OPTIONS = {"img_size", *(option for options in OTHER_SIZES.values() for option in options)}


class Moved(nn.Identity):
    """Stands in a network where its final activation was."""


class Backbone(nn.Module):
    """A network without classifier that yields its features at a tap of `kdep.models.backbones.taps`.

    It normalises its input itself, and resamples it if asked to: one batch serves teacher and student. The final
    activation is moved from `network` to `activation`; the names of the weights stay the same.

    Shape:
        (B, 3, H, W) RGB in [0, 1] -> (B, dim).

    Raises:
        ValueError: the network lacks the tap, or cannot take the side to resample to; names what it has.
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
        only, self.divisor = input_sides(network)
        if only is not None and resample not in (None, only):
            raise ValueError(
                f"{network_name(network)} takes {only} pixels only, to which it resamples: not size {resample}"
            )
        self.network, self.tap, self.resample = network, tap, resample or only
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        found = find_taps(network)
        self.taps, self.has_map, self.dim = found.names, found.has_map, found.width
        if tap not in self.taps:
            raise ValueError(f"tap {tap!r}: {type(network).__name__} offers {', '.join(self.taps)}")
        self.activation: nn.Module = nn.Identity()
        if found.activation is not None:
            self.activation = copy.deepcopy(network.get_submodule(found.activation))
            self.activation.inplace = False  # `pre` is read after `post` was computed from it
            network.set_submodule(found.activation, Moved())
        if tap == "before_head":
            # Not trained and not used. They stay, so that the weights fit the architecture.
            for unused in (network.conv_head, network.bn2):
                unused.requires_grad_(False)
            self.dim = network.conv_head.in_channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the teachers side by side: here one."""
        return (self.dim,)

    def forward(
        self, images: torch.Tensor, *, with_map: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) -> (B, dim), pooled at the tap; with `with_map` also the map (B, dim, h, w) that was pooled."""
        if not with_map and (not self.has_map or len(self.taps) == 1):
            vector = pooled(self.network, features(self.network, self._prepare(images)))
            return self.activation(vector) if self.tap == "post" else vector
        # float32: under autocast the mean would be rounded to half precision, which is coarser than the small axes.
        maps = self.feature_map(images).float()
        return (maps.mean((2, 3)), maps) if with_map else maps.mean((2, 3))

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, dim, h, w) at the tap; its spatial mean is `forward`.

        Raises:
            ValueError: the network's pooled features are not the mean of a map.
        """
        if not self.has_map:
            raise ValueError(
                f"{type(self.network).__name__} has no map whose mean its pooled features are; ResNet, RegNet, "
                "EfficientNet and MobileNetV2 have one"
            )
        x = self._prepare(images)
        if self.tap == "before_head":
            return self.network.blocks(self.network.bn1(self.network.conv_stem(x)))
        maps = features(self.network, x)
        return self.activation(maps) if self.tap == "post" else maps

    def pooled_taps(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features before and after the final activation from one forward pass: tap -> (B, dim)."""
        if self.tap == "before_head" or len(self.taps) == 1:
            return {self.tap: self(images)}
        before = features(self.network, self._prepare(images))
        if self.has_map:
            return {"pre": before.mean((2, 3)), "post": self.activation(before).mean((2, 3))}
        vector = pooled(self.network, before)
        return {"pre": vector, "post": self.activation(vector)}

    def stage_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) -> the last map (B, C, h, w) of each size, largest first: those that dense tasks read.

        Maps are the network's own, after their activations, whatever the tap. A plain vision transformer has one map,
        its last tokens after the final norm.

        Raises:
            ValueError: the network has no maps.
        """
        images, seen = self._prepare(images), []
        if not hasattr(self.network, "forward_intermediates"):
            raise ValueError(f"{network_name(self.network)} has no feature maps, which dense tasks read")
        moved = next((module for module in self.network.modules() if isinstance(module, Moved)), Moved())
        hook = moved.register_forward_hook(lambda module, inputs, output: seen.append(output))
        plain = hasattr(self.network, "pos_embed") and not isinstance(self.network, timm.models.hiera.Hiera)
        maps = self.network.forward_intermediates(images, intermediates_only=True, norm=plain)
        hook.remove()
        if seen and seen[-1] is maps[-1]:  # the activation that was moved out is that of the last map
            maps[-1] = self.activation(maps[-1])
        last = {features.shape[2:]: features for features in maps}  # the last of a size replaces those before
        return sorted(last.values(), key=lambda features: -features[0, 0].numel())

    def _prepare(self, images: torch.Tensor) -> torch.Tensor:
        if self.resample is not None and images.shape[-1] != self.resample:
            images = F.interpolate(images, (self.resample, self.resample), mode="bilinear", antialias=True)
        for side in images.shape[-2:]:
            self._check_side(side)
        return (images - self.mean) / self.std

    def check_size(self, size: int) -> None:
        """Raise a ValueError where the network cannot take square images of so many pixels a side."""
        self._check_side(self.resample or size)

    def _check_side(self, side: int) -> None:
        if side % self.divisor:
            below = max(side // self.divisor, 1) * self.divisor
            raise ValueError(
                f"{network_name(self.network)} takes sides that are multiples of {self.divisor} pixels, not "
                f"{side}: show images at {below} or {below + self.divisor}, or resample them with "
                f"teacher.size={below} in a recipe or @{below} behind its name"
            )


class Teachers(nn.Module):
    """Several teachers on the same images, their features concatenated.

    Shape:
        (B, 3, H, W) RGB in [0, 1] -> (B, sum of the dims).
    """

    def __init__(self, members: Sequence[Backbone]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.widths: tuple[int, ...] = tuple(member.dim for member in members)
        self.dim, self.tap = sum(self.widths), "+".join(member.tap for member in members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features of the first teacher, then those of the next."""
        return torch.cat([member(images) for member in self.members], 1)


def create_network(arch: str) -> nn.Module:
    """Make a timm network, or a user's own (python:package.module:function), without classifier.

    timm's networks have random weights and take images of any size where they can. Residual ones start without timm's
    zero-initialised last BatchNorm, as the paper's did: it would make every pre-activation feature non-negative at the
    start.

    Raises:
        ValueError: there is no such network; names similar ones.
    """
    if arch.startswith(own.PREFIX):
        return own.make_own(arch)
    if not timm.is_model(arch):
        close = ", ".join(close_names(arch)) or "none"
        raise ValueError(f"{arch!r} is not a timm network; close: {close}; `timm.list_models()` has all")
    options = {"zero_init_last": False} if timm.models.is_model_in_modules(arch, ZERO_INIT) else {}
    return timm.create_model(arch, pretrained=False, num_classes=0, **options, **size_options(arch))


def size_options(arch: str) -> dict[str, bool]:
    """Options with which timm makes a network that takes other input sizes than its own."""
    return OTHER_SIZES.get(timm.model_entrypoint(arch).__module__.rpartition(".")[2], {})


def pooling(network: nn.Module) -> str | None:
    """Name the pooling of a timm network, as its config.json does."""
    pool = getattr(network, "global_pool", None) or getattr(getattr(network, "head", None), "global_pool", None)
    return getattr(pool, "pool_type", pool)


def close_names(arch: str) -> list[str]:
    """Find timm's networks of a similar name; those that begin with it, then those that hold it. Ignores case, -, _."""

    def plain(name: str) -> str:
        return name.lower().replace("-", "").replace("_", "")

    names: dict[str, list[str]] = {}
    for name in timm.list_models():
        names.setdefault(plain(name), []).append(name)
    wanted = plain(arch)
    holding = [spelling for spelling in names if wanted in spelling]
    holding.sort(key=lambda spelling: (not spelling.startswith(wanted), len(spelling)))
    alike = difflib.get_close_matches(wanted, names, n=5, cutoff=0.75)
    return [name for spelling in dict.fromkeys((*holding[:3], *alike)) for name in names[spelling]][:5]


def build_backbone(checkpoint: Checkpoint, *, tap: str | None = None) -> Backbone:
    """Build a checkpoint's network and load every tensor of it, or raise `LoadError`."""
    network = create_network(checkpoint.arch)
    load_exactly(network, checkpoint.weights, checkpoint.name)
    return Backbone(
        network, tap=tap or checkpoint.tap, mean=checkpoint.mean, std=checkpoint.std, resample=checkpoint.resample
    )
