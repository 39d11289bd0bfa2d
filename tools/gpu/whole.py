"""Run whole commands on the device: an interrupted run, the demo, the frozen tasks on CPU and device."""

import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from kdep import pretrain as method
from kdep.config import Config
from kdep.files import read
from kdep.run.device import find_device
from tools.gpu.cases import TINY, case_of, check, config_of, setting_of

TASKS = ("scenes-knn", "scenes-linear", "scenes-dense-linear", "scenes-box")
POINTS = 1.0  # by which a score may differ: a few of the test images lie on a boundary
WEIGHTS = 1e-3  # relative: CUDA adds in another order from run to run


class StoppedError(Exception):
    """In place of Ctrl-C."""


def resume(asked: dict[str, Any]) -> dict[str, Any]:
    """Interrupt a run in the middle, go on, and compare the weights with those of an uninterrupted run."""
    setting = setting_of(asked)
    config = config_of(setting, case_of(setting, TINY), name="whole")
    log = config.log.model_copy(update={"checkpoint_every": 4})

    def named(name: str) -> Config:
        shutil.rmtree(config.runs / name, ignore_errors=True)
        return config.model_copy(update={"name": name, "log": log})

    whole = read(method.pretrain(named("whole")))["state_dict"]
    again = read(method.pretrain(named("again")))["state_dict"]
    step, left, parts = method.distill_loss, [11], named("parts")

    def interrupted(*arguments: Any) -> torch.Tensor:
        left[0] -= 1
        if left[0] == 0:
            raise StoppedError
        return step(*arguments)

    try:
        with mock.patch.object(method, "distill_loss", interrupted):
            method.pretrain(parts)
    except StoppedError:
        pass
    resumed = read(method.pretrain(parts))["state_dict"]
    noise, gap = apart(again, whole), apart(resumed, whole)
    exact = all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    figures = {"bit for bit": str(exact), "two uninterrupted runs differ by": noise, "the resumed one differs by": gap}
    return {"figures": figures, "checks": [check("weights after a resume", gap, max(WEIGHTS, 3 * noise))]}


def apart(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Largest relative difference of a tensor."""
    gaps = [
        float((found[name].double() - tensor.double()).norm() / tensor.double().norm().clamp_min(1e-12))
        for name, tensor in wanted.items()
        if tensor.is_floating_point()
    ]
    return max(gaps)


def demo(asked: dict[str, Any]) -> dict[str, Any]:
    """The demo's recipe and its frozen tasks on the device, with the expected scores of the recipe's header."""
    from kdep.config import read_config
    from kdep_benchmarks.data.preparation.prepare import prepare

    setting = setting_of(asked)
    if setting.quick:
        return {"figures": {"not run": "the demo has no tiny form"}}
    root = setting.work / "demo"
    prepare("scenes", root, show=False)
    shutil.rmtree(setting.work / "runs" / "demo", ignore_errors=True)
    images = root / "scenes" / "images"
    changes = [f"data.source={images}", f"runs={setting.work / 'runs'}", f"device={setting.device.type}"]
    student = method.pretrain(read_config("demo", changes))
    scores = transferred(setting.work, student, setting.device.type)
    linear, knn = scores["scenes-linear"], scores["scenes-knn"]
    checks = [check("linear below 41.2 by", 41.2 - linear, 5), check("kNN below 37.5 by", 37.5 - knn, 5)]
    return {"figures": scores, "checks": checks}


def probes(asked: dict[str, Any]) -> dict[str, Any]:
    """Scores of the frozen tasks on the CPU against those on the device, for the demo's student."""
    setting = setting_of(asked)
    student = setting.work / "runs" / "demo" / "student.pth"
    if not student.exists():
        return {"figures": {"not run": "needs the student of the step demo"}}
    names = {name: find_device(name) for name in ("cpu", setting.device.type)}
    return compared(*(transferred(setting.work, student, name) for name in names.values()))


def compared(cpu: dict[str, float], device: dict[str, float]) -> dict[str, Any]:
    """Check that every score on the device is that of the CPU within `POINTS`."""
    missing = sorted(set(TASKS) - (set(cpu) & set(device)))
    checks = [check(f"{task}, points", abs(device[task] - cpu[task]), POINTS) for task in TASKS if task not in missing]
    checks += [check(f"{task} has no score (1)", 1, 0) for task in missing]
    return {"figures": {f"{task}, CPU": cpu[task] for task in cpu}, "checks": checks}


def transferred(work: Path, student: Path, device: str) -> dict[str, float]:
    """Primary score of every task, measured on a device; a failed task has none."""
    from kdep_benchmarks.transfer import transfer

    options = {"suite": "demo", "tasks": TASKS, "data_root": work / "demo", "results": work / f"results-{device}"}
    table = transfer([student], **options, device=device)
    return primary(table)


def primary(table: Any) -> dict[str, float]:
    """The metric on the leaderboard of every cell in a table of `transfer`."""
    rows = table[table.main.fillna(False)]
    return dict(zip(rows.task, rows.value.astype(float), strict=True))
