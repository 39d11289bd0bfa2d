"""The rows of a study's answer: a score of a run on a task, from results or from rows that were published before.

A row carries the fingerprint of its run's configuration, so that rows of an unfinished study can be taken up elsewhere
and rows of another study cannot.
"""

import contextlib
import csv
import functools
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdep_benchmarks.result import Result
from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.verdicts.intervals import mean
from kdep_benchmarks.verdicts.ways import Way, way_of

if TYPE_CHECKING:
    from kdep.config import Config
    from kdep_benchmarks.tasks.task import Task

COLUMNS = (
    *("arm", "value", "seed", "task", "metric", "score", "val", "images_seen", "pretrain_seconds"),
    *("checkpoint", "protocol", "settings", "data", "run"),
)
NUMBERS = ("score", "val", "images_seen", "pretrain_seconds")
AnswerRow = dict[str, Any]

logger = logging.getLogger("kdep")


def collect(study: Study, runs: Path, results: Iterable[Result], known: Sequence[AnswerRow] = ()) -> list[AnswerRow]:
    """A row per run and task whose seeds have all been scored; the mean over these seeds.

    Rows of a run are of one student: the one here, or one of the published rows where that has more scores.

    Raises:
        ValueError: scores of one task on different data, or of different batches or precisions.
    """
    finished, rows = [result for result in results if result.status == "ok"], []
    tasks = {task.name: task for task in load_tasks(study)}
    ways: list[Way] = []
    for planned in study.runs:
        own = own_rows(study, planned, runs, finished, tasks)
        published = [row for row in known if row_of(row, planned)]
        counted = one_student(study, [row for row, _ in own], published)
        ways += [way for row, way in own if any(row is other for other in counted)]
        rows += counted
    for task in study.tasks:
        data = sorted({row["data"] for row in rows if row["task"] == task})
        if len(data) > 1:
            raise ValueError(
                f"{task}: scored on different data ({', '.join(data)}), and such scores are not comparable; score all "
                "students on the same data, in another --results folder"
            )
        refuse_several([way for way in ways if way.task == task])
    return rows


def refuse_several(ways: Sequence[Way]) -> None:
    """Raise a ValueError where scores of one task, by its present settings on the same data, differ in how they ran."""
    several = sorted(set(ways), key=str)
    if len(several) < 2:
        return
    said = "; ".join(way.variant or "the full batch in float32" for way in several)
    raise ValueError(
        f"{several[0].task}: scored in several ways ({said}), and such scores are not comparable; score all students "
        "alike, in another --results folder"
    )


def one_student(study: Study, own: list[AnswerRow], published: list[AnswerRow]) -> list[AnswerRow]:
    """A run's rows from both, of the weights with the most scores; of equals the first, and its own before others."""
    by_weights: dict[str, dict[str, AnswerRow]] = {}
    for row in (*own, *published):
        by_weights.setdefault(row["checkpoint"], {}).setdefault(row["task"], row)
    by_task = max(by_weights.values(), key=len, default={})
    return [by_task[task] for task in study.tasks if task in by_task]


def own_rows(
    study: Study, planned: Run, runs: Path, finished: list[Result], tasks: "dict[str, Task]"
) -> list[tuple[AnswerRow, Way]]:
    """Rows of the student here, or of a checkpoint, on the tasks as they now are, and how each was measured."""
    sha256 = student_here(study, planned, runs)
    if sha256 is None and is_file(planned):
        return []
    scored = [result for result in finished if belongs(result, planned, sha256)]
    if sha256 is None and scored:  # published weights may change; the latest count
        sha256 = max(scored, key=lambda result: result.started).checkpoint.sha256
    scored = [result for result in scored if result.checkpoint.sha256 == sha256]
    rows, spent, seeds = [], cost(runs / planned.name), study.score_seeds(planned)
    for task in study.tasks:
        own = {result.seed: result for result in of_task(scored, tasks[task])}
        if set(seeds) <= set(own):
            cells = [own[seed] for seed in seeds]
            row = {
                **planned.place,
                "task": task,
                "metric": cells[0].main_metric,
                "score": round(mean([cell.score for cell in cells]), 4),
                "val": on_val(cells),
                **spent,
                "checkpoint": sha256[:8],
                "protocol": str(cells[0].protocol),
                "settings": settings_of(tasks[task]),
                "data": _agreed(cells, task),
                "run": fingerprint(study, planned),
            }
            refuse_several([way_of(cell) for cell in cells])
            rows.append((row, way_of(cells[0])))
    return rows


def of_task(results: Iterable[Result], task: "Task") -> list[Result]:
    """The scores of a task as it is now, by its kind, protocol and settings."""
    from kdep_benchmarks.jobs.cell import protocol_of

    now = (task.name, task.kind, protocol_of(task), task.plain_settings)
    return [r for r in results if (r.task.name, r.task.kind, r.protocol, r.settings) == now]


def on_val(cells: list[Result]) -> float | None:
    """What the cells' choice of hyper-parameters saw: mean score on the val split; None where nothing was chosen.

    An arm that is chosen by it can be held against another by `score`, whose images the choice has not seen. A few-shot
    probe has chosen in every draw, so its number is their mean; every other kind has chosen the highest of its curve.
    """
    best = []
    for cell in cells:
        curve = cell.curve.get("val_top1") or []
        known = [value for value in curve if value is not None]
        if not known:
            return None
        best.append(mean(known) if cell.task.kind == "fewshot" else max(known))
    return round(mean(best), 4)


def row_of(row: AnswerRow, planned: Run) -> bool:
    """Is this a row of this run?"""
    return all(row[column] == value for column, value in planned.place.items())


def _agreed(cells: list[Result], task: str) -> str:
    data = {cell.data_fingerprint[:8] for cell in cells}
    if len(data) > 1:
        raise ValueError(f"{task}: its seeds were scored on different data ({', '.join(sorted(data))})")
    return data.pop()


def belongs(result: Result, planned: Run, sha256: str | None) -> bool:
    """Is this a score of this student, or of this checkpoint?

    A file is known by its weights; what has a name, such as `timm:resnet18`, by that.
    """
    card = result.checkpoint
    if is_file(planned):
        return card.sha256 == sha256
    return card.is_from(str(planned.checkpoint)) or card.name == planned.checkpoint


def is_file(planned: Run) -> bool:
    """Are its weights in a file, that of its own run or that of a checkpoint?"""
    from kdep.models.weights import SOURCES

    return planned.checkpoint is None or planned.checkpoint.partition(":")[0] not in SOURCES


def settings_of(task: "Task") -> str:
    """A digest of a task's kind and settings; of a config of the user's own the content counts, not its place."""
    own = {name: value for name, value in task.plain_settings.items() if name != "config" or not task.config_sha256}
    return hashlib.sha256(json.dumps([task.kind, own], sort_keys=True).encode()).hexdigest()[:8]


def measured_by(study: Study) -> dict[str, dict[str, str]]:
    """Task -> the columns that say how it is scored now."""
    from kdep_benchmarks.jobs.cell import protocol_of

    tasks = load_tasks(study)
    return {task.name: {"protocol": str(protocol_of(task)), "settings": settings_of(task)} for task in tasks}


def load_tasks(study: Study) -> "list[Task]":
    """The tasks of a study; the data of a suite need not be there.

    Raises:
        ValueError: no such suite, task or folder of images, or the protocol has no recipe for it.
    """
    from kdep_benchmarks.tasks.choose import choose_tasks, folder_tasks

    score = study.score
    with study.naming("score"):
        if score.data is not None:
            kinds = list(study.kinds.values())
            return folder_tasks(Path(score.data), kinds, budget=score.budget, size=score.size)[0]
        own = {"protocol": score.protocol, "budget": score.budget}
        return choose_tasks(score.suite, study.tasks, study.data_root.resolve(), **own)


def fingerprint(study: Study, planned: Run) -> str:
    """What a run is and how often it is scored, in 12 hex digits; its name and where its bank lies do not count."""
    if planned.checkpoint is not None:
        return _digest({"checkpoint": planned.checkpoint}, study.score_seeds(planned))
    return _digest(identity(study.config(planned)), study.score_seeds(planned))


def identity(config: "Config") -> dict[str, Any]:
    """What decides a run's result. Defaults are left out: a key that a later version adds makes no other run."""
    from kdep.config import NEUTRAL, flatten

    content = flatten(config.model_dump(mode="json", exclude_defaults=True))
    content = {key: value for key, value in content.items() if key not in (*NEUTRAL, "name")}
    if config.bank is not None and not any(key.startswith("bank.") for key in content):
        content["bank"] = True  # one whose options are all defaults is still no live teacher
    return content


def _digest(content: dict[str, Any], seeds: list[int]) -> str:
    text = json.dumps([content, seeds], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=4096)
def student_card(path: Path, changed: int) -> tuple[str, dict[str, Any]]:
    """Identity of a student, and the configuration it was trained with; `changed` is the file's time."""
    from kdep.files import read
    from kdep.models.checkpoints.checkpoint import parse_student

    student = parse_student(read(path), str(path))
    return student.identity, student.provenance.get("config", {})


def student_here(study: Study, planned: Run, runs: Path) -> str | None:
    """Fingerprint of a run's student, or of a checkpoint's file; None where there is none, or it is no file.

    A file that does not open is none: `kdep pretrain` makes a student again, and `why_missing` says what is wrong with
    a checkpoint.
    """
    from kdep.models.weights import file_of

    spec = planned.student(runs)
    path = file_of(spec)
    if not is_file(planned) or not path.exists():
        return None
    changed = path.stat().st_mtime_ns
    if planned.checkpoint is not None:
        with contextlib.suppress(ValueError, OSError):
            return identity_of(spec, study.score.arch, changed)
    else:
        with contextlib.suppress(ValueError):
            return student_card(path, changed)[0]
    return None


def why_missing(study: Study, planned: Run) -> str | None:
    """Why the file of a checkpoint does not open; None where it is not there."""
    from kdep.models.weights import file_of

    spec = planned.student(Path())
    try:
        identity_of(spec, study.score.arch, file_of(spec).stat().st_mtime_ns)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        return str(error)
    return None


@functools.lru_cache(maxsize=4096)
def identity_of(spec: str, arch: str | None, changed: int) -> str:
    """Identity of the checkpoint in a file, as its scores have it; `changed` is the file's time."""
    from kdep.models.weights import open_checkpoint

    return open_checkpoint(spec, arch=arch).identity


def cost(folder: Path) -> dict[str, Any]:
    """Images seen and seconds of a run, from its log."""
    from kdep.run.log import read_log

    images, seconds = 0, 0.0
    for record in read_log(folder / "log.jsonl"):
        seconds += (record["images"] - images) / record["images_per_second"]
        images = record["images"]
    return {"images_seen": images, "pretrain_seconds": round(seconds, 1)}


def refuse_to_replace(path: Path, study: Study) -> None:
    """Raise a ValueError where an answer is there that is of another study, or of this one before it was changed."""
    if path.exists():
        advice = f"This answer would replace it: move {path.stem}.csv, .md and .png away, or name another --out"
        read_known([path], study, advice, entire=True)


def read_known(
    paths: Iterable[Path],
    study: Study,
    advice: str = "Leave the file out, or go back to the study that it is of",
    *,
    entire: bool = False,
) -> list[AnswerRow]:
    """Rows of earlier answers, of this study or of one that has runs in common; warns of rows of several students.

    Args:
        paths: CSV files of answers.
        study: whose rows they are.
        advice: what a user can do about rows of another study.
        entire: refuse rows that have no place in this study, instead of leaving them out.

    Raises:
        ValueError: a file is no such answer, or one of another study, or says another thing of a score that an earlier
            one has; names the line.
    """
    places = {planned.key: planned for planned in study.runs}
    measured = measured_by(study)
    prints: dict[tuple[str, str, str], str] = {}
    rows: dict[tuple[Any, ...], AnswerRow] = {}
    for path in paths:
        table = dict(enumerate(_read_table(path, advice), 2))
        own = {line: text for line, text in table.items() if _key(text) in places and text["task"] in measured}
        others = {line: text for line, text in table.items() if line not in own}
        if others and (entire or not own):
            line, text = next(iter(others.items()))
            what = f"{' '.join(filter(None, _key(text)))} on {text['task']}"
            raise ValueError(f"{path}, line {line}: {what} is not in {study.name}. {advice}")
        if others:
            arms = ", ".join(dict.fromkeys(text["arm"] for text in others.values()))
            logger.info("%s: left out %d rows that %s has no place for (%s)", path, len(others), study.name, arms)
        for line, text in own.items():
            key, where = _key(text), f"{path}, line {line}"
            prints.setdefault(key, fingerprint(study, places[key]))
            for what, now in {"run": prints[key], **measured[text["task"]]}.items():
                if text[what] != now:
                    raise ValueError(
                        f"{where}: {what} {text[what]}, in this study {now}: a row of another study, or of this one "
                        f"before it was changed. {advice}"
                    )
            _check_weights(study, places[key], text["checkpoint"], where, advice)
            row = {column: text[column] for column in COLUMNS} | places[key].place
            row |= {column: _number(text[column], column, where) for column in NUMBERS}
            earlier = rows.setdefault((*key, text["task"]), row)
            if earlier["score"] != row["score"]:
                raise ValueError(f"{where}: another file says {earlier['score']} of the same score; keep one of them")
            if earlier["checkpoint"] != row["checkpoint"]:
                both = f"student {row['checkpoint']}, in another file {earlier['checkpoint']}"
                raise ValueError(f"{where}: {both}; keep one of them")
    _warn_of_mixed(study, list(rows.values()))
    return list(rows.values())


def _key(text: Mapping[str, str]) -> tuple[str, str, str]:
    """Arm, value and seed of a row as it is in the file."""
    return text["arm"], text["value"], text["seed"]


def _check_weights(study: Study, planned: Run, known: str, where: str, advice: str) -> None:
    """Raise a ValueError where the file of an arm that is not trained holds other weights than the row is of."""
    now = student_here(study, planned, Path()) if planned.checkpoint is not None else None
    if now is not None and now[:8] != known:
        raise ValueError(f"{where}: a row of weights {known}, and {planned.checkpoint} now holds {now[:8]}. {advice}")


def _warn_of_mixed(study: Study, known: Sequence[AnswerRow]) -> None:
    """Name the runs that have rows of several students, of which `one_student` takes one."""
    weights = {run: {row["checkpoint"] for row in known if row_of(row, run)} for run in study.runs}
    if mixed := [f"{run.name} ({', '.join(sorted(own))})" for run, own in weights.items() if len(own) > 1]:
        logger.warning(
            "known rows of several students: %s; only those of the student with the most scores count", ", ".join(mixed)
        )


def _read_table(path: Path, advice: str) -> list[dict[str, str]]:
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; expected the CSV of a study's answer")
    try:
        return _rows_of(Path(path), advice)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not the CSV of a study's answer ({error}); leave it out") from error


def _rows_of(path: Path, advice: str) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, restval="")
        lacking = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
        if lacking:
            raise ValueError(
                f"{path}: no column {', '.join(lacking)}; not a study's answer, or one of an earlier version of kdep, "
                f"whose rows cannot be told from another study's. {advice}"
            )
        return list(reader)


def _number(text: str, column: str, where: str) -> float | None:
    if column == "val" and not text:
        return None
    try:
        number = float(text) if column != "images_seen" else int(text)
    except ValueError as error:
        raise ValueError(f"{where}: {column} is {text!r}, not a number") from error
    if not math.isfinite(number):
        raise ValueError(f"{where}: {column} is {text!r}, expected a finite number")
    return number


def write_rows(rows: Sequence[AnswerRow], path: Path) -> None:
    """Write a CSV in one go."""
    from kdep.files import write_atomically

    def into(part: Path) -> None:
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, into)
