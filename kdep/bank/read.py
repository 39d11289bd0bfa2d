"""The target bank: what the teacher says about every view, computed once and read in every epoch.

View v of image i is a function of (seed, i, v), so the crops need no storage. What is stored is z = (f - mean) V, the
teacher's features on its leading principal axes, before scaling: one bank serves every student up to that width, every
aligner that reads these axes, and every scaler.

    bank.json             whose targets these are; a run with another teacher or other views is refused
    bank.pt               statistics of the features; largest |z| on each axis
    view000/00000.npy     images 0 to 4095 of view 0, (images, 1 + grid * grid, axes): first the pooled features, then
                          the map, if the dense term asked for it; NaN (int8: -128) where the image was unreadable
    raw/00000.npy         features of view 0 as they came, until the axes are known: the teacher sees no image twice

Every file is written beside its place and renamed, so an interrupted bank goes on at the missing ones.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.files import read
from kdep.method.statistics import Statistics
from kdep.run.device import Process

FORMAT = 2
PRECISION = "float32"  # of the teacher, whatever that of the training: all runs share its targets
SHARD = 4096  # images in a file: seconds of a GPU's time, half a minute of a laptop's
# Integer codes keep sign(z) |z / peak|^(1 / exponent); a cube root spends its steps where Power Temperature Scaling
# looks, near zero.
EXPONENTS = {"int8_linear": 1, "int8": 3}
HEADROOM = 1.25  # later views may go beyond the largest value of the first ones
ABSENT = {"float16": np.float16("nan"), "int8_linear": np.int8(-128), "int8": np.int8(-128)}


@dataclass(frozen=True)
class Description:
    """What a bank holds, as bank.json keeps it."""

    format: int
    teacher: dict[str, Any]
    data: dict[str, Any]
    axes: int
    grid: int
    code: str
    precision: str = PRECISION

    @property
    def images(self) -> int:
        """Images of a view."""
        return self.data["images"]

    @property
    def shards(self) -> int:
        """Files of a view."""
        return -(-self.images // SHARD)

    def images_in(self, shard: int) -> int:
        """Images of a file."""
        return min(SHARD, self.images - shard * SHARD)

    @property
    def row(self) -> tuple[int, int]:
        """Shape of what is kept for one view of one image."""
        return (1 + self.grid**2, self.axes)


class Bank:
    """A bank on disk, open for reading.

    Raises:
        ValueError: no bank there, or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        file = self.path / "bank.json"
        if not file.is_file() or not (self.path / "bank.pt").is_file():
            raise ValueError(f"{self.path}: no bank of targets, or an unfinished one; `kdep targets CONFIG` makes it")
        self.description = described(file)
        known = read(self.path / "bank.pt")
        self.statistics, self.peaks = Statistics(**known["statistics"]), known["peaks"]
        self._absent = ABSENT[self.description.code]
        self._bytes = int(np.prod(self.description.row)) * self._absent.dtype.itemsize

    def read(self, index: int, number: int) -> torch.Tensor | None:
        """What is stored for view `number` of image `index`, (1 + grid^2, axes); None where it was unreadable.

        One positioned read instead of a memory map: a map of a large bank would grow into the memory of every process.
        """
        shard, at = divmod(index, SHARD)
        behind = self.description.images_in(shard) - at
        descriptor = os.open(shard_path(self.path, number, shard), os.O_RDONLY)
        try:
            # Counted from the end: the length of an .npy header is its own affair.
            data = os.pread(descriptor, self._bytes, os.fstat(descriptor).st_size - behind * self._bytes)
        finally:
            os.close(descriptor)
        row = np.frombuffer(data, self._absent.dtype).reshape(self.description.row)
        if np.isnan(row[0, 0]) or (row.dtype == np.int8 and row[0, 0] == self._absent):
            return None
        return torch.from_numpy(row.copy())

    @cached_property
    def basis(self) -> torch.Tensor:
        """(D_t, axes) float32: centred features times this are what is stored."""
        return self.statistics.basis[:, : self.description.axes].float()

    def rows(self, indices: Sequence[int], number: int) -> torch.Tensor:
        """Pooled targets of several images, (B, axes) float32, decoded; NaN where one was unreadable."""
        absent = torch.full(self.description.row, float("nan"))
        stored = [self.read(int(index), number) for index in indices]
        return torch.stack([absent if row is None else self.decode(row) for row in stored])[:, 0]

    def decode(self, stored: torch.Tensor) -> torch.Tensor:
        """Stored rows (..., axes) -> float32 on the same device."""
        return decode(stored, self.description.code, self.peaks.to(stored.device, non_blocking=True))


def described(file: Path) -> Description:
    """What bank.json says.

    Raises:
        ValueError: it is of another format.
    """
    content = json.loads(file.read_text())
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{file}: bank format {content.get('format')!r}; this version reads {FORMAT}. Take another bank.path, or "
            f"remove {file.parent} to make it anew"
        )
    return Description(**content)


def encode(values: torch.Tensor, code: str, peaks: torch.Tensor) -> np.ndarray:
    """(..., axes) float32 -> float16, or int8 on the scale of `peaks`; NaN becomes the mark of an absent row."""
    if code == "float16":
        return values.half().numpy()
    share = (values / peaks).clamp(-1, 1)
    steps = (share.sign() * share.abs().pow(1 / EXPONENTS[code]) * 127).round()
    return steps.nan_to_num(nan=-128).to(torch.int8).numpy()


def decode(stored: torch.Tensor, code: str, peaks: torch.Tensor) -> torch.Tensor:
    """The inverse of `encode`, as far as rounding lets it be."""
    if code == "float16":
        return stored.float()
    share = stored.float() / 127
    return share.sign() * share.abs().pow(EXPONENTS[code]) * peaks


def shard_path(bank: Path, number: int, shard: int) -> str:
    """Where images from shard * SHARD on of view `number` are; number -1 is what the teacher said before projection."""
    return f"{bank}/{'raw' if number < 0 else f'view{number:03d}'}/{shard:05d}.npy"


def refuse_another(found: Description, wanted: dict[str, Any], path: Path) -> None:
    """Raise a ValueError that names what is different; more axes than wanted, or an unused map, are welcome.

    A teacher in memory is known by its fingerprint, wherever it came from; one that is not at hand, and so has none in
    `wanted`, by what the configuration asks for.
    """
    lines = []
    unused = ("source", "asked") if "sha256" in wanted["teacher"] else ()
    for part, own in wanted.items():
        there = getattr(found, part)
        if part in ("axes", "grid"):
            if there < own or (part == "grid" and own and there != own):
                lines.append(f"{part}: {there} in the bank, {own} wanted")
        elif isinstance(own, dict):
            keys = [key for key in own if there.get(key) != own[key] and key not in unused]
            lines += [f"{part}.{key}: {there.get(key)!r} in the bank, {own[key]!r} wanted" for key in keys]
        elif there != own:
            lines.append(f"{part}: {there!r} in the bank, {own!r} wanted")
    if lines:
        both = ""
        if any(line.startswith("teacher.") for line in lines):
            both = f"\nIts teacher is {_named(found.teacher)}; this run's is {_named(wanted['teacher'])}."
        raise ValueError(
            f"{path} is the bank of another teacher or of other views:\n  "
            + "\n  ".join(lines)
            + f"{both}\nTake another bank.path, or remove {path} to make it anew"
        )


def _named(teacher: dict[str, Any]) -> str:
    """A teacher in words: where it came from, and its fingerprint where it is known."""
    if "sha256" not in teacher:
        asked = [f"{key} {value}" for key, value in teacher["asked"].items() if value is not None]
        return f"{teacher['source']} ({', '.join([*asked, 'not at hand'])})"
    prints = "+".join(part[:8] for part in teacher["sha256"].split("+"))
    return f"{teacher['source']} ({teacher['arch']}, tap {teacher['tap']}, {prints})"


def missing(description: Description, path: Path, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """(view, shard) of files that are not there."""
    return [
        (number, shard)
        for number in numbers
        for shard in range(description.shards)
        if not Path(shard_path(path, number, shard)).exists()
    ]


def share_of(files: Sequence[tuple[int, int]], shards: int, process: Process) -> list[tuple[int, int]]:
    """The files (view, shard) that a process makes.

    By their number through all views, not by their place among the missing ones, which another process may have written
    some of by now; and not by the shard alone, or of few shards some processes would make none.
    """
    return [(view, shard) for view, shard in files if (view * shards + shard) % process.world == process.rank]


def project(features: torch.Tensor, bank: Bank) -> torch.Tensor:
    """Features (..., D_t) on the bank's axes: (..., axes) float32."""
    mean, basis = (tensor.to(features.device) for tensor in (bank.statistics.mean.float(), bank.basis))
    with torch.autocast(features.device.type, enabled=False):
        return (features.float() - mean) @ basis
