"""`kdep ls [tasks|suites|data|recipes|studies]`."""

import argparse
import sys

from kdep.shipped import names
from kdep_benchmarks.verbs.data import add_data_root, listing

WHAT = ("tasks", "suites", "data", "recipes", "studies")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep ls`."""
    parser.add_argument("what", nargs="?", choices=WHAT, help="only these [all]")
    add_data_root(parser)


def run(args: argparse.Namespace) -> int:
    """Print names, a line each."""
    listings = {
        "tasks": names("transfer"),
        "suites": names("suites"),
        "data": listing(args.data_root),
        "recipes": names("pretrain"),
        "studies": names("studies"),
    }
    for what in (args.what,) if args.what else WHAT:
        sys.stdout.write(f"{what}:\n" + "".join(f"  {line}\n" for line in listings[what]))
    return 0
