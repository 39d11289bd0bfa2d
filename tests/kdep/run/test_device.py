"""A process keeps the memory that its steps free, and takes the precision that its GPU has units for."""

import ctypes
import subprocess
import sys

import pytest
import torch

from kdep.run import device
from kdep.run.device import (
    choose_precision,
    choose_student_precision,
    choose_teacher_precision,
    find_device,
)
from kdep.run.distributed.processes import join

SCRIPT = """
import resource, torch
from kdep.run.distributed.processes import join
def step():
    torch.ones(2**24).mul_(2)  # 64 MB, above what glibc ever takes from its heap by default
def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
join("cpu")
print(plain, faults())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="another C library"
)
def test_a_steps_memory_is_not_asked_for_again():
    # Five times 64 MB are 81,920 pages of 4 kB; with pages of 2 MB they are 160.
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, kept = map(int, done.stdout.split())
    assert plain >= 160 and kept < plain / 10


@pytest.mark.parametrize(("capability", "taken"), [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), None)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch, capability, taken):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)  # as torch says of a V100
    assert choose_precision("auto", torch.device("cuda")) == (taken or torch.bfloat16)
    assert choose_precision("bfloat16", torch.device("cuda")) == torch.bfloat16  # who asks for it gets it


@pytest.mark.parametrize(
    ("flags", "taken"),
    [
        ("flags : fpu avx2 avx512_bf16", torch.bfloat16),
        ("flags : fpu amx_bf16 amx_tile", torch.bfloat16),
        ("Features : fp asimd bf16", torch.bfloat16),
        ("flags : fpu avx2 avx512f", torch.float32),  # computes it several times slower than float32
        ("", torch.float32),
    ],
)
def test_a_student_on_a_cpu_computes_in_bfloat16_where_the_cpu_has_units_for_it(monkeypatch, tmp_path, flags, taken):
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nmodel name : any\n{flags}\n")
    cpu = torch.device("cpu")
    assert choose_student_precision("auto", cpu) == taken
    assert choose_student_precision("float32", cpu) == choose_precision("auto", cpu) == torch.float32
    monkeypatch.setattr(device, "CPUINFO", tmp_path / "none")  # another system
    assert choose_student_precision("auto", cpu) == torch.float32


def test_a_teacher_computes_in_bfloat16_only_when_told_to():
    for kind, taken in (("cuda", torch.float16), ("cpu", torch.float32)):
        assert choose_teacher_precision("auto", torch.device(kind)) == taken
        assert choose_teacher_precision("bfloat16", torch.device(kind)) == torch.bfloat16
    with pytest.raises(ValueError, match="float16 is for GPUs"):
        choose_teacher_precision("float16", torch.device("cpu"))


def test_a_device_has_one_of_the_documented_names_and_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [find_device(name) for name in ("auto", "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    with pytest.raises(ValueError, match="device cuda:2: torch sees 2 GPUs, numbered from cuda:0"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == "cpu"
    with pytest.raises(ValueError, match="device cuda: .* sees no CUDA device; use cpu or auto"):
        find_device("cuda")
    for name in ("gpu", "cuda:", "cuda:one", "CPU"):
        with pytest.raises(ValueError, match=f"device '{name}': there are auto, cpu, cuda"):
            join(name)


def test_settings_of_precision_are_as_before_whichever_api_set_them():
    """In a process of its own: torch cannot go back to never having used the newer names."""
    code = """
import torch
from kdep.run.device import _precise_places, without_tf32
backends = torch.backends
backends.cudnn.benchmark, backends.cudnn.deterministic = True, True
state = lambda: [backends.cudnn.benchmark, backends.cudnn.deterministic, *(p.fp32_precision for p in _precise_places())]
def older():
    torch.set_float32_matmul_precision("high")
def newer():
    backends.fp32_precision = backends.cuda.matmul.fp32_precision = "tf32"
for change in (older, newer):
    change()
    before = state()
    with without_tf32():
        assert "tf32" not in state() and state()[:2] == [True, True], state()
    assert state() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)
