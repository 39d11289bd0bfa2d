"""Plan a study: which runs are done, to score or to train."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.studies.rows import AnswerRow, row_of, student_here

DONE, TO_SCORE, TO_TRAIN = "done", "to score", "to train"


@dataclass(frozen=True)
class Item:
    """A run, its state (`DONE`, `TO_SCORE` or `TO_TRAIN`) and the tasks whose scores are missing."""

    run: Run
    state: str
    cells: tuple[str, ...]


def items(study: Study, runs: Path, rows: Sequence[AnswerRow]) -> list[Item]:
    """Every run with what is left to do.

    All scores of a run must come from one student. If published rows are of another student than the one in the run's
    folder, the latter is scored on all tasks.
    """
    found = []
    for planned in study.runs:
        own = [row for row in rows if row_of(row, planned)]
        cells = tuple(task for task in study.tasks if task not in {row["task"] for row in own})
        sha256 = student_here(planned, runs)
        there = planned.checkpoint is not None or sha256 is not None
        if cells and (sha256 is None or any(row["checkpoint"] != sha256[:8] for row in own)):
            cells = tuple(study.tasks)
        found.append(Item(planned, (TO_SCORE if there else TO_TRAIN) if cells else DONE, cells))
    return found


def describe(study: Study, plan: Sequence[Item], banks: Sequence[Path]) -> str:
    """Describe the plan: counts, banks, and every run with its overrides."""
    own = [item for item in plan if item.run.checkpoint is None]
    counts = ", ".join(f"{sum(item.state == state for item in own)} {state}" for state in (DONE, TO_SCORE, TO_TRAIN))
    lines = [study.question, f"{len(own)} runs: {counts}; {len(study.arms)} arms, seeds {study.seeds}"]
    lines += [f"  bank to make or complete  {bank}" for bank in banks]
    for item in {item.run.name: item for item in plan}.values():  # a checkpoint stands there for every seed
        lines.append(f"  {item.state:8s}  {item.run.name}  {' '.join(item.run.overrides[1:])}".rstrip())
    return "\n".join(lines)
