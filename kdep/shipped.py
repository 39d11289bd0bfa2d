"""Find the recipes, tasks, suites and studies that ship with kdep: folder `configs`, installed as `kdep_configs`."""

from importlib.resources import files
from pathlib import Path

FOLDER = Path(str(files("kdep_configs")))
KINDS = {"pretrain": "recipe", "transfer": "task", "suites": "suite", "studies": "study"}
ENDINGS = (".yaml", ".yml")


def names(kind: str) -> list[str]:
    """Names of the shipped files of a kind, one of `KINDS`, sorted."""
    return sorted(path.stem for path in (FOLDER / kind).glob("*.yaml"))


def find(kind: str, name: str | Path) -> Path:
    """Return the file of a shipped name such as `demo`, or a YAML file of the user's.

    Raises:
        ValueError: no such name, or no such file.
    """
    if str(name).endswith(ENDINGS):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        return path
    path = FOLDER / kind / f"{name}.yaml"
    if str(name) not in names(kind):
        images = f"; a folder of images is data.source={name}" if kind == "pretrain" and Path(name).is_dir() else ""
        said = f"{KINDS[kind]} {str(name)!r}: there are {', '.join(names(kind))}, or a YAML file of your own"
        raise ValueError(said + images)
    return path
