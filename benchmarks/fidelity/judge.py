"""Judge which cheap column may stand for which expensive one, by a rule that is fixed here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdep_benchmarks.fidelity.agreement import MIN_CHECKPOINTS, Agreement, agreement
from kdep_benchmarks.fidelity.columns import Column, Read, differing
from kdep_benchmarks.verdicts.difference import holm
from kdep_benchmarks.verdicts.intervals import CONFIDENCE

STANDS, GROUPS, NOT, UNKNOWN = "may stand", "groups only", "may not", "unknown"
RULE = (
    "A cheap column may stand for an expensive one if four things hold over the checkpoints: the 95 % interval of the "
    "weighted Kendall tau is above 0; the interval of the pairwise agreement is above 50 %; so is that of the "
    "agreement without pairs from both sides of the widest gap in the expensive column; and the p value of tau is "
    "below 0.05 after Holm's correction for all pairs of columns in this report. Without the third, it tells two "
    "groups apart, such as trained from untrained networks, and no more is shown. `may not` means that it is not "
    "shown. Where the expensive column itself shows no difference between any two checkpoints, nothing can be said."
)


@dataclass(frozen=True)
class Fidelity:
    """A cheap column against an expensive one, with the verdict by `RULE` and Holm's adjusted p value."""

    cheap: str
    expensive: str
    naive: bool
    agreement: Agreement
    adjusted: float
    verdict: str


def judge(cheap: Sequence[Column], expensive: Sequence[Column], read: Read) -> tuple[list[Fidelity], list[str]]:
    """Compare every cheap column with every expensive one, and say which pairs have too few checkpoints in common.

    Raises:
        ValueError: no pair of columns has enough checkpoints, or answers are missing.
    """
    found: list[tuple[Column, Column, Agreement]] = []
    short: list[tuple[int, str]] = []
    for target in expensive:
        checkpoints = sorted(target.values)
        differs = differing(target, checkpoints, read) if len(checkpoints) >= MIN_CHECKPOINTS else None
        for column in (one for one in cheap if one.name != target.name):
            both = [at for at, sha in enumerate(checkpoints) if sha in column.values]
            if len(both) < MIN_CHECKPOINTS or differs is None:
                short.append((len(both), f"{column.name} and {target.name}: {len(both)} checkpoints have both"))
                continue
            sides = (np.array([side.values[checkpoints[at]] for at in both]) for side in (column, target))
            found.append((column, target, agreement(*sides, differs[np.ix_(both, both)])))
    if not found:
        most = max(short)[1] if short else "there are no two columns to compare"
        raise ValueError(f"an agreement needs {MIN_CHECKPOINTS} or more checkpoints with both columns; {most}")
    adjusted = holm([one.p for *_, one in found])
    judged = [
        Fidelity(column.name, target.name, column.kind == "naive", one, p, verdict(one, p))
        for (column, target, one), p in zip(found, adjusted, strict=True)
    ]
    return judged, [said for _, said in short]


def verdict(found: Agreement, adjusted: float) -> str:
    """Apply `RULE`."""
    if not found.pairs or math.isnan(found.tau.value):
        return UNKNOWN
    if not (found.tau.low > 0 and found.alike.low > 50 and adjusted < 1 - CONFIDENCE):
        return NOT
    return STANDS if found.within.low > 50 else GROUPS
