"""dense-linear, dense-knn and box of several checkpoints on the photographs: scores and seconds.

    python -m tools.checks.dense.frozen random:resnet18 npm:resnet50 --data-root DIR --out docs/figures/dense.json

Rows that the file has already stay, so that a table can be measured in parts; --again measures them anew.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from kdep.files import write_text
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.jobs.measure import run_kind
from kdep_benchmarks.tasks.task import Task, load_suite

KINDS = ("dense-linear", "dense-knn", "box")


def main() -> None:
    """Measure what is missing and write the file after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--tasks", help="names, by commas [all of these kinds in the suite photographs]")
    parser.add_argument("--cache", type=Path, help="folder where features stay [a temporary one]")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    tasks = [task for task in load_suite("photographs", given.data_root) if task.kind in KINDS]
    tasks = [task for task in tasks if not given.tasks or task.name in given.tasks.split(",")]
    rows: dict[str, Any] = json.loads(given.out.read_text())["rows"] if given.out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for spec in given.checkpoints:
            for task in tasks:
                name = f"{spec} {task.name}"
                if given.again or name not in rows:
                    rows[name] = measure(spec, task, given.cache or Path(folder))
                    print(name, rows[name])  # noqa: T201
                    write_text(given.out, json.dumps({"rows": dict(sorted(rows.items()))}, indent=1) + "\n")


def measure(spec: str, task: Task, folder: Path) -> dict[str, Any]:
    """Run one cell; `features` is the seconds of their extraction where it was done here, `seconds` all the rest."""
    checkpoint, device = open_checkpoint(spec), torch.device("cpu")
    work = folder / checkpoint.identity[:8] / task.name / "fair" / "seed0.work"
    started = time.perf_counter()
    outcome = run_kind(task.kind)(checkpoint, task, seed=0, work_dir=work, device=device)
    seconds = time.perf_counter() - started
    images = sum(outcome.counts.values())
    features = images / outcome.cost["images_per_second"] if outcome.cost else None
    return {
        "checkpoint": spec,
        "task": task.name,
        "metrics": {name: round(value, 2) for name, value in outcome.metrics.items()},
        "chosen": outcome.chosen,
        "curves": outcome.curves,
        "images": images,
        "seconds": round(seconds - (features or 0), 1),
        "features": features and round(features, 1),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
