"""Configure and time pretraining runs from their own logs, and time the student's step alone."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kdep.bank.prepare import build
from kdep.config import Config, parse_config
from kdep.files import write_text
from kdep.method.loss import distill_loss, make_criterion
from kdep.models.student import open_student
from kdep.pretrain import pretrain
from kdep.run.device import choose_student_precision, computing_in
from kdep.run.distributed.processes import join
from kdep.run.optim import make_optimizer
from tools.speed.clock import seconds
from tools.speed.photographs import photographs
from tools.speed.row import Setting

EDGE = 3  # steps left out at both ends, when the loader starts and when it has finished


@dataclass(frozen=True)
class Case:
    """Teacher, student and images of a measurement.

    Attributes:
        size: side of the views in pixels.
        images: of the bank; more than the student's width, or the axes would lack rank.
        live: images of a run with the live teacher, which is slower.
        epochs: of a run from the bank.
        precision: float32, as the rival computes, or auto: what a user gets.
    """

    teacher: str
    student: str
    size: int
    batch: int
    images: int
    live: int
    epochs: int = 1
    precision: str = "float32"


def on_device(case: Case, setting: Setting) -> Case:
    """Adapt the sizes of a case to the device; tiny with --quick."""
    if setting.quick:
        return replace(
            case, teacher="random:test_efficientnet", student="test_resnet", size=32, batch=8, images=128, live=128
        )
    if setting.device.type == "cuda":
        return replace(case, batch=128, images=8192, live=8192, precision="auto")
    return case


def folder_of(case: Case, setting: Setting) -> Path:
    """The case's photographs, as an ImageFolder."""
    sides = (120, 90) if setting.quick else (500, 375)
    return photographs(setting.work, case.images, sides)


def configure(case: Case, setting: Setting, *, name: str, bank: bool, workers: int | str = "auto") -> Config:
    """A run of kdep as a user would start it, logging every step (on a GPU every fifth, which waits less)."""
    data: dict[str, Any] = {
        "source": str(folder_of(case, setting)),
        "size": case.size,
        "workers": workers,
        "limit": None if bank else case.live,
    }
    content = {
        "name": name,
        "teacher": {"source": case.teacher},
        "student": {"arch": case.student},
        "data": {**data, "jitter": 0.1, "lighting": 0.05},
        # The live teacher's statistics are taken from a few images: they are no part of what is timed there. Random
        # axes cost the same product as principal ones and need no rank.
        "align": {"name": "svd"} if bank else {"name": "random", "images": min(64, case.live)},
        "optim": {"epochs": case.epochs, "batch_size": case.batch, "lr": 0.01},
        "log": {"every": 5 if setting.device.type == "cuda" else 1, "checkpoint_every": 10**6},
        "bank": {"path": str(bank_path(case, setting)), "views": 1, "check": 1} if bank else None,
        "device": str(setting.device),
        "precision": case.precision,
        "runs": str(setting.work / "runs"),
    }
    return parse_config(content, "tools.speed.measure")


def bank_path(case: Case, setting: Setting) -> Path:
    """One bank per teacher, size and set of images, shared by rows."""
    return setting.work / "banks" / f"{case.teacher.replace(':', '-')}-{case.size}-{case.images}"


def make_bank(case: Case, setting: Setting) -> float:
    """Make the case's bank if it is missing; return the seconds that it took."""
    path = bank_path(case, setting)
    note = path.with_name(f"{path.name}.json")
    if note.exists() and path.exists():
        return json.loads(note.read_text())["seconds"]
    shutil.rmtree(path, ignore_errors=True)
    config = configure(case, setting, name="bank", bank=True)
    took = seconds(lambda: build(config), setting.device)
    write_text(note, json.dumps({"seconds": took}))
    return took


@dataclass(frozen=True)
class Run:
    """Figures of a run's own log.

    Attributes:
        rate: images/s between its first and last steps.
        waited: share of that time spent waiting for data.
        cumulated: seconds from the start of the loop to the end of each record.
        whole: seconds of everything, start-up included.
    """

    rate: float
    waited: float
    cumulated: list[float]
    whole: float


def run(config: Config) -> Run:
    """Pretrain from the start and read the log."""
    folder = config.runs / config.name
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    pretrain(config)
    whole = time.perf_counter() - began
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    images = [b["images"] - a["images"] for a, b in zip([{"images": 0}, *records[:-1]], records, strict=True)]
    times = [count / record["images_per_second"] for count, record in zip(images, records, strict=True)]
    edge = min(-(-EDGE // config.log.every), (len(records) - 1) // 2)
    middle = slice(edge, len(records) - edge)
    waited = sum(time * record["data_wait"] for time, record in zip(times[middle], records[middle], strict=True))
    cumulated = [sum(times[: n + 1]) for n in range(len(times))]
    return Run(sum(images[middle]) / sum(times[middle]), waited / sum(times[middle]), cumulated, whole)


def growth(found: Run) -> dict[str, Any]:
    """Seconds after a quarter, a half and all of a run's images: 1x, 2x, 4x."""
    at = {"1x": len(found.cumulated) // 4, "2x": len(found.cumulated) // 2, "4x": len(found.cumulated)}
    return {"unit": "s", **{name: round(found.cumulated[max(count, 1) - 1], 3) for name, count in at.items()}}


def student_step(
    config: Config, images: torch.Tensor, layout: torch.memory_format = torch.channels_last, *, compiled: bool = False
) -> Callable[[], None]:
    """A training step of the student on tensors in memory, as `kdep.pretrain.train` does it, on fixed targets."""
    device = images.device
    student = open_student(config).to(device, memory_format=layout).train()
    wanted = torch.randn(len(images), 1, student.dim, device=device)
    dtype = choose_student_precision(config.precision, device)
    optimizer = make_optimizer(student, config.optim)
    gradients = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    criterion = make_criterion(config.loss, student.dim, lambda rows: rows)
    call = torch.compile(student) if compiled else student

    def work() -> None:
        with computing_in(dtype, device):
            loss = distill_loss(call, wanted, images, config.loss, criterion)
        optimizer.zero_grad(set_to_none=True)
        gradients.scale(loss).backward()
        gradients.step(optimizer)
        gradients.update()

    return work


def ceiling(config: Config, steps: int) -> Callable[[], float]:
    """Time the student's step on tensors in memory, the upper limit of any pretraining.

    Returns:
        What measures it: images/s over `steps` steps.
    """
    device, size = join(config.device).device, config.data.size
    step = student_step(config, torch.rand(config.optim.batch_size, 3, size, size, device=device))

    def rate() -> float:
        for _ in range(2):
            step()
        return config.optim.batch_size * steps / seconds(lambda: [step() for _ in range(steps)], device)

    return rate
