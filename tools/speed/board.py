"""Time `kdep leaderboard` on made results: imports, reading the JSON files, writing the four files.

python -m tools.speed.board --results 5000
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from kdep_benchmarks.result import CheckpointCard, Protocol, Result, TaskCard
from kdep_benchmarks.results import FORMAT

SEEDS = 5
TASKS = {
    "cifar10-knn": ("knn", "classification", "top1", "cifar10"),
    "cifar10-linear": ("linear", "classification", "top1", "cifar10"),
    "cifar10-fewshot1": ("fewshot", "classification", "top1", "cifar10"),
    "cifar10-fewshot10": ("fewshot", "classification", "top1", "cifar10"),
    "flowers-linear": ("linear", "classification", "top1", "flowers"),
    "flowers-finetune": ("finetune", "classification", "top1", "flowers"),
    "voc-segment": ("segment", "segmentation", "mIoU", "voc"),
    "coco-detect": ("detect", "detection", "AP", "coco"),
}
CHILD = """
import sys, time
from pathlib import Path
from kdep_benchmarks.verbs.leaderboard import rebuild
imported = time.process_time()
text = rebuild([Path(sys.argv[1])], Path(sys.argv[1]))
"""
ROLES = {0: "random", 1: "supervised"}  # by the checkpoint's number; the others are students


def made_results(count: int) -> Iterator[Result]:
    """Make results of count / 40 checkpoints on eight tasks with five seeds; a few failed. No randomness."""
    draw = random.Random(0)
    for number in range(-(-count // (SEEDS * len(TASKS)))):
        role = ROLES.get(number, "student")
        summary = {"role": role, "images_seen": 10_000 * (number + 1), "pretrain_seed": number % 3, "teacher": "npm:x"}
        card = CheckpointCard(f"{role}{number}", f"{number:08x}".ljust(64, "0"), "resnet18", 11_176_512, summary)
        for task, (kind, family, metric, dataset) in TASKS.items():
            for seed in range(SEEDS):
                yield _made(card, TaskCard(task, kind, family, dataset), metric, seed, number, draw)


def _made(card: CheckpointCard, task: TaskCard, metric: str, seed: int, number: int, draw: random.Random) -> Result:
    score = 20 + 40 * (number > 0) + min(number, 25) + draw.gauss(0, 1)
    known = {
        "checkpoint": card,
        "task": task,
        "protocol": Protocol("fair", 2),
        "data_fingerprint": task.dataset.encode().hex().ljust(64, "0"),
        "seed": seed,
        "started": f"2026-01-{1 + number % 28:02d}T00:00:00Z",
        "settings": {"size": 224, "batch_size": 128, "lambdas": [10.0**power for power in range(-6, 3)]},
        "commit": "c0ffee",
        "versions": {"torch": "2.9.0", "timm": "1.0.20"},
    }
    if draw.random() < 0.001:
        return Result(**known, status="failed", error={"exit_code": 1, "log": "Traceback\nRuntimeError: diverged\n"})
    values = sorted(score + draw.gauss(0, 3) for _ in range(6))
    path = {"lambda": [10.0**power for power in range(-3, 3)], "val_top1": values}
    shots = 10 if task.name.endswith("fewshot10") else 1
    return Result(
        **known,
        status="ok",
        metrics={metric: score, f"{metric}_macro": score - 1, f"{metric}_pre": score + draw.gauss(0, 1)},
        counts={"train": 400 * shots if task.kind == "fewshot" else 40_000, "val": 10_000, "test": 10_000},
        chosen={"lambda": 0.1, "lambda_at_edge": draw.random() < 0.2},
        curves=path if task.kind == "linear" else {},
        load={"tensors": 120, "expected": 120, "coverage": 100.0},
        cost={"seconds": 60.0, "peak_memory_mb": 900, "device": "cpu x2", "gmacs": 1.8, "images_per_second": 300.0},
    )


def write_made(count: int, folder: Path) -> None:
    """Write the results as a suite does, but without flushing each file to disk."""
    for result in made_results(count):
        path = result.key.path(folder, result.status)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT, **asdict(result)}), encoding="utf-8")


def main() -> None:
    """Print the CPU seconds of imports and of the board; other processes do not change them much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=5000)
    count = parser.parse_args().results
    with tempfile.TemporaryDirectory() as folder:
        write_made(count, Path(folder))
        code = f"{CHILD}print(imported, time.process_time(), len(text))"
        child = [sys.executable, "-c", code, folder]
        imported, whole, _ = map(float, subprocess.check_output(child, text=True).split())
        size = (Path(folder) / "leaderboard.html").stat().st_size / 1e6
    sys.stdout.write(
        f"{count} results: {whole:.2f} s of a core, {imported:.2f} of them for imports; page {size:.2f} MB\n"
    )


if __name__ == "__main__":
    main()
