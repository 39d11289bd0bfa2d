"""Kill a pretraining run at random moments, resume it, and compare its weights with an uninterrupted run's.

    python -m tools.checks.resume CONFIG OUT.json [key.sub=value ...]

CONFIG is a recipe's name or a file. Both runs use a temporary folder. SIGKILL gives the process no time to clean up.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdep.files import write_text
from kdep.models.weights import open_checkpoint

KILLS = 3


def start(config: str, overrides: list[str], folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Start `kdep pretrain` in the background."""
    command = [sys.executable, "-m", "kdep.cli", "pretrain", config, *overrides]
    log = (folder / f"{name}.log").open("ab")
    return subprocess.Popen([*command, f"runs={folder}", f"name={name}"], stdout=log, stderr=log)


def position(folder: Path, name: str) -> int:
    """Steps that the run has logged."""
    log = folder / name / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def kill_past(process: subprocess.Popen[bytes], step: int, pause: float, folder: Path, name: str) -> dict[str, float]:
    """SIGKILL the run a moment after it has logged a step; return the step and the pause."""
    while position(folder, name) < step and process.poll() is None:
        time.sleep(0.02)
    time.sleep(pause)
    if process.poll() is not None:
        raise ValueError(f"the run ended before it could be killed after step {step}: take a longer one")
    process.kill()
    process.wait()
    return {"wanted_step": step, "pause_seconds": round(pause, 2), "logged_step": position(folder, name)}


def check(config: str, overrides: list[str], seed: int) -> dict[str, object]:
    """Run once without interruption and once with kills at random steps; compare the weights."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if start(config, overrides, folder, "through").wait() != 0:
            raise ValueError((folder / "through.log").read_text()[-2000:])
        total = position(folder, "through")
        kills = []
        for step in sorted(draw.sample(range(1, int(0.9 * total)), KILLS)):
            process = start(config, overrides, folder, "killed")
            kills.append(kill_past(process, step, draw.uniform(0, 0.5), folder, "killed"))
        if start(config, overrides, folder, "killed").wait() != 0:
            raise ValueError((folder / "killed.log").read_text()[-2000:])
        hashes = {name: open_checkpoint(str(folder / name / "student.pth")).sha256 for name in ("through", "killed")}
    return {
        "config": config,
        "overrides": overrides,
        "steps": total,
        "kills": kills,
        "sha256": hashes,
        "equal": len({*hashes.values()}) == 1,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a recipe")
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    args = parser.parse_args()
    found = check(args.config, args.overrides, args.seed)
    write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201 - the script's answer
    return 0 if found["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
