"""Settings of every kind of task, as a task's YAML file gives them."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from kdep.settings import Ascending, Settings, Shares, Sides, ascending, validate
from kdep.shipped import FOLDER
from kdep_benchmarks.tasks.task import Task

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]
# A single value is a grid of one.
_LISTED = BeforeValidator(lambda value: tuple(value) if isinstance(value, list | tuple) else (value,))
Grid = Annotated[tuple[Positive, ...], _LISTED, Field(min_length=1)]


class KindSettings(Settings):
    """Settings of a kind of task at the full budget."""

    def scaled(self, share: float) -> "KindSettings":
        """The settings at a share of the schedule; the same for kinds without a schedule."""
        return self


class Pixels(KindSettings):
    """How images are shown to the network."""

    size: Annotated[int, Field(ge=16)] = 224
    """Side in pixels of the centre crop that the network sees."""
    resize: Annotated[int, Field(ge=16)] | None = None
    """Pixels to which the short side is resized before the crop; null: size."""
    batch_size: Count = 64
    """Images in memory at once; with finetune, images per step."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that decode images."""

    @model_validator(mode="after")
    def _crop_fits(self) -> "Pixels":
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize {self.resize} is smaller than size {self.size}, which is cropped from it")
        return self


class Knn(Pixels):
    """k nearest neighbours."""

    k: Annotated[tuple[Count, ...], _LISTED, Field(min_length=1)] = (1, 5, 10, 20, 50, 100, 200)
    """Numbers of neighbours to choose from on val; those above the number of train images are left out."""
    temperature: Grid = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    """Temperatures of the neighbours' weights to choose from on val."""


class Linear(Pixels):
    """Logistic regression on frozen features."""

    path: Grid = tuple(float(f"{10 ** (-6 + 7 * step / 12):.3g}") for step in range(13))
    """Penalties per image to choose from on val."""


class Fewshot(Linear):
    """A linear probe on small parts of train."""

    share: Annotated[float, Field(gt=0, lt=1)]
    """Share of train and val in each draw; at least two images per class are drawn."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Parts of a draw, each of which is held out once to choose the penalty."""
    draws: Annotated[int, Field(ge=5)] = 5
    """Draws; the score is their mean."""


class Finetune(Pixels):
    """Training of the whole network with a new classifier; lr and weight_decay may be lists to choose from on val."""

    epochs: Count = 30
    """Passes over train."""
    lr: Grid = (0.003, 0.01, 0.03)
    """Learning rates to choose from on val; every pair with weight_decay is tried."""
    weight_decay: Annotated[tuple[AtLeastZero, ...], _LISTED, Field(min_length=1)] = (1e-5, 1e-4, 1e-3)
    """Weight decays to choose from on val."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """sgd: momentum."""
    schedule: Literal["cosine", "step"] = "cosine"
    """How the learning rate falls."""
    lr_step_epochs: Count = 50
    """step: divide the learning rate by 10 every so many epochs."""
    warmup_epochs: AtLeastZero = 1.0
    """Epochs over which the learning rate rises linearly from 0."""
    crop_scale: Shares = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random crop takes."""
    flip: bool = True
    """Flip half of the images horizontally."""
    accumulate: Count = 1
    """Divide each batch into so many parts to save memory; their gradients are added, and BatchNorm sees the parts."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network."""

    def scaled(self, share: float) -> "Finetune":
        """The settings at a share of the epochs, at least one; the epochs between steps shrink with them."""
        steps = max(1, round(share * self.lr_step_epochs))
        return self.model_copy(update={"epochs": max(1, round(share * self.epochs)), "lr_step_epochs": steps})


class Dense(KindSettings):
    """Settings that segmentation and detection share."""

    kind: ClassVar[str]

    config: str
    """segment_fcn, segment_fcn_light or segment_pspnet; detect_retinanet, detect_retinanet_light or detect_faster_rcnn;
    or the path of an mmengine config of your own, whose model counts; what it freezes of the backbone or loads into
    it does not."""
    iterations: Count
    """Optimizer steps."""
    batch_size: Count
    """Images per backward pass."""
    lr: AtLeastZero
    """Learning rate of SGD with momentum 0.9."""
    weight_decay: AtLeastZero
    """Weight decay."""
    head_lr_factor: AtLeastZero = 1.0
    """Learning rate of heads and neck as a multiple of lr; the paper's segmentation has 10."""
    clip_grad: AtLeastZero = 0.0
    """Largest norm of the gradient; 0: no limit."""
    accumulate: Count = 1
    """Backward passes per optimizer step."""
    amp: bool = False
    """Train in mixed precision."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that load images; 0 is fastest for small sets, the shipped tasks of large sets have 4."""
    save_every: Count | None = None
    """Optimizer steps between two checkpoints to resume from; null: about one a minute."""

    @field_validator("config")
    @classmethod
    def _exists(cls, value: str) -> str:
        config_file(cls.kind, value)
        return value

    @property
    def passes(self) -> int:
        """Iterations as mmengine counts them: backward passes."""
        return self.iterations * self.accumulate

    def scaled(self, share: float) -> "Dense":
        """The settings at a share of the iterations, at least one."""
        return self.model_copy(update={"iterations": max(1, round(share * self.iterations))})


class Segment(Dense):
    """Segmentation with mmsegmentation. `segment` trains the whole network, `segment-frozen` the heads only."""

    kind: ClassVar[str] = "segment"

    crop: Annotated[int, Field(ge=32)]
    """Side in pixels of the training crops."""
    scale: Sides | None = None
    """Width and height in pixels into which images are fitted; null: (4 * crop, crop), so the short side is crop."""
    scale_range: Ascending = (0.5, 2.0)
    """Random multiple of scale for training images before the crop."""
    output_stride: Literal[8, 16, 32] = 8
    """Output stride of the backbone: 8 as in the paper; 16 and 32 are cheaper."""

    @property
    def base(self) -> tuple[int, int]:
        """Width and height in pixels into which images are fitted."""
        return self.scale or (4 * self.crop, self.crop)


class Detect(Dense):
    """Detection with mmdetection. `detect` trains the whole network, `detect-frozen` neck and heads only."""

    kind: ClassVar[str] = "detect"

    scale: Sides
    """Width and height in pixels into which images are fitted."""
    short_sides: Annotated[Sides, AfterValidator(ascending)] | None = None
    """Range of the short side of training images in pixels, instead of scale's; the long side stays."""
    drops: Shares = (8 / 12, 11 / 12)
    """Shares of the iterations after which the learning rate falls to a tenth."""
    warmup: Annotated[int, Field(ge=0)] | None = None
    """Iterations of linear warm-up; null: a tenth of all, at most 500."""

    def scaled(self, share: float) -> "Detect":
        """The settings at a share of the iterations; warm-up takes at most a tenth of them where they are fewer."""
        fewer = super().scaled(share)
        if share == 1 or self.warmup is None:
            return fewer
        return fewer.model_copy(update={"warmup": min(self.warmup, fewer.iterations // 10)})


class WholeImages(KindSettings):
    """How whole images are shown to a frozen backbone."""

    size: Annotated[int, Field(ge=32)] = 256
    """Short side in pixels; the image is resized as a whole, both sides to multiples of 32 or of the patch."""
    batch_size: Count = 16
    """Images in memory at once."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that decode images."""
    images: Count = 2000
    """Largest number of train images; of more, a fixed random subset."""


class DensePositions(WholeImages):
    """Which positions of images are labelled."""

    stride: Literal[8, 16, 32] = 16
    """Pixels between positions; a plain vision transformer keeps those of its patches."""
    positions: Annotated[int, Field(ge=100, le=100_000)] = 25_000
    """Largest number of train positions drawn."""
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5
    """0 draws classes as often as they occur, 1 all equally often."""


class DenseKnn(DensePositions):
    """Segmentation by the nearest neighbours of each position among those of train."""

    k: Count = 30
    """Number of neighbours."""
    temperature: Positive = 0.02
    """Temperature of the neighbours' weights."""
    axes: Count = 256
    """Principal axes on which positions are compared."""


class DenseLinear(DensePositions):
    """Segmentation by logistic regression from each position."""

    path: Grid = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    """Penalties per position to choose from on val."""


class Box(WholeImages):
    """Classes and corrections of boxes that are given."""

    path: Grid = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Penalties per box of the classes to choose from on val."""
    ridge: Grid = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Penalties per box of the corrections to choose from on val."""


SETTINGS: dict[str, type[KindSettings]] = {
    "knn": Knn,
    "linear": Linear,
    "fewshot": Fewshot,
    "finetune": Finetune,
    "segment": Segment,
    "segment-frozen": Segment,
    "dense-linear": DenseLinear,
    "dense-knn": DenseKnn,
    "detect": Detect,
    "detect-frozen": Detect,
    "box": Box,
}
Kind = TypeVar("Kind", bound=KindSettings)


def read_settings(kind: type[Kind], task: Task) -> Kind:
    """Check a task's settings and scale them to the task's budget.

    Raises:
        ValueError: names the task, the key, what was found and what would be right.
    """
    return validate(kind, dict(task.settings), f"{task.name}: settings").scaled(task.share)


def check_settings(task: Task) -> None:
    """Read the settings of a task of any kind, to find a mistake before anything runs.

    Raises:
        ValueError: names the task, the key, what was found and what would be right.
    """
    read_settings(SETTINGS[task.kind], task)


def config_file(kind: str, name: str) -> Path:
    """The mmengine config that a task names.

    Raises:
        ValueError: there is none.
    """
    path = Path(name) if name.endswith(".py") else FOLDER / "transfer" / f"{name}.py"
    if not path.is_file():
        names = sorted(found.stem for found in (FOLDER / "transfer").glob(f"{kind}_*.py"))
        raise ValueError(f"there are {', '.join(names)}, or the path of your own")
    return path
