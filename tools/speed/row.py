"""Define the row that a measurement reports and the settings that it gets."""

import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """Two contending figures, measured in one run.

    Attributes:
        name: of this line; a measurement may yield several.
        what, against: the two contenders.
        ours, theirs: their figures (medians), in `unit`; None where the line was skipped.
        ratio: how many times better ours is: above 1 means faster or smaller, whatever the unit.
        target: what `ratio` should reach; None for a line that is only reported.
        batch, resolution, images: of the measured work, where they apply.
        growth: how cost grows: {"images": {"1x": seconds, ...}, "workers": {"1": images/s, ...}}; each inner dict has
            a "unit".
        note: what a reader must know to judge the ratio.
        detail: everything else that was measured; plain values.
        skipped: why nothing was measured; empty for a measured line.
    """

    name: str
    what: str
    against: str
    unit: str = "images/s"
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    target: float | None = None
    batch: int | None = None
    resolution: int | None = None
    images: int | None = None
    growth: dict[str, dict[str, Any]] = field(default_factory=dict)
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target or a measurement."""
        return None if self.target is None or self.ratio is None else self.ratio >= self.target

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a file, with `met` beside them."""
        return {**asdict(self), "met": self.met}

    @staticmethod
    def from_dict(content: dict[str, Any]) -> "Row":
        """Read what `as_dict` wrote."""
        return Row(**{key: value for key, value in content.items() if key != "met"})


@dataclass(frozen=True)
class Setting:
    """Settings shared by all measurements.

    Attributes:
        work: folder for photographs, banks and runs; kept, so that a second start is quicker.
        device: where networks run.
        repeats: alternations of the contenders; the figure is the median.
        quick: tiny networks and sizes, to see that everything runs; its figures mean nothing.
        lightly: a Python that can import lightly_train, for the row against it.
    """

    work: Path
    device: torch.device
    repeats: int = 3
    quick: bool = False
    lightly: Path | None = None


def describe_device(device: torch.device) -> dict[str, Any]:
    """CPU, threads and torch; the GPU where one is used."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    # Virtual machines hide the CPU's model; its vector units are visible.
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    width = next((flag for flag in ("avx512_bf16", "avx512f", "avx2") if flag in flags), "")
    return " ".join(part for part in (name or platform.processor() or platform.machine(), width) if part)


def machine(device: dict[str, Any]) -> str:
    """Name the GPU, or the processor and its number of threads, of what `describe_device` returned."""
    threads = device["threads"]
    return device.get("gpu") or (f"{device['cpu']}, {threads} thread" + ("s" if threads > 1 else ""))
