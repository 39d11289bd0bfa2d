"""`kdep export CKPT --to LIBRARY [--card]`."""

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
    card = parser.add_argument_group("model card")
    card.add_argument("--card", action="store_true", help="write a Hugging Face README.md into the folder; --to timm")
    card.add_argument("--results", nargs="+", type=Path, default=[], metavar="DIR", help="results to quote in the card")
    card.add_argument("--license", metavar="NAME", help="the hub's name of the weights' licence, such as apache-2.0")


def run(args: argparse.Namespace) -> int:
    """Audit the export, write it, print what to paste."""
    from kdep.export.write import write_export
    from kdep.models.weights import file_of, open_checkpoint
    from kdep_benchmarks.verbs.audit import audit_target

    results = _results(args)
    checkpoint = open_checkpoint(args.checkpoint, arch=args.arch)
    ending = {"timm": "timm", "detectron2": "detectron2.pkl", "onnx": "onnx"}.get(args.to, f"{args.to}.pth")
    source = file_of(args.checkpoint)
    out = args.out or source.with_name(f"{_plain(args.checkpoint, source, checkpoint.name)}.{ending}")
    if out.resolve() == source.resolve():
        raise ValueError(f"--out {out} is the checkpoint itself")
    card = out / "README.md"
    if args.card:
        from kdep_benchmarks.page.model_card import check_place, write_card

        check_place(card, args.license)
    report = audit_target(checkpoint, args.to)
    snippet = write_export(checkpoint, args.to, out)
    sys.stdout.write(f"{report}\n{out}\n\n{snippet}\n")
    if args.card:
        # A reader of the card has the file beside it, not where it was written here.
        relative = snippet.replace(str(out.absolute()), out.name)
        write_card(checkpoint, results, card, snippet=relative, licence=args.license)
        sys.stdout.write(f"{card}\n")
    return 0


def _plain(spec: str, source: Path, name: str) -> str:
    """Name of an export without its ending, another one for each of the weights of a network.

    What stands behind a dot, `#` or `@` tells timm's weights of one network, or two networks in a file.
    """
    if not source.exists():
        return name.replace(":", "_")
    stem = source.stem if source.is_file() else source.name.removesuffix(".timm")
    return stem + Path(spec).name.removeprefix(source.name)


def _results(args: argparse.Namespace) -> list:
    """Results for the card, read before anything is written."""
    if not args.card:
        if args.results or args.license:
            raise ValueError("--results and --license are for --card")
        return []
    if args.to != "timm":
        raise ValueError(f"--card describes an export for timm, not {args.to}: --to timm")
    from kdep_benchmarks.data.checks.overlap import read_with_overlap

    return read_with_overlap(args.results).results
