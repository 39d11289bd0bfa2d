"""Those who race: kdep's recipes and LightlyTrain, each as a command that is timed from its start to its end."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdep.config import read_config
from kdep.data.sources.source import open_source
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
    "kdep, same pixels": ["teacher.size=null"],  # as LightlyTrain: teacher and student see the same
    "kdep, SVD + PTS": ["scale={name: pts, temperature: 0.1, exponent: 3}"],
    "kdep, 1x1 conv": ["align.name=none", "project=linear", "scale={name: unit}"],
    "supervised": ["loss.name=labels", "loss.weight=1", "student.tap=post"],
}
BATCH = 128  # LightlyTrain's default
# Further arguments of lightly_train.pretrain. It divides a rate by the root of 1536 / batch, so that its own 0.0005
# becomes 0.00014. 0.002 is the rate of the recipe `default`.
LIGHTLY: dict[str, dict[str, Any]] = {
    RIVAL: {},
    f"{RIVAL}, kdep's rate": {"optim_args": {"lr": 0.002 * (1536 / BATCH) ** 0.5}},
}
CONTENDERS = (*KDEP, *LIGHTLY)


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
    """Pretrain for so many steps, from nothing.

    Returns:
        Wall seconds of the whole command, images seen, and the student's file.
    """
    plain = "-".join(name.translate(str.maketrans("", "", ",+'")).split())
    label = f"{plain}-s{seed}" + (f"-pilot{steps}" if pilot else "")
    folder = race.work / ("lightly" if name in LIGHTLY else "runs") / label
    if folder.exists():
        # kdep would resume a run that was stopped, or return at once, and be timed for the rest alone.
        shutil.rmtree(folder)
    if name in LIGHTLY:
        return _lightly(race, folder, LIGHTLY[name], seed, steps)
    return _kdep(race, folder, KDEP[name], seed, steps)


def words_of(race: Race, label: str, overrides: Sequence[str], seed: int, steps: int) -> list[str]:
    """Words after `kdep pretrain default`; the warm-up keeps the share of the run that it has in the recipe."""
    images = images_in(race.images)
    teacher = {"source": race.teacher, "tap": race.tap, "size": 2 * race.size}
    words = [f"name={label}", f"seed={seed}", f"runs={race.work / 'runs'}", f"data.source={race.images}"]
    words += [f"teacher={json.dumps(teacher)}", f"student.arch={race.student}", f"data.size={race.size}"]
    # A pass over 20,000 images takes minutes on two cores.
    words += [f"align.images={min(2000, images)}", "log.every=10", *overrides]
    optim = read_config("default", words).optim
    # The recipe's half epoch may be longer than the run. Fewer images than a batch are refused by kdep.
    warmup = optim.warmup_epochs / optim.epochs * steps / max(1, images // optim.batch_size)
    return [*words, f"optim.steps={steps}", "optim.epochs=null", f"optim.warmup_epochs={warmup}"]


def _kdep(race: Race, folder: Path, overrides: list[str], seed: int, steps: int) -> dict[str, Any]:
    words = words_of(race, folder.name, overrides, seed, steps)
    command = [sys.executable, "-m", "kdep.cli", "pretrain", "default", *words]
    began = time.perf_counter()
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if child.returncode != 0:
        raise RuntimeError(f"kdep failed (exit code {child.returncode}):\n{(child.stdout + child.stderr)[-3000:]}")
    seen = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["images"]
    return {"seconds": seconds, "steps": steps, "views": seen, "student": str(folder / "student.pth")}


def _lightly(race: Race, folder: Path, settings: dict[str, Any], seed: int, steps: int) -> dict[str, Any]:
    images = images_in(race.images)
    batch = min(BATCH, images)
    found = open_checkpoint(race.teacher)
    asked = {
        "data": str(race.images.resolve()),
        "out": str(folder.resolve()),
        "teacher": str(teacher_of(race, found).resolve()),
        "caffe": found.arch == CAFFE,
        "mean": list(found.mean),
        "std": list(found.std),
        "student": race.student,
        "size": race.size,
        "batch": batch,
        "steps": steps,
        # Those that the steps begin: its warm-up is a share of them. It drops an epoch's last, incomplete batch.
        "epochs": -(-steps // (images // batch)),
        "seed": seed,
        "settings": settings,
    }
    said, seconds = run_isolated(race.lightly, SIDE, asked)
    student = folder / "student.pth"
    write_student(replace(open_checkpoint(said["student"], arch=race.student), name=folder.name), student)
    return {"seconds": seconds, "steps": steps, "views": steps * batch, "student": str(student), **said["versions"]}


def images_in(folder: Path) -> int:
    """Count the images of a folder as kdep does, whose types of files LightlyTrain reads too.

    Raises:
        ValueError: there are none.
    """
    return len(open_source(str(folder)).names)


def teacher_of(race: Race, found: Checkpoint) -> Path:
    """Write the teacher's weights for LightlyTrain; timm and torchvision name a ResNet's tensors alike."""
    path = race.work / f"teacher-{found.identity[:16]}.pth"  # a folder may have had another teacher before
    if not path.exists():
        save({"arch": "resnet50", "weights": dict(found.weights)}, path)
    return path
