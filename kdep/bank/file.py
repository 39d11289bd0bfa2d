"""Read bank.json: what a bank is of, and the hashes of its files."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kdep.json_file import read_json
from kdep.settings import Stored, holding, shown, validate

FORMAT = 4
PRECISION = "float32"  # of the teacher, independent of the training precision: runs share the bank
SHARD = 4096  # images per file, at least: seconds on a GPU, half a minute on a laptop
FILES = 8  # per view, at most: 90 views of ImageNet are 720 files


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


class Description(Stored):
    """The content of bank.json."""

    format: int
    teacher: Annotated[dict[str, Any], holding(TeacherFacts)]
    data: Annotated[dict[str, Any], holding(DataFacts)]
    axes: Annotated[int, Field(ge=1, lt=2**20)]
    grid: Annotated[int, Field(ge=0, lt=2**10)]
    code: Literal["float16", "int8", "int8_linear"]
    precision: str
    hashes: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = {}

    @property
    def asked(self) -> dict[str, Any]:
        """All but the hashes: what another bank is told by."""
        return self.model_dump(exclude={"hashes"})

    @property
    def images(self) -> int:
        """Number of images."""
        return self.data["images"]

    @property
    def per_file(self) -> int:
        """Number of images in each file of a view but the last."""
        return max(SHARD, -(-self.images // FILES))

    @property
    def shards(self) -> int:
        """Number of files per view."""
        return -(-self.images // self.per_file)

    def images_of(self, shard: int) -> range:
        """Numbers of the images in a file."""
        return range(shard * self.per_file, min((shard + 1) * self.per_file, self.images))

    @property
    def row(self) -> tuple[int, int]:
        """Shape of the entry of one view of one image."""
        return (1 + self.grid**2, self.axes)


def read_bank_file(file: Path) -> Description:
    """Read bank.json.

    Raises:
        ValueError: the bank has another format, or the file is damaged; names it.
    """
    content, remedy = read_json(file), f"use another bank.path, or remove {file.parent} to rebuild the bank"
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = f"format {shown(content.get('format'))}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file}: bank {found}; this version reads {FORMAT}; {remedy}")
    return validate(Description, content, str(file), remedy=remedy)
