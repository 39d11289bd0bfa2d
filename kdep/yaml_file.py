"""Reading a YAML file of keys, with a sentence for each way in which it can be something else."""

from pathlib import Path
from typing import Any

import yaml


def read_mapping(path: Path, kind: str, expected: str) -> dict[str, Any]:
    """The keys of a file and their values; none for an empty file.

    Args:
        path: the file.
        kind: what the file is called in a sentence, such as "config".
        expected: which keys it should have had, such as "sections such as teacher:".

    Raises:
        ValueError: there is no such file (and which lie beside it), it is not YAML, or it is no mapping.
    """
    if not path.is_file():
        near = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ValueError(f"{path}: no such {kind}; beside it: {', '.join(near) or 'none'}")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {expected}, got a {type(content).__name__}")
    return content
