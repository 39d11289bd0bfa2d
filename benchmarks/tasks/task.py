"""A task is one file under configs/transfer: data set, kind of transfer, protocol, settings. A suite lists tasks."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdep.shipped import FOLDER
from kdep.yaml_file import read_mapping
from kdep_benchmarks.data.cards import CLASSIFICATION, Dataset, known

CONFIGS = FOLDER

KINDS: dict[str, str] = {
    "knn": "classification",
    "linear": "classification",
    "fewshot": "classification",
    "finetune": "classification",
    "segment": "segmentation",
    "detect": "detection",
}
# Of the protocols; raised where a change of settings or rules moves scores. A task's own `version` counts instead.
# fair 2: wider grids for kNN (k to 200, temperatures from 0.005 to 0.2) and for the weight decay of fine-tuning.
VERSIONS = {"fair": 2, "paper": 1}
# Share of the schedule (epochs, iterations) that a budget leaves. Only these kinds have one; probes are always full.
SHARES = {"full": 1.0, "short": 0.1, "smoke": 0.01}
SCHEDULED = ("finetune", "segment", "detect")
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
        version: of the protocol; a change that moves scores makes a new one, and versions are never mixed.
        settings: hyper-parameters of the kind, all of them used or refused there; those of the full budget.
        budget: how much of the schedule is run; results of different budgets are never mixed.
    """

    name: str
    kind: str
    dataset: Dataset
    protocol: str = "fair"
    version: int = VERSIONS["fair"]
    settings: dict[str, Any] = field(default_factory=dict)
    budget: str = "full"

    @property
    def family(self) -> str:
        """classification, segmentation or detection."""
        return KINDS[self.kind]

    @property
    def plain_settings(self) -> dict[str, Any]:
        """The settings as a result's file holds them."""
        return json.loads(json.dumps(self.settings))

    @property
    def share(self) -> float:
        """Of the full schedule, by the budget."""
        return SHARES[self.budget]

    def at(self, budget: str) -> "Task":
        """The task at a budget; a task without a schedule stays as it is, and so does its row.

        Raises:
            ValueError: an unknown budget.
        """
        if budget not in SHARES:
            raise ValueError(f"budget {budget!r}: there are {', '.join(SHARES)}")
        return replace(self, budget=budget) if self.kind in SCHEDULED else self


def task_names() -> list[str]:
    """Tasks that ship with the project."""
    return sorted(path.stem for path in (CONFIGS / "transfer").glob("*.yaml"))


def suite_names() -> list[str]:
    """Suites that ship with the project."""
    return sorted(path.stem for path in (CONFIGS / "suites").glob("*.yaml"))


def load_task(name: str, data_root: Path, *, protocol: str | None = None) -> Task:
    """Read configs/transfer/NAME.yaml, by the protocol that it says or by another that it has a section for.

    Raises:
        ValueError: no such task, or a mistake in the file.
    """
    path = CONFIGS / "transfer" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"task {name!r}: there are {', '.join(task_names())}")
    return parse_task({"name": name, **_read(path)}, data_root, str(path), protocol=protocol)


def load_suite(name: str, data_root: Path, *, protocol: str | None = None) -> list[Task]:
    """Tasks of a shipped suite, or of a YAML file of the user's.

    The file has `tasks`: names of shipped tasks, or tasks written out with a data set of their own, whose relative
    roots start at the data root. `family: X` takes all shipped tasks of a family, `family: any` all tasks.

    Raises:
        ValueError: no such suite, or a mistake in the file.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / "suites" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"suite {name!r}: there are {', '.join(suite_names())}, or a YAML file of your own")
    content = _read(path)
    if unknown := set(content) - {"tasks", "family"}:
        raise ValueError(f"{path}: unknown key {min(unknown)}; a suite has tasks, family")
    if "family" in content:
        tasks = [load_task(task, data_root, protocol=protocol) for task in _having(protocol)]
        return [task for task in tasks if content["family"] in ("any", task.family)]
    entries = content.get("tasks")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: tasks: expected a list of task names or of tasks written out")
    tasks = [
        load_task(entry, data_root, protocol=protocol)
        if isinstance(entry, str)
        else parse_task(entry, data_root, str(path), protocol=protocol)
        for entry in entries
    ]
    doubled = {task.name for task in tasks if sum(other.name == task.name for other in tasks) > 1}
    if doubled:
        raise ValueError(f"{path}: task {min(doubled)} stands there twice")
    return tasks


def parse_task(content: dict[str, Any], data_root: Path, source: str, *, protocol: str | None = None) -> Task:
    """Build a task from its YAML.

    A section `paper` holds what the protocol of that name has instead: dataset, settings (all of them), version.

    Raises:
        ValueError: names the file, the task, the key, and what would be right.
    """
    if not isinstance(content, dict) or "name" not in content:
        raise ValueError(f"{source}: a task needs a name, got {content!r}")
    where = f"{source}: task {content['name']}"
    allowed = ("name", "kind", "dataset", "protocol", "version", "settings", "paper")
    if unknown := [key for key in content if key not in allowed]:
        raise ValueError(f"{where}: unknown key {unknown[0]}; there are {', '.join(allowed)}")
    content = _by_protocol(content, protocol, where)
    kind = content.get("kind")
    if kind not in KINDS:
        raise ValueError(f"{where}: kind {kind!r}; there are {', '.join(KINDS)}")
    dataset = _parse_dataset(content.get("dataset"), data_root, where)
    if dataset.layout not in LAYOUTS[KINDS[kind]]:
        raise ValueError(f"{where}: {kind} reads {', '.join(LAYOUTS[KINDS[kind]])}, not {dataset.layout}")
    protocol = content.get("protocol", "fair")
    version = int(content.get("version", VERSIONS.get(protocol, 1)))
    settings = content.get("settings") or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{where}: settings: expected keys such as size: 224, got {settings!r}")
    return Task(content["name"], kind, dataset, protocol, version, dict(settings))


def _having(protocol: str | None) -> list[str]:
    """Shipped tasks that have a protocol; a family is asked for what there is."""
    if protocol != "paper":
        return task_names()
    return [name for name in task_names() if "paper" in _read(CONFIGS / "transfer" / f"{name}.yaml")]


def _by_protocol(content: dict[str, Any], protocol: str | None, where: str) -> dict[str, Any]:
    own = content.get("protocol", "fair")
    if protocol is None or protocol == own:
        return {key: value for key, value in content.items() if key != "paper"}
    section = content.get(protocol) if protocol == "paper" else None
    if not isinstance(section, dict):
        having = ", ".join(_having("paper"))
        raise ValueError(f"{where}: has protocol {own} and no section {protocol}; of the shipped tasks {having} have")
    if unknown := [key for key in section if key not in ("dataset", "version", "settings")]:
        raise ValueError(f"{where}: {protocol}: unknown key {unknown[0]}; there are dataset, version, settings")
    kept = {key: content[key] for key in ("name", "kind", "dataset") if key in content}
    return kept | {"protocol": protocol} | section


def _parse_dataset(content: Any, data_root: Path, where: str) -> Dataset:
    if isinstance(content, str):
        return known(content, data_root)
    if not isinstance(content, dict):
        raise ValueError(f"{where}: dataset: expected a name, or name, layout, root and files, got {content!r}")
    allowed = ("name", "layout", "root", "files", "classes")
    if unknown := [key for key in content if key not in allowed]:
        raise ValueError(f"{where}: dataset: unknown key {unknown[0]}; there are {', '.join(allowed)}")
    if missing := [key for key in allowed[:4] if key not in content]:
        raise ValueError(f"{where}: dataset: {missing[0]} is missing; needed are {', '.join(allowed[:4])}")
    root = data_root / content["root"]  # an absolute root stays as it is
    return Dataset(content["name"], content["layout"], root, dict(content["files"]), tuple(content.get("classes", ())))


def _read(path: Path) -> dict[str, Any]:
    return read_mapping(path, "file", "keys such as kind: and dataset:")
