"""Plan a study: which runs are done, to score or to train, and how long the rest takes by finished runs."""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdep_benchmarks.durations import duration
from kdep_benchmarks.result import Result
from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.studies.rows import AnswerRow, cost, row_of, student_here

if TYPE_CHECKING:
    from kdep.config import Config

DONE, TO_SCORE, TO_TRAIN = "done", "to score", "to train"
STARTED = re.compile(r"^OMP_NUM_THREADS=(\d+) kdep ", re.MULTILINE)  # as `studies.work.run_verb` writes

# Seconds per image of finished runs, images of an epoch, and seconds of finished scores, by what they have in common.
Times = dict[tuple[Any, ...], list[float]]


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


def learn(study: Study, runs: Path, rows: Sequence[AnswerRow], results: Iterable[Result]) -> Times:
    """Times of the finished runs below `runs`, of published rows, and of finished scores."""
    from kdep.config import parse_config

    times: Times = {}
    planned = {run.name: run for run in study.runs}
    for student in sorted(runs.glob("*/student.pth")):
        folder = student.parent
        try:
            config = parse_config(_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
        except (ValueError, OSError):  # no readable config.yaml: nothing to learn from
            continue
        spent = cost(folder)
        arm = planned[folder.name].arm if folder.name in planned else None
        _add_run(times, config, arm, threads_of(folder.with_name(f"{folder.name}.log")), spent)
    own = {run.key: run for run in study.runs}
    for row in {(row["arm"], row["value"], row["seed"]): row for row in rows}.values():
        run = own[row["arm"], "" if row["value"] is None else str(row["value"]), str(row["seed"])]
        if run.checkpoint is None and not (runs / run.name).exists():
            _add_run(times, study.config(run), run.arm, None, row)
    for result in results:
        if result.status == "ok" and result.cost.get("seconds") is not None:
            times.setdefault(("score", result.task.name, result.protocol.budget), []).append(result.cost["seconds"])
    return times


def _yaml(path: Path) -> dict[str, Any]:
    from kdep.yaml_file import read_mapping

    return read_mapping(path, "configuration", "the keys of a recipe")


def _add_run(times: Times, config: "Config", arm: str | None, threads: int | None, spent: dict[str, Any]) -> None:
    if spent["images_seen"] and spent["pretrain_seconds"]:
        for like in likenesses(config, arm, threads):
            times.setdefault(like, []).append(spent["pretrain_seconds"] / spent["images_seen"])
        if config.optim.epochs is not None:
            per_epoch = spent["images_seen"] / config.optim.epochs
            times.setdefault(("images", config.data.source, config.data.limit), []).append(per_epoch)


def likenesses(config: "Config", arm: str | None, threads: int | None) -> list[tuple[Any, ...]]:
    """What decides how long an image takes, best predictor first: the arm, then network, image size and teacher.

    Each comes first with the number of threads and then without it, since runs on fewer cores are slower.
    """
    teaching = "labels" if config.loss.name == "labels" else "bank" if config.bank else str(config.teacher.source)
    kind = ("kind", config.student.arch, config.data.size, teaching, config.precision)
    ways: list[tuple[Any, ...]] = [*([("arm", arm, config.data.size)] if arm else []), kind]
    return [*((*way, threads) for way in ways if threads), *ways]


def threads_of(log: Path) -> int | None:
    """Threads with which the study last started a run; None where its log does not say."""
    found = STARTED.findall(log.read_text(errors="replace")) if log.is_file() else []
    return int(found[-1]) if found else None


def estimate(study: Study, item: Item, times: Times, *, threads: int) -> tuple[float, int]:
    """Seconds that a run still needs, and the number of its parts whose time is unknown."""
    seconds, unknown = 0.0, 0
    if item.state == TO_TRAIN:
        config = study.config(item.run)
        images = images_of(config, times)
        likes = [times[like] for like in likenesses(config, item.run.arm, threads) if like in times]
        if images is None or not likes:
            unknown += 1
        else:
            seconds += images * statistics.median(likes[0])
    for task in item.cells:
        found = times.get(("score", task, study.score.budget))
        if found:
            seconds += statistics.median(found) * len(study.score_seeds)
        else:
            unknown += 1
    return seconds, unknown


def images_of(config: "Config", times: Times) -> float | None:
    """Images that a run will see, in full batches; None where the size of its source is unknown."""
    limit, batch = config.data.limit, config.optim.batch_size
    if config.optim.steps is not None:
        return config.optim.steps * batch
    if limit is not None:
        return limit // batch * batch * config.optim.epochs
    known = times.get(("images", config.data.source, None))
    return statistics.median(known) * config.optim.epochs if known else None


def describe(study: Study, plan: list[Item], times: Times, *, jobs: int, threads: int, banks: Sequence[Path]) -> str:
    """Describe the plan: counts, banks, every run with its time, and the time left."""
    own = [item for item in plan if item.run.checkpoint is None]
    count = {state: sum(item.state == state for item in own) for state in (DONE, TO_SCORE, TO_TRAIN)}
    counts = f"{count[DONE]} done, {count[TO_SCORE]} to score, {count[TO_TRAIN]} to train"
    lines = [study.question, f"{len(own)} runs: {counts}; {len(study.arms)} arms, seeds {study.seeds}"]
    lines += [f"  bank to make or complete  {bank}" for bank in banks]
    known, unknown, longest = 0.0, 0, 0.0
    plan = list({item.run.name: item for item in plan}.values())  # a checkpoint stands there for every seed
    for item in plan:
        seconds, without = estimate(study, item, times, threads=threads)
        known, unknown, longest = known + seconds, unknown + without, max(longest, seconds)
        about = "" if item.state == DONE else f"about {duration(seconds)}" if not without else "time unknown"
        lines.append(f"  {item.state:8s}  {item.run.name}  {about}  {' '.join(item.run.overrides[1:])}".rstrip())
    left = [item for item in plan if item.state != DONE]
    if left:
        lines.append(_time_left(max(known / jobs, longest), unknown, left, jobs, banks))
    return "\n".join(lines)


def _time_left(seconds: float, unknown: int, left: list[Item], jobs: int, banks: Sequence[Path]) -> str:
    parts = sum(item.state == TO_TRAIN for item in left) + sum(len(item.cells) for item in left)
    if unknown == parts:
        return "time: unknown, no run or score like these is done here"
    besides = [f"{unknown} parts of unknown time"] if unknown else []
    besides += [f"{len(banks)} bank{'s' * (len(banks) > 1)} of targets"] if banks else []
    rest = f", and besides {' and '.join(besides)}" if besides else ""
    at_once = f", {jobs} at once" if jobs > 1 else ""
    return f"time: about {duration(seconds)} for {parts - unknown} runs and scores{at_once}, by those done{rest}"
