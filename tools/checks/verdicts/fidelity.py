"""Train ResNet-18 checkpoints at small budgets and measure the suite `fidelity` on them: the data of `kdep fidelity`.

    python -m tools.checks.verdicts.fidelity --data-root DIR
    kdep fidelity results/fidelity --out docs/figures/fidelity

Needs the suite's sets and tiny_imagenet200 below the data root, and the extras demo and openmmlab. Everything runs in
this process, column after column, and what is there stays: the same command goes on after an interruption.
"""

import argparse
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from kdep.config import read_config
from kdep.data.sources.root import data_root
from kdep.models.weights import open_checkpoint
from kdep.pretrain import pretrain
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.measure import measure
from kdep_benchmarks.jobs.plan import Found, checkpoint_card, look_up, plan_cell
from kdep_benchmarks.results import write_result
from kdep_benchmarks.tasks.task import Task, load_suite
from kdep_benchmarks.tasks.training_state import tidy

IMAGES = 1000  # the student has 512 features, and that many principal axes need more images
EPOCHS = (1, 2, 4)
ARMS = {
    "svd": ["scale={name: none}"],
    "1x1": ["align.name=none", "project=linear", "scale={name: unit}"],
    "supervised": ["loss.name=labels", "loss.weight=1", "student.tap=post", "bank=null"],
}
RANDOM = ("random:resnet18", "random:resnet18#1", "random:resnet18#2")


def train(arm: str, epochs: int, images: Path, runs: Path) -> Path:
    """Pretrain one student and return its path."""
    own = [
        f"name={arm}-{IMAGES * epochs}",
        f"data.source={images / 'classification' / 'tiny_imagenet200.npz'}:train",
        f"runs={runs}",
        f"data.limit={IMAGES}",
        "data.seed=0",
        "data.workers=0",
        f"optim.epochs={epochs}",
        "optim.batch_size=16",
        f"bank.path={runs / 'bank'}",
        "bank.axes=1280",
        f"bank.views={epochs}",
        "precision=float32",
        "log={every: 10, trackers: []}",
    ]
    return pretrain(read_config("lite0_r18_tiny", [*own, *ARMS[arm]]))


def checkpoints(images: Path, runs: Path) -> Iterator[str]:
    """Yield the checkpoints, the random ones first; students are trained when their turn comes."""
    yield from RANDOM
    for epochs in EPOCHS:
        for arm in ARMS:
            yield str(train(arm, epochs, images, runs))


def score(spec: str, task: Task, found: Found, results: Path) -> str:
    """Measure one cell, unless it is done, and say what came out."""
    checkpoint = open_checkpoint(spec)
    planned = plan_cell(Cell(spec, None, checkpoint_card(checkpoint), task, 0, "cpu", results), found)
    if planned.state != "to run":
        return f"{task.name} {spec}: {planned.state} {planned.reason}"
    planned.cell.work.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    result, answers = measure(planned.cell)
    write_result(result, results, answers=answers)
    tidy(planned.cell.work)
    return f"{task.name} {spec}: {result.main_metric} {result.score:.2f} in {time.process_time() - started:.0f} CPU s"


def main() -> None:
    """Train and measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=data_root(), metavar="DIR")
    parser.add_argument("--suite", default="fidelity")
    parser.add_argument("--runs", type=Path, default=Path("runs/fidelity"))
    parser.add_argument("--results", type=Path, default=Path("results/fidelity"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    images = args.data_root.resolve()
    tasks = load_suite(args.suite, images)
    found = {task.name: look_up(task) for task in tasks}
    specs = list(checkpoints(images, args.runs))
    for task in tasks:
        for spec in specs:
            print(score(spec, task, found[task.name], args.results), flush=True)  # noqa: T201 - the script's progress


if __name__ == "__main__":
    main()
