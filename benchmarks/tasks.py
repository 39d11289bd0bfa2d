"""A task is one file under configs/transfer: data set, kind of transfer, protocol, settings. A suite lists tasks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.datasets import CLASSIFICATION, Dataset, known

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

KINDS: dict[str, str] = {
    "knn": "classification",
    "linear": "classification",
    "finetune": "classification",
    "segment": "segmentation",
    "detect": "detection",
}
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
        settings: hyper-parameters of the kind, all of them used or refused there.
    """

    name: str
    kind: str
    dataset: Dataset
    protocol: str = "fair"
    version: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """classification, segmentation or detection."""
        return KINDS[self.kind]


def task_names() -> list[str]:
    """Tasks that ship with the project."""
    return sorted(path.stem for path in (CONFIGS / "transfer").glob("*.yaml"))


def suite_names() -> list[str]:
    """Suites that ship with the project."""
    return sorted(path.stem for path in (CONFIGS / "suites").glob("*.yaml"))


def load_task(name: str, data_root: Path) -> Task:
    """Read configs/transfer/NAME.yaml.

    Raises:
        ValueError: no such task, or a mistake in the file.
    """
    path = CONFIGS / "transfer" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"task {name!r}: there are {', '.join(task_names())}")
    return parse_task({"name": name, **_read(path)}, data_root, str(path))


def load_suite(name: str, data_root: Path) -> list[Task]:
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
        tasks = [load_task(task, data_root) for task in task_names()]
        return [task for task in tasks if content["family"] in ("any", task.family)]
    entries = content.get("tasks")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: tasks: expected a list of task names or of tasks written out")
    tasks = [
        load_task(entry, data_root) if isinstance(entry, str) else parse_task(entry, data_root, str(path))
        for entry in entries
    ]
    doubled = {task.name for task in tasks if sum(other.name == task.name for other in tasks) > 1}
    if doubled:
        raise ValueError(f"{path}: task {min(doubled)} stands there twice")
    return tasks


def parse_task(content: dict[str, Any], data_root: Path, source: str) -> Task:
    """Build a task from its YAML.

    Raises:
        ValueError: names the file, the task, the key, and what would be right.
    """
    if not isinstance(content, dict) or "name" not in content:
        raise ValueError(f"{source}: a task needs a name, got {content!r}")
    where = f"{source}: task {content['name']}"
    allowed = ("name", "kind", "dataset", "protocol", "version", "settings")
    if unknown := [key for key in content if key not in allowed]:
        raise ValueError(f"{where}: unknown key {unknown[0]}; there are {', '.join(allowed)}")
    kind = content.get("kind")
    if kind not in KINDS:
        raise ValueError(f"{where}: kind {kind!r}; there are {', '.join(KINDS)}")
    dataset = _parse_dataset(content.get("dataset"), data_root, where)
    if dataset.layout not in LAYOUTS[KINDS[kind]]:
        raise ValueError(f"{where}: {kind} reads {', '.join(LAYOUTS[KINDS[kind]])}, not {dataset.layout}")
    settings = content.get("settings") or {}
    return Task(
        content["name"], kind, dataset, content.get("protocol", "fair"), int(content.get("version", 1)), dict(settings)
    )


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
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys such as kind: and dataset:, got a {type(content).__name__}")
    return content
