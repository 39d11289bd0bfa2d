"""Read a study file and list its runs; the help of `kdep study` explains the keys."""

import contextlib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from kdep.config import Config, in_quotes, load_config
from kdep.data.sources.root import data_root
from kdep.settings import Line, Name, Settings, validate
from kdep.shipped import find
from kdep.yaml_file import parse, read_mapping

# Along these axes a study also reports how many images are saved: images seen, or images in the set.
BUDGET, SHARE = "optim.epochs", "data.limit"


@dataclass(frozen=True)
class Run:
    """One pretraining run of a study, or a checkpoint that is scored as it is."""

    arm: str
    value: Any
    seed: int
    name: str
    overrides: tuple[str, ...] = ()
    checkpoint: str | None = None

    @property
    def place(self) -> dict[str, Any]:
        """Arm, value and seed, as columns of the answer."""
        return {"arm": self.arm, "value": self.value, "seed": self.seed}

    @property
    def key(self) -> tuple[str, str, str]:
        """Arm, value and seed as a CSV file spells them."""
        return self.arm, "" if self.value is None else str(self.value), str(self.seed)

    def student(self, runs: Path) -> str:
        """The checkpoint that `kdep transfer` scores."""
        return self.checkpoint or str(runs / self.name / "student.pth")


def _each_once(values: list[Any]) -> list[Any]:
    if len({str(value) for value in values}) < len(values):
        raise ValueError("expected each value once")
    return values


# A key without a value is an empty one, and an arm may be a number such as 320.
_EMPTY = BeforeValidator(lambda value: {} if value is None else value)
_LIST = BeforeValidator(lambda value: [] if value is None else value)
_NAMED = BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)
ArmName = Annotated[Line, _NAMED]
Value = str | int | float | None
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1), AfterValidator(_each_once)]
Overrides = Annotated[dict[str, Any], _EMPTY]


class Axis(Settings):
    """A key of the recipe that takes several values."""

    key: str
    """The key, such as optim.epochs."""
    values: Annotated[list[Value], Field(min_length=1), AfterValidator(_each_once)]
    """The values of the key."""
    along: dict[Value, Overrides] = Field({}, alias="with")
    """Overrides that go with single values."""

    @model_validator(mode="after")
    def _fits(self) -> "Axis":
        if self.key in ("name", "seed"):
            raise ValueError(f"key: {self.key} is set by the study itself; `seeds` lists the seeds")
        if self.key in (BUDGET, SHARE) and not all(type(value) is int for value in self.values):
            raise ValueError(f"values: {self.key} is a whole number, got {self.values}")
        return self


class Score(Settings):
    """How the students are scored: as `kdep transfer` does with the options of the same names."""

    suite: str | None = None
    """A shipped suite or a YAML file."""
    data: str | None = None
    """In place of a suite: a folder of images in class folders."""
    size: int | None = Field(None, ge=1)
    """data: side of its images in pixels; null: 224."""
    tasks: Annotated[list[str], Field(min_length=1), AfterValidator(_each_once)] | None = None
    """Tasks of the suite, null: all; with data, kinds such as finetune, null: knn and linear."""
    data_root: str | None = None
    """Folder below which the tasks' data sets are; null: that of kdep transfer."""
    seeds: Seeds | None = [0]
    """Seeds of the tasks, over which a score is the mean; null: the seed of the run."""
    protocol: str | None = None
    """Protocol of the tasks; null: their own."""
    budget: str = "full"
    """Share of the schedule of fine-tuning, segmentation and detection."""
    arch: str | None = None
    """timm's name of the network in arms that are plain state dicts."""

    @model_validator(mode="after")
    def _fits(self) -> "Score":
        if (self.suite is None) == (self.data is None):
            raise ValueError("suite: expected either this or data, a folder of images")
        if self.size is not None and self.data is None:
            raise ValueError("size: goes with data; the tasks of a suite have a size of their own")
        if self.data is not None and self.protocol not in (None, "fair"):
            raise ValueError(f"protocol: {self.protocol}; a folder of data is measured by the protocol fair")
        return self


class Claim(Settings):
    """A comparison that a study is run for, named before its runs; those not named are exploratory."""

    arms: Annotated[list[ArmName], Field(min_length=2, max_length=2)]
    """Two arms."""
    metric: str = "mean"
    """A task, or mean: over all tasks."""
    seeds: Seeds | None = None
    """Seeds of the runs that count; null: all."""


class Study(Settings):
    """A study file."""

    name: Name
    """Name of the study; its runs' names start with it."""
    question: str
    """The question that the study answers."""
    pretrain: str | None = None
    """The recipe of all runs: a name or a YAML file; null where every arm is a checkpoint."""
    arms: Annotated[dict[ArmName, Overrides | str], _EMPTY] = {}
    """What is compared: overrides of the recipe, or a checkpoint such as random:resnet18."""
    set: Overrides = {}
    """Overrides of all runs."""
    axis: Axis | None = None
    """A key that takes several values in every arm."""
    baseline: ArmName
    """The arm that the others are compared with."""
    pairs: Annotated[list[Annotated[list[ArmName], Field(min_length=2, max_length=2)]], _LIST] = []
    """More pairs of arms to compare."""
    claims: Annotated[list[Claim], _LIST] = []
    """The comparisons that the study is run for."""
    seeds: Seeds
    """Seeds of the runs."""
    score: Score
    """How the students are scored."""
    _file: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _fits_together(self) -> "Study":
        if self.baseline not in self.arms:
            raise ValueError(f"baseline {self.baseline!r}; the arms are {', '.join(self.arms) or 'missing'}")
        trained = [arm for arm in self.arms if self.trains(arm)]
        if self.pretrain is None and (trained or self.set or self.axis):
            changes = f"arm {trained[0]}" if trained else "set" if self.set else "axis"
            raise ValueError(
                f"pretrain: missing; it names the recipe that {changes} changes. A study of nothing but checkpoints "
                "needs none"
            )
        for one, other in self.pairs:
            if one == other or not {one, other} <= {*self.arms}:
                raise ValueError(f"pairs: [{one}, {other}]; expected two of the arms {', '.join(self.arms)}")
        for claim in self.claims:
            _check_claim(self, claim)
        _check_overrides(self)
        names = [run.name for run in self.runs if run.checkpoint is None]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two arms would have runs named {doubled[0]}; name them further apart")
        return self

    def trains(self, arm: str) -> bool:
        """Whether an arm is trained by the study, and not a checkpoint that is scored as it is."""
        return not isinstance(self.arms.get(arm), str)

    @property
    def values(self) -> list[Any]:
        """Values of the axis; one None without an axis."""
        return self.axis.values if self.axis else [None]

    @property
    def kinds(self) -> dict[str, str]:
        """The tasks on a folder of images, by name: the kind of each; empty with a suite."""
        from kdep_benchmarks.tasks.choose import USUAL_KINDS, folder_task

        if self.score.data is None:
            return {}
        folder = Path(self.score.data)
        return {folder_task(folder, kind, self.score.size): kind for kind in self.score.tasks or USUAL_KINDS}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that score the students."""
        return list(self.kinds) or self.score.tasks or _tasks_of(str(self.score.suite))

    def score_seeds(self, planned: Run) -> list[int]:
        """Seeds of the tasks that score a run; its score is the mean over them."""
        return [planned.seed] if self.score.seeds is None else self.score.seeds

    @property
    def data_root(self) -> Path:
        """The folder below which the tasks' data sets lie."""
        return Path(self.score.data_root or data_root())

    @property
    def runs(self) -> list[Run]:
        """Every run, seed by seed, so that an unfinished study has complete comparisons for its first seeds."""
        return [self._run(arm, value, seed) for seed in self.seeds for value in self.values for arm in self.arms]

    def config(self, planned: Run) -> Config:
        """The configuration of a run.

        Raises:
            ValueError: no such recipe, or a mistake in it or in the overrides; names the study's file and the key.
        """
        assert self.pretrain is not None
        with self.naming("pretrain"):
            recipe = find("pretrain", self.pretrain)
        with self.naming(f"arm {planned.arm}"):
            return load_config(recipe, planned.overrides)

    def two_configs(self, arm: str) -> tuple[Config, Config]:
        """Configurations of an arm that is trained, for two seeds: where they are equal, a seed draws nothing."""
        first, second = (self.config(self._run(arm, self.values[0], self.seeds[0] + more)) for more in (0, 1))
        return first, second

    @contextlib.contextmanager
    def naming(self, key: str) -> Iterator[None]:
        """Name the study's file and a key in errors of what the key leads to."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self._file or f'study {self.name}'}: {key}: {error}") from error

    def _run(self, arm: str, value: Any, seed: int) -> Run:
        given = self.arms[arm]
        if isinstance(given, str):
            checkpoint = given.replace("{seed}", str(seed))
            if checkpoint.startswith("random:"):
                # random:NAME#0 is random:NAME: one name for one initialisation.
                checkpoint = re.sub(r"#0+(?=@|$)", "", checkpoint)
            return Run(arm, value, seed, checkpoint, checkpoint=checkpoint)
        along = {self.axis.key: value, **self.axis.along.get(value, {})} if self.axis else {}
        keys = {**self.set, **along, **given, "seed": seed}
        # An arm that gives a whole section, such as bank: null, drops the keys of that section in `set`.
        keys = {key: content for key, content in keys.items() if key.partition(".")[0] not in given or key in given}
        parts = [self.name, arm, *([] if value is None else [str(value)]), f"s{seed}"]
        name = "-".join(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in parts)
        overrides = [f"{key}={_as_text(content, seed)}" for key, content in keys.items()]
        return Run(arm, value, seed, name, (f"name={name}", *overrides))


@functools.lru_cache(maxsize=8)
def _tasks_of(suite: str) -> list[str]:
    from kdep_benchmarks.tasks.choose import task_names

    return task_names(suite)


def _check_claim(study: Study, claim: Claim) -> None:
    if len({*claim.arms} & {*study.arms}) != 2:
        raise ValueError(f"claims: arms {claim.arms}; expected two of the arms {', '.join(study.arms)}")
    if claim.metric not in ("mean", *study.tasks):
        raise ValueError(f"claims: metric {claim.metric!r}; expected mean or one of {', '.join(study.tasks)}")
    if not {*(claim.seeds or [])} <= {*study.seeds}:
        raise ValueError(f"claims: seeds {claim.seeds}; expected some of {study.seeds}")


def _as_text(value: Any, seed: int) -> str:
    """Write a value as that of an override, which is read as YAML again: a folder may be called `photos #2`."""
    if isinstance(value, str):
        text = value.replace("{seed}", str(seed))
        if text.isdigit() and "{seed}" in value:  # such as data.seed: "{seed}", a number
            return text
        with contextlib.suppress(yaml.YAMLError):
            if parse(text) == text:
                return text
        return in_quotes(text)
    # An override is one line, whatever its length.
    text = yaml.safe_dump(value, default_flow_style=True, width=2**20, sort_keys=False)
    return text.strip().removesuffix("...").strip().replace("{seed}", str(seed))


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        ValueError: a key is missing, unknown or of another type, or keys exclude each other.
    """
    path = Path(path)
    content = read_mapping(path, "study", f"the keys {', '.join(Study.model_fields)}")
    study = validate(Study, content, str(path))
    study._file = path
    return study


def _check_overrides(study: Study) -> None:
    """Refuse overrides for a value that the axis does not have, and overrides of what the study itself sets."""
    own = ["name", "seed", *([study.axis.key] if study.axis else [])]
    checked = [("set", study.set, own[:2])]
    checked += [(f"arm {arm}", given, own) for arm, given in study.arms.items() if isinstance(given, dict)]
    for value, overrides in (study.axis.along if study.axis else {}).items():
        if value not in study.values:
            raise ValueError(f"axis.with: {value}: expected overrides for one of the axis's values {study.values}")
        checked.append((f"axis.with: {value}", overrides, own))
    for place, overrides, keys in checked:
        for key in keys:
            if key in overrides or key.partition(".")[0] in overrides:
                raise ValueError(f"{place}: {key} is set by the study itself; leave it out")
