"""Measure the difference between exported backbones and the student; write the figures.

    python -m tools.checks.export OUT.json [student.pth ...]

Without checkpoints it takes ResNet-18, -34, -50 and MobileNetV2 with random weights and, unlike a fresh network,
BatchNorm statistics that matter. Each is exported to torchvision, timm, detectron2, mmseg and mmdet; a figure is the
largest difference of any stage's output, as a share of the largest output of that stage.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from kdep.export.audit import TOLERANCE, Audit, audit
from kdep.files import write_atomically
from kdep.models.backbones.backbone import create_network
from kdep.models.checkpoints.checkpoint import Checkpoint, fingerprint
from kdep.models.checkpoints.names import SPELLINGS, TORCHVISION_NAMES
from kdep.models.weights import open_checkpoint


def scrambled(arch: str, *, seed: int = 0) -> Checkpoint:
    """Make a checkpoint in which every tensor matters.

    A fresh BatchNorm is the identity, so exporting without its statistics would go unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_network(arch)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3, generator=generator)
            module.num_batches_tracked.fill_(7)
    weights, config = network.state_dict(), network.pretrained_cfg
    return Checkpoint(
        name=f"scrambled:{arch}",
        arch=arch,
        weights=weights,
        mean=config["mean"],
        std=config["std"],
        size=224,
        tap="post",
        sha256=fingerprint(weights),
        provenance={"kind": "random", "seed": seed},
    )


def check(checkpoint: Checkpoint) -> dict[str, Audit]:
    """Audit a checkpoint in every library: target -> figures."""
    from kdep_benchmarks.openmmlab.audit import audit_openmmlab

    return {
        target: audit_openmmlab(checkpoint, target) if target in ("mmseg", "mmdet") else audit(checkpoint, target)
        for target in SPELLINGS
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("checkpoints", nargs="*", help="student.pth files; by default random networks")
    args = parser.parse_args(arguments)
    checkpoints = [open_checkpoint(spec) for spec in args.checkpoints] or [
        scrambled(arch) for arch in TORCHVISION_NAMES
    ]
    figures = {}
    for checkpoint in checkpoints:
        audits = check(checkpoint)
        figures[checkpoint.name] = {target: asdict(result) for target, result in audits.items()}
        for target, result in audits.items():
            sys.stdout.write(f"{checkpoint.name:28} {target:12} {result.max_difference} {result.note}\n")
    content = {"torch": torch.__version__, "tolerance": TOLERANCE, "checkpoints": figures}
    write_atomically(args.out, lambda neighbour: neighbour.write_text(json.dumps(content, indent=2) + "\n"))


if __name__ == "__main__":
    main(sys.argv[1:])
