"""A process keeps the memory that its steps free, and takes the precision that its GPU has units for."""

import ctypes
import subprocess
import sys

import pytest
import torch

from kdep.device import choose_precision, join

SCRIPT = """
import resource, torch
from kdep.device import {first}
{first}({argument})
def step():
    torch.ones(2**24).mul_(2)  # 64 MB, above what glibc ever takes from its heap by default
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(first, argument):
    command = [sys.executable, "-c", SCRIPT.format(first=first, argument=argument)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="another C library"
)
def test_a_steps_memory_is_not_asked_for_again():
    # Five times 64 MB are 81,920 pages of 4 kB; with pages of 2 MB they are 160.
    plain, kept = faults("Process", "None"), faults("join", "'cpu'")
    assert plain >= 160 and kept < plain / 10


@pytest.mark.parametrize(("capability", "taken"), [((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), None)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(monkeypatch, capability, taken):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)  # as torch says of a V100
    assert choose_precision("auto", torch.device("cuda")) == (taken or torch.bfloat16)
    assert choose_precision("bfloat16", torch.device("cuda")) == torch.bfloat16  # who asks for it gets it


def test_processes_wait_for_hours_while_the_first_works(monkeypatch):
    joined = {}
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **own: joined.update(own))
    monkeypatch.setattr("kdep.device.keep_freed_memory", lambda: None)
    assert join("cpu").rank == 1
    assert joined["timeout"].total_seconds() >= 12 * 3600
