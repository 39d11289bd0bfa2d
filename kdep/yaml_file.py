"""Read a YAML file of keys and apply overrides such as `optim.lr=0.1` to it."""

import copy
import functools
import re
from pathlib import Path
from typing import Any

import yaml

from kdep.guard import RefusedError, read_regular

MOST = 100_000  # values in a file, aliases written out; the longest of our own files has a few hundred


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with three changes.

    A key that is given twice is an error; PyYAML keeps the last one. 5e-4 is a number, as in YAML 1.2; PyYAML reads
    text. Aliases must not expand to more than `MOST` values, nor contain themselves.
    """

    def get_single_node(self) -> yaml.Node | None:
        """Refuse runaway aliases before anything is built from the nodes."""
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST:,} values, aliases written out")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a dict; raise where two keys are equal."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        doubled = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if doubled is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {doubled!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """Refuse numbers with more digits than Python writes."""
    value = yaml.SafeLoader.construct_yaml_int(loader, node)
    if not -(2**63) <= value < 2**64:
        raise yaml.constructor.ConstructorError(None, None, "a whole number of more than 64 bits", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of a node with all aliases written out; `known` has the counts of nodes by id."""
    if id(node) not in known:
        known[id(node)] = MOST + 1  # what an alias to a node that is still open counts
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        known[id(node)] = 1 + sum(_values(part, known) for part in inner)
    return known[id(node)]


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also puts quotes around text that `_Loader` would read as a number, such as 1e-3."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def dump(content: dict[str, Any]) -> str:
    """Write keys and values so that they read back as they are, in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def parse(text: str) -> Any:
    """Read YAML with the rules of `_Loader`.

    Raises:
        yaml.YAMLError: it is not YAML, has a key twice, nests too deeply, or its aliases expand too far.
    """
    try:
        return copy.deepcopy(_load(text))  # the caller may change it
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # of constructors: no such day, too many digits
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from error


@functools.lru_cache(maxsize=1024)  # a study reads one recipe for all of its runs
def _load(text: str) -> Any:
    return yaml.load(text, _Loader)


def read_mapping(path: Path, kind: str, expected: str) -> dict[str, Any]:
    """Read the keys of a file and their values. An empty file has no keys.

    Args:
        path: the file.
        kind: what an error calls the file, such as "config".
        expected: the keys that an error asks for, such as "sections such as teacher:".

    Raises:
        ValueError: the file is missing (the message lists the YAML files beside it), is not YAML, has a key twice, or
            is not a mapping.
    """
    if not path.is_file():
        near = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ValueError(f"{path}: no such {kind}; beside it: {', '.join(near) or 'none'}")
    try:
        content = parse(read_regular(path).decode())
    except (yaml.YAMLError, UnicodeDecodeError, RefusedError) as error:
        raise ValueError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {expected}, got a {type(content).__name__}")
    return content


def override(content: dict[str, Any], text: str) -> None:
    """Set one key in place: `optim.lr=0.1`, `log.trackers=[wandb]`, `bank=null`.

    The value is YAML and replaces what the key had: `bank={path: banks/a}` drops the other keys of `bank`.

    Raises:
        ValueError: the text is not KEY=VALUE, its value is not YAML, or the key goes through a value.
    """
    key, equals, value = text.partition("=")
    *sections, last = key.split(".")
    if not equals or "" in (*sections, last):
        raise ValueError(f"override {text!r}: expected key.sub=value, such as optim.lr=0.1")
    for section in sections:
        if content.get(section) is None:
            content[section] = {}  # such as `bank: null`
        content = content[section]
        if not isinstance(content, dict):
            raise ValueError(f"override {text!r}: {section} is a value, not a section")
    try:
        content[last] = parse(value)
    except yaml.YAMLError as error:
        raise ValueError(f"override {text!r}: the value is not YAML; put it in quotes") from error
