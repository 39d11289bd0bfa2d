"""Reading a YAML file of keys, with a sentence for each way in which it can be something else."""

from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML's, but that a key given twice is an error: of two arms of one name the first would vanish in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML's; raises where two keys are equal."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        doubled = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if doubled is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {doubled!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, kind: str, expected: str) -> dict[str, Any]:
    """The keys of a file and their values; none for an empty file.

    Args:
        path: the file.
        kind: what the file is called in a sentence, such as "config".
        expected: which keys it should have had, such as "sections such as teacher:".

    Raises:
        ValueError: there is no such file (and which lie beside it), it is not YAML or has a key twice, or it is no
            mapping.
    """
    if not path.is_file():
        near = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ValueError(f"{path}: no such {kind}; beside it: {', '.join(near) or 'none'}")
    try:
        content = yaml.load(path.read_text(), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {expected}, got a {type(content).__name__}")
    return content
