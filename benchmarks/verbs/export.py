"""`kdep export CKPT --to LIBRARY`."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep export`."""
    parser.add_argument("checkpoint", help="student.pth, a state dict with --arch, timm:NAME, random:NAME")
    parser.add_argument("--to", required=True, metavar="LIBRARY", help="timm, torchvision, mmseg, mmdet or detectron2")
    parser.add_argument("--out", type=Path, help="file to write [beside the checkpoint, STEM.LIBRARY.pth]")
    parser.add_argument("--arch", help="timm's name of the network in a plain state dict")


def run(args: argparse.Namespace) -> int:
    """Audit the export, write it, print what to paste."""
    from benchmarks.verbs.audit import audit_target
    from kdep.export import write_export
    from kdep.weights import open_checkpoint

    checkpoint = open_checkpoint(args.checkpoint, arch=args.arch)
    suffix = "pkl" if args.to == "detectron2" else "pth"
    stem = Path(args.checkpoint) if Path(args.checkpoint).is_file() else Path(checkpoint.name.replace(":", "_"))
    out = args.out or stem.with_name(f"{stem.stem}.{args.to}.{suffix}")
    if out.resolve() == Path(args.checkpoint).resolve():
        raise ValueError(f"--out {out} is the checkpoint itself")
    report = audit_target(checkpoint, args.to)
    snippet = write_export(checkpoint, args.to, out)
    sys.stdout.write(f"{report}\n{out}\n\n{snippet}\n")
    return 0
