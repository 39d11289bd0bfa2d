"""Plan a run: which cells are done, to run, without data or refused, and how long they take by finished ones."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kdep.guard import printable
from kdep.models.backbones.outline import parameters
from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.data import cards as datasets
from kdep_benchmarks.data.checks.contents import Contents
from kdep_benchmarks.data.checks.leaks import contents_of
from kdep_benchmarks.durations import duration
from kdep_benchmarks.jobs.cell import Cell, check_same_measurement
from kdep_benchmarks.kinds import TOOLBOXES
from kdep_benchmarks.result import CheckpointCard, Result
from kdep_benchmarks.results import read_result
from kdep_benchmarks.tasks.task import Task

STATES = ("to run", "done", "absent", "refused")

# Seconds of finished cells, by what they have in common; see `likenesses`.
Times = dict[tuple[str, ...], list[float]]


@dataclass(frozen=True)
class Found:
    """A data set on disk: its fingerprint and what is known of its test images; or why it is not used."""

    fingerprint: str = ""
    contents: Contents = Contents()
    reason: str = ""


@dataclass(frozen=True)
class Planned:
    """A cell and its state: to run, done (`reason` is its score), absent (which data) or refused (why the task does).

    `row` is the name of its row on the board.
    """

    cell: Cell
    state: str
    reason: str = ""
    row: str = ""

    @property
    def title(self) -> str:
        """Name of the cell on the terminal."""
        return f"{self.row or self.cell.checkpoint.name}  {self.cell.task.name}  seed {self.cell.seed}"

    @property
    def measurable(self) -> bool:
        """Whether it has a score, or gets one if nothing fails."""
        return self.state in ("to run", "done")


def look_up(task: Task) -> Found:
    """Look for a task's data set on disk. Call it once per run: a fingerprint asks for the state of every file.

    Raises:
        ValueError: its class folders are fewer than two, or differ between the splits; or every image of test or val is
            also in another split.
    """
    dataset = task.dataset
    reason = datasets.absent(dataset)
    if reason is not None:
        return Found(reason=reason)
    datasets.refuse_bad_splits(dataset)
    fingerprint = datasets.fingerprint(dataset)
    return Found(fingerprint, contents_of(task, fingerprint))


@lru_cache
def refusal(kind: str, arch: str) -> str:
    """Why a task of mmsegmentation or mmdetection takes no such network, as its cell would say; empty where it does."""
    if kind not in TOOLBOXES:
        return ""
    from kdep_benchmarks.openmmlab.backbones import backbone_config

    try:
        backbone_config(arch, "mmseg" if kind.startswith("segment") else "mmdet")
    except ValueError as error:
        return str(error)
    return ""


def plan_cell(cell: Cell, found: Found) -> Planned:
    """Decide whether a cell is done, to run, absent, or refused.

    Raises:
        ValueError: it is done, but of another measurement; see `check_same_measurement`.
    """
    if found.reason:
        return Planned(cell, "absent", found.reason)
    cell = replace(cell, data_fingerprint=found.fingerprint, contents=found.contents)
    if not cell.path.exists() or cell.force:
        reason = refusal(cell.task.kind, cell.checkpoint.arch)
        return Planned(cell, "refused" if reason else "to run", reason)
    known = read_result(cell.path)
    check_same_measurement(cell, known)
    return Planned(cell, "done", f"{known.main_metric} {known.score:.2f}")


def checkpoint_card(checkpoint: Checkpoint) -> CheckpointCard:
    """The checkpoint's entry in a result."""
    source = checkpoint.provenance
    kind, teacher = source.get("kind", "other"), source.get("teacher", {}).get("source")
    config = source.get("config", {})
    summary = {
        "role": kind if kind in ("student", "random", "supervised", "teacher") else "other",
        "tap": checkpoint.tap,
        "source": source.get("source"),
        "method": source.get("method"),
        "teacher": " + ".join(teacher) if isinstance(teacher, list) else teacher,
        "pretrain_data": source.get("data", {}).get("source"),
        "pretrain_fingerprint": source.get("data", {}).get("fingerprint"),
        "images_seen": source.get("images_seen"),
        "pretrain_loss": source.get("loss"),
        "pretrain_epochs": config.get("optim", {}).get("epochs"),
        "pretrain_seed": config.get("seed"),
        "pretrain_commit": source.get("commit"),
        "weights_sha256": checkpoint.sha256 if checkpoint.identity != checkpoint.sha256 else None,
    }
    known = {
        key: printable(value) if isinstance(value, str) else value
        for key, value in summary.items()
        if value is not None
    }
    return CheckpointCard(checkpoint.name, checkpoint.identity, checkpoint.arch, parameters(checkpoint.arch), known)


def extracting_first(plan: Iterable[Planned]) -> list[Planned]:
    """Put cells that share features with an earlier cell last: they would only wait for its extraction."""
    seen: set[tuple[Any, ...]] = set()
    first: list[Planned] = []
    later: list[Planned] = []
    for planned in plan:
        features = planned.cell.features
        (later if features in seen else first).append(planned)
        seen |= {features} if features is not None else set()
    return first + later


def likenesses(task: str, kind: str, arch: str, budget: str) -> tuple[tuple[str, ...], ...]:
    """What decides how long a cell takes, best predictor first: task and network, task, kind and network, kind."""
    return ("task", task, budget, arch), ("task", task, budget), ("kind", kind, budget, arch), ("kind", kind, budget)


def add_time(times: Times, result: Result) -> None:
    """Record the seconds of a finished cell."""
    if result.status == "ok" and result.cost.get("seconds") is not None:
        for like in likenesses(result.task.name, result.task.kind, result.checkpoint.arch, result.protocol.budget):
            times.setdefault(like, []).append(result.cost["seconds"])


def measured_times(results: Iterable[Result], *, cpu: bool) -> Times:
    """Seconds of the finished cells that ran on a CPU, or of those that did not."""
    times: Times = {}
    for result in results:
        if str(result.cost.get("device", "")).startswith("cpu") == cpu:
            add_time(times, result)
    return times


def estimate(cell: Cell, times: Times) -> float | None:
    """Median seconds of the finished cells most like it; None where there are none."""
    for like in likenesses(cell.task.name, cell.task.kind, cell.checkpoint.arch, cell.task.budget):
        if like in times:
            return statistics.median(times[like])
    return None


def at_once(seconds: Sequence[float | None], *, jobs: int) -> tuple[float, int]:
    """Seconds until cells of these times are done, `jobs` at a time, and the number of those of unknown time."""
    known = [value for value in seconds if value is not None]
    return max(sum(known) / jobs, max(known, default=0.0)), len(seconds) - len(known)


def describe_plan(plan: Sequence[Planned], times: Times, *, jobs: int) -> str:
    """Cells by state, the time that each may take, and their sum; absent data once per task."""
    count = {state: sum(planned.state == state for planned in plan) for state in STATES}
    lines = [f"{len(plan)} cells: {count['to run']} to run, {count['done']} done, {count['absent']} without data"]
    lines[0] += f", {count['refused']} refused" if count["refused"] else ""
    for planned in plan:
        if planned.state == "done":
            lines.append(f"  done    {planned.title}  {planned.reason}")
        elif planned.state == "to run":
            seconds = estimate(planned.cell, times)
            about = "time unknown" if seconds is None else f"about {duration(seconds)}"
            lines.append(f"  to run  {planned.title}  {about}")
    for task, known in {planned.cell.task.name: planned.cell.contents for planned in plan}.items():
        if known.leaked:
            lines.append(f"  {task}: {known.leaked} test images are also in train or val, byte for byte")
        if known.repeated:
            lines.append(f"  {task}: {known.repeated} test images repeat others, byte for byte")
    absent = {planned.cell.task.name: planned.reason for planned in plan if planned.state == "absent"}
    lines += [f"  absent  {task}: {reason}" for task, reason in absent.items()]
    refused = {planned.title.rpartition("  ")[0]: planned.reason for planned in plan if planned.state == "refused"}
    lines += [f"  refused {cells}: {reason}" for cells, reason in refused.items()]
    todo = [planned.cell for planned in plan if planned.state == "to run"]
    return "\n".join(lines + ([describe_time(todo, times, jobs=jobs)] if todo else []))


def describe_time(todo: Sequence[Cell], times: Times, *, jobs: int) -> str:
    """The time of all cells to run, in one line."""
    seconds, unknown = at_once([estimate(cell, times) for cell in todo], jobs=jobs)
    if unknown == len(todo):
        return "time: unknown, this results folder has no similar cell"
    several = f", {jobs} at once" if jobs > 1 else ""
    rest = f", and {unknown} of unknown time" if unknown else ""
    return f"time: about {duration(seconds)} for {len(todo) - unknown} cells{several}{rest}, by cells measured before"
