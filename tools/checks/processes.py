"""Compare pretraining by 1, 2 and 4 processes on a CPU, and lose one of them.

    python -m tools.checks.processes OUT.json [--only curve,killed,...]

Every process has a working folder of its own, as on machines without a shared disk. Each check writes its answer to the
JSON as soon as it has one.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdep.files import read, write_text
from kdep.models.checkpoints.checkpoint import fingerprint

RECIPE = """
name: any
seed: 1
teacher: {{source: "random:test_efficientnet", tap: post, precision: float32}}
student: {{arch: test_efficientnet}}
data: {{source: "{photos}", size: 32, workers: 0}}
scale: {{name: none}}
optim: {{name: sgd, epochs: 7, batch_size: 16, lr: 0.05}}
log: {{every: 1, checkpoint_every: 4, trackers: []}}
device: cpu
precision: float32
runs: runs
"""
LIMIT = 15  # seconds, in place of ten minutes, for the process that is stopped
MAIN = "import sys; from datetime import timedelta; from kdep.run.distributed import processes"
MAIN += "; processes.LIMIT = timedelta(seconds={limit}); from kdep.cli import main; sys.exit(main(sys.argv[1:]))"


class Place:
    """A temporary folder with images, a recipe and the folders of the machines."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recipe = folder, folder / "recipe.yaml"
        for number in range(128):
            noise = np.random.Generator(np.random.Philox(number)).integers(0, 256, (4, 5, 3), dtype=np.uint8)
            (folder / "photos").mkdir(exist_ok=True)
            Image.fromarray(noise).resize((48, 40)).save(folder / "photos" / f"{number:03d}.png")
        write_text(self.recipe, RECIPE.format(photos=folder / "photos"))

    def start(self, world: int, *given: str, verb: str = "pretrain", limit: int = 600) -> list[subprocess.Popen[str]]:
        """Start the processes of one run."""
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port = str(bound.getsockname()[1])
        around = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        around |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", MAIN.format(limit=limit), verb, str(self.recipe), *given]
        started = []
        for rank in range(world):
            (self.folder / f"machine{rank}").mkdir(exist_ok=True)
            own = {"cwd": self.folder / f"machine{rank}", "env": {**around, "RANK": str(rank)}}
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **own))
        return started

    def run(self, world: int, *given: str, verb: str = "pretrain") -> list[tuple[int, str]]:
        """Run to the end; returns exit code and last line of stderr of each process."""
        return [end_of(process) for process in self.start(world, *given, verb=verb)]

    def file(self, name: str, file: str) -> Path:
        """A file of a run, in the folder of the first machine."""
        return self.folder / "machine0" / "runs" / name / file

    def losses(self, name: str) -> list[float]:
        """Losses of a run so far, one a step."""
        log = self.file(name, "log.jsonl")
        return [json.loads(line)["loss"] for line in log.read_text().splitlines()] if log.exists() else []

    def weights(self, name: str) -> str:
        """Fingerprint of the trained student."""
        return fingerprint(read(self.file(name, "student.pth"))["state_dict"])

    def reach(self, name: str, step: int) -> None:
        """Wait until a run has logged a step."""
        while len(self.losses(name)) < step:
            time.sleep(0.05)

    def whole(self, world: int) -> str:
        """Make the uninterrupted run of so many processes once; returns its name."""
        name = f"whole{world}"
        if not self.file(name, "student.pth").exists():
            ended = self.run(world, f"name={name}")
            if any(code for code, _ in ended):
                raise ValueError(f"{name}: {ended}")
        return name


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process; returns its exit code and the last line of its stderr."""
    said = process.communicate(timeout=900)[1].strip().splitlines()
    return process.returncode, said[-1] if said else ""


def curve(place: Place) -> dict[str, Any]:
    """Loss curves and statistics against one process at the same global batch, with BatchNorm over all processes."""
    one, found = place.losses(place.whole(1)), {"steps": 0, "first_loss": 0.0, "last_loss": 0.0}
    found |= {"steps": len(one), "first_loss": one[0], "last_loss": one[-1]}
    for world in (2, 4):
        name = place.whole(world)
        found[f"{world} processes"] = {"largest relative difference": worst(one, place.losses(name))}
        found[f"{world} processes"] |= statistics(place, name)
    return found


def statistics(place: Place, name: str) -> dict[str, float]:
    """Differences of the statistics to those of one process."""
    one, other = (read(place.file(run, "statistics.pt")) for run in ("whole1", name))
    first = float(one["variances"][0])
    return {
        "mean, in deviations of its channel": float(
            ((one["mean"] - other["mean"]).abs() / one["channel_variances"].sqrt()).nan_to_num().max()
        ),
        "variances, of the first": float((one["variances"] - other["variances"]).abs().max()) / first,
        "leading 8 axes": float((one["axes"] - other["axes"])[:, :8].abs().max()),
        "images": other["count"],
    }


def separate(place: Place) -> dict[str, Any]:
    """BatchNorm over each process's own images: how far the same run is from that of one process."""
    place.run(2, "name=separate", "optim.sync_bn=false")
    return {"largest relative difference": worst(place.losses(place.whole(1)), place.losses("separate"))}


def worst(one: list[float], other: list[float]) -> float:
    """Largest relative difference of two curves."""
    return max(abs(a - b) / a for a, b in zip(one, other, strict=True))


def killed(place: Place) -> dict[str, Any]:
    """SIGKILL one of two processes; the other must end by itself with a sentence, and the run must go on exactly."""
    first, second = place.start(2, "name=killed")
    place.reach("killed", 21)
    second.kill()
    since = time.monotonic()
    code, said = end_of(first)
    seconds = time.monotonic() - since
    second.communicate()
    place.run(2, "name=killed")
    there = sorted(path.name for path in (place.folder / "machine1").rglob("*"))
    return {
        "seconds until the other one ended": round(seconds, 1),
        "exit code": code,
        "said": said,
        "files of the second machine": there,
        "equal weights after the resume": place.weights("killed") == place.weights(place.whole(2)),
    }


def stopped(place: Place) -> dict[str, Any]:
    """SIGSTOP one of two processes: a time-out must end the other with a sentence (here after a few seconds)."""
    first, second = place.start(2, "name=stopped", limit=LIMIT)
    place.reach("stopped", 9)
    second.send_signal(signal.SIGSTOP)
    since = time.monotonic()
    code, said = end_of(first)
    second.kill()
    second.communicate()
    return {"limit": LIMIT, "seconds": round(time.monotonic() - since, 1), "exit code": code, "said": said}


def refused(place: Place) -> dict[str, Any]:
    """Resume the run of two processes with four and with one, and start two with different settings."""
    if not place.file("half", "run.pt").exists():
        started = place.start(2, "name=half")
        place.reach("half", 9)
        for process in started:
            process.kill()
            process.communicate()
    return {f"with {world}": place.run(world, "name=half") for world in (4, 1)}


def bank(place: Place) -> dict[str, Any]:
    """Banks filled by two and four processes against that of one."""
    found, files = {}, {}
    for world in (1, 2, 4):
        folder = place.folder / f"bank{world}"
        ended = place.run(world, f"bank.path={folder}", "bank.views=4", verb="targets")
        if any(code for code, _ in ended):
            raise ValueError(f"bank of {world}: {ended}")
        files[world] = np.concatenate([np.load(path) for path in sorted(folder.rglob("*.npy"))]).astype(np.float64)
        if world > 1:
            off = np.abs(files[world] - files[1])
            found[f"{world} processes"] = {
                "entries": int(off.size),
                "share of equal bits": float((off == 0).mean()),
                "largest difference, of the largest entry": float(off.max() / np.abs(files[1]).max()),
            }
    return found


def restarted(place: Place) -> dict[str, Any]:
    """Under torchrun with an elastic rendezvous and one restart: kill a worker, and let it go on by itself."""
    whole = place.whole(2)
    command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    command += ["127.0.0.1:0", "--nnodes", "1", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "kdep.cli"]
    around = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    around["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as in tools/pretrain.sh
    process = subprocess.Popen(
        [*command, "pretrain", str(place.recipe), "name=restarted"],
        cwd=place.folder / "machine0",
        env=around,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    place.reach("restarted", 21)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(workers.split()[1]), signal.SIGKILL)
    code = process.wait(900)
    return {"exit code": code, "equal weights": place.weights("restarted") == place.weights(whole)}


CHECKS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "curve": curve,
    "killed": killed,
    "refused": refused,
    "bank": bank,
    "stopped": stopped,
    "separate": separate,
    "restarted": restarted,
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(CHECKS), help=f"some of {', '.join(CHECKS)}")
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    found |= {"torch": str(torch.__version__), "recipe": RECIPE.strip()}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        for name in args.only.split(","):
            found[name] = CHECKS[name](place)
            print(name, json.dumps(found[name], indent=1), flush=True)  # noqa: T201 - the script's answer
            text = json.dumps(found, indent=1).replace(folder, "FOLDER").replace(socket.gethostname(), "HOST")
            write_text(args.out, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
