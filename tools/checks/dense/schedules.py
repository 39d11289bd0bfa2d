"""Segmentation and detection by mmseg and mmdet, full and on frozen backbones: does a reference leave random behind?

    python -m tools.checks.dense.schedules pypi:efficientnet_lite0 random:efficientnet_lite0 \
        --data-root DIR --out docs/figures/schedules.json

Measures the trained dense tasks of the suite that are not measured yet, one after another in this process, and writes
the file after each. The same command goes on after an interruption.
"""

import argparse
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kdep.data.sources.root import data_root
from kdep.files import write_text
from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.board.build import boards
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.measure import measure_cell
from kdep_benchmarks.jobs.plan import checkpoint_card, look_up, plan_cell
from kdep_benchmarks.kinds import TOOLBOXES
from kdep_benchmarks.result import Result
from kdep_benchmarks.results import read_results, write_result
from kdep_benchmarks.tasks.task import Task, load_suite
from kdep_benchmarks.tasks.training_state import LAST, tidy
from kdep_benchmarks.verdicts.compare import differences
from kdep_benchmarks.verdicts.resamples import reader
from kdep_benchmarks.verdicts.uncertainty import uncertainty


def score(spec: str, checkpoint: Checkpoint, task: Task, results: Path) -> None:
    """Measure one cell, unless it is done, and note its processor time beside the results."""
    planned = plan_cell(Cell(spec, None, checkpoint_card(checkpoint), task, 0, "cpu", results), look_up(task))
    if planned.state == "absent":
        raise ValueError(planned.reason)
    if planned.state == "done":
        return
    planned.cell.work.mkdir(parents=True, exist_ok=True)
    resumed = (planned.cell.work / LAST).exists()
    started = time.process_time()
    result, answers = measure_cell(planned.cell)
    write_result(result, results, answers=answers)
    tidy(planned.cell.work)
    took = None if resumed else round(time.process_time() - started)
    seconds = processor_seconds(results) | {f"{checkpoint.name} {task.name}": took}
    write_text(results / "processor.json", json.dumps(seconds, indent=1) + "\n")


def processor_seconds(results: Path) -> dict[str, int | None]:
    """Processor seconds by cell, None for a cell that was interrupted."""
    path = results / "processor.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def cell_row(result: Result, seconds: int | None) -> dict[str, Any]:
    """What the file says of a cell: scores with the half width of the main one's interval over images, and cost."""
    found, losses = uncertainty([result]), result.curves.get("loss", [])
    ends = {"first": losses[0], "largest": max(losses), "last": losses[-1]} if losses else {}
    return {
        "metrics": {name: round(value, 2) for name, value in result.metrics.items()},
        "interval_over_images": found and round(found.half_width, 2),
        "test_images": result.counts["test"],
        "load": result.load,
        "loss": {name: round(value, 2) for name, value in ends.items()},
        "processor_seconds": seconds,
        "device": result.cost["device"],
    }


def table(results: Path, reference: str, baseline: str) -> dict[str, Any]:
    """Each column's cells; reference minus random in standard errors, by the board's rule, and by `kdep compare`."""
    read, seconds = read_results(results), processor_seconds(results)
    (board,) = boards(read)
    columns = {}
    for label, found in board.columns.iterrows():
        own = [result for result in read if result.task.name == found.task]
        cells = {one.checkpoint.name: cell_row(one, seconds.get(f"{one.checkpoint.name} {found.task}")) for one in own}
        columns[label] = {"kind": found.kind, "metric": found.metric, "settings": own[0].settings, "cells": cells}
        if len(cells) == 2:
            (pair,) = [
                one for one in differences(read, reference, baseline, read=reader(results), task=found.task) if one.of
            ]
            verdict = {"verdict": pair.verdict} | {key: round(value, 4) for key, value in asdict(pair.interval).items()}
            judged = {"standard_errors": round(found.errors, 2), "informative": found.informative}
            columns[label] |= {"floor": found.floor, **judged, "compare": verdict}
    known = {"reference": reference, "random": baseline, "threads": torch.get_num_threads()}
    return known | {"versions": read[0].versions, "columns": columns}


def choice(results: Path) -> dict[str, Any]:
    """Scores on a held-out part of train, by which the schedules were chosen; by checkpoint and task."""
    return {
        f"{one.checkpoint.name} {one.task.name}": {
            "metrics": {name: round(value, 2) for name, value in one.metrics.items()},
            "images": {"train": one.counts["train"], "held out": one.counts["test"]},
            "settings": one.settings,
        }
        for one in read_results(results)
    }


def main() -> None:
    """Measure what is missing and write the file after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference")
    parser.add_argument("random")
    parser.add_argument("--suite", default="photographs")
    parser.add_argument("--tasks", help="names in the order of measuring, by commas [all of these kinds in the suite]")
    parser.add_argument("--data-root", type=Path, default=data_root(), metavar="DIR")
    parser.add_argument("--results", type=Path, default=Path("results/schedules"))
    help_ = "results by which the schedules were chosen; they are copied into the file"
    parser.add_argument("--choice", type=Path, metavar="DIR", help=help_)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    tasks = {task.name: task for task in load_suite(args.suite, args.data_root.resolve()) if task.kind in TOOLBOXES}
    opened = {spec: open_checkpoint(spec) for spec in (args.reference, args.random)}
    names = [checkpoint.name for checkpoint in opened.values()]
    for name in args.tasks.split(",") if args.tasks else tasks:
        for spec, checkpoint in opened.items():
            score(spec, checkpoint, tasks[name], args.results)
            content = {"choice": choice(args.choice)} if args.choice else {}
            content |= table(args.results, *names)
            write_text(args.out, json.dumps(content, indent=1) + "\n")
            print(f"{time.strftime('%T')} {spec} {name}", flush=True)  # noqa: T201 - the script's progress


if __name__ == "__main__":
    main()
