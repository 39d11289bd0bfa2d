"""The base of all settings models: strict types, and one sentence for each mistake."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Model = TypeVar("Model", bound=BaseModel)


def ascending(value: tuple[float, float]) -> tuple[float, float]:
    """Check that a range is positive and its lower end comes first."""
    if not 0 < value[0] <= value[1]:
        raise ValueError("expected 0 < low <= high")
    return value


def shares(value: tuple[float, float]) -> tuple[float, float]:
    """Check that a range of shares lies between 0 and 1 and its lower end comes first."""
    if not 0 < value[0] <= value[1] <= 1:
        raise ValueError("expected 0 < low <= high <= 1")
    return value


# YAML has no paths and no tuples: text becomes a path, and a list becomes a tuple. The items of a list stay strict.
PathText = Annotated[Path, Field(strict=False)]
Sides = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], Field(strict=False)]
Ascending = Annotated[tuple[float, float], Field(strict=False), AfterValidator(ascending)]
Shares = Annotated[tuple[float, float], Field(strict=False), AfterValidator(shares)]

# Words for pydantic's error types. Other types keep pydantic's own message.
WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "model_type": "must be a mapping of keys",
    "path_type": "must be a path",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


class Settings(BaseModel):
    """Keys of a settings file. Unknown keys, values of another type, infinity and NaN are refused."""

    # The docstring below a field is its description in the reference.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def validate(model: type[Model], content: Any, source: str) -> Model:
    """Build a model from the content of a file.

    Raises:
        ValueError: one line per mistake: the source, the key, what is wrong, and what would be right.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(_sentences(error, model, content, source))) from error


def _sentences(error: ValidationError, model: type[BaseModel], content: Any, source: str) -> Iterator[str]:
    by_key: dict[str, list[Any]] = {}
    for entry in error.errors():
        by_key.setdefault(".".join(_keys(entry, content)), []).append(entry)
    for key, entries in by_key.items():
        # For a union, pydantic reports every alternative. The alternative with the deepest error is the one meant.
        if any(other != key and other.startswith(f"{key}.") for other in by_key):
            continue
        yield f"{source}: {_sentence(key, entries, model)}"


def _sentence(key: str, entries: list[Any], model: type[BaseModel]) -> str:
    first, dotted = entries[0], f"{key} " if key else ""
    if first["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in _section(model, key.split(".")[:-1]).model_fields.items()]
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.7)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"unknown key {key}{hint}; there are {', '.join(known)}"
    if first["type"] == "missing":
        field = _section(model, key.split(".")[:-1]).model_fields.get(str(first["loc"][-1]))
        return f"{key} is missing" + (f": {field.description}" if field and field.description else "")
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], dict):  # raised for a whole section, and names its keys itself
            return f"{key}.{message}" if key else message
        return f"{key}: {message}, got {first['input']!r}"
    wanted = dict.fromkeys(
        WORDS.get(entry["type"]) or re.sub(r"^\w+ should ", "must ", entry["msg"]) for entry in entries
    )
    message = " or ".join([next(iter(wanted)), *(other.removeprefix("must be ") for other in list(wanted)[1:])])
    yes = " (YAML reads yes, no, on and off as true or false)" if isinstance(first["input"], bool) else ""
    return f"{dotted}{message}, got {first['input']!r}{yes}"


def _keys(entry: Any, content: Any) -> list[str]:
    """The keys that lead to an error, without the union alternatives in pydantic's location, such as `list[str]`."""
    keys = []
    for part in entry["loc"]:
        listed = isinstance(part, int) and isinstance(content, list | tuple) and part < len(content)
        if listed or (isinstance(content, Mapping) and part in content):
            keys.append(str(part))
            content = content[part]
    return [*keys, str(entry["loc"][-1])] if entry["type"] == "missing" else keys


def _section(model: type[BaseModel], keys: Iterable[str]) -> type[BaseModel]:
    for key in keys:
        if key in model.model_fields:
            model = next(models_in(model.model_fields[key].annotation), model)
    return model


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in an annotation such as `Bank | None` or `dict[str, Arm]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)
