"""Read a target bank: the teacher's features of every view, computed once and read in every epoch.

View v of image i is a function of (seed, i, v), so crops are not stored. The bank stores z = (f - mean) V: the
teacher's features on its leading principal axes, before scaling. One bank serves every student up to that width, every
aligner that reads these axes, and every scaler.

    bank.json             teacher, images and format; a run with another teacher or other views is refused. And the hash
                          of every file below, with which it is compared when a run first reads it
    bank.pt               statistics of the features, and the largest |z| on each axis
    view000/00000.npy     the first images of view 0, (images, 1 + grid * grid, axes): the pooled features, then the
                          map if the dense loss needs it; NaN (int8: -128) for unreadable images. See `per_file`
    raw/00000.npy         unprojected features of view 0, until the axes are known: the teacher sees each image once

Files are written atomically, so an interrupted bank is resumed at its missing files.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.bank.file import Description, read_bank_file
from kdep.bank.hashes import Checked, is_known, known_hashes
from kdep.data.sources.disk import retried
from kdep.files import read
from kdep.method.statistics import Statistics, parse_statistics
from kdep.run.distributed.processes import Process
from kdep.settings import Stored, dense, validate

# Integer codes store sign(z) |z / peak|^(1 / exponent). The cube root has most steps near zero, where Power Temperature
# Scaling needs them.
EXPONENTS = {"int8_linear": 1, "int8": 3}
HEADROOM = 1.25  # later views may exceed the largest value of the first view
ABSENT = {"float16": np.float16("nan"), "int8_linear": np.int8(-128), "int8": np.int8(-128)}


class Bank:
    """A bank on disk, open for reading.

    Raises:
        ValueError: the folder has no finished bank, or one of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        file = self.path / "bank.json"
        if not file.is_file() or not (self.path / "bank.pt").is_file():
            raise ValueError(
                f"{self.path}: no finished target bank; make it with `kdep targets RECIPE bank.path={self.path}`"
            )
        self.description = read_bank_file(file)
        hashes = self.description.hashes
        self._checked = Checked(self.path, hashes)
        if "bank.pt" in hashes:  # not yet, while the bank is made
            self._checked.check("bank.pt")
        self.statistics, self.peaks = _measured(self.path / "bank.pt", self.description.axes)
        self._absent = ABSENT[self.description.code]
        self._bytes = int(np.prod(self.description.row)) * self._absent.dtype.itemsize

    def read(self, index: int, number: int) -> torch.Tensor | None:
        """Read the entry of view `number` of image `index`, (1 + grid^2, axes); None if the image was unreadable.

        One positioned read instead of a memory map, which would count a large bank as memory of every process.

        Raises:
            ValueError: the file is not the one that the bank was written with.
        """
        shard = index // self.description.per_file
        behind, file = self.description.images_of(shard).stop - index, shard_path(self.path, number, shard)
        self._checked.check(file[len(f"{self.path}/") :])

        def entry() -> bytes:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                # Counted from the end, because the header of an .npy file has no fixed length.
                start = os.fstat(descriptor).st_size - behind * self._bytes
                return os.pread(descriptor, self._bytes, start) if start > 0 else b""
            finally:
                os.close(descriptor)

        data = retried(entry, file)
        if len(data) != self._bytes:
            raise ValueError(
                f"{file}: smaller than {self.path / 'bank.json'} says; remove {self.path} to rebuild the bank"
            )
        row = np.frombuffer(data, self._absent.dtype).reshape(self.description.row)
        if np.isnan(row[0, 0]) or (row.dtype == np.int8 and row[0, 0] == self._absent):
            return None
        return torch.from_numpy(row.copy())

    @cached_property
    def basis(self) -> torch.Tensor:
        """(D_t, axes) float32: centred features times this matrix are the stored entries."""
        return self.statistics.basis[:, : self.description.axes].float()

    def rows(self, indices: Sequence[int], number: int) -> torch.Tensor:
        """Read and decode the pooled entries of several images: (B, axes) float32; NaN for unreadable images."""
        absent = torch.full(self.description.row, float("nan"))
        stored = [self.read(int(index), number) for index in indices]
        return torch.stack([absent if row is None else self.decode(row) for row in stored])[:, 0]

    def decode(self, stored: torch.Tensor) -> torch.Tensor:
        """Decode stored entries (..., axes) to float32 on the same device."""
        return decode(stored, self.description.code, self.peaks.to(stored.device, non_blocking=True))


class _Measured(Stored):
    """The content of bank.pt."""

    statistics: dict[str, Any]
    peaks: torch.Tensor


def _measured(file: Path, axes: int) -> tuple[Statistics, torch.Tensor]:
    """Read bank.pt: statistics of the teacher's features, and the largest value on each stored axis."""
    remedy = f"remove {file.parent} to rebuild the bank"
    known = validate(_Measured, read(file), str(file), remedy=remedy)
    statistics = parse_statistics(known.statistics, f"{file}: statistics", remedy=remedy)
    if known.peaks.shape != (axes,) or not bool((dense(known.peaks) > 0).all()) or statistics.axes.shape[1] < axes:
        raise ValueError(f"{file}: not of {axes} axes, as bank.json says; {remedy}")
    return statistics, known.peaks


def encode(values: torch.Tensor, code: str, peaks: torch.Tensor) -> np.ndarray:
    """Encode (..., axes) float32 as float16, or as int8 relative to `peaks`; NaN marks a missing entry.

    Raises:
        ValueError: features that float16 cannot hold.
    """
    if code == "float16":
        halves = values.half()
        if bool(halves.isinf().any()):
            largest = float(values.abs().nan_to_num(nan=0).max())
            raise ValueError(f"the teacher's features reach {largest:.3g}, and float16 65,504: use bank.code=int8")
        return halves.numpy()
    share = (values / peaks).clamp(-1, 1)
    steps = (share.sign() * share.abs().pow(1 / EXPONENTS[code]) * 127).round()
    return steps.nan_to_num(nan=-128).to(torch.int8).numpy()


def decode(stored: torch.Tensor, code: str, peaks: torch.Tensor) -> torch.Tensor:
    """Invert `encode`, up to rounding."""
    if code == "float16":
        return stored.float()
    share = stored.float() / 127
    return share.sign() * share.abs().pow(EXPONENTS[code]) * peaks


def shard_path(bank: Path, number: int, shard: int) -> str:
    """Return the path of a shard of view `number`; number -1 has the unprojected features."""
    return f"{bank}/{'raw' if number < 0 else f'view{number:03d}'}/{shard:05d}.npy"


def refuse_another(found: Description, wanted: dict[str, Any], path: Path) -> None:
    """Raise a ValueError if a bank is not the wanted one; it may have more axes or an unused map.

    An opened teacher is compared by its fingerprint, whatever its source. A teacher that could not be opened has no
    fingerprint in `wanted` and is compared by the configuration.
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
            both = f"\nThe bank's teacher is {_named(found.teacher)}; this run's is {_named(wanted['teacher'])}."
        raise ValueError(
            f"{path} is the bank of another teacher or of other views:\n  "
            + "\n  ".join(lines)
            + f"{both}\nUse another bank.path, or remove {path} to rebuild the bank"
        )


def _named(teacher: dict[str, Any]) -> str:
    """Describe a teacher: its source, and its fingerprint if known."""
    if "sha256" not in teacher:
        asked = [f"{key} {value}" for key, value in teacher["asked"].items() if value is not None]
        return f"{teacher['source']} ({', '.join([*asked, 'not opened'])})"
    prints = "+".join(part[:8] for part in teacher["sha256"].split("+"))
    return f"{teacher['source']} ({teacher['arch']}, tap {teacher['tap']}, {prints})"


def missing(description: Description, path: Path, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """List the files that are missing, or that lack their hash, as (view, shard)."""
    hashes = known_hashes(path)
    return [
        (number, shard)
        for number in numbers
        for shard in range(description.shards)
        if not is_known(Path(shard_path(path, number, shard)), hashes)
    ]


def is_complete(path: Path, views: int) -> bool:
    """Whether a folder has a bank of at least so many views: every file is there, and its hash in bank.json."""
    if not (path / "bank.pt").exists():
        return False
    about = read_bank_file(path / "bank.json")
    start = len(f"{path}/")
    files = {shard_path(path, number, shard)[start:] for number in range(views) for shard in range(about.shards)}
    # One list of a folder instead of a question for each of its files.
    there = {f"{folder.name}/{name}" for folder in path.glob("view*") for name in os.listdir(folder)}  # noqa: PTH208
    return "bank.pt" in about.hashes and files <= there and files <= about.hashes.keys()


def share_of(files: Sequence[tuple[int, int]], shards: int, process: Process) -> list[tuple[int, int]]:
    """List the files (view, shard) that a process computes.

    Files are assigned by their index over all views. An index among the missing files would differ between processes,
    because one may have written files already; the shard alone would leave processes idle if there are few shards.
    """
    return [(view, shard) for view, shard in files if (view * shards + shard) % process.world == process.rank]


def project(features: torch.Tensor, bank: Bank) -> torch.Tensor:
    """Project features (..., D_t) on the bank's axes: (..., axes) float32."""
    mean, basis = (tensor.to(features.device) for tensor in (bank.statistics.mean.float(), bank.basis))
    with torch.autocast(features.device.type, enabled=False):
        return (features.float() - mean) @ basis
