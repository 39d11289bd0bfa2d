"""A network without classifier -> its features, pooled (B, D) or spatial (B, D, H, W).

The tap says where features are taken (METHOD of the paper, section 3.1):
  pre          before the final activation, the paper's choice; what `relu(pre) == post` undoes downstream
  post         after it: the network's own pooled output
  before_head  before a last 1x1 convolution, for networks of the MobileNet and EfficientNet family

In that family the last convolution commutes with the pooling, so pooled `pre` features span no more dimensions than the
convolution has inputs (320 of 1280). Hence the default is per architecture, and `statistics` checks the rank.
"""

import copy
import difflib
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from timm.models.byobnet import ByobNet
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import nn

import kdep.models.keras_resnet  # noqa: F401 - adds its network to timm's
from kdep.models.checkpoint import Checkpoint, load_exactly

TAPS = ("pre", "post", "before_head")

# Families of timm's (its modules) that take other input sizes than their own if told so when they are made: position
# embeddings are interpolated, attention masks computed, at each forward pass. At their own size nothing changes.
OTHER_SIZES: dict[str, dict[str, bool]] = {
    **dict.fromkeys(("vision_transformer", "vision_transformer_hybrid", "deit", "eva"), {"dynamic_img_size": True}),
    **dict.fromkeys(("swin_transformer", "swin_transformer_v2"), {"strict_img_size": False}),
}


class Backbone(nn.Module):
    """A network without classifier that yields its features at a tap.

    It owns its input normalisation (and resampling), so one batch of RGB images in [0, 1] serves teacher and student.
    Inside `network` the final activation is replaced by an identity and kept in `activation`: weights keep their names.

    Shape:
        (B, 3, H, W) RGB in [0, 1] -> (B, dim).

    Raises:
        ValueError: a tap, or a side to resample to, that the network does not have; names those it has.
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
            raise ValueError(f"{_name(network)} takes {only} pixels only, to which it resamples: not size {resample}")
        self.network, self.tap, self.resample = network, tap, resample or only
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

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the teachers side by side: here one."""
        return (self.dim,)

    def forward(
        self, images: torch.Tensor, *, with_map: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) -> (B, dim), pooled at the tap; with `with_map` also the map (B, dim, h, w) that was pooled."""
        if len(self.taps) == 1 and not with_map:
            return self.network.forward_head(self.network.forward_features(self._prepare(images)), pre_logits=True)
        # float32: under autocast the mean would be rounded to the map's half precision, coarser than the small axes.
        maps = self.feature_map(images).float()
        return (maps.mean((2, 3)), maps) if with_map else maps.mean((2, 3))

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, dim, h, w) at the tap; its spatial mean is `forward`."""
        x = self._prepare(images)
        if self.tap == "before_head":
            return self.network.blocks(self.network.bn1(self.network.conv_stem(x)))
        features = self.network.forward_features(x)
        if len(self.taps) == 1:
            raise ValueError(
                f"{type(self.network).__name__} has no map whose mean its pooled features are; ResNet, EfficientNet "
                "and MobileNetV2 have one"
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
        if images.shape[-1] % self.divisor or images.shape[-2] % self.divisor:
            below = max(images.shape[-1] // self.divisor, 1) * self.divisor
            raise ValueError(
                f"{_name(self.network)} takes sides that are multiples of {self.divisor} pixels, not "
                f"{images.shape[-1]}: resample with teacher.size={below} or {below + self.divisor}, or @{below} behind "
                "its name"
            )
        return (images - self.mean) / self.std


class Teachers(nn.Module):
    """Several backbones on the same images, their features side by side.

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


def input_sides(network: nn.Module) -> tuple[int | None, int]:
    """Which images a network takes: their only side in pixels, None where others do too, and what divides a side."""
    embedding, config = getattr(network, "patch_embed", None), getattr(network, "pretrained_cfg", {})
    if getattr(embedding, "strict_img_size", True) is False:
        return None, embedding.feat_ratio()
    # CLIP's ResNets interpolate by themselves, in their attention pool.
    if config.get("fixed_input_size") and not isinstance(network, ByobNet):
        return config["input_size"][-1], 1
    return None, 1


def _name(network: nn.Module) -> str:
    return getattr(network, "pretrained_cfg", {}).get("architecture", type(network).__name__)


def create_network(arch: str) -> nn.Module:
    """Make a timm network with random weights and no classifier, for images of any size where it can be.

    ResNets start without timm's zero-initialised last BatchNorm, as the paper's did: it would make every pre-activation
    feature non-negative at the start.

    Raises:
        ValueError: timm has no such network; names close ones.
    """
    if not timm.is_model(arch):
        close = ", ".join(close_names(arch)) or "none"
        raise ValueError(f"{arch!r} is not a timm network; close: {close}; `timm.list_models()` has all")
    options = {"zero_init_last": False} if timm.models.is_model_in_modules(arch, {"resnet", "keras_resnet"}) else {}
    family = timm.model_entrypoint(arch).__module__.rpartition(".")[2]
    options |= OTHER_SIZES.get(family, {})
    return timm.create_model(arch, pretrained=False, num_classes=0, **options)


def close_names(arch: str) -> list[str]:
    """Timm's networks of such a name, those that begin with it or hold it first; case, - and _ do not count."""

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
