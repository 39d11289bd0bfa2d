"""Scalers: aligned features (B, D_s) -> targets (B, D_s), element by element.

A scaler is a function of the features and of their standard deviations (D_s,). `make_scaler` binds its options.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

Scaler = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def pts(features: torch.Tensor, std: torch.Tensor, *, temperature: float = 0.1, exponent: float = 3.0) -> torch.Tensor:
    """Power Temperature Scaling: sign(f) |f / T|^(1/n) (paper, equation 5).

    A std ratio r becomes r^(1/n). The temperature is one global factor T^(-1/n).
    """
    return features.sign() * (features.abs() / temperature).pow(1.0 / exponent)


def sn(features: torch.Tensor, std: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """Scale normalisation: every channel to standard deviation `factor`; on principal axes, PCA whitening."""
    return features / std * factor


def whiten(features: torch.Tensor, std: torch.Tensor, *, alpha: float = 0.5) -> torch.Tensor:
    """Partial whitening f / std^alpha: the linear relative of PTS; a std ratio r becomes r^(1 - alpha)."""
    return features / std.pow(alpha)


def unit(features: torch.Tensor, std: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
    """One global factor, such that the mean variance of the channels is factor^2; ratios stay as they are."""
    return features / std.square().mean().sqrt() * factor


def none(features: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Targets as the aligner leaves them."""
    return features


SCALERS: dict[str, Callable[..., torch.Tensor]] = {"pts": pts, "sn": sn, "whiten": whiten, "unit": unit, "none": none}


def make_scaler(name: str, options: dict[str, Any]) -> Scaler:
    """Bind a scaler's options.

    Raises:
        ValueError: unknown scaler or option, or an option that is not a positive number.
    """
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
    return lambda features, std: SCALERS[name](features, std, **options)
