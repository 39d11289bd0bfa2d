"""`kdep subset FOLDER --per-class 128 --out LIST.txt`."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep subset`."""
    parser.add_argument("folder", type=Path, help="a folder of class folders, such as imagenet/train")
    share = parser.add_mutually_exclusive_group(required=True)
    share.add_argument(
        "--per-class", type=int, metavar="N", help="this many images of each class (the paper's 10 %%: 128)"
    )
    share.add_argument("--fraction", type=float, metavar="F", help="this share of each class, in (0, 1]")
    parser.add_argument("--seed", type=int, default=0, help="of the choice [0]")
    parser.add_argument(
        "--out", type=Path, required=True, help="the list to write; use it as data.source=LIST.txt data.root=FOLDER"
    )


def run(args: argparse.Namespace) -> int:
    """Write the list of paths; images are not copied."""
    from kdep.data.sources.subset import write_subset

    if args.fraction is not None and not 0 < args.fraction <= 1:
        raise ValueError(f"--fraction {args.fraction}: expected a share in (0, 1]")
    count = write_subset(args.folder, args.out, per_class=args.per_class, fraction=args.fraction, seed=args.seed)
    sys.stdout.write(f"{args.out}: {count} images; train with data.source={args.out} data.root={args.folder}\n")
    return 0
