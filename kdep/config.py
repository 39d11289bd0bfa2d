"""The configuration of a pretraining run: every key of a recipe, its type, default and meaning."""

import json
import logging
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from kdep.settings import Name, PathText, Settings, Shares, validate
from kdep.shipped import FOLDER, find
from kdep.yaml_file import dump, override, read_mapping

logger = logging.getLogger("kdep")

Tap = Literal["pre", "post", "before_head"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Teacher(Settings):
    """The frozen network whose features the student learns."""

    source: str | list[str]
    """Where the teacher is from: timm:NAME, torchvision:NAME, pypi:NAME, npm:NAME or a file; a list takes several."""
    arch: str | None = None
    """Architecture in timm's spelling; needed where the source is a file with a plain state dict."""
    tap: Tap | None = None
    """Where features are taken: before or after the final activation, or before the head; null: by architecture."""
    size: int | None = Field(None, ge=16)
    """Pixels to which the student's view is resized for the teacher; null: not resized."""
    precision: Precision = "auto"
    """Number format of a live teacher; auto: float16 on a GPU, float32 on a CPU. Statistics and banks are float32."""


class Student(Settings):
    """The network that is trained."""

    arch: str
    """Architecture in timm's spelling."""
    tap: Tap | None = None
    """As teacher.tap, null: by architecture; with loss.name logits or labels it is always post."""
    weights: str | None = None
    """A checkpoint to start from; null: random initialisation."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Seed of the random initialisation; null: the run's seed."""


class Data(Settings):
    """Unlabelled images and how views of them are drawn."""

    source: str
    """Images, as data.source=FOLDER; or LIST.txt, FILE.npz:SPLIT, manifest:FILE, wds:PATTERN or torchvision:NAME."""
    root: PathText | None = None
    """Folder of the relative paths of a list, or of torchvision's files."""
    limit: int | None = Field(None, ge=2)
    """Use a random subset of this many images; null: all."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Seed of the subset and the views; null: the run's seed. Runs with one data seed can share a target bank."""
    memory: float = Field(0.25, ge=0, le=0.9)
    """Share of the free memory in which decoded images are kept, if all of them fit; 0: never."""
    size: int = Field(224, ge=16)
    """Side of a view in pixels."""
    crop_scale: Shares = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random crop takes."""
    flip: bool = True
    """Flip half of the views horizontally."""
    jitter: float = Field(0.1, ge=0, lt=1)
    """Strength of the random changes of brightness, contrast and saturation."""
    lighting: float = Field(0.05, ge=0)
    """Standard deviation of the PCA colour noise."""
    mixup: bool = False
    """Mix views in pairs, the same for teacher and student; needs a teacher beside the student. Not in the paper."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that decode images; auto: one per core but one beside a GPU, at most 16, and threads on a CPU."""
    max_unreadable: float = Field(0.01, ge=0, le=1)
    """Largest share of images that may be unreadable; the run stops above it."""


class Named(Settings):
    """A choice by name with options of its own, which are checked where the choice is made."""

    model_config = ConfigDict(extra="allow")
    name: str
    """Scaler: pts is the paper's; others, and the options beside this key (temperature), are in docs/method.md."""

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.model_extra or {})


class Align(Settings):
    """How teacher features are mapped to the student's width."""

    name: Literal["svd", "top_variance", "random_channels", "random", "phi_s", "nearest", "linear", "area", "none"] = (
        "svd"
    )
    """Aligner: svd is the paper's; none leaves it to a learned head (project); others are in docs/method.md."""
    images: int | None = Field(None, ge=2)
    """Compute the teacher's statistics on this many images; null: all, but 50,000 of tar shards."""


# Options and the losses that read them. With any other loss an option would be ignored, so it is refused.
LOSS_OPTIONS = {"beta": ("smooth_l1",), "temperature": ("queue_kl", "logits"), "queue": ("queue_kl",)}


class Loss(Settings):
    """weight * loss of pooled features + dense * mean squared error of feature maps."""

    # mse is the method's; the next four are rivals'; the last two learn from the teacher's logits and from labels.
    name: Literal["mse", "smooth_l1", "cosine", "log_sum", "queue_kl", "logits", "labels"] = "mse"
    """Loss between student and target; logits learns the teacher's classes, labels those of the images' folders."""
    weight: float = Field(3.0, gt=0)
    """Factor of the loss of pooled features."""
    dense: float = Field(0.0, ge=0)
    """Factor of the loss at every position of the feature map, aligned by the same axes. Not in the paper."""
    beta: float = Field(1.0, gt=0)
    """smooth_l1: the difference above which the loss is linear."""
    temperature: float | None = Field(None, gt=0)
    """queue_kl and logits: temperature of the softmax; null: 0.07 and 4."""
    queue: int = Field(8192, ge=2, le=1_000_000)
    """queue_kl: how many teacher features are kept."""

    @property
    def classifies(self) -> bool:
        """Whether the student learns classes through a classifier instead of the teacher's features."""
        return self.name in ("logits", "labels")

    @property
    def normalises(self) -> bool:
        """Whether the pooled term compares directions only, so that no factor of the targets changes it."""
        return self.name in ("cosine", "queue_kl")

    @property
    def factor(self) -> float:
        """Factor of the pooled term: `weight`, but 1 with a classifier, where it would only scale the learning rate."""
        return 1.0 if self.classifies else self.weight

    @model_validator(mode="after")
    def _reads_its_options(self) -> "Loss":
        for option, readers in LOSS_OPTIONS.items():
            value = getattr(self, option)
            if self.name not in readers and value != type(self).model_fields[option].default:
                raise ValueError(f"{option} {value} is for name {' or '.join(readers)}, not for {self.name}")
        return self


class Bank(Settings):
    """Targets that are computed once and read in every epoch, instead of a teacher that runs beside the student."""

    path: PathText
    """Folder of the bank; it is written if missing, and runs with the same teacher and views share it."""
    # Against ten views, one costs about 7 points of linear probes and two 3; five show no difference with three seeds
    # (docs/reproduction.md).
    views: int | None = Field(None, ge=1)
    """Views per image; epoch e uses view e modulo views. null: one per epoch."""
    axes: int | None = Field(None, ge=1)
    """Leading axes kept, at least the width of the widest student; null: what this run reads."""
    code: Literal["float16", "int8", "int8_linear"] = "float16"
    """Number format of the targets on disk."""
    check: int = Field(8, ge=0)
    """Targets that are computed again with the teacher before a run, to check that the bank belongs to it."""


class Optim(Settings):
    """Optimizer and learning-rate schedule."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Optimizer."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the images; null: the run is as long as steps says."""
    steps: int | None = Field(None, ge=1)
    """Length of the run in steps, with epochs=null: for more images than a run sees."""
    batch_size: int = Field(ge=2)
    """Images per step, over all processes."""
    lr: float = Field(gt=0)
    """Highest learning rate."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """sgd: momentum."""
    weight_decay: float = Field(5e-4, ge=0)
    """Weight decay."""
    decay_all: bool = True
    """Apply weight decay to BatchNorm and biases too, as the paper does."""
    schedule: Literal["step", "cosine"] = "step"
    """How the learning rate falls."""
    lr_step_epochs: int = Field(30, ge=1)
    """step: divide the learning rate by 10 every so many epochs."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs over which the learning rate rises linearly from 0."""
    clip: float | None = Field(None, gt=0)
    """Largest norm of the gradient; null: no limit."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Seed of the order of the images; null: the run's seed."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Export a running average of the student's weights, with this decay per step; null: the last weights."""
    sync_bn: bool = True
    """Several processes: BatchNorm over the images of all of them, so that their number does not change the result."""

    def begun(self, images: int, seen: int) -> int:
        """Return the number of epochs that a run has begun once it has seen so many of its images."""
        return -(-seen // (images // self.batch_size * self.batch_size))

    def total(self, steps_per_epoch: int) -> int:
        """Return the number of steps of a run.

        Raises:
            ValueError: the warm-up takes all of `steps`.
        """
        if self.steps is None:
            return self.epochs * steps_per_epoch
        if self.warmup_epochs * steps_per_epoch >= self.steps:
            raise ValueError(
                f"optim.warmup_epochs {self.warmup_epochs:g} is {self.warmup_epochs * steps_per_epoch:g} steps, which "
                f"leaves nothing of optim.steps {self.steps}; an epoch has {steps_per_epoch} steps here"
            )
        return self.steps

    @model_validator(mode="after")
    def _has_one_length(self) -> "Optim":
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs or steps is needed: the length of the run")
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"epochs {self.epochs} and steps {self.steps} both say how long the run is; take optim.epochs=null "
                "with steps"
            )
        if self.epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves nothing of epochs {self.epochs}; take fewer")
        return self


class Probe(Settings):
    """Watch the student while it trains: nearest neighbours on labelled images. The training does not change."""

    data: PathText | None = None
    """Images of classes for kNN: CLASS/*.jpg, or train and test folders with class folders in each, or FILE.npz."""
    masks: PathText | None = None
    """Photographs with masks for dense-knn: JPEGImages and SegmentationClass, as in Pascal VOC."""
    every: int = Field(500, ge=1)
    """Steps between two probes; the last step has one too."""
    size: int | None = Field(None, ge=32)
    """Side in pixels of the images; null: data.size."""
    images: int = Field(1000, ge=10)
    """Largest number of train images, and of test images; of more, a fixed random subset, and the classes in it."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many probes without a higher score, and export the best probe's student; null: never stop."""

    @model_validator(mode="after")
    def _has_data(self) -> "Probe":
        if self.data is None and self.masks is None:
            raise ValueError("probe needs data (images of classes), masks (photographs with masks), or both")
        return self


class Log(Settings):
    """What is logged and how often."""

    every: int = Field(20, ge=1)
    """Steps between two lines of log.jsonl."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between two checkpoints to resume from."""
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], Field(strict=False)] = ("tensorboard",)
    """Experiment trackers that also receive the log."""


class Config(Settings):
    """One pretraining run.

    Raises:
        ValueError: keys that exclude each other.
    """

    name: Annotated[Name, Field(pattern=r"^[\w.+-]+$")]
    """Name of the run; its folder is runs/name."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of all that a run draws; student.seed, optim.seed and data.seed give weights, order and views their own."""
    teacher: Teacher
    student: Student
    data: Data
    align: Align = Align()
    project: Literal["linear", "linear_bn", "linear_norm", "mlp", "orthogonal", "svd"] | None = None
    """A learned head on the student, dropped after training."""
    scale: Named = Named(name="pts")
    loss: Loss = Loss()
    bank: Bank | None = None
    """Read targets from a bank; null: the teacher runs beside the student."""
    optim: Optim
    probe: Probe | None = None
    """Watch the student on labelled images; null: no probes."""
    log: Log = Log()
    device: str = "auto"
    """Device, such as cpu or cuda; auto: a GPU where there is one."""
    precision: Precision = "auto"
    """Number format of the student; auto: bfloat16 where the device has units for it, else float16 (GPU) or float32."""
    runs: PathText = Path("runs")
    """Folder of the run folders."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if self.loss.classifies and self.project is not None:
            raise ValueError(
                f"project {self.project}: loss.name {self.loss.name} has a classifier of its own; leave out project"
            )
        if self.project is not None and self.align.name != "none":
            raise ValueError(
                f"project {self.project} learns the alignment: with it, align.name is none, not {self.align.name}"
            )
        if self.loss.dense and (self.loss.classifies or self.project is not None):
            raise ValueError(
                "loss.dense compares aligned features, which project, logits and labels do not have; drop one of them"
            )
        if self.data.mixup and (self.bank is not None or self.loss.name == "labels"):
            raise ValueError(
                "data.mixup needs a teacher beside the student; it does not work with a bank or with loss.name labels"
            )
        if self.bank is not None and self.loss.name == "labels":
            raise ValueError("loss.name labels uses no teacher; leave out bank")
        if self.bank is not None and self.bank.views is None and self.optim.steps is not None:
            raise ValueError(
                f"bank.views is needed with optim.steps {self.optim.steps}: how many epochs these are depends on the "
                "number of images; for example bank.views=1"
            )
        if self.loss.name == "logits" and isinstance(self.teacher.source, list):
            raise ValueError("loss.name logits takes one teacher; the classes of several teachers differ")
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
        if self.scale.options.get("match") is not None and self.loss.normalises and not self.loss.dense:
            raise ValueError(
                f"scale.match brings targets to the student's scale, and loss.name {self.loss.name} reads no scale: it "
                "normalises both; leave it out (scale={name: none})"
            )
        if self.align.name == "phi_s" and self.scale.name == "sm":
            raise ValueError(
                "scale.name sm goes by the order of the deviations, and align.name phi_s makes them all equal; take "
                "scale.name=sm_linear, sn or unit"
            )
        if self.loss.dense and isinstance(self.teacher.source, list):
            raise ValueError("loss.dense takes one teacher; the feature maps of several teachers differ in size")
        return self

    @property
    def view_seed(self) -> int:
        """Seed of the choice of images and of their views."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def weight_seed(self) -> int:
        """Seed of the initial weights, of the student and of its head."""
        return self.seed if self.student.seed is None else self.student.seed

    @property
    def order_seed(self) -> int:
        """Seed of the order of the images."""
        return self.seed if self.optim.seed is None else self.optim.seed


# Keys that do not change the result. They may differ when a run is resumed.
NEUTRAL = (
    "log.every",
    "log.checkpoint_every",
    "log.trackers",
    "data.workers",
    "data.max_unreadable",
    "data.memory",
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
    for text in overrides:
        override(content, text)
    return parse_config(content, str(path))


def read_config(recipe: str | None, overrides: list[str]) -> Config:
    """Read a recipe by name or path, with the command line's changes; `default` without one.

    A shipped recipe without images of its own calls the run after its student and the given images, and, where it is
    not the default, after itself: `resnet18-photos`, `resnet18-photos-similarities`.
    """
    changed = list(overrides)
    if recipe is not None and "=" in recipe:  # no recipe was given, only keys
        recipe, changed = None, [recipe, *changed]
    given = dict(change.split("=", 1) for change in changed if "=" in change)
    source = given.get("data.source", "").strip("\"'")
    path = find("pretrain", recipe or "default")
    shipped = read_mapping(path, "config", "sections") if path.parent == FOLDER / "pretrain" else {}
    if "name" not in given and source and shipped and "source" not in shipped["data"]:
        arch = given.get("student.arch", shipped["student"]["arch"]).strip("\"'")
        if Path(arch).suffix in (".pth", ".pt", ".safetensors"):
            raise ValueError(
                f"student.arch: {arch} is a file; expected timm's name of a network, such as resnet18; to start from "
                f"its weights give student.weights={arch} too"
            )
        student = arch.rpartition(":")[2]
        ending = "" if path.stem == "default" else f"-{path.stem}"
        changed.append(f"name={student}-{_name_of(source)}{ending}")
    config = load_config(path, changed)
    kept = [
        key for key in ("tap", "size") if getattr(config.teacher, key) is not None and f"teacher.{key}" not in given
    ]
    if "teacher.source" in given and kept:
        said = " and ".join(f"teacher.{key}={getattr(config.teacher, key)}" for key in kept)
        logger.warning("%s: kept from the recipe; 'teacher={source: %s}' takes neither", said, given["teacher.source"])
    if shipped and config.student.arch != shipped["student"]["arch"] and not {"optim", "optim.lr"} & set(given):
        said = "optim.lr=%g is the recipe's, whose student is %s; %s may need another, see docs/quickstart.md"
        logger.warning(said, config.optim.lr, shipped["student"]["arch"], config.student.arch)
    return config


def in_quotes(value: Any) -> str:
    """Write a value so that YAML reads it back as it is: a folder may be called `2024` or `photos #2`."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value, default=str)


def _name_of(source: str) -> str:
    """Make a name from an address of images: the last part of its path, up to a wildcard."""
    if source.startswith(("manifest:", "wds:")):
        part = source.partition(":")[2].rstrip("/").rpartition("/")[2]
        return re.split(r"[{*?[]", Path(part).stem)[0].strip("-_.") or "shards"
    return re.sub(r"[^\w.+-]+", "-", Path(source.partition(":")[0]).stem).strip("-") or "images"


def parse_config(content: dict[str, Any], source: str) -> Config:
    """Validate a nested dict; `source` is what errors call it."""
    return validate(Config, content, source)


def as_yaml(config: Config) -> str:
    """Every key with its value, defaults included, in the order of the classes above."""
    return dump(config.model_dump(mode="json"))


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optim': {'lr': 1}} -> {'optim.lr': 1}."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line per key that differs between two resolved configurations, without the neutral keys."""
    a, b = flatten(before), flatten(now)
    keys = [key for key in {**a, **b} if key not in NEUTRAL and a.get(key) != b.get(key)]
    if a.get("probe.patience") is None and b.get("probe.patience") is None:
        keys = [key for key in keys if key.partition(".")[0] != "probe"]  # looks alone change no weight
    return [f"{key}: {a.get(key)!r} in the run, {b.get(key)!r} now" for key in keys]
