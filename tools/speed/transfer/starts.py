"""Time the start of `kdep --help` and of a scoreboard cell up to its first work."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tools.speed.clock import answer, environment
from tools.speed.row import Row, Setting

HELP, CELL = 0.5, 4.0  # seconds


def starts(setting: Setting) -> list[Row]:
    """Alternate both with a bare interpreter, the lower limit."""
    data = scenes(setting)
    description = setting.work / "cell.json"
    description.write_bytes(cell(data, setting.work / "results"))
    times: dict[str, list[float]] = {"python": [], "help": [], "cell": []}
    for _ in range(max(2, setting.repeats)):
        times["python"].append(wall(lambda: run("-c", "pass")))
        times["help"].append(wall(lambda: run("-m", "kdep.cli", "--help")))
        times["cell"].append(first_work(description))
    middle = {name: median(values) for name, values in times.items()}
    return [
        limit("start-help", "kdep --help", middle["help"], HELP, middle["python"], times),
        limit(
            "start-cell", "a kNN cell, from process start to first work", middle["cell"], CELL, middle["python"], times
        ),
    ]


def limit(name: str, what: str, ours: float, most: float, floor: float, times: dict[str, list[float]]) -> Row:
    """A row that is compared with a limit in seconds."""
    note = f"a bare interpreter takes {floor:.2f} s; the first start after a boot also reads the libraries from disk"
    return Row(
        name, what, f"a limit of {most} s", "s", ours, most, most / ours, 1.0, note=note, detail={"times": times}
    )


def scenes(setting: Setting) -> Path:
    """The embedded data set, small; a data root that holds it."""
    from kdep_benchmarks.data.scenes.make import write_scenes

    small = {"pool": 12, "train_per_class": 4, "test_per_class": 2, "dense_train": 20, "dense_val": 10}
    sizes = {**small, "size": 32, "dense_size": 48} if setting.quick else {**small, "dense_train": 40}
    root = setting.work / ("tiny" if setting.quick else "small")
    write_scenes(root / "scenes", **sizes)
    return root


def cell(data: Path, results: Path) -> bytes:
    """Description of a classification cell on the scenes."""
    from pydantic import TypeAdapter

    from kdep.models.weights import open_checkpoint
    from kdep_benchmarks.jobs.cell import Cell
    from kdep_benchmarks.jobs.plan import checkpoint_card
    from kdep_benchmarks.tasks.task import load_task

    card = checkpoint_card(open_checkpoint("random:resnet18"))
    return TypeAdapter(Cell).dump_json(
        Cell("random:resnet18", None, card, load_task("scenes-knn", data), 0, "auto", results)
    )


def run(*arguments: str) -> None:
    """Run this interpreter to the end."""
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment())


def wall(work: Callable[[], None]) -> float:
    """Seconds by the wall clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def first_work(description: Path) -> float:
    """Seconds from the start of a cell's process to the moment in which its task is called."""
    command = [sys.executable, "-m", "tools.speed.transfer.first_work", str(description)]
    began = time.time()
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    return answer(child, "a cell")["at"] - began
