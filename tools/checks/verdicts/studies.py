"""List the shipped studies: what each has found of what it planned, what it claimed beforehand, and its hours.

    python -m tools.checks.verdicts.studies --out docs/figures/studies/studies.md

It reads the study files and the published scores in docs/figures/studies.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path

from kdep.files import write_text
from kdep_benchmarks.studies.claims import Comparison, adjusted_claims, by_cell, claimed
from kdep_benchmarks.studies.file import Study, load_study

SHIPPED = Path("configs/studies")
PUBLISHED = Path("docs/figures/studies")
ABOUT = """Claims are comparisons that a study file names before these can be made; their verdicts are after Holm's
correction among the claims of the study. All other comparisons are exploratory, in every study. Hours are the training
alone, without banks of targets and probes, on one or two threads of machines that differ. A student counts once, in the
first study that trained it, even where a second trained it again. `-`: the scores do not say, as those of checkpoints
that other studies made."""


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    write_text(parser.parse_args().out, table())


def table() -> str:
    """Write a row per study that has scores, and a line per study that has none."""
    studies = [load_study(path) for path in sorted(SHIPPED.glob("*.yaml"))]
    scored = {study.name: rows for study in studies if (rows := published(study))}
    seen: set[str] = set()
    lines = ["# The studies", "", ABOUT, "", "| study | scores | seeds | images seen by a run | hours | claims |"]
    lines.append("|---" * 6 + "|")
    total = 0.0
    for study in studies:
        if rows := scored.get(study.name):
            hours = hours_of(rows, seen)
            total += hours
            planned = len(study.runs) * len(study.tasks)
            done = f"{planned:,}" if len(rows) == planned else f"{len(rows):,} of {planned:,}"
            cells = [f"[{study.name}]({study.name}.md)", done, str(len(study.seeds)), images_of(rows)]
            cells += [f"{hours:.1f}" if hours else "-", verdicts(study, rows)]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{total:.0f} hours for all of these students.", "", "Not run:", ""]
    for study in studies:
        if study.name not in scored:
            runs = sum(run.checkpoint is None for run in study.runs) or "no"
            claims = len(study.claims) * len(study.values)
            lines.append(f"- {study.name}: {runs} runs of its own" + (f", claims: {claims}" if claims else ""))
    return "\n".join(lines) + "\n"


def published(study: Study) -> list[dict[str, str]]:
    """Read a study's published scores; none, where it has not been run."""
    path = PUBLISHED / f"{study.name}.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def hours_of(rows: list[dict[str, str]], seen: set[str]) -> float:
    """Hours of training of the students that are not in `seen`, to which they are added."""
    trained = {row["checkpoint"]: float(row["pretrain_seconds"]) for row in rows if float(row["pretrain_seconds"])}
    new = {student: seconds for student, seconds in trained.items() if student not in seen}
    seen |= set(new)
    return sum(new.values()) / 3600


def images_of(rows: list[dict[str, str]]) -> str:
    """The fewest and the most images that a trained student has seen; `-` where none is known to have seen any."""
    counts = {int(row["images_seen"]) for row in rows} - {0}
    if not counts:
        return "-"
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def verdicts(study: Study, rows: list[dict[str, str]]) -> str:
    """Count the claims of a study by their verdict."""
    places = {run.key: run.place for run in study.runs}
    own = [places[row["arm"], row["value"], row["seed"]] for row in rows]
    typed = [place | {"task": row["task"], "score": float(row["score"])} for place, row in zip(own, rows, strict=True)]
    scores = by_cell(typed)
    found = adjusted_claims([one for value in study.values for one in claimed(study, scores, value)])
    counts = Counter(verdict(one) for one in found)
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "-"


def verdict(claim: Comparison) -> str:
    """Say what became of a claim."""
    if claim.awaited:
        return "to come"
    if claim.interval is None:
        return "no verdict"
    return claim.interval.verdict if claim.holds or claim.interval.verdict == "no difference" else "not after Holm"


if __name__ == "__main__":
    main()
