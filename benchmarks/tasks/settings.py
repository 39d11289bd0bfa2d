"""Settings of the classification kinds, as a task's YAML gives them; an unknown key or an impossible value stops it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from kdep_benchmarks.openmmlab.settings import read_settings as read_toolbox_settings
from kdep_benchmarks.tasks.task import Task

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_LISTED = BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,))
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Grid = Annotated[tuple[Positive, ...], _LISTED, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Pixels:
    """How an image is shown: its short side becomes `resize` pixels (`size` where None), then the centre is cropped."""

    size: Annotated[int, Field(ge=16)] = 224
    resize: Annotated[int, Field(ge=16)] | None = None
    batch_size: Count = 64
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _crop_fits(self) -> "Pixels":
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize {self.resize} is smaller than size {self.size}, which is cropped from it")
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Knn(Pixels):
    """k nearest neighbours; a k above the number of train images is left out of the grid."""

    k: Annotated[tuple[Count, ...], _LISTED, Field(min_length=1)] = (1, 5, 10, 20, 50, 100, 200)
    temperature: Grid = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Linear(Pixels):
    """Logistic regression; `path` holds the penalties per image, see `kdep_benchmarks.tasks.linear`."""

    path: Grid = tuple(float(f"{10 ** (-6 + 7 * step / 12):.3g}") for step in range(13))


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Fewshot(Linear):
    """A linear probe on a `share` of train, at least one image per class; the mean over `draws` of them."""

    share: Annotated[float, Field(gt=0, lt=1)]
    draws: Annotated[int, Field(ge=5)] = 5


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Finetune(Pixels):
    """Training of the whole network; every pair of `lr` and `weight_decay` is tried where there is more than one.

    `accumulate` divides each batch into so many parts whose gradients are added up, for devices of little memory;
    BatchNorm then sees the parts.
    """

    epochs: Count = 30
    lr: Grid = (0.003, 0.01, 0.03)
    weight_decay: Annotated[tuple[Annotated[float, Field(ge=0)], ...], _LISTED, Field(min_length=1)] = (
        1e-5,
        1e-4,
        1e-3,
    )
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["cosine", "step"] = "cosine"
    lr_step_epochs: Count = 50
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    crop_scale: tuple[Positive, Positive] = (0.08, 1.0)
    flip: bool = True
    accumulate: Count = 1
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @model_validator(mode="after")
    def _possible(self) -> "Finetune":
        if not self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {list(self.crop_scale)}: two shares of the area, ascending, at most 1")
        return self

    def scaled(self, share: float) -> "Finetune":
        """A share of the epochs, at least one, and of the epochs between steps; the rates stay."""
        steps = max(1, round(share * self.lr_step_epochs))
        return replace(self, epochs=max(1, round(share * self.epochs)), lr_step_epochs=steps)


KINDS: dict[str, type[Pixels]] = {"knn": Knn, "linear": Linear, "fewshot": Fewshot, "finetune": Finetune}
Kind = TypeVar("Kind", bound=Pixels)


def read_settings(kind: type[Kind], task: Task) -> Kind:
    """Check a task's settings.

    Raises:
        ValueError: names the task, the key, what was found and what would be right.
    """
    known = list(kind.__dataclass_fields__)
    if unknown := [key for key in task.settings if key not in known]:
        raise ValueError(f"{task.name}: settings: unknown key {unknown[0]}; {task.kind} has {', '.join(known)}")
    try:
        return TypeAdapter(kind).validate_python(dict(task.settings))
    except ValidationError as error:
        raise ValueError(f"{task.name}: settings: {_explain(error.errors()[0])}") from error


def check_settings(task: Task) -> None:
    """Read a task's settings, of any kind, as its cell will read them: a mistake is found before anything runs.

    Raises:
        ValueError: names the task, the key, what was found and what would be right.
    """
    if task.kind in KINDS:
        read_settings(KINDS[task.kind], task)
    else:
        read_toolbox_settings(task)


def _explain(entry: Mapping[str, Any]) -> str:
    if entry["type"] == "missing":
        return f"{entry['loc'][0]} is missing"
    key = str(entry["loc"][0]) + ": " if entry["loc"] else ""
    found = f", got {entry['input']!r}" if entry["loc"] else ""
    return f"{key}{entry['msg'].removeprefix('Value error, ')}{found}"
