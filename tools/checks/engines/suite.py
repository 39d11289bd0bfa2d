"""Six cells, one of which fails on purpose, for the checks of engines; the table must be that of the local engine.

Used by `slurm`, `ray_cluster` and `shared_folder` beside this file.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
import yaml

from kdep.files import write_text
from kdep_benchmarks.data.scenes.make import write_scenes
from kdep_benchmarks.results import result_paths
from kdep_benchmarks.tasks.progress import read_progress

SIZES = {"pool": 120, "train_per_class": 6, "test_per_class": 3, "size": 32, "dense_size": 48}
DENSE = {"dense_train": 10, "dense_val": 10}
TRAINING = {"epochs": 150, "batch_size": 16, "lr": 0.01, "weight_decay": 0.0001}
PATIENCE = 900.0  # seconds to wait for anything
# Columns that differ between runs: times, memory, device, commit, and errors, which hold the times of progress bars.
OWN = ["seconds", "peak_memory_mb", "images_per_second", "training_images_per_second", "device", "started"]
OWN += ["commit", "error"]


def write_suite(folder: Path) -> None:
    """A student's weights, small scenes, and a suite: kNN twice, linear, few-shot, fine-tuning, and a broken set."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "student.pth")
    write_scenes(folder / "scenes", **SIZES, **DENSE)
    files = {"train": "train", "test": "test"}
    scenes = {"name": "scenes", "layout": "imagefolder", "root": "scenes/classification", "files": files}
    for name in ("a/1.jpg", "a/2.jpg", "a/3.jpg", "b/4.jpg", "b/5.jpg", "b/6.jpg"):
        for split in files:
            write_text(folder / "broken" / split / name, f"{split} {name} is not an image")
    broken = {"name": "broken", "layout": "imagefolder", "root": "broken", "files": files}
    kinds = {
        "scenes-finetune": ("finetune", scenes, TRAINING),
        "scenes-knn": ("knn", scenes, {}),
        "scenes-linear": ("linear", scenes, {}),
        "scenes-fewshot": ("fewshot", scenes, {"share": 0.5}),
        "scenes-knn48": ("knn", scenes, {"size": 48}),
        "broken-knn": ("knn", broken, {}),
    }
    tasks = [
        {"name": name, "kind": kind, "dataset": dataset, "settings": {"size": 32, **own}}
        for name, (kind, dataset, own) in kinds.items()
    ]
    write_text(folder / "suite.yaml", yaml.safe_dump({"tasks": tasks}))


def prepare(folder: Path) -> None:
    """Write the suite and measure it with the local engine, unless that is done already."""
    if not (folder / "local" / "leaderboard.csv").is_file():
        write_suite(folder)
        start(folder, "local").wait()


def start(folder: Path, results: str, *options: str) -> "subprocess.Popen[bytes]":
    """Start the suite in a folder. Paths are relative, as a user gives them."""
    own = ["student.pth", "--arch", "test_resnet", "--suite", "suite.yaml", "--data-root", ".", "--device", "cpu"]
    return start_verb(folder, results, "transfer", *own, "--results", results, *options)


def start_verb(folder: Path, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a command in a folder; its output goes to NAME.log."""
    with (folder / f"{name}.log").open("ab") as log:
        command = [sys.executable, "-m", "kdep.cli", *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    atexit.register(process.kill)  # where the check itself fails
    return process


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """What a condition returns as soon as it is true.

    Raises:
        ValueError: it never was.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    raise ValueError(f"waited {PATIENCE:.0f} s in vain: {what}")


def training_process(results: Path, *, root: str = "/") -> int | None:
    """The process that fine-tunes, once it has begun and saved its state; else None. `root` is that of a node."""
    for work in Path(root.rstrip("/") + str(results)).glob("*/scenes-finetune/*/seed0.work"):
        progress, pid = read_progress(work), process_with(str(work / "cell.in.json").removeprefix(root.rstrip("/")))
        if progress and progress.share and (work / "last.pth").exists():
            return pid
    return None


def process_with(argument: str) -> int | None:
    """A running process with this argument."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                return int(folder.name)
    return None


def environment_of(pid: int) -> dict[str, str]:
    """The environment of a process."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def compared(folder: Path, name: str) -> dict[str, Any]:
    """Compare a folder of results with that of the local engine."""
    failed = [path.parts[-3] for path in (folder / name).rglob("*.failed.json")]
    expected = [path for path in left_over(folder / name) if not path.endswith("broken-knn/fair-v2/seed0.failed.json")]
    return {
        "cells": len(result_paths(folder / name)),
        "failed_on_purpose": failed,
        "table_equals_local": table(folder, name) == table(folder, "local"),
        "left_over": expected,
    }


def left_over(folder: Path) -> list[str]:
    """Half-written files and failures below a folder of results."""
    return [str(p.relative_to(folder)) for part in (".*.part", "*.failed.json") for p in folder.rglob(part)]


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of both tables of a folder of results, without the columns `OWN`."""
    files = (folder / name / file for file in ("leaderboard.csv", "results.csv"))
    frames = (pd.read_csv(file, dtype=str, keep_default_na=False) for file in files)
    return [row for frame in frames for row in frame.drop(columns=OWN, errors="ignore").to_dict("records")]


def interrupted(folder: Path, *options: str, gone: Callable[[], bool]) -> dict[str, Any]:
    """Press Ctrl-C while a cell trains; wait until nothing of the suite is left."""
    began, results = time.monotonic(), folder / "interrupted"
    process = start(folder, "interrupted", "--tasks", "scenes-finetune", *options)
    wait_for(lambda: training_process(results), "the fine-tuning to begin")
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    code = process.wait()
    wait_for(lambda: gone() and process_with_results(results) is None, "everything to end after Ctrl-C")
    seconds, written = round(time.monotonic() - pressed, 1), len(list(results.rglob("seed*.json")))
    found = {"exit_code": code, "seconds_until_all_ended": seconds, "results_written": written}
    return row("Ctrl-C: queued and running jobs are cancelled", code == 130 and written == 0, began, **found)


def process_with_results(results: Path) -> int | None:
    """A process that measures a cell of a folder of results."""
    works = results.glob("*/*/*/*.work")
    return next((pid for work in works if (pid := process_with(str(work / "cell.in.json")))), None)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Every cell gets one thread, whoever starts it, so that last digits agree; and Ctrl-C reaches all commands."""
    before = dict(os.environ)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and their children
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def record(path: Path, engine: str, about: dict[str, Any], found: dict[str, Any]) -> int:
    """Write a row of an engine's report, in the place of the one that tried the same; 0 if it held."""
    there = json.loads(path.read_text()) if path.is_file() else {}
    others = [known for known in there.get(engine, {}).get("tried", []) if known["tried"] != found["tried"]]
    there[engine] = {**about, "tried": [*others, found]}
    write_text(path, json.dumps(dict(sorted(there.items())), indent=1) + "\n")
    return 0 if found["held"] else 1


def row(tried: str, held: bool, began: float, **more: Any) -> dict[str, Any]:
    """A row of a report: what was tried, whether it held, how long it took."""
    sys.stderr.write(f"{'held' if held else 'DID NOT HOLD'}: {tried} {more}\n")
    return {"tried": tried, "held": held, "seconds": round(time.monotonic() - began, 1), **more}


def missing(commands: Sequence[str], modules: Sequence[str]) -> str:
    """Why a check cannot run here; empty if it can."""
    import importlib.util
    import shutil

    absent = [name for name in commands if shutil.which(name) is None]
    absent += [name for name in modules if importlib.util.find_spec(name) is None]
    return f"skipped: {', '.join(absent)} not installed" if absent else ""
