"""Scalers: aligned features (B, D_s) -> targets (B, D_s), element by element.

A scaler is a function of the features, of their standard deviations (D_s,), and of those of the teacher's own channels
(D_t,), largest first. `make_scaler` binds its options.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Scaler = Callable[..., torch.Tensor]

EQUAL = 1e-5  # deviations closer than this share are the same: rounding alone would rank them


def _by_deviation(features: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Features over their deviations; 0 in a channel that is constant up to float32's rounding, which has no scale."""
    return torch.where(_varies(std), features / std, 0)


def _varies(std: torch.Tensor) -> torch.Tensor:
    return std > torch.finfo(torch.float32).eps * std.max()


def pts(features: torch.Tensor, std: torch.Tensor, *, temperature: float = 0.1, exponent: float = 3.0) -> torch.Tensor:
    """Power Temperature Scaling: sign(f) |f / T|^(1/n) (paper, equation 5).

    A std ratio r becomes r^(1/n). The temperature is one global factor T^(-1/n).
    """
    return features.sign() * (features.abs() / temperature).pow(1.0 / exponent)


def sn(features: torch.Tensor, std: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """Scale normalisation: every channel to standard deviation `factor`; on principal axes, PCA whitening.

    Of the teacher's own channels it is what others call to standardise. A constant channel gives 0.
    """
    return _by_deviation(features, std) * factor


def whiten(features: torch.Tensor, std: torch.Tensor, *, alpha: float = 0.5) -> torch.Tensor:
    """Partial whitening f / std^alpha: the linear relative of PTS; a std ratio r becomes r^(1 - alpha).

    A constant channel gives 0.
    """
    return torch.where(_varies(std), features / std.pow(alpha), 0)


def unit(features: torch.Tensor, std: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """One global factor, such that the mean variance of the channels is factor^2; ratios stay as they are."""
    return features / std.square().mean().sqrt() * factor


def sm(features: torch.Tensor, std: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Standard deviation matching: the i-th largest deviation becomes that of the teacher's own channels.

    The second of two variants in the authors' code (src/resnet.py, lines 603 to 608 at 5c9c738), whose channels are
    principal axes and so in that order already. A constant channel gives 0.

    Raises:
        ValueError: the student has more channels than the teacher.
    """
    if len(std) > len(channels):
        raise ValueError(f"scale.name sm: {len(std)} channels cannot take the deviations of {len(channels)}")
    rank = std.argsort(descending=True, stable=True).argsort()
    return _by_deviation(features, std) * channels[rank]


def sm_linear(features: torch.Tensor, std: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Deviations mapped linearly, so that their ratio is that of the teacher's own channels and the least is 1.

    The first variant (lines 589 to 600): m_i = (S_1 - R S_D + (R - 1) S_i) / (S_1 - S_D). Constant channels count
    neither for R nor for S_D, and give 0; where all deviations are the same up to rounding, every m_i is 1.
    """
    ratio = channels[0] / channels[_varies(channels)].min()
    varying = std[_varies(std)]
    if len(varying) == 0:
        return torch.zeros_like(features)
    largest, least = varying.max(), varying.min()
    if largest - least <= EQUAL * largest:
        return _by_deviation(features, std)
    return _by_deviation(features, std) * (largest - ratio * least + (ratio - 1) * std) / (largest - least)


def layernorm(features: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Each image's features to mean 0 and variance 1 (Wei et al. 2022 call it whitening)."""
    return F.layer_norm(features, features.shape[-1:])


def none(features: torch.Tensor, std: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """Targets as the aligner leaves them, all times one factor."""
    return features * factor


SCALERS: dict[str, Callable[..., torch.Tensor]] = {
    "pts": pts,
    "sn": sn,
    "sm": sm,
    "sm_linear": sm_linear,
    "whiten": whiten,
    "unit": unit,
    "layernorm": layernorm,
    "none": none,
}


def make_scaler(name: str, options: dict[str, Any]) -> Scaler:
    """Bind a scaler's options. `match` is no option of a scaler: `kdep.pretrain.match_scale` reads it.

    Raises:
        ValueError: unknown scaler or option, or an option that is not a positive number, or turns its scaler round.
    """
    options = dict(options)
    match = options.pop("match", None)
    if match not in (None, "student"):
        raise ValueError(f"scale.match: expected student, got {match!r}")
    if name not in SCALERS:
        raise ValueError(f"scale.name {name!r}: there are {', '.join(SCALERS)}")
    known = [
        key for key, value in inspect.signature(SCALERS[name]).parameters.items() if value.kind is value.KEYWORD_ONLY
    ]
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"scale.{key}: {name} takes {', '.join(known) or 'no options'}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"scale.{key}: expected a positive number, got {value!r}")
    if options.get("alpha", 0) > 1:
        raise ValueError(f"scale.alpha: expected at most 1, got {options['alpha']}; beyond it the least axes lead")
    if options.get("exponent", 1) < 1:
        raise ValueError(f"scale.exponent: expected at least 1, got {options['exponent']}; below it std ratios grow")
    reads_channels = "channels" in inspect.signature(SCALERS[name]).parameters

    def scaler(features: torch.Tensor, std: torch.Tensor, channels: torch.Tensor | None = None) -> torch.Tensor:
        if reads_channels:
            return SCALERS[name](features, std, channels, **options)
        return SCALERS[name](features, std, **options)

    return scaler
