"""List every key of a settings model, for the documentation: name, type, default and description."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from kdep.settings import models_in


@dataclass(frozen=True)
class Key:
    """One key of a settings file, as the reference shows it; `default` is YAML, or `required`."""

    name: str
    type: str
    default: str
    description: str


def reference(model: type[BaseModel], *, prefix: str = "", given: BaseModel | None = None) -> Iterator[Key]:
    """Every key of a model in file order; the keys of a section are dotted.

    Args:
        model: the settings.
        prefix: put before each name, such as `optim.`.
        given: where the default values are read from; the model's own where None.
    """
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        required = given is None and field.is_required()
        default = field.default if given is None else getattr(given, attribute)
        section = next(models_in(field.annotation), None)
        if section is None or default is None:  # a value, or a section that may be left out
            limits = "".join(f", {limit}" for limit in _limits(field.metadata))
            text = "required" if required else _as_yaml(default)
            yield Key(prefix + name, _type(field.annotation) + limits, text, field.description or "")
        if section is not None:
            own = default if isinstance(default, BaseModel) else None
            yield from reference(section, prefix=f"{prefix}{name}.", given=own)


def _as_yaml(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(str(value) if isinstance(value, Path) else value, default_flow_style=True, width=2**20)
    return text.strip().removesuffix("...").strip()


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0]) + "".join(f" {limit}" for limit in _limits(parts[1:]))
    if origin in (Union, UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is Literal:
        return ", ".join(str(part) for part in parts)
    if origin in (list, tuple):
        items = [part for part in parts if part is not ...]
        listed = origin is list or ... in parts
        return f"list of {_type(items[0])}" if listed else f"[{', '.join(_type(part) for part in items)}]"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {bool: "true or false", float: "number", int: "whole number", str: "text", Path: "path", type(None): "null"}
    return names.get(annotation, "anything")


def _limits(metadata: Iterable[Any]) -> list[str]:
    """Limits such as `>= 1`; those of 64-bit integers are left out."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    items = [own for item in metadata for own in getattr(item, "metadata", [item])]
    limits = [(sign, getattr(item, name, None)) for item in items for name, sign in signs.items()]
    return [f"{sign} {limit:g}" for sign, limit in limits if limit is not None and limit < 2**63]
