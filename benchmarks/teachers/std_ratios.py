"""Std ratios of targets under every aligner and scaler, measured and as the paper's law predicts them.

The law: Power Temperature Scaling with exponent n takes a ratio r of standard deviations to r^(1/n). It is exact where
all channels have the same distribution up to scale.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from kdep.method.align import ALIGNERS
from kdep.method.scale import SCALERS, make_scaler
from kdep.method.statistics import Statistics, ratio_or_none
from kdep.method.target import Target

# Std ratio after a scaler, from the ratio r before it and the scaler's options; a scaler that is not here has no law.
LAWS: dict[str, Callable[..., float]] = {
    "none": lambda r, factor: r,
    "unit": lambda r, factor: r,
    "sn": lambda r, factor: 1.0,
    "whiten": lambda r, alpha: r ** (1 - alpha),
    "pts": lambda r, temperature, exponent: r ** (1 / exponent),
}


def column_std(features: torch.Tensor) -> torch.Tensor:
    """Standard deviations (D,) float64 of the columns, over N as the statistics have them."""
    return torch.cat([part.double().std(0, correction=0) for part in features.split(256, dim=1)])


def options_of(scaler: str) -> dict[str, Any]:
    """A scaler's options at their defaults, which are the paper's."""
    parameters = inspect.signature(SCALERS[scaler]).parameters.values()
    return {entry.name: entry.default for entry in parameters if entry.kind is entry.KEYWORD_ONLY}


def std_ratio_rows(statistics: Statistics, features: torch.Tensor, widths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One row per width, aligner and scaler; a combination that is refused is a row with the reason.

    `aligned` is the ratio before scaling and `measured` the one after it, both of these features; `predicted` is what
    the law makes of `aligned`.
    """
    for width in widths:
        for aligner in ALIGNERS:
            try:
                target = Target(statistics, width, aligner=aligner, scaler=make_scaler("none", {}))
            except ValueError as error:
                yield {"width": width, "aligner": aligner, "refused": str(error)}
                continue
            aligned = target(features)
            before = ratio_or_none(column_std(aligned))
            # Matching deviations needs as many of them as there are channels.
            for scaler in [name for name in SCALERS if name != "sm" or width <= len(statistics.mean)]:
                after = ratio_or_none(column_std(make_scaler(scaler, {})(aligned, target.std, target.channels)))
                law = LAWS.get(scaler)
                predicted = law(before, **options_of(scaler)) if law and before else None
                row = {"width": width, "aligner": aligner, "scaler": scaler}
                yield {**row, "aligned": before, "predicted": predicted, "measured": after}
