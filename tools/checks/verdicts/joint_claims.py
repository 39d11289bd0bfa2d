"""Correct claims of several studies together: which would hold if all of them were the claims of one study.

    python -m tools.checks.verdicts.joint_claims --out docs/figures/studies/joint.json

It reads the study files and the published scores in docs/figures/studies, and writes a JSON file with a table beside
it.
Such corrections were thought of after the scores, so they are exploratory.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdep.files import write_text
from kdep_benchmarks.studies.claims import Comparison, adjusted_claims
from kdep_benchmarks.studies.file import load_study
from tools.checks.verdicts.studies import SHIPPED, claims, published, verdict

LIGHTLY = ("projector_long", "finetune_long", "dense_long")
QUEUE = ("queue_long", "queue_finetune", "queue_dense")
QUEUE_RATE = ("queue_rate", "queue_rate_finetune", "queue_rate_dense")
QUEUE_MOBILE = ("queue_mobile", "queue_mobile_finetune", "queue_mobile_dense")
QUEUE_SHORT = ("queue_small", "queue_dense_small", "queue_finetune_small")
ALL = "every claim"
# What is corrected together: a pair of arms, or every claim, in some studies.
GROUPS: Sequence[tuple[str | tuple[str, str], Sequence[str]]] = (
    (("LightlyTrain v1", "SVD x 2"), LIGHTLY),
    (("SVD, queue KL", "SVD x 2"), QUEUE),
    (ALL, QUEUE),
    (("SVD, queue KL", "SVD x 2"), QUEUE_SHORT),
    (ALL, QUEUE_SHORT),
    (ALL, QUEUE_MOBILE),
    (ALL, QUEUE_RATE),
)
ABOUT = "Exploratory: verdicts of claims after Holm's correction over several studies together, and not within each."


def main() -> None:
    """Write the corrected claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    found = {"about": ABOUT, "groups": [corrected(which, studies) for which, studies in GROUPS]}
    write_text(out, json.dumps(found, indent=1) + "\n")
    write_text(out.with_suffix(".md"), table(found))


def corrected(which: str | tuple[str, str], studies: Sequence[str]) -> dict[str, Any]:
    """Correct the claims about a pair, or all claims, of some studies together."""
    named = [(name, one) for name in studies for one in claims_of(name) if which == ALL or pair(one) == which]
    found = adjusted_claims([one for _, one in named])
    rows = [
        {
            "study": name,
            "claim": f"{one.arm} minus {one.other}",
            "difference": one.text,
            "p": round(one.interval.p, 5) if one.interval else None,
            "joint_p": round(one.adjusted, 5),
            "verdict": verdict(one),
        }
        for (name, _), one in zip(named, found, strict=True)
    ]
    return {"claims": which if which == ALL else f"{which[0]} minus {which[1]}", "studies": list(studies), "rows": rows}


def claims_of(name: str) -> list[Comparison]:
    """The claims of a published study."""
    study = load_study(SHIPPED / f"{name}.yaml")
    return claims(study, published(study))


def pair(one: Comparison) -> tuple[str, str]:
    """The names of the arms of a claim."""
    return one.arm.strip("`"), one.other.strip("`")


def table(found: dict[str, Any]) -> str:
    """Write the corrected claims as Markdown."""
    lines = [found["about"], ""]
    for group in found["groups"]:
        lines += [f"{group['claims']}, in {', '.join(group['studies'])}: {len(group['rows'])} claims", ""]
        lines += ["| study | claim | difference | p | p after the correction | verdict |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(map(str, row.values()))} |" for row in group["rows"]]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
