"""Write what cheap columns are worth: a table for spreadsheets, a page, and a picture."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdep.files import write_text
from kdep_benchmarks.board.frame import csv_text
from kdep_benchmarks.fidelity.agreement import Estimate
from kdep_benchmarks.fidelity.judge import GROUPS, NOT, RULE, STANDS, UNKNOWN, Fidelity
from kdep_benchmarks.fidelity.picture import heat_table
from kdep_benchmarks.page.leaderboard import Table, TableCell
from kdep_benchmarks.page.markdown import markdown_table, markdown_text

READING = (
    "Tau is the weighted Kendall tau over checkpoints: 1 is the same order, 0 none. Agreement is the share of pairs of "
    "checkpoints that both columns order alike, among the pairs that differ on the expensive column by the verdict of "
    "`kdep compare`; the other pairs are counted under `no difference`. 95 % intervals are over the checkpoints "
    "(bootstrap). Naive predictors look at no labelled test image: a probe should be better than they are."
)


def write_report(found: Sequence[Fidelity], left_out: Sequence[str], out: Path) -> str:
    """Write fidelity.csv, fidelity.md and fidelity.svg into a folder, and return the page's sentences, one a line."""
    said = sentences(found)
    listed = "\n".join(f"- {markdown_text(sentence)}" for sentence in said)
    parts = ["# What a cheap column is worth", listed, READING, RULE, markdown_table(table(found))]
    if left_out:
        parts += ["Too few checkpoints have both columns:", "\n".join(f"- {markdown_text(text)}" for text in left_out)]
    write_text(out / "fidelity.csv", csv_text(frame(found)))
    write_text(out / "fidelity.md", "\n\n".join(parts) + "\n")
    write_text(out / "fidelity.svg", heat_table(found))
    return "\n".join(said)


def frame(found: Sequence[Fidelity]) -> pd.DataFrame:
    """One row per pair of columns."""
    rows = []
    for one in found:
        row = {"cheap": one.cheap, "expensive": one.expensive, "naive": one.naive, "verdict": one.verdict}
        row["checkpoints"] = one.agreement.checkpoints
        for name in ("tau", "alike", "within"):
            estimate: Estimate = getattr(one.agreement, name)
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        own = {"p": one.agreement.p, "p_holm": one.adjusted}
        rows.append(row | own | {"pairs": one.agreement.pairs, "no_difference": one.agreement.same})
    return pd.DataFrame(rows)


def table(found: Sequence[Fidelity]) -> Table:
    """The same for people."""
    header = ("cheap", "expensive", "verdict", "checkpoints", "tau", "agreement %", "within groups %", "pairs")
    header += ("no difference", "p (Holm)")
    rows = []
    for one in found:
        own = one.agreement
        texts = [one.cheap, one.expensive, one.verdict, str(own.checkpoints), _shown(own.tau, 2), _shown(own.alike, 0)]
        texts += [_shown(own.within, 0), str(own.pairs), str(own.same), f"{one.adjusted:.3f}"]
        rows.append(tuple(TableCell(text, best=at == 2 and text == STANDS) for at, text in enumerate(texts)))
    return Table("Cheap against expensive columns", header, tuple(rows))


def sentences(found: Sequence[Fidelity]) -> list[str]:
    """Say of every expensive column which others may stand for it, and what the best naive predictor reaches."""
    return [_about(target, found) for target in dict.fromkeys(one.expensive for one in found)]


def _about(target: str, found: Sequence[Fidelity]) -> str:
    own = [one for one in found if one.expensive == target]
    if not any(one.agreement.pairs for one in own):
        return f"{target}: nothing can be said, because no two checkpoints differ on it."
    probes, naive = ([one for one in own if one.naive is wanted] for wanted in (False, True))
    differ, same = max((one.agreement.pairs, one.agreement.same) for one in own)
    parts = [f"{differ} of {differ + same} pairs of checkpoints differ on it"]
    if stands := [_named(one) for one in probes if one.verdict == STANDS]:
        parts.append(f"{', '.join(stands)} may stand for it")
    if groups := [_named(one) for one in probes if one.verdict == GROUPS]:
        parts.append(f"{', '.join(groups)} tell{'s' * (len(groups) == 1)} two groups apart, and no more is shown")
    if others := [one for one in probes if one.verdict == NOT]:
        best = _named(max(others, key=lambda one: one.agreement.tau.value))
        several = f"{len(others)} columns may not stand for it, the nearest is {best}"
        parts.append(several if len(others) > 1 else f"{best} may not stand for it")
    if unknown := [one.cheap for one in probes if one.verdict == UNKNOWN]:
        parts.append(f"of {', '.join(unknown)} nothing can be said")
    known = [one for one in naive if one.verdict != UNKNOWN]
    if known:
        best = max(known, key=lambda one: one.agreement.tau.value)
        parts.append(f"the best naive predictor is {best.cheap} (tau {best.agreement.tau.value:.2f}; {best.verdict})")
    return f"{target}: {'; '.join(parts)}."


def _named(one: Fidelity) -> str:
    return f"{one.cheap} (tau {one.agreement.tau.value:.2f})"


def _shown(estimate: Estimate, digits: int) -> str:
    if estimate.value != estimate.value:  # NaN: undefined
        return "-"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
