"""The base of all settings models: strict types, and one sentence for each mistake."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass

from kdep.names import one_line, plain_name

Model = TypeVar("Model")


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


MISTAKES, SHOWN = 8, 200  # mistakes that an error lists, characters of a value that it shows


def dense(tensor: Any) -> Any:
    """Refuse sparse and quantized tensors, which the readers of files cannot hash or copy."""
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        raise ValueError("expected a dense tensor")
    return tensor


Name = Annotated[str, AfterValidator(plain_name)]
Line = Annotated[str, AfterValidator(one_line)]
# YAML has no paths and no tuples: text becomes a path, and a list becomes a tuple. The items of a list stay strict.
PathText = Annotated[Path, Field(strict=False)]
Sides = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], Field(strict=False)]
Ascending = Annotated[tuple[float, float], Field(strict=False), AfterValidator(ascending)]
Shares = Annotated[tuple[float, float], Field(strict=False), AfterValidator(shares)]

# Words for pydantic's error types. Other types keep pydantic's own message.
WORDS = {
    "bool_type": "must be true or false",
    "dataclass_type": "must be a mapping of keys",
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


class Stored(BaseModel):
    """Keys of a file that kdep wrote. Values of another type, infinity and NaN are refused; unknown keys are not read.

    Such a file may be damaged or another person's.
    """

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )


def validate(model: type[Model], content: Any, source: str, *, remedy: str = "") -> Model:
    """Build a model, or a dataclass of pydantic, from the content of a file.

    Args:
        model: says which keys are right.
        content: of the file.
        source: what errors call the file.
        remedy: what to do about it; ends an error.

    Raises:
        ValueError: one line per mistake: the source, the key, what is wrong, and what would be right.
    """
    try:
        return _adapter(model).validate_python(content)
    except ValidationError as error:
        said = [f"{source}: {sentence}" for sentence in mistakes(error, model, content)]
        raise ValueError("\n".join(said) + (f"; {remedy}" if remedy else "")) from error


@cache
def _adapter(model: type[Model]) -> TypeAdapter[Model]:
    return TypeAdapter(model)


def holding(model: type[Stored]) -> AfterValidator:
    """Check the keys of a mapping that a model knows, and keep all of it."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        try:
            model.model_validate(value)
        except ValidationError as error:
            raise ValueError("; ".join(mistakes(error, model, value))) from error
        return value

    return AfterValidator(check)


def mistakes(error: ValidationError, model: type, content: Any) -> list[str]:
    """A sentence for each mistake, without the file's name; at most `MISTAKES`."""
    said = list(_sentences(error, model, content))
    return said if len(said) <= MISTAKES else [*said[:MISTAKES], f"{len(said) - MISTAKES} more mistakes"]


def _sentences(error: ValidationError, model: type, content: Any) -> Iterator[str]:
    by_key: dict[str, list[Any]] = {}
    for entry in error.errors():
        by_key.setdefault(".".join(_keys(entry, content)), []).append(entry)
    for key, entries in by_key.items():
        # For a union, pydantic reports every alternative. The alternative with the deepest error is the one meant.
        if any(other != key and other.startswith(f"{key}.") for other in by_key):
            continue
        yield _sentence(key, entries, model)


def _sentence(key: str, entries: list[Any], model: type) -> str:
    first, dotted = entries[0], f"{key} " if key else ""
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = [field.alias or name for name, field in _fields(_section(model, key.split(".")[:-1])).items()]
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.7)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"unknown key {key}{hint}; there are {', '.join(known)}"
    if first["type"] == "missing":
        field = _fields(_section(model, key.split(".")[:-1])).get(str(first["loc"][-1]))
        return f"{key} is missing" + (f": {field.description}" if field and field.description else "")
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], dict):  # raised for a whole section, and names its keys itself
            return f"{key}.{message}" if key else message
        return f"{key}: {message}, got {shown(first['input'])}"
    wanted = dict.fromkeys(
        WORDS.get(entry["type"]) or re.sub(r"^\w+ should ", "must ", entry["msg"]) for entry in entries
    )
    message = " or ".join([next(iter(wanted)), *(other.removeprefix("must be ") for other in list(wanted)[1:])])
    hint = " (YAML reads yes, no, on and off as true or false)" if isinstance(first["input"], bool) else ""
    if first["type"] in ("list_type", "tuple_type") and isinstance(first["input"], str):
        hint = f"; a list of one is written [{shown(first['input'])}]"
    return f"{dotted}{message}, got {shown(first['input'])}{hint}"


def shown(value: Any) -> str:
    """Write a value of a file for an error, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of thousands of digits
        return f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _keys(entry: Any, content: Any) -> list[str]:
    """The keys that lead to an error, without the union alternatives in pydantic's location, such as `list[str]`."""
    keys = []
    for part in entry["loc"]:
        listed = isinstance(part, int) and isinstance(content, list | tuple) and part < len(content)
        if listed or (isinstance(content, Mapping) and part in content):
            keys.append(str(part))
            content = content[part]
    return [*keys, str(entry["loc"][-1])] if entry["type"] == "missing" else keys


def _section(model: type, keys: Iterable[str]) -> type:
    for key in keys:
        if key in _fields(model):
            model = next(models_in(_fields(model)[key].annotation), model)
    return model


def _fields(model: type) -> dict[str, Any]:
    """Fields of a model, or of a dataclass of pydantic."""
    return model.model_fields if issubclass(model, BaseModel) else model.__pydantic_fields__


def models_in(annotation: Any) -> Iterator[type]:
    """Models in an annotation such as `Bank | None` or `dict[str, Arm]`."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_pydantic_dataclass(annotation)):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)
