"""Settings of segmentation and detection tasks: the keys of their YAML, checked."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kdep_benchmarks.tasks import task as tasks
from kdep_benchmarks.tasks.task import Task

CONFIGS = tasks.CONFIGS / "transfer"


@dataclass(frozen=True)
class Settings:
    """What a task decides.

    Attributes:
        config: name of a config in configs/transfer, or a path to an mmengine config of your own.
        iterations: optimizer steps.
        batch_size: images per backward pass.
        lr, weight_decay: of SGD with momentum 0.9.
        crop: side in pixels of the training crops. Segmentation only.
        scale: (width, height) in pixels into which images are fitted. In segmentation by default (4 * crop, crop),
            which makes the crop the short side of all but very long images.
        scale_range: random multiple of `scale` for training images before the crop. Segmentation only.
        output_stride: of the backbone's last map: 8 as in the paper, or 16 or 32, which are cheaper. Segmentation only.
        head_lr_factor: lr of heads and neck as a multiple of lr; the paper's segmentation has 10.
        short_sides: range of the short side of training images instead of `scale`'s, whose long side stays. Detection
            only.
        drops: shares of the iterations after which lr falls to a tenth; by default mmdet's 8 and 11 of 12. Detection
            only.
        warmup: iterations of linear warm-up; by default a tenth of all, at most 500. Detection only.
        clip_grad: largest norm of the gradient, 0 for no limit.
        accumulate: backward passes per optimizer step.
        amp: mixed precision.
        workers: data-loader processes; 0 is fastest for small sets.
        save_every: optimizer steps between training checkpoints; by default one is written about every minute.
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
    short_sides: tuple[int, int] | None = None
    drops: tuple[float, float] = (8 / 12, 11 / 12)
    warmup: int | None = None
    clip_grad: float = 0.0
    accumulate: int = 1
    amp: bool = False
    workers: int = 0
    save_every: int | None = None

    @property
    def base(self) -> tuple[int, int]:
        """Into what a segmentation's images are fitted."""
        return self.scale or (4 * self.crop, self.crop)

    @property
    def passes(self) -> int:
        """Iterations as mmengine counts them: backward passes."""
        return self.iterations * self.accumulate

    def scaled(self, share: float) -> "Settings":
        """A share of the iterations; the warm-up may take a tenth of them at most."""
        if share == 1:
            return self
        iterations = max(1, round(share * self.iterations))
        warmup = None if self.warmup is None else min(self.warmup, iterations // 10)
        return replace(self, iterations=iterations, warmup=warmup)


GENERAL = ("config", "iterations", "batch_size", "lr", "weight_decay")
NEEDED = {"segment": (*GENERAL, "crop"), "detect": (*GENERAL, "scale")}
FOREIGN = {"segment": ("short_sides", "drops", "warmup"), "detect": ("crop", "scale_range", "output_stride")}
WHOLE = {"iterations": 1, "batch_size": 1, "crop": 32, "warmup": 0, "accumulate": 1, "workers": 0, "save_every": 1}
REAL = {"lr": 0, "weight_decay": 0, "head_lr_factor": 0, "clip_grad": 0}

PAIRS = {
    "scale": "two positive numbers",
    "scale_range": "two positive numbers, ascending,",
    "short_sides": "two positive numbers, ascending,",
    "drops": "two shares, ascending, of at most 1,",
}


def read_settings(task: Task) -> Settings:
    """Check a task's settings, every key, and scale its schedule to the task's budget.

    Raises:
        ValueError: an unknown, missing or impossible setting; lists the known.
    """
    known = [item.name for item in fields(Settings) if item.name not in FOREIGN[task.kind]]
    wrong = [f"unknown setting {name}" for name in task.settings if name not in known]
    wrong += [f"setting {name} is missing" for name in NEEDED[task.kind] if name not in task.settings]
    if wrong:
        raise ValueError(f"{task.name}: {', '.join(wrong)}; a task of kind {task.kind} has {', '.join(known)}")
    checked = Settings(**{name: _checked(task, name, value) for name, value in task.settings.items()})
    return checked.scaled(task.share)


def _checked(task: Task, name: str, value: Any) -> Any:
    if name in WHOLE:
        right = type(value) is int and value >= WHOLE[name]
        expected = f"a whole number of at least {WHOLE[name]}"
    elif name in REAL:
        right = type(value) in (int, float) and value >= REAL[name]
        expected = f"a number of at least {REAL[name]}"
    elif name in PAIRS:
        right = isinstance(value, list | tuple) and len(value) == 2
        right = right and all(type(number) in (int, float) and number > 0 for number in value)
        right = right and (name == "scale" or value[0] <= value[1])
        right = right and (name != "drops" or value[1] <= 1)
        expected, value = PAIRS[name], tuple(value) if right else value
    elif name == "output_stride":
        right, expected = value in (8, 16, 32), "8, 16 or 32"
    else:
        right = type(value) is (str if name == "config" else bool)
        expected = "a name or a path" if name == "config" else "true or false"
    if not right:
        raise ValueError(f"{task.name}: {name} is {value!r}; {expected} is right")
    if name == "config":
        config_file(task, value)
    return value


def config_file(task: Task, name: str) -> Path:
    """The mmengine config that a task names.

    Raises:
        ValueError: there is none.
    """
    path = Path(name) if name.endswith(".py") else CONFIGS / f"{name}.py"
    if not path.is_file():
        names = sorted(found.stem for found in CONFIGS.glob(f"{task.kind}_*.py"))
        raise ValueError(f"{task.name}: no config {name!r}; there are {', '.join(names)}, or the path of your own")
    return path
