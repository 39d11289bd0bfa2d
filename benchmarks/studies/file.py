"""The file of a study -> its runs, checked; what the keys mean is in the help of `kdep study`."""

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kdep.data.root import data_root
from kdep.shipped import find
from kdep.yaml_file import read_mapping

if TYPE_CHECKING:  # pydantic is loaded when a run is looked at
    from kdep.config import Config

REQUIRED = ("name", "question", "pretrain", "baseline", "seeds", "score")
KEYS = (*REQUIRED, "arms", "grid", "set", "axis", "pairs")
KINDS = {
    **dict.fromkeys(("name", "question", "pretrain"), (str, "text")),
    **dict.fromkeys(("arms", "set", "axis", "score"), (dict, "a mapping")),
    **dict.fromkeys(("seeds", "pairs"), (list, "a list")),
}
OPTIONAL = ("arms", "grid", "set", "axis", "pairs")  # may be there without a value
SCORE = {"suite", "tasks", "data_root", "seeds", "protocol", "budget"}
BUDGET, SHARE = "optim.epochs", "data.limit"  # axes along which less is a saving: of images seen, of images


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
        """Where it stands in the grid, as columns of the answer."""
        return {"arm": self.arm, "value": self.value, "seed": self.seed}

    @property
    def key(self) -> tuple[str, str, str]:
        """The same as a CSV spells it."""
        return self.arm, "" if self.value is None else str(self.value), str(self.seed)

    def student(self, runs: Path) -> str:
        """What `kdep transfer` opens."""
        return self.checkpoint or str(runs / self.name / "student.pth")


@dataclass(frozen=True)
class Study:
    """A study file, checked; the grid's products are among the arms."""

    name: str
    question: str
    pretrain: str
    arms: dict[str, Any]
    score: dict[str, Any]
    baseline: str
    seeds: list[int]
    set: dict[str, Any] = field(default_factory=dict)
    axis: dict[str, Any] | None = None
    pairs: list[list[str]] = field(default_factory=list)

    @property
    def values(self) -> list[Any]:
        """Of the axis; one None without an axis."""
        return self.axis["values"] if self.axis else [None]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that score."""
        return self.score["tasks"]

    @property
    def score_seeds(self) -> list[int]:
        """Of the tasks; a score is the mean over them."""
        return self.score.get("seeds", [0])

    @property
    def data_root(self) -> Path:
        """The folder below which the tasks' data sets lie."""
        return Path(self.score.get("data_root") or data_root())

    @property
    def runs(self) -> list[Run]:
        """Every run, in the order of the file; seed by seed, so that a half-done study has whole comparisons."""
        return [self._run(arm, value, seed) for seed in self.seeds for value in self.values for arm in self.arms]

    def config(self, planned: Run) -> "Config":
        """The configuration of a run, checked."""
        from kdep.config import load_config

        return load_config(find("pretrain", self.pretrain), planned.overrides)

    def _run(self, arm: str, value: Any, seed: int) -> Run:
        given = self.arms[arm]
        if isinstance(given, str):
            checkpoint = given.replace("{seed}", str(seed))
            if checkpoint.startswith("random:"):
                checkpoint = re.sub(
                    r"#0+(?=@|$)", "", checkpoint
                )  # seed 0 is random:NAME, under whatever name asked for
            return Run(arm, value, seed, checkpoint, checkpoint=checkpoint)
        along = {self.axis["key"]: value, **self.axis.get("with", {}).get(value, {})} if self.axis else {}
        own = {**{key: content for key, content in given.items() if key != "at"}, **given.get("at", {}).get(value, {})}
        keys = {**self.set, **along, **own, "seed": seed}
        # An arm without a bank, or with another whole section, takes back what `set` says of its parts.
        keys = {key: content for key, content in keys.items() if key.partition(".")[0] not in own or key in own}
        parts = [self.name, arm, *([] if value is None else [str(value)]), f"s{seed}"]
        name = "-".join(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in parts)
        overrides = [f"{key}={_as_text(content, seed)}" for key, content in keys.items()]
        return Run(arm, value, seed, name, (f"name={name}", *overrides))


def _as_text(value: Any, seed: int) -> str:
    if not isinstance(value, str):
        # On one line whatever its length: an override is one.
        value = yaml.safe_dump(value, default_flow_style=True, width=2**20, sort_keys=False)
    return value.strip().removesuffix("...").strip().replace("{seed}", str(seed))


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        ValueError: a key is missing, unknown or of another kind; or two arms would have runs of one name.
    """
    path = Path(path)
    content = read_mapping(path, "study", f"the keys {', '.join(KEYS)}")
    missing, unknown = sorted(set(REQUIRED) - set(content)), sorted(set(content) - set(KEYS))
    if missing or unknown:
        raise ValueError(
            f"{path}: missing {', '.join(missing) or 'nothing'}; unknown {', '.join(unknown) or 'nothing'}"
        )
    for key, (kind, called) in KINDS.items():
        if not isinstance(content.get(key), kind) and not (content.get(key) is None and key in OPTIONAL):
            raise ValueError(f"{path}: {key}: expected {called}, got {content[key]!r}")
    own = {str(arm): {} if given is None else given for arm, given in (content.get("arms") or {}).items()}
    combined = spread(content.get("grid") or [], path)
    if doubled := sorted(set(own) & set(combined)):
        raise ValueError(f"{path}: {', '.join(doubled)}: among the arms and in the grid; name them apart")
    kept = {key: value for key, value in content.items() if key not in ("grid", "arms") and value is not None}
    kept |= {"pretrain": content["pretrain"], "arms": {**own, **combined}, "baseline": str(content["baseline"])}
    study = Study(**kept)
    problem = _problem(study)
    if problem:
        raise ValueError(f"{path}: {problem}")
    return study


def spread(grid: list[dict[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    """Every combination of the grid's parts: names joined, overrides merged, those of a later part on top.

    Raises:
        ValueError: it is no list of mappings, or two combinations have one name.
    """
    if not isinstance(grid, list) or not all(isinstance(part, dict) and part for part in grid):
        raise ValueError(f"{path}: grid: expected a list of mappings, such as [{{SVD: {{}}}}, {{' + PTS': {{}}}}]")
    arms = {}
    for combination in itertools.product(*(part.items() for part in grid)) if grid else ():
        merged: dict[str, Any] = {}
        for name, given in combination:
            if not isinstance(given, dict | None):
                raise ValueError(f"{path}: grid: {name}: expected overrides such as {{scale.name: sn}}, got {given!r}")
            merged = _merge(merged, given or {})
        name = "".join(str(part) for part, _ in combination)
        if name in arms:
            raise ValueError(f"{path}: grid: two combinations are named {name!r}; name the parts apart")
        arms[name] = merged
    return arms


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    below, above = lower.get("at", {}), upper.get("at", {})
    at = {value: {**below.get(value, {}), **above.get(value, {})} for value in {**below, **above}}
    return {**lower, **upper, **({"at": at} if at else {})}


def _problem(study: Study) -> str | None:
    """What is wrong with a study, in words; None where nothing is."""
    for arm, given in study.arms.items():
        if not isinstance(given, dict | str):
            return f"arm {arm}: expected overrides, or a checkpoint such as random:resnet18, got {given!r}"
    if study.baseline not in study.arms:
        return f"baseline {study.baseline!r}; the arms are {', '.join(study.arms) or 'missing'}"
    if not all(
        isinstance(pair, list) and len(pair) == 2 and pair[0] != pair[1] and all(arm in study.arms for arm in pair)
        for pair in study.pairs
    ):
        return f"pairs: expected a list of two arms each, such as [[SVD, SVD + PTS]], got {study.pairs!r}"
    if study.axis is not None and not {"key", "values"} <= set(study.axis) <= {"key", "values", "with"}:
        return f"axis has {sorted(study.axis)}; expected key and values"
    for what, found in (("seeds", study.seeds), ("axis.values", study.values), ("score.seeds", study.score_seeds)):
        if not isinstance(found, list) or not found or len({str(value) for value in found}) < len(found):
            return f"{what}: expected a list, each once, got {found!r}"
    for what, found in (("seeds", study.seeds), ("score.seeds", study.score_seeds)):
        if not all(type(seed) is int and seed >= 0 for seed in found):
            return f"{what}: expected whole numbers from 0 on, got {found!r}"
    if not all(value is None or isinstance(value, str | int | float) for value in study.values):
        return f"axis.values: expected numbers or words, got {study.values!r}; for whole sections take arms"
    if problem := _problem_at(study) or _problem_of_keys(study):
        return problem
    if not {"suite", "tasks"} <= set(study.score) <= SCORE:
        return f"score has {sorted(study.score)}; expected suite and tasks, and optionally {_others()}"
    tasks = study.tasks
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        return f"score.tasks: expected a list of names, got {tasks!r}"
    if len(set(tasks)) < len(tasks):
        return f"score.tasks: expected each once, got {tasks!r}"
    if study.axis and study.axis["key"] in (BUDGET, SHARE) and not all(type(v) is int for v in study.values):
        return f"axis.values: {study.axis['key']} is a whole number, got {study.values}"
    own = [run for run in study.runs if run.checkpoint is None]
    doubled = {run.name for run in own if sum(other.name == run.name for other in own) > 1}
    return f"two arms would have runs named {min(doubled)}; name them further apart" if doubled else None


def _problem_at(study: Study) -> str | None:
    """Overrides for a value that the axis does not have."""
    for place, content in _places(study).items():
        if not isinstance(content, dict):
            return f"{place}: expected a mapping from values of the axis to overrides, got {content!r}"
        for value, overrides in content.items():
            if value not in study.values or not isinstance(overrides, dict):
                return f"{place}: {value}: expected overrides for one of the axis's values {study.values}"
    return None


def _places(study: Study) -> dict[str, Any]:
    """Where overrides stand for single values of the axis."""
    places = {"axis.with": (study.axis or {}).get("with", {})}
    return places | {
        f"arm {arm}: at": given.get("at", {}) for arm, given in study.arms.items() if isinstance(given, dict)
    }


def _problem_of_keys(study: Study) -> str | None:
    """Overrides of what the study itself sets: a run's name and seed, and along an axis its key or its section."""
    own = ["name", "seed", *([study.axis["key"]] if study.axis else [])]
    if study.axis and study.axis["key"] in own[:2]:
        return f"axis.key: {study.axis['key']} is the study's own to set; `seeds` lists the seeds"
    arms = {f"arm {arm}": given for arm, given in study.arms.items() if isinstance(given, dict)}
    at = {f"{place}: {value}": part for place, parts in _places(study).items() for value, part in parts.items()}
    for place, overrides in {"set": study.set, **arms, **at}.items():
        for key in own[:2] if place == "set" else own:
            if key in overrides or key.partition(".")[0] in overrides:
                return f"{place}: {key} is set by the study itself; the answer would say something else than was run"
    return None


def _others() -> str:
    return ", ".join(sorted(SCORE - {"suite", "tasks"}))
