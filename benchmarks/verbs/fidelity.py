"""`kdep fidelity [DIR ...]`: which cheap column may stand for which expensive one."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdep_benchmarks.fidelity.columns import Column, measured_columns, naive_columns
from kdep_benchmarks.fidelity.judge import judge
from kdep_benchmarks.fidelity.report import write_report
from kdep_benchmarks.kinds import CHEAP, EXPENSIVE
from kdep_benchmarks.result import Result
from kdep_benchmarks.results import read_results
from kdep_benchmarks.verdicts.resamples import reader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep fidelity`."""
    help_ = "folders of results [results]"
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("results")], metavar="DIR", help=help_)
    parser.add_argument("--cheap", metavar="A,B", help=f"columns to judge, by commas [all of {', '.join(CHEAP)}]")
    help_ = f"columns that they are to stand for [all of {', '.join(EXPENSIVE)}]"
    parser.add_argument("--expensive", metavar="A,B", help=help_)
    parser.add_argument("--arch", help="only checkpoints of this architecture; needed where there are several")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write the three files [the first folder]")


def run(args: argparse.Namespace) -> int:
    """Write fidelity.csv, fidelity.md and fidelity.svg, and print what they say."""
    results = of_one_architecture(read_results(args.folders), args.arch)
    measured = measured_columns(results)
    cheap = chosen(measured, args.cheap, CHEAP, "--cheap")
    expensive = chosen(measured, args.expensive, EXPENSIVE, "--expensive")
    naive = naive_columns(results, measured)
    found, left_out = judge([*cheap, *naive], expensive, reader(args.folders))
    out = args.out or args.folders[0]
    sys.stdout.write(f"{write_report(found, left_out, out)}\n{out / 'fidelity.md'}\n")
    return 0


def of_one_architecture(results: Iterable[Result], arch: str | None) -> list[Result]:
    """Finished results of one architecture: between networks of several sizes, the size alone gives the order.

    Raises:
        ValueError: there are several and none was named, or none of the one that was named.
    """
    finished = [result for result in results if result.status == "ok"]
    checkpoints = {result.checkpoint.sha256: result.checkpoint.arch for result in finished}
    counts = {name: list(checkpoints.values()).count(name) for name in sorted(set(checkpoints.values()))}
    there = ", ".join(f"{name} ({count})" for name, count in counts.items()) or "no finished result"
    if arch is None and len(counts) > 1:
        raise ValueError(f"checkpoints of several architectures: {there}; choose one with --arch, as sizes differ")
    if arch is not None and arch not in counts:
        raise ValueError(f"--arch {arch}: there is {there}")
    return [result for result in finished if arch in (None, result.checkpoint.arch)]


def chosen(columns: Sequence[Column], names: str | None, kinds: Sequence[str], option: str) -> list[Column]:
    """The columns that are named, or else those of some kinds.

    Raises:
        ValueError: there is no such column.
    """
    if names is None:
        found = [column for column in columns if column.kind in kinds]
        if not found:
            raise ValueError(f"no column of the kinds {', '.join(kinds)} in these results; name some with {option} A,B")
        return found
    known = {column.name: column for column in columns}
    for name in names.split(","):
        if name not in known:
            raise ValueError(f"{option} {name}: there is {', '.join(known) or 'no finished result'}")
    return [known[name] for name in names.split(",")]
