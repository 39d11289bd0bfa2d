"""Devices, and the precision in which a network computes."""

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from kdep.config import Config

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # units for it, as /proc/cpuinfo of x86 and ARM calls them


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
    """Resolve a precision by name; `auto` is half precision on GPUs and float32 on CPUs.

    Raises:
        ValueError: float16 on a CPU: it would gain nothing, and gradients would underflow.
    """
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if _gpu_has_bfloat16(device) else torch.float16
    if name == "float16" and device.type == "cpu":
        raise ValueError("precision float16 is for GPUs; on a CPU use float32 or bfloat16")
    return getattr(torch, name)


def choose_student_precision(name: str, device: torch.device) -> torch.dtype:
    """Resolve `precision`: as `choose_precision`, but `auto` is bfloat16 on a CPU that has units for it."""
    if name == "auto" and device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return choose_precision(name, device)


def choose_teacher_precision(name: str, device: torch.device) -> torch.dtype:
    """Resolve `teacher.precision`: `auto` is float16 on a GPU, which keeps more digits than bfloat16, else float32."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return choose_precision(name, device)


def resolve_precision(config: Config, device: torch.device) -> Config:
    """Replace `auto` by the precision that this device computes in.

    The run folder keeps the result, so that a run is resumed in the precision in which it began, or not at all.
    """
    student = choose_student_precision(config.precision, device)
    teacher = choose_teacher_precision(config.teacher.precision, device)
    names = [str(dtype).removeprefix("torch.") for dtype in (student, teacher)]
    own = config.teacher.model_copy(update={"precision": names[1]})
    return config.model_copy(update={"precision": names[0], "teacher": own})


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU has units for bfloat16; without them it is slower than float32. Only Linux tells."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return bool(BFLOAT16 & set(flags.split()))


def _gpu_has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU has units for it: `torch.cuda.is_bf16_supported` also counts the slow emulation before Ampere."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= 8


def computing_in(precision: torch.dtype, device: torch.device) -> torch.autocast:
    """Make the context of a forward pass in this precision, whatever the context around it."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Compute convolutions and matrix products in full float32, where a GPU would round to TF32's ten bits.

    All other settings stay as they are, and afterwards these are as they were, whichever of torch's two APIs set them.
    """
    cudnn, newer = torch.backends.cudnn, [(place, place.fp32_precision) for place in _precise_places()]
    matmul, convolution = _older(torch.get_float32_matmul_precision), _older(lambda: cudnn.allow_tf32)
    try:
        torch.set_float32_matmul_precision("highest")  # sets the newer names too
        cudnn.allow_tf32 = False
        for place, _ in newer:
            if place.fp32_precision not in ("ieee", "none"):  # set for this operation by its newer name
                place.fp32_precision = "ieee"
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            cudnn.allow_tf32 = convolution
        for place, value in newer:
            place.fp32_precision = value


def _precise_places() -> list[Any]:
    """Where torch 2.9 and later keep the precision of each operation."""
    backends = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return []
    own = [getattr(place, name) for place in (backends.cudnn, backends.mkldnn) for name in ("conv", "rnn")]
    return [backends.cuda.matmul, backends.mkldnn.matmul, *own]


def _older(read: Callable[[], Any]) -> Any:
    """A setting by its older name; None where the newer names were used to set it, which torch then tells apart."""
    try:
        return read()
    except RuntimeError:
        return None


@contextlib.contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Compute in float32 without TF32 and without gradient, whatever the precision of the run.

    Statistics and a bank's features are computed like this: rounding noise in the small axes would hide a missing rank.
    """
    with torch.no_grad(), computing_in(torch.float32, device), without_tf32():
        yield
