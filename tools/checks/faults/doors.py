"""Every kind of file that kdep reads, made in a small world, and what reads it.

A door edits its file and reads it again. It holds if nothing is raised, or a ValueError that names the file.
"""

import itertools
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from kdep.config import as_yaml, load_config
from kdep_benchmarks.answers.metrics import metrics_of
from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.frame import csv_text, results_frame
from kdep_benchmarks.board.merge import merge
from kdep_benchmarks.board.sheets import data_uri
from kdep_benchmarks.data.checks.overlap import Match, Overlap, SetOverlap, read_with_overlap, write_overlap
from kdep_benchmarks.fidelity.columns import measured_columns, naive_columns
from kdep_benchmarks.jobs.plan import measured_times
from kdep_benchmarks.page.leaderboard import leaderboard_frame, terminal_table
from kdep_benchmarks.page.markdown import markdown
from kdep_benchmarks.page.report import write_leaderboard
from kdep_benchmarks.result import CheckpointCard, Protocol, Result, TaskCard
from kdep_benchmarks.results import read_answers, read_result, write_result
from kdep_benchmarks.studies.check import check
from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.studies.rows import AnswerRow, read_known, write_rows
from kdep_benchmarks.tasks.choose import checked
from kdep_benchmarks.tasks.task import load_suite
from kdep_benchmarks.verdicts.compare import differences
from kdep_benchmarks.verdicts.resamples import reader
from tools.checks.faults import changes
from tools.checks.faults.door import Door
from tools.checks.faults.sets import set_doors
from tools.checks.faults.trained import trained_doors

RECIPE = """\
name: tiny
seed: 1
teacher: {source: "random:test_efficientnet", tap: post, precision: float32}
student: {arch: test_resnet}
data: {source: PHOTOS, size: 32, workers: 0}
scale: {name: pts}
optim: {name: adamw, epochs: 2, batch_size: 32, lr: 2e-3}
log: {every: 1, checkpoint_every: 2, trackers: []}
device: cpu
precision: float32
runs: RUNS
"""
SUITE = {
    "tasks": [
        "dtd-knn",
        {
            "name": "zoo-knn",
            "kind": "knn",
            "version": 3,
            "protocol": "fair",
            "dataset": {"name": "zoo", "layout": "imagefolder", "root": "zoo", "files": {"train": "a", "test": "b"}},
            "settings": {"size": 64, "k": [1, 5], "temperature": [0.1]},
        },
    ]
}
STUDY = {
    "name": "small",
    "question": "Which?",
    "pretrain": "RECIPE",
    "set": {"data.limit": 8},
    "arms": {"SVD": {"scale": {"name": "unit"}}, "PTS": {}, "random": "random:test_resnet#{seed}"},
    "axis": {"key": "optim.epochs", "values": [1, 2], "with": {2: {"optim.lr": 0.001}}},
    "baseline": "PTS",
    "pairs": [["SVD", "random"]],
    "claims": [{"arms": ["SVD", "PTS"], "metric": "mean"}],
    "seeds": [0, 1],
    "score": {"suite": "SUITE", "tasks": ["zoo-knn"], "seeds": [0]},
}


def make_doors(root: Path, groups: Collection[str]) -> list[Door]:
    """Make the world below a folder: the groups `results`, `settings`, `sets` and, which is slow, `runs`."""
    recipe = root / "tiny.yaml"
    recipe.write_text(RECIPE.replace("PHOTOS", str(root / "photos")).replace("RUNS", str(root / "runs")))
    made = {
        "results": lambda: results_doors(root / "results", root / "merged"),
        "settings": lambda: settings_doors(recipe, root),
        "sets": lambda: set_doors(root / "sets"),
        "runs": lambda: trained_doors(recipe, root),
    }
    return [door for group in groups for door in made[group]()]


def results_doors(folder: Path, merged: Path) -> list[Door]:
    """Results, their answers, and files of overlap."""
    truth = np.arange(40) % 4
    for number, (name, role) in enumerate((("random:resnet18", "random"), ("student", "student"), ("t", "supervised"))):
        for seed in (0, 1):
            for task in ("zoo-linear", "zoo-finetune"):
                answers = class_answers((truth + (np.arange(40) < 20 - 9 * number + seed)) % 4, truth)
                result = _result(
                    name, role, task, seed, {key: float(value[0]) for key, value in metrics_of(answers).items()}
                )
                path = write_result(result, folder, answers=answers)
    failure = {"status": "failed", "metrics": {}, "chosen": {}, "curves": {}, "error": {"exit_code": 1, "log": "a\nb"}}
    failed = write_result(replace(_result("student", "student", "zoo-linear", 7, {"top1": 0.0}), **failure), folder)
    overlap = folder / "overlap" / "one.json"
    sets = (SetOverlap("zoo", "d" * 64, 40, (Match("a.jpg", "b.jpg", "bytes"), Match("c.jpg", "d.jpg", "look"))),)
    write_overlap(Overlap("photos", "f" * 64, 16, 0, sets, {"gone": "absent"}, ("student",)), overlap)
    first = sorted(folder.rglob("seed0.json"))[0]
    npz = next(first.parent.glob("seed0.answers-*.npz"))
    sheet = folder / "seed0.sheet.png"
    Image.new("RGB", (60, 20)).save(sheet)

    pages = itertools.cycle([True, *[False] * 7])

    def board(file: Path) -> Callable[[], object]:
        def use() -> None:
            found = read_with_overlap([folder])
            if found.damaged:
                if not all(file.name in reason for reason in found.damaged):
                    raise AssertionError(f"not named: {found.damaged}")
                return  # left out: the board of the others was built before
            measured_times(found.results, cpu=True)
            if next(pages):  # the page with its plots takes most of the time
                write_leaderboard(lambda: found, merged.with_name("board"), folders=[folder])
            every = boards(found.results)
            naive_columns(found.results, measured_columns(found.results))
            text = terminal_table(every) + markdown(every) + csv_text(leaderboard_frame(every))
            if not (text + csv_text(results_frame(found.results))).replace("\n", "").isprintable():
                raise AssertionError("the terminal gets what is not printable")
            merge([folder], merged)
            shutil.rmtree(merged)
            differences(found.results, "student", "random:resnet18", read=reader(folder))

        return use

    return [
        Door("result", first, changes.edit_json, board(first)),
        Door("failed result", failed, changes.edit_json, board(failed)),
        Door("result of a training", path, changes.edit_json, board(path)),
        Door("sheet", sheet, changes.edit_bytes, lambda: data_uri(sheet)),
        Door("answers", npz, changes.edit_npz, lambda: metrics_of(read_answers(read_result(first), folder))),
        Door("overlap", overlap, changes.edit_json, board(overlap)),
    ]


def _result(name: str, role: str, task: str, seed: int, metrics: dict[str, float]) -> Result:
    summary = {"role": role, "images_seen": 32, "pretrain_data": "photos", "source": name, "pretrain_epochs": 2}
    card = CheckpointCard(name, name.encode().hex().ljust(64, "0")[:64], "resnet18", 11_000_000, summary)
    curves = {"post": {"lambda": [1e-3, 1e-2], "val_top1": [50.0, 60.0], "val_loss": [1.0, 0.9]}}
    return Result(
        checkpoint=card,
        task=TaskCard(task, task.partition("-")[2], "classification", "zoo"),
        protocol=Protocol("fair", 2),
        data_fingerprint="d" * 64,
        seed=seed,
        status="ok",
        started="2026-01-02T03:04:05+00:00",
        settings={"size": 64, "path": [1e-3, 1e-2]},
        metrics=metrics,
        counts={"train": 20, "val": 5, "test": 40},
        chosen={"tap": "post", "lambda": 0.01, "lambda_at_edge": True, "floor": 25.0},
        curves=curves,
        load={"tensors": 62, "expected": 62, "coverage": 100.0},
        cost={"seconds": 3.5, "peak_memory_mb": 300, "device": "cpu x1", "gmacs": 1.8, "images_per_second": 50.0},
        versions={"torch": "2.13.0", "kdep": "0.1.0"},
        commit="abc",
    )


def settings_doors(recipe: Path, root: Path) -> list[Door]:
    """Files that people write: recipes, suites, studies; and the table of a study."""
    suite, study, table = root / "suite.yaml", root / "study.yaml", root / "known.csv"
    suite.write_text(yaml.safe_dump(SUITE, sort_keys=False))
    text = yaml.safe_dump(STUDY, sort_keys=False).replace("RECIPE", str(recipe)).replace("SUITE", str(suite))
    study.write_text(text)
    own = load_study(study)

    def suites() -> None:
        for task in load_suite(str(suite), root / "data"):
            checked(task, str(suite))

    def studies() -> None:
        read = load_study(study)
        if len(read.runs) < 100:  # an edit may ask for thousands, which takes as many times longer
            check(read, root / "runs of studies")

    row: AnswerRow = {
        "arm": "PTS",
        "value": 1,
        "seed": 0,
        "task": "zoo-knn",
        "metric": "top1",
        "score": 50.0,
        "val": 40.0,
    }
    from kdep_benchmarks.studies.rows import fingerprint, measured_by

    planned = next(run for run in own.runs if run.arm == "PTS" and run.seed == 0 and run.value == 1)
    row |= {"images_seen": 16, "pretrain_seconds": 1.0, "checkpoint": "ab12cd34", "data": "d" * 8}
    row |= {"run": fingerprint(own, planned), **measured_by(own)["zoo-knn"]}
    write_rows([row], table)
    return [
        Door("recipe", recipe, changes.edit_yaml, lambda: as_yaml(load_config(recipe))),
        Door("suite", suite, changes.edit_yaml, suites),
        Door("study", study, changes.edit_yaml, studies),
        Door("study's table", table, changes.edit_bytes, lambda: read_known([table], own)),
    ]
