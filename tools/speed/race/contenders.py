"""Those who race: kdep's recipes and LightlyTrain, each as a command that is timed from its start to its end."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdep.files import save
from kdep.models.checkpoints.checkpoint import Checkpoint, write_student
from kdep.models.checkpoints.keras_resnet import ARCH as CAFFE
from kdep.models.weights import open_checkpoint
from tools.speed.pretraining.lightly import run_isolated

SIDE = Path(__file__).with_name("lightly_side.py")
RIVAL = "LightlyTrain"
# Overrides of the recipe `default`.
KDEP: dict[str, list[str]] = {
    "kdep": [],
    "kdep, SVD + PTS": ["scale={name: pts, temperature: 0.1, exponent: 3}"],
    "kdep, 1x1 conv": ["align.name=none", "project=linear", "scale={name: unit}"],
    "supervised": ["loss.name=labels", "loss.weight=1", "student.tap=post"],
}
CONTENDERS = (*KDEP, RIVAL)


@dataclass(frozen=True)
class Race:
    """What all contenders share.

    Attributes:
        images: folder of the images; class folders, for `supervised`.
        teacher: as teacher.source; a ResNet of torchvision's layout.
        tap: where kdep takes the teacher's features.
        student: a ResNet that timm and torchvision name alike.
        size: side of a view in pixels.
        work: folder of runs and results.
        lightly: Python that has LightlyTrain.
    """

    images: Path
    teacher: str
    tap: str
    student: str
    size: int
    work: Path
    lightly: Path | None


def run(race: Race, name: str, seed: int, steps: int, *, pilot: bool = False) -> dict[str, Any]:
    """Pretrain for so many steps; returns wall seconds of the whole command, images seen, and the student's file."""
    label = f"{'-'.join(name.replace(',', '').replace('+', '').split())}-s{seed}" + (f"-pilot{steps}" if pilot else "")
    return _lightly(race, label, seed, steps) if name == RIVAL else _kdep(race, label, KDEP[name], seed, steps)


def _kdep(race: Race, label: str, overrides: list[str], seed: int, steps: int) -> dict[str, Any]:
    teacher = {"source": race.teacher, "tap": race.tap, "size": 2 * race.size}
    words = [f"name={label}", f"seed={seed}", f"runs={race.work / 'runs'}", f"data.source={race.images}"]
    words += [f"teacher={json.dumps(teacher)}", f"student.arch={race.student}", f"data.size={race.size}"]
    # A pass over 20,000 images takes minutes on two cores.
    words += [f"align.images={min(2000, images_in(race.images))}"]
    words += [f"optim.steps={steps}", "optim.epochs=null", "log.every=10", *overrides]
    command = [sys.executable, "-m", "kdep.cli", "pretrain", "default", *words]
    began = time.perf_counter()
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if child.returncode != 0:
        raise RuntimeError(f"kdep failed (exit code {child.returncode}):\n{(child.stdout + child.stderr)[-3000:]}")
    folder = race.work / "runs" / label
    seen = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["images"]
    return {"seconds": seconds, "steps": steps, "views": seen, "student": str(folder / "student.pth")}


def _lightly(race: Race, label: str, seed: int, steps: int) -> dict[str, Any]:
    batch = min(128, images_in(race.images))  # 128 is LightlyTrain's default
    found = open_checkpoint(race.teacher)
    asked = {
        "data": str(race.images.resolve()),
        "out": str((race.work / "lightly" / label).resolve()),
        "teacher": str(teacher_of(race, found).resolve()),
        "caffe": found.arch == CAFFE,
        "mean": list(found.mean),
        "std": list(found.std),
        "student": race.student,
        "size": race.size,
        "batch": batch,
        "steps": steps,
        "seed": seed,
    }
    said, seconds = run_isolated(race.lightly, SIDE, asked)
    student = race.work / "lightly" / label / "student.pth"
    write_student(replace(open_checkpoint(said["student"], arch=race.student), name=label), student)
    return {"seconds": seconds, "steps": steps, "views": steps * batch, "student": str(student), **said["versions"]}


def images_in(folder: Path) -> int:
    """Count the files of a folder of images."""
    return sum(path.is_file() for path in folder.rglob("*"))


def teacher_of(race: Race, found: Checkpoint) -> Path:
    """Write the teacher's weights for LightlyTrain; timm and torchvision name a ResNet's tensors alike."""
    path = race.work / "teacher.pth"
    if not path.exists():
        save({"arch": "resnet50", "weights": dict(found.weights)}, path)
    return path
