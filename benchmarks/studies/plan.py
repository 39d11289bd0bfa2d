"""Plan a study: which runs are done, to score or to train."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.studies.rows import AnswerRow, is_file, row_of, student_here

DONE, TO_SCORE, TO_TRAIN, MISSING = "done", "to score", "to train", "missing"


@dataclass(frozen=True)
class Item:
    """A run, its state and the tasks whose scores are missing.

    States are `DONE`, `TO_SCORE` and `TO_TRAIN`; and `MISSING` for a checkpoint to score whose file is not there or
    does not open.
    """

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
        sha256 = student_here(study, planned, runs)
        if cells and (sha256 is None or any(row["checkpoint"] != sha256[:8] for row in own)):
            cells = tuple(study.tasks)
        found.append(Item(planned, _state(planned, sha256) if cells else DONE, cells))
    return found


def _state(planned: Run, sha256: str | None) -> str:
    """What to do with a run that lacks scores; `sha256` is of its student, or of its checkpoint's file, where there."""
    if sha256 is not None or not is_file(planned):
        return TO_SCORE
    return TO_TRAIN if planned.checkpoint is None else MISSING


def describe(study: Study, plan: Sequence[Item], banks: Sequence[Path]) -> str:
    """Describe the plan: counts, banks, and every run with its overrides."""
    trained = [item for item in plan if item.run.checkpoint is None]
    own, states = trained or plan, (DONE, TO_SCORE, TO_TRAIN if trained else MISSING)
    counts = ", ".join(f"{sum(item.state == state for item in own)} {state}" for state in states)
    what = "runs" if trained else "checkpoints"
    lines = [study.question, f"{len(own)} {what}: {counts}; {len(study.arms)} arms, seeds {study.seeds}"]
    lines += [f"  bank to make or complete  {bank}" for bank in banks]
    for item in {item.run.name: item for item in plan}.values():  # a checkpoint stands there for every seed
        lines.append(f"  {item.state:8s}  {item.run.name}  {' '.join(item.run.overrides[1:])}".rstrip())
    return "\n".join(lines)
