"""Every kind of file that kdep reads, made in a small world, and what reads it.

A door edits its file and reads it again. It holds if nothing is raised, or a ValueError that names the file.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from kdep.bank.prepare import build
from kdep.bank.read import Bank
from kdep.config import Config, as_yaml, load_config
from kdep.data.cache import open_cache
from kdep.data.order import once
from kdep.data.training import open_views
from kdep.data.views import load
from kdep.export.write import write_export
from kdep.method.target import make_target
from kdep.models.backbone import build_backbone
from kdep.models.student import open_student
from kdep.models.weights import open_checkpoint
from kdep.pretrain import prepare, pretrain
from kdep.run.folder import RunFolder
from kdep.run.resume import resume
from kdep_benchmarks.answers.metrics import measure
from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.board.compare import compare
from kdep_benchmarks.board.leaderboard import terminal_table
from kdep_benchmarks.board.merge import merge
from kdep_benchmarks.board.report import write_leaderboard
from kdep_benchmarks.data.overlap import Match, Overlap, SetOverlap, read_with_overlap, write_overlap
from kdep_benchmarks.jobs.plan import checkpoint_card, measured_times
from kdep_benchmarks.result import CheckpointCard, Protocol, Result, TaskCard
from kdep_benchmarks.results import read_answers, read_result, write_result
from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.studies.rows import AnswerRow, cost, read_known, student_card, write_rows
from kdep_benchmarks.tasks.choose import checked
from kdep_benchmarks.tasks.store import stored
from kdep_benchmarks.tasks.task import load_suite
from tools.checks.faults import changes

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
    "claim": {"arms": ["SVD", "PTS"], "metric": "mean"},
    "seeds": [0, 1],
    "score": {"suite": "SUITE", "tasks": ["zoo-knn"], "seeds": [0]},
}


@dataclass(frozen=True)
class Door:
    """A file, how it is edited, and what reads it."""

    kind: str
    path: Path
    edit: Callable[[bytes, changes.Draw], bytes]
    use: Callable[[], object]


def make_doors(root: Path) -> list[Door]:
    """Make the world below a folder."""
    photos = root / "photos"
    for number in range(128):
        path = photos / f"class{number % 2}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.Generator(np.random.Philox(number)).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    recipe = root / "tiny.yaml"
    recipe.write_text(RECIPE.replace("PHOTOS", str(photos)).replace("RUNS", str(root / "runs")))
    config = load_config(recipe)
    student = pretrain(config)
    return [
        *results_doors(root / "results", root / "merged"),
        *run_doors(config),
        *checkpoint_doors(student, root),
        *bank_doors(load_config(recipe, [f"bank.path={root / 'bank'}", "bank.check=0"])),
        *cache_doors(config, root / "cache"),
        *settings_doors(recipe, root),
    ]


def results_doors(folder: Path, merged: Path) -> list[Door]:
    """Results, their answers, and files of overlap."""
    truth = np.arange(40) % 4
    for number, (name, role) in enumerate((("random:resnet18", "random"), ("student", "student"), ("t", "supervised"))):
        for seed in (0, 1):
            for task in ("zoo-linear", "zoo-finetune"):
                answers = class_answers((truth + (np.arange(40) < 20 - 9 * number + seed)) % 4, truth)
                result = _result(
                    name, role, task, seed, {key: float(value[0]) for key, value in measure(answers).items()}
                )
                path = write_result(result, folder, answers=answers)
    failure = {"status": "failed", "metrics": {}, "chosen": {}, "curves": {}, "error": {"exit_code": 1, "log": "a\nb"}}
    failed = write_result(replace(_result("student", "student", "zoo-linear", 7, {"top1": 0.0}), **failure), folder)
    overlap = folder / "overlap" / "one.json"
    sets = (SetOverlap("zoo", "d" * 64, 40, (Match("a.jpg", "b.jpg", "bytes"), Match("c.jpg", "d.jpg", "look"))),)
    write_overlap(Overlap("photos", "f" * 64, 16, 0, sets, {"gone": "absent"}, ("student",)), overlap)
    first = sorted(folder.rglob("seed0.json"))[0]
    npz = next(first.parent.glob("seed0.answers-*.npz"))

    def board(file: Path) -> Callable[[], object]:
        def use() -> None:
            found = read_with_overlap([folder])
            if found.damaged:
                if not all(file.name in reason for reason in found.damaged):
                    raise AssertionError(f"not named: {found.damaged}")
                return  # left out: the board of the others was built before
            measured_times(found.results, cpu=True)
            sys_text = terminal_table(write_leaderboard(found.results, merged.with_name("board"), folders=[folder]))
            if not sys_text.replace("\n", "").isprintable():
                raise AssertionError("the terminal gets what is not printable")
            merge([folder], merged)
            shutil.rmtree(merged)
            compare(found.results, "student", "random:resnet18", read=lambda one: read_answers(one, folder))

        return use

    return [
        Door("result", first, changes.edit_json, board(first)),
        Door("failed result", failed, changes.edit_json, board(failed)),
        Door("result of a training", path, changes.edit_json, board(path)),
        Door("answers", npz, changes.edit_npz, lambda: measure(read_answers(read_result(first), folder))),
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


def run_doors(config: Config) -> list[Door]:
    """Files of a run folder, read as a resumed run reads them."""
    folder = config.runs / config.name
    sources = torch.load(folder / "run.pt", weights_only=True)["sources"]
    student = open_student(config)

    def again() -> None:
        run = RunFolder(config)
        run.refuse_other_sources(sources)
        statistics = run.load_statistics(sources)
        if statistics is not None:
            make_target(config, statistics, student.dim, axes=None, classifier=None, classes=0)
        resume(run, training())
        run.draw_loss()
        cost(folder)

    def training():  # noqa: ANN202 - of kdep.pretrain
        from kdep.method.loss import make_criterion
        from kdep.method.rivals import Learner, make_head
        from kdep.run.device import gathered, join

        learner = Learner(student, make_head(config, student.dim, student.dim))
        return prepare(config, learner, make_criterion(config.loss, student.dim, gathered), join("cpu"), sources)

    def logged() -> None:
        again()
        RunFolder(config).last_loss()

    return [
        Door("config.yaml", folder / "config.yaml", changes.edit_yaml, lambda: RunFolder(config)),
        Door("log.jsonl", folder / "log.jsonl", changes.edit_lines, logged),
        Door("statistics.pt", folder / "statistics.pt", changes.edit_torch, again),
        Door("run.pt", folder / "run.pt", changes.edit_torch, again),
    ]


def checkpoint_doors(student: Path, root: Path) -> list[Door]:
    """student.pth, and a folder in timm's format."""
    folder = root / "exported"
    write_export(open_checkpoint(str(student)), "timm", folder)

    def opened(spec: Path) -> Callable[[], object]:
        def use() -> None:
            checkpoint = open_checkpoint(str(spec))
            checkpoint_card(checkpoint)
            build_backbone(checkpoint)
            if spec.is_file():
                student_card(spec, np.random.randint(2**31))

        return use

    return [
        Door("student.pth", student, changes.edit_torch, opened(student)),
        Door("config.json", folder / "config.json", changes.edit_json, opened(folder)),
        Door("model.safetensors", folder / "model.safetensors", changes.edit_bytes, opened(folder)),
    ]


def bank_doors(config: Config) -> list[Door]:
    """Files of a bank of targets."""
    path = build(config)
    student, views = open_student(config), open_views(config, show=False)

    def use() -> None:
        from kdep.bank.prepare import open_bank
        from kdep.run.device import join

        bank = open_bank(config, student, views, join("cpu"))
        bank.rows(range(16), 0)

    def read() -> None:
        bank = Bank(path)
        bank.rows(range(16), 1)

    return [
        Door("bank.json", path / "bank.json", changes.edit_json, use),
        Door("bank.pt", path / "bank.pt", changes.edit_torch, read),
        Door("bank shard", path / "view001" / "00000.npy", changes.edit_npy, read),
    ]


def cache_doors(config: Config, folder: Path) -> list[Door]:
    """Decoded images, and features."""
    source = open_views(config, show=False).source
    open_cache(source, folder, size=32, show=False)
    features = folder.with_name("features") / "abc"

    def make(place: Path) -> float:
        np.save(place / "post.npy", np.ones((16, 8), np.float32))
        return 1.0

    def cached() -> None:
        views = open_views(
            config.model_copy(update={"data": config.data.model_copy(update={"cache": folder})}), show=False
        )
        for batch in load(views, once(16, 8), workers=0):
            assert batch.images is None or batch.images.numel()

    stored(features, make)
    return [
        Door("index.npz", folder / "index.npz", changes.edit_npz, cached),
        Door("pixels.bin", folder / "pixels.bin", changes.edit_bytes, cached),
        Door("features", features / "post.npy", changes.edit_npy, lambda: stored(features, make)),
    ]


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
        for planned in load_study(study).runs[:3]:
            if planned.checkpoint is None and "=" not in planned.name:
                _configured(own, planned, study)

    row: AnswerRow = {
        "arm": "PTS",
        "value": 1,
        "seed": 0,
        "task": "zoo-knn",
        "metric": "top1",
        "score": 50.0,
        "val": 40.0,
    }
    from kdep_benchmarks.studies.rows import fingerprint, protocols_of

    planned = next(run for run in own.runs if run.arm == "PTS" and run.seed == 0 and run.value == 1)
    row |= {"images_seen": 16, "pretrain_seconds": 1.0, "checkpoint": "ab12cd34", "data": "d" * 8}
    row |= {"run": fingerprint(own, planned), "protocol": str(protocols_of(own)["zoo-knn"])}
    write_rows([row], table)
    return [
        Door("recipe", recipe, changes.edit_yaml, lambda: as_yaml(load_config(recipe))),
        Door("suite", suite, changes.edit_yaml, suites),
        Door("study", study, changes.edit_yaml, studies),
        Door("study's table", table, changes.edit_bytes, lambda: read_known([table], own)),
    ]


def _configured(own: object, planned: object, study: Path) -> None:
    """Overrides of an arm are checked against the recipe; errors there name the recipe."""
    try:
        load_study(study).config(planned)
    except ValueError as error:
        if "tiny.yaml" not in str(error) and "override" not in str(error) and study.name not in str(error):
            raise


def content_of(door: Door) -> bytes:
    """The bytes of a door's file."""
    return door.path.read_bytes()


__all__ = ["Door", "content_of", "json", "make_doors"]
