"""`kdep export CKPT --to LIBRARY`."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep export`."""
    parser.add_argument("checkpoint", help="student.pth, a folder of timm's, FILE with --arch, timm:NAME")
    parser.add_argument(
        "--to", required=True, metavar="LIBRARY", help="timm, torchvision, mmseg, mmdet, detectron2, onnx"
    )
    parser.add_argument("--out", type=Path, help="file to write; for timm a folder [beside the checkpoint]")
    parser.add_argument("--arch", help="timm's name of the network in a plain state dict")


def run(args: argparse.Namespace) -> int:
    """Audit the export, write it, print what to paste."""
    from kdep.export.write import write_export
    from kdep.models.weights import open_checkpoint
    from kdep_benchmarks.verbs.audit import audit_target

    checkpoint = open_checkpoint(args.checkpoint, arch=args.arch)
    ending = {"timm": "timm", "detectron2": "detectron2.pkl", "onnx": "onnx"}.get(args.to, f"{args.to}.pth")
    stem = Path(args.checkpoint) if Path(args.checkpoint).exists() else Path(checkpoint.name.replace(":", "_"))
    out = args.out or stem.with_name(f"{stem.stem}.{ending}")
    if out.resolve() == Path(args.checkpoint).resolve():
        raise ValueError(f"--out {out} is the checkpoint itself")
    report = audit_target(checkpoint, args.to)
    snippet = write_export(checkpoint, args.to, out)
    sys.stdout.write(f"{report}\n{out}\n\n{snippet}\n")
    return 0
