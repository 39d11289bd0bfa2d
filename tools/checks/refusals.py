"""Run the commands on checkpoints that must be refused, and record exit codes and messages.

    python -m tools.checks.refusals OUT.json

Cases: a file with two unnamed networks, a missing tensor, a ResNetV1c target, a file that is no checkpoint, and a
pickle that would run code. No code may run and no case may leave a row.
"""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdep.files import write_text
from kdep.models.backbones.backbone import create_network
from kdep.models.checkpoints.names import export_weights

ARCH = "resnet18"


def unnamed_networks(folder: Path) -> list[str]:
    """A file with two networks under prefixes that decide nothing."""
    own = create_network(ARCH).state_dict().items()
    torch.save(
        {f"{word}.{name}": tensor for word in ("a", "b") for name, tensor in own}, folder / "unnamed_networks.pth"
    )
    return transfer(folder, "unnamed_networks.pth")


def missing_tensor(folder: Path) -> list[str]:
    """A state dict without its first convolution."""
    weights = create_network(ARCH).state_dict()
    del weights["conv1.weight"]
    torch.save(weights, folder / "missing_tensor.pth")
    return transfer(folder, "missing_tensor.pth")


def resnet_v1c(folder: Path) -> list[str]:
    """A correct mmseg export, held against mmseg's default ResNetV1c, whose stem it does not fill."""
    weights = export_weights(ARCH, create_network(ARCH).state_dict(), "mmseg")
    torch.save({f"backbone.{name}": tensor for name, tensor in weights.items()}, folder / "plain.pth")
    code = (
        "from kdep_benchmarks.openmmlab.audit import audit_openmmlab; "
        "from kdep.models.checkpoints.checkpoint import LoadError; "
        "from kdep.models.weights import open_checkpoint; import sys\n"
        f"student = open_checkpoint({str(folder / 'plain.pth')!r}, arch={ARCH!r})\n"
        "stem = {'type': 'ResNetV1c', 'depth': 18, 'norm_cfg': {'type': 'BN'}, 'out_indices': (0, 1, 2, 3)}\n"
        "try: audit_openmmlab(student, 'mmseg', backbone=stem)\n"
        "except LoadError as error: sys.exit(print(error, file=sys.stderr) or 3)"
    )
    return [sys.executable, "-c", code]


def not_a_checkpoint(folder: Path) -> list[str]:
    """A text file called .pth."""
    (folder / "text.pth").write_text("these are no weights\n")
    return transfer(folder, "text.pth")


class Payload:
    """Touches a file when it is unpickled by a loader that trusts it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


def pickle_with_code(folder: Path) -> list[str]:
    """A pickle whose loading would run code."""
    with (folder / "payload.pth").open("wb") as file:
        pickle.dump({"state_dict": Payload(folder / "it_ran")}, file)
    return transfer(folder, "payload.pth")


def transfer(folder: Path, name: str) -> list[str]:
    """The command that a user would type."""
    command = [sys.executable, "-m", "kdep.cli", "transfer", str(folder / name), "--arch", ARCH]
    return [*command, "--suite", "demo", "--data-root", str(folder), "--results", str(folder / "results")]


CASES = (unnamed_networks, missing_tensor, resnet_v1c, not_a_checkpoint, pickle_with_code)


def check() -> list[dict[str, Any]]:
    """Run all cases."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for case in CASES:
            done = subprocess.run(case(folder), capture_output=True, text=True, check=False)
            found.append(
                {
                    "case": case.__name__,
                    "exit_code": done.returncode,
                    "message": done.stderr.strip().splitlines()[-1].replace(str(folder), "..."),
                    "rows": len(list(folder.glob("results/**/*.json"))),
                    "code_ran": (folder / "it_ran").exists(),
                }
            )
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    found = check()
    write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201 - the script's answer
    return 0 if all(case["exit_code"] in (2, 3) and not case["rows"] and not case["code_ran"] for case in found) else 1


if __name__ == "__main__":
    sys.exit(main())
