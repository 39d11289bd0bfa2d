"""Scalers: functions from aligned features (B, D_s) to targets (B, D_s).

A scaler takes the features, their standard deviations (D_s,), and those of the teacher's own channels (D_t,) in
descending order. `make_scaler` binds its options.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Scaler = Callable[..., torch.Tensor]

EQUAL = 1e-5  # deviations are equal if they differ by less than this share, which may be rounding


def _by_deviation(features: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Divide features by their deviations; 0 in channels that are constant up to float32 rounding."""
    return torch.where(_varies(std), features / std, 0)


def _varies(std: torch.Tensor) -> torch.Tensor:
    return std > torch.finfo(torch.float32).eps * std.max()


def pts(features: torch.Tensor, std: torch.Tensor, *, temperature: float = 0.1, exponent: float = 3.0) -> torch.Tensor:
    """Power Temperature Scaling: sign(f) |f / T|^(1/n) (paper, equation 5).

    A std ratio r becomes r^(1/n). The temperature is a global factor T^(-1/n).
    """
    return features.sign() * (features.abs() / temperature).pow(1.0 / exponent)


def sn(features: torch.Tensor, std: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """Scale normalisation: give every channel the standard deviation `factor`. A constant channel gives 0.

    On principal axes this is PCA whitening; on the teacher's own channels it is standardisation.
    """
    return _by_deviation(features, std) * factor


def whiten(features: torch.Tensor, std: torch.Tensor, *, alpha: float = 0.5) -> torch.Tensor:
    """Partial whitening f / std^alpha, the linear counterpart of PTS: a std ratio r becomes r^(1 - alpha).

    A constant channel gives 0.
    """
    return torch.where(_varies(std), features / std.pow(alpha), 0)


def unit(features: torch.Tensor, std: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """Scale globally, so that the mean variance of the channels is factor^2; std ratios do not change."""
    return features / std.square().mean().sqrt() * factor


def sm(features: torch.Tensor, std: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Standard deviation matching: the i-th largest deviation becomes the i-th largest of the teacher's own channels.

    The second of two variants in the authors' code (src/resnet.py, lines 603 to 608 at 5c9c738), where the channels are
    principal axes, already in descending order. A constant channel gives 0.

    Raises:
        ValueError: the student has more channels than the teacher.
    """
    if len(std) > len(channels):
        raise ValueError(f"scale.name sm: {len(std)} channels cannot take the deviations of only {len(channels)}")
    rank = std.argsort(descending=True, stable=True).argsort()
    return _by_deviation(features, std) * channels[rank]


def sm_linear(features: torch.Tensor, std: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Map deviations linearly: their ratio becomes that of the teacher's own channels, and the smallest becomes 1.

    The first variant (lines 589 to 600): m_i = (S_1 - R S_D + (R - 1) S_i) / (S_1 - S_D). Constant channels give 0 and
    count neither for R nor for S_D. If all deviations are equal up to rounding, every m_i is 1.
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
    """Normalise the features of each image to mean 0 and variance 1 (called whitening by Wei et al. 2022)."""
    return F.layer_norm(features, features.shape[-1:])


def none(features: torch.Tensor, std: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """Multiply the aligned features by one factor."""
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
    """Bind a scaler's options. `match` is not passed on: `kdep.pretrain.match_scale` reads it.

    Raises:
        ValueError: an unknown scaler or option, or a value outside the option's range.
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
            raise ValueError(
                f"scale.{key}: {name} takes {', '.join(known) or 'no options'}; scale={{name: {name}}} drops the "
                "options of the recipe's own scaler"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"scale.{key}: expected a positive number, got {value!r}")
    if options.get("alpha", 0) > 1:
        raise ValueError(f"scale.alpha: expected at most 1, got {options['alpha']}; above 1 small axes dominate")
    if options.get("exponent", 1) < 1:
        raise ValueError(f"scale.exponent: expected at least 1, got {options['exponent']}; below 1 std ratios grow")
    reads_channels = "channels" in inspect.signature(SCALERS[name]).parameters

    def scaler(features: torch.Tensor, std: torch.Tensor, channels: torch.Tensor | None = None) -> torch.Tensor:
        if reads_channels:
            return SCALERS[name](features, std, channels, **options)
        return SCALERS[name](features, std, **options)

    return scaler
