"""Compare a cell's mIoU and box AP with those of mmseg, mmdet and pycocotools on the same predictions.

    python -m tools.checks.dense.agreement --suite photographs \
        --out docs/figures/dense_metrics.json

Every segmentation and detection task of the suite is scored twice: with the predictions of a network trained for a few
iterations (mIoU and AP near 0), and with disturbed ground truth (higher scores). mmseg rounds to 0.01 and mmdet to 0.1
points, so differences up to half of that are rounding.
"""

import argparse
import importlib.metadata
import json
import logging
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdep.data.sources.root import data_root
from kdep.files import write_text
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.tasks.task import Task, load_suite

DENSE = ("segment", "detect")
ROUNDED = {"mmseg": 0.01, "mmdet": 0.1}  # points
PACKAGES = ("mmsegmentation", "mmdet", "pycocotools", "numpy")


def measure(task: Task, *, checkpoint: str, iterations: int, folder: Path) -> dict[str, Any]:
    """Score both kinds of predictions by every metric, for one task."""
    from kdep_benchmarks.openmmlab.runner import Training
    from kdep_benchmarks.tasks.settings import SETTINGS, read_settings
    from tools.checks.dense import metrics

    task = replace(task, settings={**task.settings, "iterations": iterations})
    work_dir = folder / f"{task.name}.work"
    work_dir.mkdir()
    cell = Training(
        open_checkpoint(checkpoint), task, read_settings(SETTINGS[task.kind], task), 0, work_dir, torch.device("cpu")
    )
    return {"segment": metrics.compare_masks, "detect": metrics.compare_boxes}[task.kind](cell)


def largest_differences(tasks: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return for each other metric the largest difference of any score from kdep's, in points."""
    found: dict[str, float] = {}
    for by_metric in (scores for predictions in tasks for scores in predictions.values()):
        ours = by_metric["kdep"]
        for name, theirs in by_metric.items():
            if name != "kdep":
                found[name] = max([found.get(name, 0.0), *(abs(ours[key] - theirs[key]) for key in ours)])
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="random:resnet18")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--data-root", type=Path, default=data_root(), metavar="DIR")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    tasks = [task for task in load_suite(args.suite, args.data_root.resolve()) if task.kind in DENSE]
    if not tasks:
        parser.error(f"--suite {args.suite}: no segmentation or detection task")
    known = {"checkpoint": args.checkpoint, "iterations": args.iterations}
    with tempfile.TemporaryDirectory() as folder:
        found = {task.name: measure(task, **known, folder=Path(folder)) for task in tasks}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    largest = {"largest_difference": largest_differences(found.values()), "rounded_to": ROUNDED}
    write_text(args.out, json.dumps({**known, "versions": versions, **largest, "tasks": found}, indent=1) + "\n")
    print(args.out)  # noqa: T201 - the script's answer


if __name__ == "__main__":
    main()
