"""Kill a suite at random moments, restart it, and compare its scores with those of an uninterrupted suite.

    python -m tools.checks.suite OUT.json [--kills 10] [--seed 0]

Then start two suites at once with one results folder. All suites have the same cells: probes and a fine-tuning on a
small generated set, in a temporary folder. Every other SIGKILL hits the suite's process alone, and its cells must end
by themselves; the others hit the cells too.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from kdep.files import write_text
from kdep_benchmarks.data.scenes.make import write_scenes
from kdep_benchmarks.results import result_paths

STUDENTS = ("random:test_resnet", "random:test_efficientnet")
SIZES = {"pool": 12, "train_per_class": 6, "test_per_class": 3, "size": 32, "dense_size": 48}
DENSE = {"dense_train": 10, "dense_val": 10}
# Columns that differ between runs: times, memory and device.
OWN = ("seconds", "peak_memory_mb", "images_per_second", "training_images_per_second", "device", "started")


def write_suite(folder: Path) -> Path:
    """A data root with small scenes, and a suite of probes and a fine-tuning on them."""
    write_scenes(folder / "scenes", **SIZES, **DENSE)
    files = {"train": "train", "test": "test"}
    dataset = {"name": "scenes", "layout": "imagefolder", "root": "scenes/classification", "files": files}
    training = {"epochs": 3, "batch_size": 16, "lr": [0.01, 0.03], "weight_decay": 0.0001}
    tasks = [
        {"name": f"scenes-{kind}", "kind": kind, "dataset": dataset, "settings": {"size": 32, **settings}}
        for kind, settings in (("knn", {}), ("linear", {}), ("finetune", training))
    ]
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"tasks": tasks}))
    return path


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Start the suite in the background, in a process group of its own."""
    options = ["--suite", str(folder / "suite.yaml"), "--data-root", str(folder), "--device", "cpu", "--jobs", "2"]
    command = [sys.executable, "-m", "kdep.cli", "transfer", *STUDENTS, *options]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen([*command, "--results", str(folder / name)], stdout=log, stderr=log)


def finish(process: subprocess.Popen[bytes], folder: Path, name: str) -> None:
    """Wait for a suite; raise its log if it fails."""
    if process.wait() != 0:
        raise ValueError((folder / f"{name}.log").read_text()[-3000:])


def kill(process: subprocess.Popen[bytes], *, cells: bool) -> None:
    """SIGKILL a suite, and with `cells` first its cells, each with its group."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    process.kill()
    for pid in map(int, listed.stdout.split() if cells else ()):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    process.wait()


def scores(folder: Path, name: str) -> dict[str, list[dict[str, str]]]:
    """Read both tables of a folder, without the columns `OWN`."""
    tables = {}
    for table in ("leaderboard.csv", "results.csv"):
        with (folder / name / table).open(newline="") as file:
            tables[table] = [
                {key: value for key, value in row.items() if key not in OWN} for row in csv.DictReader(file)
            ]
    return tables


def left_over(folder: Path) -> list[str]:
    """Half-written files and failures below a folder of results."""
    return [str(p.relative_to(folder)) for part in (".*.part", "*.failed.json") for p in folder.rglob(part)]


def check(kills: int, seed: int) -> dict[str, Any]:
    """Run once through, once with kills, and twice at once."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_suite(folder)
        began = time.monotonic()
        finish(start(folder, "through"), folder, "through")
        seconds = time.monotonic() - began
        moments = []
        for number in range(kills):
            process, pause = start(folder, "killed"), draw.uniform(0.15, 0.35) * seconds
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(pause)
            ended = process.poll() is not None
            kill(process, cells=number % 2 == 1)
            done = len(result_paths(folder / "killed")) if (folder / "killed").is_dir() else 0
            what = "ended before" if ended else "suite and cells" if number % 2 else "suite"
            moments.append({"seconds": round(pause, 2), "killed": what, "cells_done": done})
        finish(start(folder, "killed"), folder, "killed")
        both = [start(folder, "twice") for _ in range(2)]
        for process in both:
            finish(process, folder, "twice")
        elsewhere = (folder / "twice.log").read_text().count("(by another suite)")
        expected = scores(folder, "through")
        return {
            "cells": len(result_paths(folder / "through")),
            "seconds_through": round(seconds, 1),
            "kills": moments,
            "killed_equals_through": scores(folder, "killed") == expected,
            "two_at_once_equals_through": scores(folder, "twice") == expected,
            "cells_left_to_the_other_suite": elsewhere,
            "left_over": left_over(folder / "killed") + left_over(folder / "twice"),
        }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    args = parser.parse_args()
    found = check(args.kills, args.seed)
    write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201 - the script's answer
    equal = found["killed_equals_through"] and found["two_at_once_equals_through"]
    return 0 if equal and not found["left_over"] else 1


if __name__ == "__main__":
    sys.exit(main())
