"""What a suite would do before it does anything: cells by state, time from cells measured before, disk."""

import shutil
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdep.models.checkpoint import Checkpoint
from kdep.models.outline import outline, parameters
from kdep_benchmarks.data import cards as datasets
from kdep_benchmarks.durations import duration
from kdep_benchmarks.jobs.cell import Cell, data_stamp, protocol_of
from kdep_benchmarks.results import CellKey, Result, read_result

PROBES = ("knn", "linear", "fewshot")
TAPS = 2  # features before and after the last activation
STATES = ("to run", "done", "absent")

# Seconds of finished cells, by what they have in common; see `likenesses`.
Times = dict[tuple[str, ...], list[float]]


@dataclass(frozen=True)
class Found:
    """A data set as it lies on disk: its fingerprint and stamp, or why it is absent."""

    fingerprint: str | None
    stamp: str | None
    reason: str = ""


@dataclass(frozen=True)
class Planned:
    """A cell and what is known of it before it runs: done, to run, or absent (with the reason).

    `row` is the name of its row on the board, where that is not the checkpoint's.
    """

    cell: Cell
    checkpoint: Checkpoint
    key: CellKey | None
    state: str
    reason: str = ""
    row: str = ""

    @property
    def title(self) -> str:
        """How the cell is called on the terminal."""
        return f"{self.row or self.checkpoint.name}  {self.cell.task.name}  seed {self.cell.seed}"

    @property
    def path(self) -> Path:
        """The file of its result."""
        return self.key.path(self.cell.results)

    @property
    def features(self) -> str | None:
        """What cells that read the same features have in common; None where none are extracted."""
        task, settings = self.cell.task, self.cell.task.settings
        if task.kind not in PROBES:
            return None
        size = settings.get("size", 224)
        parts = (self.checkpoint.name, self.checkpoint.identity[:8], self.key.data_fingerprint[:16])
        return "-".join(map(str, (*parts, size, settings.get("resize") or size))).replace("/", "-")


def look_up(dataset: datasets.Dataset) -> Found:
    """Look at a data set on disk; once per suite, since a fingerprint reads every file's size.

    Raises:
        ValueError: its class folders, where it has such, are one only, or not the same in all splits.
    """
    reason = datasets.absent(dataset)
    if reason is not None:
        return Found(None, None, reason)
    datasets.refuse_bad_splits(dataset)
    stamp = data_stamp(dataset)  # first: what changes while the fingerprint is taken must not go unseen
    return Found(datasets.fingerprint(dataset), stamp)


def plan_cell(cell: Cell, checkpoint: Checkpoint, reason: str) -> Planned:
    """Look up whether a cell can run and whether it is done.

    Raises:
        ValueError: it is done, on other data or by other settings under the same name.
    """
    if cell.data_fingerprint is None:
        return Planned(cell, checkpoint, None, "absent", reason)
    key = CellKey(checkpoint.identity, cell.task.name, str(protocol_of(cell.task)), cell.data_fingerprint, cell.seed)
    path = key.path(cell.results)
    if path.exists() and not cell.force:
        known = read_result(path)
        if known.data_fingerprint != cell.data_fingerprint:
            raise ValueError(
                f"{path}: measured on other data than now lies in {cell.task.dataset.root}; "
                "take another --results folder"
            )
        if known.checkpoint.arch != checkpoint.arch:
            raise ValueError(f"{path}: these weights were measured as {known.checkpoint.arch}, not {checkpoint.arch}")
        _check_settings(path, known.settings, cell.task.plain_settings)
        return Planned(cell, checkpoint, key, "done", f"{known.main_metric} {known.score:.2f}")
    return Planned(cell, checkpoint, key, "to run")


def _check_settings(path: Path, known: dict[str, Any] | None, now: dict[str, Any]) -> None:
    if known is None or known == now:
        return
    name = min(name for name in known.keys() | now.keys() if known.get(name) != now.get(name))
    raise ValueError(
        f"{path}: measured with other settings than the task has now ({name}: {known.get(name)}, now {now.get(name)}); "
        "give the task another name or version, take another --results folder, or measure all anew with --force"
    )


def likenesses(task: str, kind: str, arch: str, budget: str) -> tuple[tuple[str, ...], ...]:
    """What decides how long a cell takes, the most telling first: task and network, task, kind and network, kind."""
    return ("task", task, budget, arch), ("task", task, budget), ("kind", kind, budget, arch), ("kind", kind, budget)


def add_time(times: Times, result: Result) -> None:
    """Learn from a finished cell."""
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


def estimate(planned: Planned, times: Times) -> float | None:
    """Median seconds of the cells most like it; None where there are none."""
    task = planned.cell.task
    for like in likenesses(task.name, task.kind, planned.checkpoint.arch, task.budget):
        if like in times:
            return statistics.median(times[like])
    return None


def remaining(plan: Iterable[Planned], times: Times, *, jobs: int) -> tuple[float, int]:
    """Seconds for the cells whose time is known, so many at once, and the number of those whose time is not."""
    return at_once([estimate(planned, times) for planned in plan], jobs=jobs)


def at_once(seconds: Sequence[float | None], *, jobs: int) -> tuple[float, int]:
    """Seconds until all are done, so many at a time, of those that are known; and the number of those that are not."""
    known = [value for value in seconds if value is not None]
    return max(sum(known) / jobs, max(known, default=0.0)), len(seconds) - len(known)


def describe_plan(plan: list[Planned], times: Times, *, jobs: int, results: Path) -> str:
    """Cells by state with the time each may take, absent data once per task, then the sums and the disk."""
    count = {state: sum(planned.state == state for planned in plan) for state in STATES}
    lines = [f"{len(plan)} cells: {count['to run']} to run, {count['done']} done, {count['absent']} without data"]
    for planned in plan:
        if planned.state == "done":
            lines.append(f"  done    {planned.title}  {planned.reason}")
        elif planned.state == "to run":
            seconds = estimate(planned, times)
            lines.append(f"  to run  {planned.title}  {'time unknown' if seconds is None else _about(seconds)}")
    absent = {planned.cell.task.name: planned.reason for planned in plan if planned.state == "absent"}
    lines += [f"  absent  {task}: {reason}" for task, reason in absent.items()]
    todo = [planned for planned in plan if planned.state == "to run"]
    if todo:
        lines += [_describe_time(todo, times, jobs), _describe_disk(plan, jobs, results)]
    return "\n".join(lines)


def _describe_time(todo: list[Planned], times: Times, jobs: int) -> str:
    seconds, unknown = remaining(todo, times, jobs=jobs)
    if unknown == len(todo):
        return "time: unknown, nothing like it has been measured in this folder"
    at_once = f", {jobs} at once" if jobs > 1 else ""
    rest = f", and {unknown} of unknown time" if unknown else ""
    return f"time: {_about(seconds)} for {len(todo) - unknown} cells{at_once}{rest}, by the cells measured here"


def _describe_disk(plan: list[Planned], jobs: int, results: Path) -> str:
    features, unknown = feature_bytes(plan)
    training = training_bytes(plan, jobs)
    folder = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    rest = f" and those of {', '.join(unknown)}, whose size is not known" if unknown else ""
    needed = f"disk: about {_size(features)} of features{rest}, {_size(training)} while training; {_size(free)} free"
    return needed + (" - NOT ENOUGH" if features + training > free else "")


def feature_bytes(plan: list[Planned]) -> tuple[int, list[str]]:
    """Bytes of the features that are not there yet, and the names of data sets whose images were not counted."""
    done = {planned.features for planned in plan if planned.state == "done"}
    todo = {planned.features: planned for planned in plan if planned.state == "to run" and planned.features}
    total, unknown = 0, set()
    for features, planned in todo.items():
        images = count_images(planned.cell.task.dataset)
        if images is None:
            unknown.add(planned.cell.task.dataset.name)
        elif features not in done:
            total += images * outline(planned.checkpoint.arch).num_features * TAPS * 4
    return total, sorted(unknown)


def count_images(dataset: datasets.Dataset) -> int | None:
    """Images of a classification set: files of its folders, or as published; None where neither tells."""
    if dataset.layout == "imagefolder":
        return sum(path.is_file() for folder in set(datasets.paths(dataset)) for path in folder.rglob("*"))
    card = datasets.CARDS.get(dataset.name)
    return sum(card.images.values()) if card is not None and card.images else None


def training_bytes(plan: list[Planned], jobs: int) -> int:
    """Bytes of the training checkpoints that lie there at a time: weights and momentum, the new one beside the old.

    Heads are taken to be as large as the backbone.
    """
    dense = [p for p in plan if p.state == "to run" and p.cell.task.kind in ("segment", "detect")]
    largest = max((parameters(planned.checkpoint.arch) for planned in dense), default=0)
    return min(jobs, len(dense)) * largest * 2 * 2 * 2 * 4


def _about(seconds: float) -> str:
    return f"about {duration(seconds)}"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
