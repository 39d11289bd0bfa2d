"""Settings of segmentation and detection tasks: the keys of their YAML, checked."""

from dataclasses import dataclass, fields
from typing import Any

from benchmarks.tasks import Task


@dataclass(frozen=True)
class Settings:
    """What a task decides.

    Attributes:
        config: name of a config in configs/transfer, or a path to an mmengine config of your own.
        iterations: optimizer steps.
        batch_size: images per backward pass.
        lr, weight_decay: of SGD with momentum 0.9.
        crop: side in pixels of the training crops, and short side when scoring. Segmentation only.
        scale: (width, height) in pixels into which images are fitted. Detection only.
        scale_range: random scale of training images before the crop. Segmentation only.
        output_stride: of the backbone's last map: 8 as in the paper, or 16 or 32, which are cheaper. Segmentation only.
        head_lr_factor: lr of heads and neck as a multiple of lr; the paper's segmentation has 10.
        warmup: iterations of linear warm-up; by default a tenth of all, at most 500. Detection only.
        clip_grad: largest norm of the gradient, 0 for no limit.
        accumulate: backward passes per optimizer step.
        amp: mixed precision.
        workers: data-loader processes; 0 is fastest for small sets.
        save_every: iterations between training checkpoints.
    """

    config: str
    iterations: int
    batch_size: int
    lr: float
    weight_decay: float
    crop: int | None = None
    scale: tuple[int, int] | None = None
    scale_range: tuple[float, float] = (0.5, 2.0)
    output_stride: int = 8
    head_lr_factor: float = 1.0
    warmup: int | None = None
    clip_grad: float = 0.0
    accumulate: int = 1
    amp: bool = False
    workers: int = 0
    save_every: int = 1000

    @property
    def passes(self) -> int:
        """Iterations as mmengine counts them: backward passes."""
        return self.iterations * self.accumulate


GENERAL = ("config", "iterations", "batch_size", "lr", "weight_decay")
NEEDED = {"segment": (*GENERAL, "crop"), "detect": (*GENERAL, "scale")}
FOREIGN = {"segment": ("scale", "warmup"), "detect": ("crop", "scale_range", "output_stride")}
WHOLE = {"iterations": 1, "batch_size": 1, "crop": 32, "warmup": 0, "accumulate": 1, "workers": 0, "save_every": 1}
REAL = {"lr": 0, "weight_decay": 0, "head_lr_factor": 0, "clip_grad": 0}


def read_settings(task: Task) -> Settings:
    """Check a task's settings, every key.

    Raises:
        ValueError: an unknown, missing or impossible setting; lists the known.
    """
    known = [item.name for item in fields(Settings) if item.name not in FOREIGN[task.kind]]
    wrong = [f"unknown setting {name}" for name in task.settings if name not in known]
    wrong += [f"setting {name} is missing" for name in NEEDED[task.kind] if name not in task.settings]
    if wrong:
        raise ValueError(f"{task.name}: {', '.join(wrong)}; a task of kind {task.kind} has {', '.join(known)}")
    return Settings(**{name: _checked(task, name, value) for name, value in task.settings.items()})


def _checked(task: Task, name: str, value: Any) -> Any:
    if name in WHOLE:
        right = type(value) is int and value >= WHOLE[name]
        expected = f"a whole number of at least {WHOLE[name]}"
    elif name in REAL:
        right = type(value) in (int, float) and value >= REAL[name]
        expected = f"a number of at least {REAL[name]}"
    elif name in ("scale", "scale_range"):
        right = isinstance(value, list | tuple) and len(value) == 2 and all(number > 0 for number in value)
        expected, value = "two positive numbers", tuple(value) if right else value
    elif name == "output_stride":
        right, expected = value in (8, 16, 32), "8, 16 or 32"
    else:
        right = type(value) is (str if name == "config" else bool)
        expected = "a name or a path" if name == "config" else "true or false"
    if not right:
        raise ValueError(f"{task.name}: {name} is {value!r}; {expected} is right")
    return value
