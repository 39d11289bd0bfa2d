"""Read tasks and suites. A task is a data set, a kind of transfer, a protocol and settings; a suite lists tasks."""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdep.settings import Name, Settings, validate
from kdep.shipped import FOLDER, find, names
from kdep.yaml_file import read_mapping
from kdep_benchmarks.data.cards import CLASSIFICATION, Dataset, known
from kdep_benchmarks.kinds import KINDS, SCHEDULED

# Versions of the protocols. A change of settings or rules that moves scores raises them. A task's own `version` wins.
# fair 2: wider grids for kNN (k to 200, temperatures from 0.005 to 0.2) and for the weight decay of fine-tuning.
VERSIONS = {"fair": 2, "paper": 1}
# Share of the schedule (epochs, iterations) that each budget runs. Only kinds with a schedule have a budget.
SHARES = {"full": 1.0, "short": 0.1, "smoke": 0.01}
LAYOUTS: dict[str, tuple[str, ...]] = {
    "classification": CLASSIFICATION,
    "segmentation": ("voc", "ade20k", "cityscapes"),
    "detection": ("voc", "coco"),
}


@dataclass(frozen=True)
class Task:
    """One column of the scoreboard.

    Attributes:
        name: `<dataset>-<kind>`, with a suffix where there are several.
        version: version of the protocol; results of different versions are never compared.
        settings: settings of the kind at the full budget, as the file gives them; `read_settings` checks them.
        budget: how much of the schedule is run; results of different budgets are never compared.
        config_sha256: of the user's own mmengine config that the settings name, see `config_sha256`.
    """

    name: str
    kind: str
    dataset: Dataset
    protocol: str = "fair"
    version: int = VERSIONS["fair"]
    settings: dict[str, Any] = field(default_factory=dict)
    budget: str = "full"
    config_sha256: str = ""

    @property
    def family(self) -> str:
        """classification, segmentation or detection."""
        return KINDS[self.kind].family

    @property
    def plain_settings(self) -> dict[str, Any]:
        """The settings as JSON reads them, for a result's file; with the digest of the user's own config, if any."""
        own = {"config_sha256": self.config_sha256} if self.config_sha256 else {}
        return json.loads(json.dumps(self.settings | own))

    @property
    def share(self) -> float:
        """Share of the full schedule that the budget runs."""
        return SHARES[self.budget]

    def at(self, budget: str) -> "Task":
        """The task at a budget; a task without a schedule stays as it is.

        Raises:
            ValueError: an unknown budget.
        """
        if budget not in SHARES:
            raise ValueError(f"budget {budget!r}: there are {', '.join(SHARES)}")
        return replace(self, budget=budget) if self.kind in SCHEDULED else self


class DatasetFile(Settings):
    """A data set of your own."""

    name: Name
    """Name of the data set in results."""
    layout: str
    """How its files are laid out, such as imagefolder, coco or voc."""
    root: str
    """Its folder; a relative one starts at the data root."""
    files: dict[str, str]
    """The splits train, test and, where there is one, val; by layout."""
    classes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of the classes, where the files do not have them."""


class PaperFile(Settings):
    """What a task has instead by the paper's protocol."""

    dataset: str | DatasetFile | None = None
    """Data set; null: that of the task."""
    version: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Version of the protocol."""
    settings: dict[str, Any] | None = None
    """All settings of the kind; none are taken from the task's own."""


class TaskFile(Settings):
    """A task, in a file of configs/transfer or written out in a suite."""

    name: Name
    """Name of the task, DATASET-KIND with a suffix where there are several."""
    kind: Literal[tuple(KINDS)]
    """Kind of transfer."""
    dataset: str | DatasetFile
    """Name of a known data set, or a data set of your own."""
    protocol: Name = "fair"
    """Name of the protocol; results of two protocols are never compared."""
    version: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Version of the protocol; raise it where a change of settings moves scores."""
    settings: dict[str, Any] | None = None
    """Settings of the kind."""
    paper: PaperFile | None = None
    """The same task by the paper's protocol."""


class SuiteFile(Settings):
    """A list of tasks."""

    tasks: Annotated[list[str | dict[str, Any]], Field(min_length=1)] | None = None
    """Names of shipped tasks, or tasks written out."""
    family: Literal["any", "classification", "segmentation", "detection"] | None = None
    """Take all shipped tasks of a family instead."""
    beside: list[str] = []
    """Tasks of the suite that are measured and shown, but left out of means and ranks."""

    @model_validator(mode="after")
    def _has_tasks(self) -> "SuiteFile":
        if (self.tasks is None) == (self.family is None):
            raise ValueError("a suite has either tasks (a list) or family")
        return self


def load_task(name: str, data_root: Path, *, protocol: str | None = None) -> Task:
    """Read a shipped task, by the protocol that its file says or by another that the file has a section for.

    Raises:
        ValueError: no such task, or a mistake in the file.
    """
    if name not in names("transfer"):  # a task of your own stands in a suite
        raise ValueError(f"task {name!r}: there are {', '.join(names('transfer'))}")
    path = find("transfer", name)
    return parse_task({"name": name, **_read(path)}, data_root, str(path), protocol=protocol)


def load_suite(name: str, data_root: Path, *, protocol: str | None = None) -> list[Task]:
    """Read a shipped suite, or a YAML file of the user's; see `SuiteFile`.

    Raises:
        ValueError: no such suite, or a mistake in the file.
    """
    return open_suite(name, data_root, protocol=protocol)[0]


def suite_tasks(name: str) -> frozenset[str]:
    """Names of the tasks of a suite that count in means and ranks, see `load_suite`."""
    return open_suite(name, Path())[1]


def open_suite(name: str, data_root: Path, *, protocol: str | None = None) -> tuple[list[Task], frozenset[str]]:
    """The tasks of a suite by a protocol, and the names of those that count. Each file is read once.

    Means and ranks are over the names, which are of all the suite's tasks but those `beside`.

    By the paper's protocol a suite of a family has only those of its tasks that have a section for it.

    Raises:
        ValueError: as `load_suite`.
    """
    path = find("suites", name)
    suite = validate(SuiteFile, _read(path), str(path))
    shipped = names("transfer")
    if unknown := [entry for entry in suite.tasks or () if isinstance(entry, str) and entry not in shipped]:
        raise ValueError(f"{path}: task {unknown[0]!r}: there are {', '.join(shipped)}")
    files = [_read_entry(entry, path) for entry in (shipped if suite.tasks is None else suite.tasks)]
    tasks = [(parse_task(content, data_root, source), content, source) for content, source in files]
    tasks = [one for one in tasks if suite.family in (None, "any", one[0].family)]
    found = [task.name for task, _, _ in tasks]
    if doubled := [name for name in found if found.count(name) > 1]:
        raise ValueError(f"{path}: task {doubled[0]} is listed twice")
    if strange := [name for name in suite.beside if name not in found]:
        raise ValueError(f"{path}: beside: {strange[0]!r}; expected some of the suite's tasks {', '.join(found)}")
    counted = frozenset(found) - frozenset(suite.beside)
    if not counted:
        raise ValueError(f"{path}: beside: every task of the suite; one at least has to count")
    if protocol is None:
        return [task for task, _, _ in tasks], counted
    if suite.tasks is None and protocol == "paper":
        tasks = [one for one in tasks if "paper" in one[1]]
    return [parse_task(own, data_root, source, protocol=protocol) for _, own, source in tasks], counted


def _read_entry(entry: str | dict[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """A task of the suite at `path` before it is checked, and the file that it stands in."""
    if not isinstance(entry, str):
        return entry, str(path)
    shipped = find("transfer", entry)
    return {"name": entry, **_read(shipped)}, str(shipped)


def parse_task(content: dict[str, Any], data_root: Path, source: str, *, protocol: str | None = None) -> Task:
    """Build a task from its YAML; see `TaskFile`.

    Raises:
        ValueError: names the file, the task, the key, and what would be right.
    """
    where = f"{source}: task {content['name']}" if "name" in content else source
    file = validate(TaskFile, content, where)
    by = file
    if protocol not in (None, file.protocol):
        if protocol != "paper" or file.paper is None:
            having = f"of the shipped tasks {', '.join(_having_paper())} have"
            raise ValueError(f"{where}: has protocol {file.protocol} and no section {protocol}; {having}")
        by = file.paper
    try:
        dataset = _open(by.dataset or file.dataset, data_root)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if dataset.layout not in (layouts := LAYOUTS[KINDS[file.kind].family]):
        raise ValueError(f"{where}: {file.kind} reads {', '.join(layouts)}, not {dataset.layout}")
    name = protocol or file.protocol
    version = VERSIONS.get(name, 1) if by.version is None else by.version
    settings = by.settings or {}
    return Task(file.name, file.kind, dataset, name, version, settings, config_sha256=config_sha256(settings))


def config_sha256(settings: Mapping[str, Any]) -> str:
    """sha256 of the user's own mmengine config that settings name by a path ending in .py; empty without such a file.

    Files of the user's that it includes, by `_base_` or `with read_base(): from .x import *`, count with it. Those of
    kdep and of the toolboxes do not.
    """
    config = settings.get("config")
    if not isinstance(config, str) or not config.endswith(".py") or not Path(config).is_file():
        return ""
    files = [Path(config).resolve()]
    for file in files:  # grows while it is read
        files += [base for base in _bases(file) if base not in files]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _bases(config: Path) -> list[Path]:
    """The user's files that an mmengine config includes; none where it cannot be read, which mmengine says."""
    try:
        lines = ast.parse(config.read_bytes()).body
        named = [ast.literal_eval(line.value) for line in lines if isinstance(line, ast.Assign) and _is_base(line)]
    except (SyntaxError, ValueError):
        return []
    given = [base for value in named for base in (value if isinstance(value, list | tuple) else [value])]
    inner = [line for block in lines if isinstance(block, ast.With) for line in block.body]  # of `read_base()`
    relative = [line for line in inner if isinstance(line, ast.ImportFrom) and line.level and line.module]
    given += [f"{'../' * (line.level - 1)}{line.module.replace('.', '/')}.py" for line in relative]
    paths = [(config.parent / base).resolve() for base in given if isinstance(base, str) and "::" not in base]
    return [path for path in paths if path.is_file() and not path.is_relative_to(FOLDER.resolve())]


def _is_base(line: ast.Assign) -> bool:
    return any(isinstance(target, ast.Name) and target.id == "_base_" for target in line.targets)


def _having_paper() -> list[str]:
    """Shipped tasks that have a recipe of the paper."""
    return [name for name in names("transfer") if "paper" in _read(find("transfer", name))]


def _open(given: str | DatasetFile, data_root: Path) -> Dataset:
    if isinstance(given, str):
        return known(given, data_root)
    root = data_root / given.root  # an absolute root stays as it is
    return Dataset(given.name, given.layout, root, given.files, given.classes)


def _read(path: Path) -> dict[str, Any]:
    return read_mapping(path, "file", "keys such as kind: and dataset:")
