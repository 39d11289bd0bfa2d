"""Which process and device this is, and in which precision it computes."""

import contextlib
import ctypes
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# The others wait while the first decodes a cache, or one has a file of a bank more than they; torch gives up after
# 10 or 30 minutes. A process that dies ends the others through torchrun.
PATIENCE = timedelta(hours=24)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>
CPUINFO = Path("/proc/cpuinfo")
# Virtual machines hide the name behind one such as "Intel Xeon Processor", but not the number of the model.
CPU_FIELDS = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU variant", "CPU part")
VECTORS = re.compile(r"avx|amx|fma|f16c|asimd|sve|sme|i8mm|bf16")  # units that convolutions and products can use


@dataclass(frozen=True)
class Process:
    """One of `world` processes, and its device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes files and shows progress."""
        return self.rank == 0

    def gather(self, own: Any) -> list[Any]:
        """What every process has, in the order of their ranks."""
        if self.world == 1:
            return [own]
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, own)
        return everyone

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.world > 1:
            dist.barrier()


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """The rows of every process, in the order of their ranks, without gradient; a process may have fewer than others.

    Shape:
        (B, D) -> (sum of all B, D); as they are where there is one process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    most = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(own)] for part, own in zip(parts, counts, strict=True)])


def find_device(name: str) -> str:
    """The device meant by a name; 'auto' is a GPU where torch sees one, else the CPU.

    Raises:
        ValueError: no such name, or a GPU that torch does not see.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device {name!r}: there are auto, cpu, cuda and, of several GPUs, cuda:0, cuda:1 and so on")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {name}: torch {torch.__version__} sees no CUDA device; use cpu or auto")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: torch sees {torch.cuda.device_count()} GPUs, numbered from cuda:0")
    return name


def join(device: str) -> Process:
    """Find this process's place: torchrun's environment where there is one, else a single process.

    Raises:
        ValueError: as `find_device`.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = find_device(device)
    if chosen == "cuda":
        chosen = f"cuda:{local}"
        torch.cuda.set_device(local)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.startswith("cuda") else "gloo", timeout=PATIENCE)
    if chosen == "cpu":
        keep_freed_memory()
    return Process(torch.device(chosen), rank, world)


def describe_cpu() -> str:
    """The processor's model and its vector and matrix units; without /proc/cpuinfo, what Python knows of it."""
    try:
        lines = CPUINFO.read_text().partition("\n\n")[0].splitlines()  # of the first core
    except OSError:
        lines = []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    parts = [platform.machine(), *(known[key] for key in CPU_FIELDS if key in known)]
    units = sorted(unit for unit in known.get("flags", known.get("Features", "")).split() if VECTORS.search(unit))
    return " ".join([*parts, *units] if known else [*parts, platform.processor()])


def keep_freed_memory() -> None:
    """Let glibc keep what a training step frees for the next one; without effect where another allocator serves.

    By default the activations go back to the system and return as page faults, thousands in every step. The process
    then stays as large as its largest step, which it will be again anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for option, value in ((M_TRIM_THRESHOLD, 2**31 - 1), (M_MMAP_MAX, 0)):
            mallopt(option, value)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """'auto' takes half precision on GPUs and float32 on CPUs; `kdep.models.forms` measures whether another gains.

    Raises:
        ValueError: float16 on a CPU, whose gradients would underflow without anything gained.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if _computes_bfloat16(device) else torch.float16
    if name == "float16" and device.type == "cpu":
        raise ValueError("precision float16 is for GPUs; on a CPU use float32 or bfloat16")
    return getattr(torch, name)


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether a GPU has units for it: `torch.cuda.is_bf16_supported` also counts the slow emulation before Ampere."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8


def computing_in(precision: torch.dtype, device: torch.device) -> torch.autocast:
    """The context of a forward pass in this precision, whatever the context around it."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Convolutions and matrix products in full float32, where a GPU would round to TF32's ten bits.

    What must not depend on the kind of GPU is computed like this: features that are kept, and comparisons of them.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
