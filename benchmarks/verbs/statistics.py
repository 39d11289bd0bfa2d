"""`kdep statistics TEACHER [TEACHER ...] --images SOURCE [--labels]`."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep statistics`."""
    parser.add_argument(
        "teachers",
        nargs="+",
        metavar="TEACHER",
        help="timm:NAME, torchvision:NAME, pypi:efficientnet_lite0, npm:resnet50, random:NAME or a file; TEACHER@128 "
        "resamples its input to that side. Several are ranked",
    )
    parser.add_argument(
        "--images", required=True, metavar="SOURCE", help="a folder, a .txt list, FILE.npz:SPLIT or torchvision:NAME"
    )
    parser.add_argument(
        "--labels", action="store_true", help="the images have labels: class folders, or an npz split with labels"
    )
    parser.add_argument("--arch", help="timm's name of the network in plain state dicts")
    parser.add_argument("--tap", help="pre, post or before_head [each teacher's own]")
    parser.add_argument(
        "--width",
        type=int,
        nargs="+",
        default=[320, 512, 1280],
        metavar="D",
        help="channels of the students that the sheet describes targets for [320 512 1280]",
    )
    parser.add_argument("--size", type=int, default=224, help="side of the centre crop in pixels [224]")
    parser.add_argument("--limit", type=int, metavar="N", help="read a seeded choice of this many images [all]")
    help_ = "images whose features are kept for std ratios and classes [10000]"
    parser.add_argument("--keep", type=int, default=10_000, metavar="N", help=help_)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto [auto]")
    parser.add_argument("--out", type=Path, default=Path("statistics"), help="folder to write to [statistics]")


def run(args: argparse.Namespace) -> int:
    """Write a sheet and a JSON per teacher, and the ranking of several; finished teachers are not measured again."""
    refuse_numbers(args)
    from kdep.models.weights import open_checkpoint
    from kdep.run.distributed.processes import join
    from kdep_benchmarks.tasks.settings import Pixels
    from kdep_benchmarks.teachers.images import open_pictures
    from kdep_benchmarks.teachers.ranking import describe, rank, write_ranking
    from kdep_benchmarks.teachers.sheet import draw_sheet
    from kdep_benchmarks.teachers.statistics import StatisticsSettings, file_stems, study_or_read

    checkpoints = [open_checkpoint(spec, arch=args.arch) for spec in args.teachers]
    stems = file_stems(checkpoints)
    images = open_pictures(args.images, labels=args.labels)
    widths = tuple(sorted(set(args.width)))
    settings = StatisticsSettings(
        Pixels(size=args.size, batch_size=64), widths=widths, tap=args.tap, limit=args.limit, keep=args.keep
    )
    device = join(args.device).device
    reports = []
    for checkpoint, stem in zip(checkpoints, stems, strict=True):
        report = study_or_read(checkpoint, images, settings, device=device, path=args.out / f"{stem}.json")
        draw_sheet(report, args.out / f"{stem}.png")
        sys.stdout.write(f"{describe(report)}\n  {args.out / stem}.json\n  {args.out / stem}.png\n")
        reports.append(report)
    if len(reports) > 1:
        sys.stdout.write("\n" + write_ranking(rank(reports), args.out))
    return 0


def refuse_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that are out of range.

    Raises:
        ValueError: names the option.
    """
    if min(args.width) < 2:
        raise ValueError(f"--width {min(args.width)}: a std ratio needs 2 channels or more")
    for option, value, least in (("--limit", args.limit, 2), ("--keep", args.keep, 2), ("--size", args.size, 16)):
        if value is not None and value < least:
            raise ValueError(f"{option} {value}: expected {least} or more")
