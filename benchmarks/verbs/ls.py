"""`kdep ls [tasks|suites|data|recipes]`."""

import argparse
import sys
from pathlib import Path

from kdep_benchmarks.verbs.data import add_data_root, listing

WHAT = ("tasks", "suites", "data", "recipes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep ls`."""
    parser.add_argument("what", nargs="?", choices=WHAT, help="only these [all]")
    add_data_root(parser)


def shortest(path: Path) -> str:
    """A path as `kdep pretrain` finds it from here: below this folder relative to it, else in full."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def run(args: argparse.Namespace) -> int:
    """Print names, a line each."""
    from kdep_benchmarks.tasks.task import CONFIGS, suite_names, task_names

    listings = {
        "tasks": task_names(),
        "suites": suite_names(),
        "data": listing(args.data_root),
        "recipes": [shortest(path) for path in sorted((CONFIGS / "pretrain").glob("*.yaml"))],
    }
    for what in (args.what,) if args.what else WHAT:
        sys.stdout.write(f"{what}:\n" + "".join(f"  {line}\n" for line in listings[what]))
    return 0
