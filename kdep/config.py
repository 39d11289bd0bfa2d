"""YAML and dotted overrides -> one validated, frozen configuration.

Every key is used: an unknown one stops the run. Numbers such as 5e-4, which YAML reads as text, are understood.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from kdep.yaml_file import read_mapping


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _not_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse yes, no, on and off, which YAML reads as booleans and pydantic as 1 and 0."""
        if isinstance(value, bool) and bool not in _members(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("expected a number or a name (YAML reads yes, no, on, off as true or false)")
        return value


class Teacher(_Section):
    """The frozen source of features."""

    source: str | list[str]  # timm:NAME, torchvision:NAME, pypi:NAME, npm:NAME or a file; several: see docs/method.md
    arch: str | None = None  # timm's name, for a file that is a plain state dict
    tap: Literal["pre", "post", "before_head"] | None = None  # None: the architecture's default
    size: int | None = Field(None, ge=16)  # pixels to which the teacher resamples the shared view; None: as it comes


class Student(_Section):
    """The network that is trained."""

    arch: str
    # None: the architecture's default, see docs/method.md; logits and labels read `post` where it says `pre`
    tap: Literal["pre", "post", "before_head"] | None = None
    weights: str | None = None  # start from these weights instead of a random initialisation


class Data(_Section):
    """Unlabelled images and their views."""

    source: str  # folder, list of paths (.txt), FILE.npz:SPLIT, torchvision:NAME
    root: Path | None = None  # where relative paths of a list, or torchvision's files, are
    limit: int | None = Field(None, ge=2)  # a seeded subset of this many images
    seed: int | None = Field(
        None, ge=0, lt=2**63
    )  # of subset and views; None: the run's. One bank then serves all seeds
    # A folder for the images decoded once, for small sets on a fast disk. Images of a short side above 1.25 size are
    # stored shrunk to it: crops of less than 64 % of their area are then enlarged, which a run says when it starts.
    cache: Path | None = None
    size: int = Field(224, ge=16)  # pixels, side of the view
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area
    flip: bool = True
    jitter: float = Field(0.1, ge=0, lt=1)  # brightness, contrast, saturation
    lighting: float = Field(0.05, ge=0)  # std of the PCA colour noise
    mixup: bool = False  # beyond the paper: views mixed in pairs, the same for a live teacher and the student
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    max_unreadable: float = Field(0.01, ge=0, le=1)  # share of the images; more stops the run

    @field_validator("crop_scale")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError(f"expected 0 < low <= high <= 1, got {list(value)}")
        return value


class Named(BaseModel):
    """A choice with its own options, checked where it is made."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.model_extra or {})


class Align(_Section):
    """Teacher width to student width."""

    name: str = "svd"
    images: int | None = Field(None, ge=2)  # statistics from this many images; None: all


# Options -> the losses that read them. With another one they would be lost, such as a temperature meant for PTS.
LOSS_OPTIONS = {"beta": ("smooth_l1",), "temperature": ("queue_kl", "logits"), "queue": ("queue_kl",)}


class Loss(_Section):
    """weight * loss of pooled features + dense * mean squared error of feature maps."""

    # The first is the method's, the next four rivals'; the last two learn from the teacher's logits and from labels.
    name: Literal["mse", "smooth_l1", "cosine", "log_sum", "queue_kl", "logits", "labels"] = "mse"
    weight: float = Field(3.0, gt=0)
    dense: float = Field(0.0, ge=0)  # beyond the paper: every position of the map, aligned by the same axes
    beta: float = Field(1.0, gt=0)  # smooth_l1: where it turns linear
    temperature: float | None = Field(None, gt=0)  # queue_kl (None: 0.07), logits (None: 4)
    queue: int = Field(8192, ge=2)  # queue_kl: features of the teacher kept

    @property
    def classifies(self) -> bool:
        """Whether the student learns classes through a classifier, not the teacher's features."""
        return self.name in ("logits", "labels")

    @property
    def factor(self) -> float:
        """Of the pooled term: `weight`, but 1 for logits and labels, whose learning rate it would only multiply."""
        return 1.0 if self.classifies else self.weight

    @model_validator(mode="after")
    def _reads_its_options(self) -> "Loss":
        for option, readers in LOSS_OPTIONS.items():
            value = getattr(self, option)
            if self.name not in readers and value != type(self).model_fields[option].default:
                raise ValueError(f"{option} {value} is for name {' or '.join(readers)}, not for {self.name}")
        return self


class Bank(_Section):
    """Targets computed once and read in every epoch, instead of a teacher in the loop."""

    path: Path  # a folder; made if it is not there, and shared by all runs whose teacher and views are the same
    # Per image; epoch e uses view e modulo views. None: one per epoch. One of ten costs about 7 points of a probe; for
    # two and five no difference is shown with three seeds (docs/reproduction.md).
    views: int | None = Field(None, ge=1)
    axes: int | None = Field(None, ge=1)  # leading axes kept: the widest student served. None: those that the run reads
    code: Literal["float16", "int8", "int8_linear"] = "float16"
    check: int = Field(8, ge=0)  # entries that are computed again with the live teacher before a run


class Optim(_Section):
    """Optimizer and schedule."""

    name: Literal["sgd", "adamw", "lamb"] = "sgd"
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)  # over all processes
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd only
    weight_decay: float = Field(5e-4, ge=0)
    decay_all: bool = True  # also BatchNorm and biases, as the paper did
    schedule: Literal["step", "cosine"] = "step"
    lr_step_epochs: int = Field(30, ge=1)  # step: divide by 10 every so many epochs
    warmup_epochs: float = Field(0.0, ge=0)  # linear, from 0
    clip: float | None = Field(None, gt=0)  # largest norm of the gradient

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> "Optim":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves nothing of epochs {self.epochs}; take fewer")
        return self


class Log(_Section):
    """How often, in steps, and where to beside log.jsonl."""

    every: int = Field(20, ge=1)
    checkpoint_every: int = Field(200, ge=1)
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)  # see kdep.run.trackers


class Config(_Section):
    """One pretraining run.

    Raises:
        ValueError: parts that do not go together.
    """

    name: str = Field(pattern=r"^[\w.+-]+$")
    seed: int = Field(0, ge=0, lt=2**63)
    teacher: Teacher
    student: Student
    data: Data
    align: Align = Align()
    # A head on the student that learns and is thrown away: linear, linear_bn, linear_norm, mlp, orthogonal.
    project: str | None = None
    scale: Named = Named(name="pts")  # match: student brings any scaler's targets to the student's scale at the start
    loss: Loss = Loss()
    bank: Bank | None = None  # None: the teacher runs beside the student
    optim: Optim
    log: Log = Log()
    device: str = "auto"
    tune: bool | Literal["compile"] = True  # measure which form of the networks is fastest here; see kdep.models.forms
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # as tune measures it
    runs: Path = Path("runs")  # the run folder is runs/name

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if self.loss.classifies and self.project is not None:
            raise ValueError(f"project {self.project}: loss.name {self.loss.name} has a classifier of its own")
        if self.project is not None and self.align.name != "none":
            raise ValueError(
                f"project {self.project} learns the alignment: with it, align.name is none, not {self.align.name}"
            )
        if self.loss.dense and (self.loss.classifies or self.project is not None):
            raise ValueError("loss.dense compares aligned features: without project, logits or labels")
        if self.data.mixup and (self.bank is not None or self.loss.name == "labels"):
            raise ValueError("data.mixup needs a live teacher: a bank and labels know single images only")
        if self.bank is not None and self.loss.name == "labels":
            raise ValueError("loss.name labels has no teacher, and so no bank")
        if self.loss.name == "logits" and isinstance(self.teacher.source, list):
            raise ValueError("loss.name logits takes one teacher: several have classes of their own")
        if self.loss.name == "logits" and self.teacher.tap not in (None, "post"):
            raise ValueError(
                f"teacher.tap {self.teacher.tap}: with loss.name logits the teacher's classifier reads its features "
                "after the final activation; leave teacher.tap out, or take teacher.tap=post"
            )
        if self.scale.options.get("match") is not None and (self.loss.classifies or self.project is not None):
            other = f"loss.name {self.loss.name}" if self.loss.classifies else f"project {self.project}"
            raise ValueError(
                f"scale.match brings targets to the student's scale, and with {other} a learned layer lies between; "
                "leave it out (scale={name: none})"
            )
        if self.align.name == "phi_s" and self.scale.name == "sm":
            raise ValueError(
                "scale.name sm goes by the order of the deviations, and align.name phi_s makes them all equal; take "
                "scale.name=sm_linear, sn or unit"
            )
        if self.loss.dense and isinstance(self.teacher.source, list):
            raise ValueError("loss.dense takes one teacher: several have maps of several sizes")
        return self

    @property
    def view_seed(self) -> int:
        """Seed of the choice of images and of their views."""
        return self.seed if self.data.seed is None else self.data.seed


# Keys that change how a run goes, not what it yields: they may differ when it is resumed.
NEUTRAL = (
    "log.every",
    "log.checkpoint_every",
    "log.trackers",
    "data.workers",
    "data.max_unreadable",
    "bank.path",
    "bank.check",
    "runs",
)


def load_config(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a YAML file and apply `key.sub=value` overrides.

    Raises:
        ValueError: names the file, the key, what was found and what would be right.
    """
    path = Path(path)
    content = read_mapping(path, "config", "sections such as teacher: and student:")
    for override in overrides:
        _apply(content, override)
    return parse_config(content, str(path))


def as_yaml(config: Config) -> str:
    """Every key with its value, defaults included, in the order of the classes above."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def parse_config(content: dict[str, Any], source: str) -> Config:
    """Validate a nested dict."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(_explain(entry, source) for entry in error.errors())) from error


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override {override!r}: expected key.sub=value, such as optim.lr=0.1")
    *sections, last = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ValueError(f"override {override!r}: {section} is a value, not a section")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not YAML; put it in quotes") from error


def _explain(entry: dict[str, Any], source: str) -> str:
    key = _key(entry["loc"])
    if entry["type"] == "extra_forbidden":
        section: Any = Config
        for part in entry["loc"][:-1]:
            # An optional section is a union with None.
            section = next(t for t in _members(section.model_fields[part].annotation) if t is not type(None))
        return f"{source}: unknown key {key}; there are {', '.join(section.model_fields)}"
    if entry["type"] == "missing":
        return f"{source}: {key} is missing"
    if not key:  # keys that do not go together
        return f"{source}: {entry['msg'].removeprefix('Value error, ')}"
    if entry["type"] == "value_error" and isinstance(entry["input"], dict):  # keys of one section that do not
        return f"{source}: {key}.{entry['msg'].removeprefix('Value error, ')}"
    return f"{source}: {key}: {entry['msg'].removeprefix('Value error, ')}, got {entry['input']!r}"


def _key(place: tuple[str | int, ...]) -> str:
    """Where an error is, as keys alone: below a value pydantic also names the kinds it tried, such as `list[str]`."""
    section: Any = Config
    kept = []
    for part in place:
        fields = getattr(section, "model_fields", None)
        if fields is not None or isinstance(part, int):
            kept.append(str(part))
        if fields is not None:
            members = _members(fields[part].annotation) if part in fields else ()
            section = next((member for member in members if hasattr(member, "model_fields")), None)
    return ".".join(kept)


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optim': {'lr': 1}} -> {'optim.lr': 1}."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line per key that differs between two resolved configurations and matters for the result."""
    a, b = flatten(before), flatten(now)
    keys = [key for key in {**a, **b} if key not in NEUTRAL and a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key)!r} in the run, {b.get(key)!r} now" for key in keys]
