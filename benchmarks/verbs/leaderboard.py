"""`kdep leaderboard [DIR ...]` and `kdep leaderboard merge DIR ... --results OUT`."""

import argparse
import gc
import logging
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kdep.shipped import names
from kdep_benchmarks.board.merge import merge
from kdep_benchmarks.board.table import Suite
from kdep_benchmarks.counts import counted
from kdep_benchmarks.data.checks.overlap import read_with_overlap
from kdep_benchmarks.page.leaderboard import damage_lines, terminal_table
from kdep_benchmarks.page.report import write_leaderboard
from kdep_benchmarks.tasks.task import suite_tasks

logger = logging.getLogger("kdep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep leaderboard`."""
    help_ = "folders of results [results]; `merge DIR ... --results OUT` joins the folders of several machines first"
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("results")], metavar="DIR", help=help_)
    parser.add_argument("--out", type=Path, help="where to write the files [the first folder]")
    help_ = f"means and ranks over this suite alone: {', '.join(names('suites'))}, or a YAML file [all columns]"
    parser.add_argument("--suite", help=help_)
    parser.add_argument("--results", type=Path, metavar="OUT", help="merge: the folder that is to hold all results")


def run(args: argparse.Namespace) -> int:
    """Rebuild the board and print it, after a merge where that was asked for."""
    verb, folders, written = str(args.folders[0]), args.folders, None
    if verb == "compare":
        where = ["--results", str(args.results)] if args.results else []
        raise ValueError(f"use the verb compare: {shlex.join(['kdep', 'compare', *map(str, folders[1:]), *where])}")
    if verb == "merge":
        if not folders[1:] or args.results is None:
            raise ValueError("merge needs folders and --results OUT")
        written = merge(folders[1:], args.results)
        folders = [args.results]
    elif args.results is not None:
        raise ValueError("--results is for merge; use --out to say where the board is written")
    suite = None if args.suite is None else Suite(args.suite, suite_tasks(args.suite))
    sys.stdout.write(rebuild(folders, args.out or folders[0], suite))
    if written is not None:
        sys.stdout.write(f"\n{args.results}: {counted(len(written), 'new file')}\n")
    return 0


def rebuild(folders: Sequence[Path], out: Path, suite: Suite | None = None) -> str:
    """Write the board of all results below the folders, with the overlaps that were found, and return it as text."""
    gc.disable()  # looking for cycles among the objects of thousands of results would take a fifth of the time
    try:
        read = partial(read_with_overlap, folders)
        (_, damaged), board = write_leaderboard(read, out, folders=folders, suite=suite)
        if damaged:
            logger.warning("%s", damage_lines(damaged)[0])
        if not board and not damaged:
            said = ", ".join(map(str, folders))
            return f"no results yet in {said}; name the folder that `kdep transfer` wrote to (--results)\n"
        return terminal_table(board, damaged)
    finally:
        gc.enable()
