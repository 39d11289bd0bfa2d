"""What a result holds, and which values are right: of its own making and of files that may be another person's.

Names become parts of paths and rows of tables; numbers are averaged and drawn. All are checked when an object is made.
"""

import json
from dataclasses import dataclass as plain
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, Strict, StringConstraints
from pydantic.dataclasses import dataclass

from kdep.settings import Line, Name, Stored, holding, shown
from kdep_benchmarks.answers.sketch import DIGITS, SIZE
from kdep_benchmarks.answers.store import Answers

ROLES = ("student", "random", "supervised", "teacher", "other")
BUDGETS = ("full", "short", "smoke")
STATUSES = ("ok", "failed")

# Not strict as a whole: a strict dataclass is not made from a mapping.
CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
Percent = Annotated[float, Strict(), Field(ge=0, le=100)]
AtLeastZero = Annotated[float, Strict(), Field(ge=0)]
Hex = StringConstraints(pattern="^[0-9a-f]*$", max_length=64)


class Origin(Stored):
    """What boards read of a checkpoint's summary."""

    role: Literal[ROLES] = "other"
    source: Line | None = None
    method: Line | None = None
    teacher: Line | None = None
    pretrain_data: Line | None = None
    pretrain_fingerprint: Line | None = None
    pretrain_commit: Line | None = None
    pretrain_epochs: Annotated[float, Field(ge=0)] | None = None
    pretrain_seed: Count | None = None
    pretrain_loss: float | None = None
    images_seen: Annotated[float, Field(ge=0)] | None = None


class Halved(Stored):
    """Why a cell was measured with half the batch."""

    because: Line = ""


class Choice(Stored):
    """What boards read of the choices and flags of a cell."""

    tap: Line | None = None
    precision: Line = "float32"
    floor: Percent | None = None
    ignored_percent: Percent | None = None
    last_classes_not_in_test: Count | None = None
    boxes_of_other_classes: Count | None = None
    out_of_memory: Halved | None = None


class Curve(Stored):
    """What boards, studies and `kdep fidelity` read of a curve."""

    val_top1: list[float | None] | None = None
    test_top1: list[float] | None = None
    logme: list[float] | None = None


def _each_a_curve(curves: dict[str, Any]) -> dict[str, Any]:
    """Check a curve, or curves by tap."""
    for part in (curves, *curves.values()):
        if isinstance(part, dict):
            holding(Curve).func(part)
    return curves


class Cost(Stored):
    """What boards read of the cost."""

    seconds: AtLeastZero | None = None
    peak_memory_mb: AtLeastZero | None = None
    params_m: AtLeastZero | None = None
    gmacs: AtLeastZero | None = None
    images_per_second: AtLeastZero | None = None
    device: Line | None = None


class Load(Stored):
    """What boards read of how the weights loaded."""

    coverage: Percent | None = None


class Failure(Stored):
    """What boards read of a failed cell."""

    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    log: str = ""


Facts = dict[Line, Any]


@plain(frozen=True)
class Outcome:
    """What running one task once has measured.

    Attributes:
        metrics: percent, higher is better; the first is the task's main metric.
        counts: images per role: train, val, test.
        chosen: hyper-parameters chosen on the val split, and flags such as `C_at_edge` and `lr_fixed`.
        curves: e.g. the regularisation path; lists of plain numbers.
        load: tensors, expected, coverage in percent, max_difference of the features.
        cost: images_per_second; see `Result`.
        answers: per test image.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    chosen: dict[str, Any]
    curves: dict[str, Any]
    load: dict[str, Any]
    cost: dict[str, float]
    answers: Answers


def with_digits(sha256: str, name: str) -> str:
    """A checkpoint's name with the first digits of its sha256: `last (1a2b3c4d)`."""
    return f"{name} ({sha256[:8]})"


@dataclass(frozen=True, config=CHECKED)
class CheckpointCard:
    """The checkpoint behind a result. `summary` is its provenance in plain values: role, images_seen, teacher, ..."""

    name: Name
    sha256: Annotated[str, Hex, StringConstraints(min_length=8)]
    arch: Line
    params: Count
    summary: Annotated[Facts, holding(Origin)] = field(default_factory=dict)

    @property
    def role(self) -> str:
        """What the row is for: baselines (random, supervised, teacher) are what students are measured against."""
        return self.summary.get("role", "other")

    def is_from(self, spec: str) -> bool:
        """Whether it was opened by this name, such as `timm:resnet18` or `pypi:efficientnet_lite0@128`."""
        source, _, size = spec.partition("@")
        return self.summary.get("source") == source and self.name.partition("@")[2] == size


@dataclass(frozen=True, config=CHECKED)
class TaskCard:
    """The task behind a result."""

    name: Name
    kind: Line
    family: Literal["classification", "segmentation", "detection"]
    dataset: Line


@dataclass(frozen=True, config=CHECKED)
class Protocol:
    """The rules a score was measured by. Scores of different protocols are never compared."""

    name: Name
    version: Annotated[int, Strict(), Field(ge=0, lt=2**31)]
    budget: Literal[BUDGETS] = "full"

    def __str__(self) -> str:
        """`fair-v1`, `fair-v1-smoke`: the folder's name, and what the boards print."""
        return f"{self.name}-v{self.version}" + ("" if self.budget == "full" else f"-{self.budget}")


@plain(frozen=True)
class CellKey:
    """What a result is a result of. Equal keys mean the same measurement; the fingerprint is not in the path."""

    sha256: str
    task: str
    protocol: str
    data_fingerprint: str
    seed: int

    def path(self, folder: Path, status: str = "ok") -> Path:
        """The cell's file: `<sha8>/<task>/<protocol>/seed<k>.json`, or `.failed.json` for a failure."""
        suffix = ".json" if status == "ok" else ".failed.json"
        return Path(folder, self.sha256[:8], self.task, self.protocol, f"seed{self.seed}{suffix}")


@dataclass(frozen=True, config=CHECKED)
class Result:
    """One cell: scores with everything needed to believe them, or a failure with its last lines.

    Attributes:
        metrics, counts, chosen, curves, load: see `Outcome`; empty when failed. load also has the prefix of the weights
            in a file of another tool.
        cost: seconds, peak_memory_mb, device, params_m, gmacs, images_per_second; what was measured of these. The
            last, decoding included, is of a probe's extraction, where it did it, and of other kinds' training.
        versions: of the libraries, by name.
        commit: of this code.
        settings: the task's, as its file has them, for the full budget.
        started: ISO 8601, UTC.
        error: of a failed cell: exit_code, log (its last lines, as one text).
        errors: metric -> standard error over the choice of the test images, in points; set by `write_result`.
        answers: sha256 of the answers per test image, which `read_answers` reads; set by `write_result`.
        test_images: by which data sets with test images in common are known, see `sketch_of`.
    """

    checkpoint: CheckpointCard
    task: TaskCard
    protocol: Protocol
    data_fingerprint: Line
    seed: Count
    status: Literal[STATUSES]
    started: Line
    settings: Facts
    metrics: dict[Line, Percent] = field(default_factory=dict)
    counts: dict[Line, Count] = field(default_factory=dict)
    chosen: Annotated[Facts, holding(Choice)] = field(default_factory=dict)
    curves: Annotated[Facts, AfterValidator(_each_a_curve)] = field(default_factory=dict)
    load: Annotated[Facts, holding(Load)] = field(default_factory=dict)
    cost: Annotated[Facts, holding(Cost)] = field(default_factory=dict)
    versions: dict[Line, Line] = field(default_factory=dict)
    commit: Line = ""
    error: Annotated[Facts, holding(Failure)] = field(default_factory=dict)
    errors: dict[Line, Annotated[AtLeastZero, Field(le=100)]] = field(default_factory=dict)
    answers: Annotated[str, Hex] = ""
    test_images: Annotated[str, StringConstraints(pattern="^[0-9a-f]*$", max_length=SIZE * DIGITS)] = ""

    def __post_init__(self) -> None:
        if not isinstance(self.curve, dict):
            raise ValueError(f"curves: that of {self.chosen['tap']} is {shown(self.curve)}, expected a mapping")
        if self.status == "ok" and not self.metrics:
            raise ValueError(f"{self.task.name}: a finished cell has no metrics; the first is the task's main metric")

    @property
    def curve(self) -> dict[str, Any]:
        """The curve of the chosen tap where there are several, else the only one."""
        return self.curves.get(str(self.chosen.get("tap")), self.curves)

    @cached_property
    def settings_text(self) -> str:
        """The settings as one text, equal for equal settings."""
        return json.dumps(self.settings, sort_keys=True)

    @property
    def key(self) -> CellKey:
        """Identity of the cell."""
        seed, protocol = self.seed, str(self.protocol)
        return CellKey(self.checkpoint.sha256, self.task.name, protocol, self.data_fingerprint, seed)

    @property
    def main_metric(self) -> str:
        """Name of the metric that stands on the leaderboard."""
        return next(iter(self.metrics))

    @property
    def score(self) -> float:
        """The main metric, in percent."""
        return self.metrics[self.main_metric]
