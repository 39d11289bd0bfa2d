"""Read bank.json: what a bank is of, and the hashes of its files."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kdep.json_file import read_json
from kdep.settings import Stored, holding, shown, validate

FORMAT = 4


class TeacherFacts(Stored):
    """The teacher."""

    source: str | list[str]
    asked: dict[str, Any]
    arch: str
    tap: str
    sha256: str


class DataFacts(Stored):
    """The images and their views."""

    images: Annotated[int, Field(ge=1, lt=2**40)]
    identity: str
    images_for_axes: int | None


class BankFile(Stored):
    """The content of bank.json."""

    format: int
    teacher: Annotated[dict[str, Any], holding(TeacherFacts)]
    data: Annotated[dict[str, Any], holding(DataFacts)]
    axes: Annotated[int, Field(ge=1, lt=2**20)]
    grid: Annotated[int, Field(ge=0, lt=2**10)]
    code: Literal["float16", "int8", "int8_linear"]
    precision: str
    hashes: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = {}


def read_bank_file(file: Path) -> BankFile:
    """Read bank.json.

    Raises:
        ValueError: the bank has another format, or the file is damaged; names it.
    """
    content, remedy = read_json(file), f"use another bank.path, or remove {file.parent} to rebuild the bank"
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = f"format {shown(content.get('format'))}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file}: bank {found}; this version reads {FORMAT}; {remedy}")
    return validate(BankFile, content, str(file), remedy=remedy)
