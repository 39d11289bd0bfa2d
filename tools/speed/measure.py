"""Measure speed and memory against alternatives; print a table and write JSON, Markdown and a plot.

    python -m tools.speed.measure                          # everything: an hour and a half on two CPU cores
    python -m tools.speed.measure --rows loader,memory     # some of it; --list names them and their minutes
    python -m tools.speed.measure --out                    # into docs/figures/speed.json, .md and .png

Each measurement is kept when it is done: the same command goes on where it was stopped, --force measures again.
Contenders take turns (A B A B), and their medians are compared. The machine must be quiet. On a GPU the same command
measures the GPU: precision, pinned memory and clock follow the device. LightlyTrain, against which a row measures,
is not among our dependencies: it is AGPL and brings some forty packages; see `tools.speed.pretraining.lightly`.
"""

import argparse
import contextlib
import datetime
import importlib
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdep.files import write_atomically, write_text
from kdep.run.provenance import provenance_of_code

if TYPE_CHECKING:
    from tools.speed.row import Row, Setting

FORMAT = 1
DEFAULT, PUBLISHED = Path("runs/speed/speed.json"), Path("docs/figures/speed.json")


@dataclass(frozen=True)
class Measurement:
    """A measurement: its module, its seconds on two CPU cores with three repeats, and what it compares."""

    function: str
    seconds: int
    about: str


MEASUREMENTS: dict[str, Measurement] = {
    "bank-64": Measurement(
        "pretraining.ceilings:bank_64", 240, "training from the bank against the ceiling, R18 at 64 px"
    ),
    "bank-128": Measurement("pretraining.ceilings:bank_128", 150, "the same at 128 px"),
    "bank-224": Measurement("pretraining.ceilings:bank_224", 360, "the same at 224 px"),
    "reference-64": Measurement(
        "pretraining.references:reference_64", 330, "Lite0 -> R18 at 64 px against the reference's loop"
    ),
    "reference-224": Measurement(
        "pretraining.references:reference_224", 650, "R50 -> R18 at 224 px against the reference's loop"
    ),
    "reference-vit": Measurement(
        "pretraining.references:reference_vit", 1000, "ViT-B/16 -> R18 at 224 px against the same"
    ),
    "lightly": Measurement(
        "pretraining.lightly:lightly", 900, "whole pretraining against LightlyTrain (--lightly-python)"
    ),
    "statistics": Measurement(
        "pretraining.moments:statistics", 110, "streaming moments against the SVD of the whole matrix"
    ),
    "probe": Measurement("transfer.probes:probe", 960, "path of the linear probe against scikit-learn"),
    "loader": Measurement("pretraining.loaders:loader", 60, "JPEG to crops against ImageFolder and torchvision"),
    "memory": Measurement("pretraining.memory:memory", 90, "host memory with a bank of 1.28 million images"),
    "starts": Measurement("transfer.starts:starts", 30, "start of kdep --help and of a cell"),
    "segment": Measurement("transfer.toolboxes:segment", 60, "mmsegmentation cell against the bare Runner"),
    "detect": Measurement("transfer.toolboxes:detect", 60, "mmdetection cell against the bare Runner"),
}


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    args = parse(arguments)
    chosen = args.rows.split(",") if args.rows else list(MEASUREMENTS)
    if args.list:
        for name, entry in MEASUREMENTS.items():
            print(f"{name:14s} {entry.seconds / 60:5.1f} min  {entry.about}")  # noqa: T201 - the answer
        return 0
    check(args, chosen)
    setting = make_setting(args)
    document = open_document(args.out, setting, force=args.force)
    todo = [name for name in chosen if args.force or not is_done(document, name)]
    if args.force:
        shutil.rmtree(setting.work / "banks", ignore_errors=True)  # their making is measured, too
    print(introduction(document, todo, quick=args.quick))  # noqa: T201 - progress
    for number, name in enumerate(todo, 1):
        print(f"[{number}/{len(todo)}] {name}: {MEASUREMENTS[name].about}", flush=True)  # noqa: T201 - progress
        lines, seconds = measure(name, setting)
        facts = {"commit": provenance_of_code()["commit"], "repeats": setting.repeats, "seconds": round(seconds, 1)}
        document["rows"][name] = {**facts, "lines": [line.as_dict() for line in lines]}
        write(document, args.out)
        print(table(lines), flush=True)  # noqa: T201 - progress
    write(document, args.out)
    print(f"\n{table(all_lines(document))}\n\n{args.out}, and beside it .md and .png")  # noqa: T201 - the answer
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help=f"some of {', '.join(MEASUREMENTS)}, comma-separated [all]")
    parser.add_argument("--list", action="store_true", help="name the measurements and the time they take")
    parser.add_argument("--quick", action="store_true", help="tiny sizes to try that all runs; figures have no meaning")
    parser.add_argument("--force", action="store_true", help="measure finished rows again")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the contenders [3]")
    parser.add_argument(
        "--out", type=Path, nargs="?", default=DEFAULT, const=PUBLISHED, help=f"[{DEFAULT}; alone: {PUBLISHED}]"
    )
    parser.add_argument("--work", type=Path, default=DEFAULT.parent / "work", help="photographs, banks, runs")
    parser.add_argument("--lightly-python", type=Path, help="a Python that has lightly-train")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


def check(args: argparse.Namespace, chosen: list[str]) -> None:
    """Check the options before anything runs.

    Raises:
        SystemExit: says what is wrong and what would be right.
    """
    unknown = [name for name in chosen if name not in MEASUREMENTS]
    problem = f"--rows: no {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}" if unknown else None
    if args.repeats < 1:
        problem = f"--repeats {args.repeats}: at least 1"
    if args.out.suffix != ".json":
        problem = f"--out {args.out}: a name that ends in .json; tables and plot get it with .md and .png"
    if args.lightly_python and not args.lightly_python.exists():
        problem = f"--lightly-python {args.lightly_python}: no such file"
    if problem:
        sys.exit(f"speed: {problem}")


def make_setting(args: argparse.Namespace) -> "Setting":
    """Settings shared by all measurements; quick ones have a folder of their own."""
    from kdep.run.distributed.processes import join
    from tools.speed.row import Setting

    work = args.work.resolve() / ("quick" if args.quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    device = join(args.device).device
    return Setting(work, device, args.repeats, args.quick, args.lightly_python)


def open_document(path: Path, setting: "Setting", *, force: bool) -> dict[str, Any]:
    """Read what is measured so far, or start a new document.

    Raises:
        SystemExit: the file is of another device or of other sizes: its figures must not stand beside new ones.
    """
    from tools.speed.row import describe_device

    code = provenance_of_code()
    sizes, device = "quick" if setting.quick else "full", describe_device(setting.device)
    new = {
        "format": FORMAT,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "sizes": sizes,
        "repeats": setting.repeats,
        "device": device,
        "cuda": "measured" if setting.device.type == "cuda" else "not run: no GPU was used here",
        "code": code,
        "rows": {},
    }
    if not path.exists():
        return new
    known = json.loads(path.read_text())
    for what in ("format", "sizes", "device"):
        if known.get(what) != new[what]:
            if force:
                return new
            change = f"{what} {known.get(what)}, now {new[what]}"
            sys.exit(f"speed: {path} was measured with {change}; give --out another file, or --force")
    return known


def is_done(document: dict[str, Any], name: str) -> bool:
    """Whether a measurement has figures; a skipped one has none and is tried again."""
    lines = document["rows"].get(name, {}).get("lines", [])
    return bool(lines) and not any(line["skipped"] for line in lines)


def introduction(document: dict[str, Any], todo: list[str], *, quick: bool) -> str:
    """Device, what was not run, and the time it will take."""
    if quick:
        time_needed = "quick sizes: the figures mean nothing"
    else:
        minutes = sum(MEASUREMENTS[name].seconds for name in todo) * document["repeats"] / 3 / 60
        time_needed = f"about {minutes:.0f} minutes on two CPU cores"
    return f"{_machine(document)}\n{len(todo)} measurements, {time_needed}"


def measure(name: str, setting: "Setting") -> tuple[list["Row"], float]:
    """Run one measurement; bars and warnings of what it runs go to a log, so that the table stays readable."""
    module, _, function = MEASUREMENTS[name].function.partition(":")
    run = getattr(importlib.import_module(f"tools.speed.{module}"), function)
    began = time.perf_counter()
    with (setting.work / f"{name}.log").open("w") as log, contextlib.redirect_stderr(log):
        lines = run(setting)
    return lines, time.perf_counter() - began


def all_lines(document: dict[str, Any]) -> list["Row"]:
    """Every line so far, in the order of the measurements."""
    from tools.speed.row import Row

    rows = document["rows"]
    return [Row.from_dict(line) for name in MEASUREMENTS if name in rows for line in rows[name]["lines"]]


def write(document: dict[str, Any], out: Path) -> None:
    """Write the JSON, its tables and the plot."""
    from tools.speed.picture import draw

    write_text(out, json.dumps(document, indent=1) + "\n")
    write_text(out.with_suffix(".md"), markdown(document))
    lines = [line for line in all_lines(document) if line.ratio is not None]
    if lines:
        write_atomically(out.with_suffix(".png"), lambda part: draw(lines, document, part))


def table(lines: list["Row"]) -> str:
    """Format lines for the terminal: figures, ratio and target, then notes."""
    head = ("row", "ours", "against", "unit", "ratio", "target", "")
    body = [cells(line) for line in lines]
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *body)]
    notes = [f"  {line.name}: {line.skipped or line.note}" for line in lines if line.skipped or line.note]
    return "\n".join(row.rstrip() for row in text + notes)


def markdown(document: dict[str, Any]) -> str:
    """Format tables for the documentation: lines with contenders and sizes, growth of cost, notes."""
    lines, text = all_lines(document), [f"{_machine(document)}.", ""]
    text += ["| row | what | against | batch | px | kdep | rival | unit | ratio | target | met |"]
    text += ["|---|---|---|---:|---:|---:|---:|---|---:|---:|---|"]
    for line in lines:
        name, ours, theirs, unit, ratio, target, verdict = cells(line)
        sizes = (line.batch or "", line.resolution or "")
        row = (
            name,
            line.what,
            line.against,
            *sizes,
            ours,
            theirs,
            unit,
            ratio,
            target,
            verdict.replace("NOT met", "no"),
        )
        text.append(f"| {' | '.join(map(str, row))} |")
    text += ["", "How cost grows:", ""]
    for line in lines:
        for axis, content in line.growth.items():
            points = ", ".join(f"{name}: {_number(value)}" for name, value in content.items() if name != "unit")
            text.append(f"- {line.name}, {axis} ({content['unit']}): {points}")
    text += ["", "To be read with:", ""]
    text += [f"- {line.name}: {line.skipped or line.note}" for line in lines if line.skipped or line.note]
    return "\n".join(text) + "\n"


def _machine(document: dict[str, Any]) -> str:
    from tools.speed.row import machine

    device = document["device"]
    return f"{machine(device)}, torch {device['torch']}; CUDA {document['cuda']}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def cells(line: "Row") -> tuple[str, ...]:
    """One line of the table."""
    if line.ratio is None:
        return (line.name, "-", "-", line.unit, "-", "-" if line.target is None else f"{line.target:.2f}", "skipped")
    verdict = {True: "met", False: "NOT met", None: ""}[line.met]
    target = "-" if line.target is None else f"{line.target:.2f}"
    return (line.name, f"{line.ours:.4g}", f"{line.theirs:.4g}", line.unit, f"{line.ratio:.2f}", target, verdict)


if __name__ == "__main__":
    sys.exit(main())
