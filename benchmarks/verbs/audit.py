"""`kdep audit CKPT [--to LIBRARY ...]`."""

import argparse
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdep.models.checkpoints.checkpoint import Checkpoint

OPENMMLAB = ("mmseg", "mmdet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep audit`."""
    parser.add_argument("checkpoint", help="student.pth, a state dict with --arch, timm:NAME, random:NAME")
    parser.add_argument("--to", nargs="+", metavar="LIBRARY", help="only these [all that have the architecture]")
    parser.add_argument("--arch", help="timm's name of the network in a plain state dict")


def run(args: argparse.Namespace) -> int:
    """Print one line per target; a load that is not complete ends with exit code 3."""
    from kdep.models.checkpoints.names import SPELLINGS, TORCHVISION_NAMES
    from kdep.models.weights import open_checkpoint

    checkpoint = open_checkpoint(args.checkpoint, arch=args.arch)
    everywhere = checkpoint.arch in TORCHVISION_NAMES
    for target in args.to or (SPELLINGS if everywhere else ("timm",)):
        if not args.to and target in OPENMMLAB and not find_spec("mmcv"):
            line = f"{target:12s} not compared: pip install '.[openmmlab]'"
        else:
            line = audit_target(checkpoint, target)
        sys.stdout.write(f"{line}\n")
    return 0


def audit_target(checkpoint: "Checkpoint", target: str) -> str:
    """Audit one target and describe the finding in a line.

    Raises:
        LoadError: a tensor does not load or an output differs.
        ValueError: there is no such library, or it has no such network.
    """
    from kdep.export.write import TARGETS

    if target not in TARGETS:
        raise ValueError(f"--to {target}: there are {', '.join(TARGETS)}")
    if target in OPENMMLAB:
        from kdep_benchmarks.openmmlab.audit import audit_openmmlab

        found = audit_openmmlab(checkpoint, target)
    else:
        from kdep.export.audit import audit

        found = audit(checkpoint, target)
    line = f"{target:12s} {found.tensors} of {found.expected} tensors"
    if found.max_difference is not None:
        line += f", largest difference of a stage's output {found.max_difference:.1e} of its largest value"
    return f"{line}. {found.note}" if found.note else line
