"""`kdep data check NAME | prepare NAME | manifest | shards FOLDER | overlap SOURCE`."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdep.data.sources.root import data_root

if TYPE_CHECKING:
    from kdep_benchmarks.data.checks.check import Subject
    from kdep_benchmarks.tasks.task import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep data`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="read a whole data set and list what is wrong")
    prepare = actions.add_parser("prepare", help="download and arrange a data set, or say which file to place where")
    check.add_argument(
        "name",
        metavar="NAME",
        help="a known set, a folder of class folders (as --data of kdep transfer), SUITE.yaml, or SUITE.yaml:NAME for "
        "one set or task of it",
    )
    check.add_argument("--show", type=int, default=5, metavar="N", help="findings of each kind to print [5]")
    prepare.add_argument("name", metavar="NAME", help="a known set")
    manifest = actions.add_parser(
        "manifest", help="list and hash the images of a folder once, for a quick start of runs"
    )
    manifest.add_argument("folder", type=Path, metavar="FOLDER", help="all images below it")
    manifest.add_argument(
        "--out", type=Path, metavar="FILE", help="use it as data.source=manifest:FILE [in FOLDER, where runs find it]"
    )
    shards = actions.add_parser("shards", help="write the images of a folder as tar shards in WebDataset's format")
    shards.add_argument("folder", type=Path, metavar="FOLDER", help="all images below it; class folders give labels")
    shards.add_argument(
        "out", type=Path, metavar="OUT", help="use it as data.source=wds:OUT, also after a copy to a URL"
    )
    shards.add_argument("--per-shard", type=int, default=4096, metavar="N", help="images of a shard [4096]")
    shards.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of the images [0]")
    overlap = actions.add_parser("overlap", help="find images of a pretraining source in test splits")
    _add_overlap(overlap)
    for action in (check, prepare, overlap):
        add_data_root(action)


def _add_overlap(overlap: argparse.ArgumentParser) -> None:
    overlap.add_argument(
        "source",
        metavar="PRETRAIN_SOURCE",
        help="as data.source: a folder, a .txt list, FILE.npz:SPLIT, torchvision:NAME",
    )
    tests = overlap.add_mutually_exclusive_group(required=True)
    tests.add_argument("--suite", metavar="S", help="a suite's name or SUITE.yaml")
    tests.add_argument("--data", type=Path, metavar="FOLDER", help="labelled images, as --data of kdep transfer")
    overlap.add_argument("--root", type=Path, metavar="DIR", help="as data.root: where the paths of a list start")
    overlap.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME",
        help="a row of the board whose file does not say "
        "that it was pretrained on this source; may be given several times",
    )
    overlap.add_argument(
        "--json", type=Path, required=True, metavar="FILE", help="RESULTS/overlap/NAME.json puts it on the board"
    )


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """The argument --data-root."""
    parser.add_argument(
        "--data-root", type=Path, default=data_root(), metavar="DIR", help="where data sets lie [$KDEP_DATA or data]"
    )


def run(args: argparse.Namespace) -> int:
    """Run the action; 1 if a check finds defects or a set cannot be prepared."""
    actions = {"check": _check, "prepare": _prepare, "manifest": _manifest, "shards": _shards, "overlap": _overlap}
    return actions[args.action](args)


def listing(data_root: Path) -> list[str]:
    """List known data sets, a line each: whether they are there, layout, folder, counts, licence."""
    from kdep_benchmarks.data.cards import CARDS, absent, known

    lines = []
    width, folders = max(map(len, CARDS)), max(len(card.folder) for card in CARDS.values())
    for name, card in CARDS.items():
        images = " + ".join(f"{count:,}" for count in card.images.values()) or "as made"
        there = "there" if absent(known(name, data_root)) is None else "absent"
        labels = f"{card.labels:,} classes"
        lines.append(
            f"{name:{width}s} {there:6s} {card.layout:11s} {card.folder:{folders}s} {images:21s} {labels:13s} "
            f"{card.licence}"
        )
    return lines


def subjects(name: str, data_root: Path) -> "list[Subject]":
    """Data sets meant by a name: a known one, a folder, SUITE.yaml (all of its own), or SUITE.yaml:NAME.

    NAME is a set or a task of the suite.

    Raises:
        ValueError: no such set, task or suite.
    """
    from kdep_benchmarks.data.cards import CARDS
    from kdep_benchmarks.data.checks.check import known_subject, subjects_of
    from kdep_benchmarks.tasks.choose import folder_tasks

    if name not in CARDS and Path(name).is_dir():
        return subjects_of(folder_tasks(Path(name), ["linear"])[0], data_root)
    tasks = tasks_of(name, data_root)
    return [known_subject(name, data_root)] if tasks is None else subjects_of(tasks, data_root)


def tasks_of(name: str, data_root: Path) -> "list[Task] | None":
    """Tasks meant by SUITE.yaml or SUITE.yaml:NAME; None for another name.

    Raises:
        ValueError: no such suite, or neither a set nor a task of it has the name.
    """
    from kdep_benchmarks.tasks.task import load_suite

    named = re.fullmatch(r"(.+\.ya?ml)(?::(.+))?", name)
    if named is None:
        return None
    suite, part = named.groups()
    tasks = load_suite(suite, data_root)
    chosen = [task for task in tasks if part in (None, task.name, task.dataset.name)]
    if not chosen:
        there = dict.fromkeys(name for task in tasks for name in (task.dataset.name, task.name))
        raise ValueError(f"{suite}: no data set or task {part!r}; there are {', '.join(there)}")
    return chosen


def mistakes(tasks: "Sequence[Task]") -> list[str]:
    """What `kdep transfer` will refuse of the tasks' settings; the data can be right all the same."""
    from kdep_benchmarks.tasks.settings import check_settings

    said = []
    for task in tasks:
        try:
            check_settings(task)
        except ValueError as error:
            said.append(str(error))
    return said


def _check(args: argparse.Namespace) -> int:
    from kdep_benchmarks.data.cards import absent, fingerprint
    from kdep_benchmarks.data.checks.check import check_dataset
    from kdep_benchmarks.data.findings import finding_lines

    found, tasks = 0, tasks_of(args.name, args.data_root)
    for subject in subjects(args.name, args.data_root):
        report = check_dataset(subject, show=sys.stderr.isatty())
        found += report.defects
        seen = ", ".join(f"{count:,} {role}" for role, count in report.images.items()) or "no images"
        verdict = f"{report.defects} defects" if report.defects else "no defects"
        heading = f"{report.dataset.name} ({subject.family}, {report.dataset.layout}): {seen}; {verdict}"
        text = "".join(f"  {line}\n" for line in finding_lines(report.findings, shown=args.show))
        if absent(report.dataset) is None:
            text += f"  fingerprint {fingerprint(report.dataset)[:16]}: results are compared where it is equal\n"
        elif tasks is not None:
            text += f"  a relative root of a suite starts at --data-root, here {args.data_root}\n"
        sys.stdout.write(f"{heading}\n{text}")
    sys.stdout.write("".join(f"kdep transfer will refuse: {mistake}\n" for mistake in mistakes(tasks or [])))
    return int(found > 0)


def _prepare(args: argparse.Namespace) -> int:
    from kdep_benchmarks.data.preparation.prepare import NotPrepared, prepare

    try:
        prepare(args.name, args.data_root, show=sys.stderr.isatty())
    except (NotPrepared, OSError) as error:  # a full disk, a folder that may not be written
        sys.stderr.write(f"kdep: {error}\n")
        return 1
    sys.stdout.write(f"{args.name} is there; next: kdep data check {args.name} --data-root {args.data_root}\n")
    return 0


def _manifest(args: argparse.Namespace) -> int:
    from kdep.data.sources.manifest import FILE, make_manifest

    out = args.out or args.folder / FILE
    about = make_manifest(args.folder, out, show=sys.stderr.isatty())
    use = f"manifest:{out}" if args.out else args.folder
    sys.stdout.write(f"{out}: {about['images']:,} images; train with data.source={use}\n")
    return 0


def _shards(args: argparse.Namespace) -> int:
    from kdep.data.sources.write_shards import write_shards

    if args.per_shard < 1:
        raise ValueError(f"--per-shard {args.per_shard}: expected at least 1")
    show = sys.stderr.isatty()
    count = write_shards(args.folder, args.out, per_shard=args.per_shard, seed=args.seed, show=show)
    sys.stdout.write(f"{args.out}: {count} shards and their manifest; train with data.source=wds:{args.out}\n")
    return 0


def _overlap(args: argparse.Namespace) -> int:
    from kdep_benchmarks.data.checks.overlap import find_overlap, overlap_lines, write_overlap
    from kdep_benchmarks.tasks.choose import folder_tasks
    from kdep_benchmarks.tasks.task import load_suite

    show = sys.stderr.isatty()
    tasks = load_suite(args.suite, args.data_root) if args.data is None else folder_tasks(args.data, ["linear"])[0]
    found = find_overlap(args.source, tasks, root=args.root, checkpoints=args.checkpoint, show=show)
    write_overlap(found, args.json)
    sys.stdout.write("".join(f"{line}\n" for line in [*overlap_lines(found), str(args.json)]))
    return 0
