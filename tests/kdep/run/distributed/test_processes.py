"""Where a process computes, how long it waits, and the random numbers that it draws."""

import logging
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdep.run.checks import check_batch_size
from kdep.run.distributed.alarm import Alarm
from kdep.run.distributed.processes import LIMIT, PATIENCE, LostError, Process, gathered, join
from kdep.run.resume import random_state, seed_random, set_random_state

CPU = torch.device("cpu")


@pytest.fixture
def in_torchrun(monkeypatch):
    """The environment of one of torchrun's processes, and the groups that it makes."""
    made = []

    def environment(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return made

    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *given, **own: made.append((given, own)))
    monkeypatch.setattr(torch.distributed, "new_group", lambda **own: made.append(own))
    monkeypatch.setattr("kdep.run.distributed.processes.keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: made.append(device))
    return environment


def test_a_batch_that_does_not_divide_among_the_processes_is_refused_with_what_would(tiny):
    check_batch_size(tiny("optim.batch_size=64"), Process(CPU, world=4))
    with pytest.raises(ValueError, match="batch_size=62 does not divide among 4 processes; take a multiple of 4"):
        check_batch_size(tiny("optim.batch_size=62"), Process(CPU, world=4))


def test_gradients_wait_for_minutes_and_everything_else_for_hours(in_torchrun):
    made = in_torchrun(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4)
    process = join("cpu")
    assert (process.rank, process.world, process.local) == (5, 8, 1)
    assert made == [(("gloo",), {"timeout": LIMIT}), {"backend": "gloo", "timeout": PATIENCE}]
    assert LIMIT.total_seconds() <= 15 * 60 and PATIENCE.total_seconds() >= 6 * 3600


def test_each_process_of_a_machine_has_a_gpu_of_its_own(in_torchrun, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    made = in_torchrun(RANK=3, WORLD_SIZE=4, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2)
    assert join("cuda").device == torch.device("cuda:1") and made[0] == 1 and made[1][0] == ("nccl",)
    with pytest.raises(ValueError, match="cuda:0: 2 processes on this machine would share one GPU. Use device=cuda"):
        join("cuda:0")
    in_torchrun(LOCAL_RANK=2, LOCAL_WORLD_SIZE=3)
    with pytest.raises(ValueError, match="3 processes on this machine, for which torch sees 2 GPUs"):
        join("auto")
    in_torchrun(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, LOCAL_WORLD_SIZE=1)
    assert join("cuda:1").device == torch.device("cuda:1") and made[-1] == 1  # also for code that names no GPU


def test_each_process_draws_random_numbers_of_its_own_and_goes_on_with_them():
    drawn = {}
    for rank in range(3):
        seed_random(7, Process(CPU, rank, 3))
        drawn[rank] = torch.rand(2).tolist()
        state = random_state(CPU)
        rest = torch.rand(2)
        set_random_state(state, CPU)
        assert torch.equal(torch.rand(2), rest)
    torch.manual_seed(7)
    assert torch.rand(2).tolist() == drawn[0]  # as a single process
    assert len({tuple(values) for values in drawn.values()}) == 3


def test_an_alarm_says_where_a_process_is_before_the_time_is_up(caplog, monkeypatch):
    now, looks = [1.0], []

    def clock():
        if threading.current_thread() is not threading.main_thread():
            looks.append(now[0])
        return now[0]

    def pass_and_look(seconds):
        """Let seconds pass for the alarm, and wait until it has looked several times since."""
        now[0] += seconds
        enough = len(looks) + 4
        while len(looks) < enough:
            time.sleep(0.01)

    monkeypatch.setattr("kdep.run.distributed.alarm.time", SimpleNamespace(monotonic=clock))
    with caplog.at_level(logging.ERROR), Alarm(Process(CPU, 1, 2), limit=0.2) as alarm:
        with alarm.during(36, "loading images"):
            pass_and_look(0.17)
        with alarm.during(37, "loading images"):
            pass_and_look(0.19)
    assert len(caplog.records) == 1 and "rank 1 of 2 on " in caplog.text
    assert "in step 37: loading images for 0 s; after 0 s the run ends" in caplog.text


class Numbers(TorchDispatchMode):
    """Counts the numbers that are read from tensors one by one: on a GPU, each waits for it."""

    read = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.read += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_rows_of_all_processes_are_gathered_without_a_wait_for_each_count(monkeypatch):
    first, second = torch.rand(3, 4), torch.rand(2, 4)

    def exchange(parts, own):  # as the second of two
        parts[1].copy_(own)
        parts[0].copy_(torch.tensor([3]) if own.ndim == 1 else first)

    for name, value in (("is_initialized", lambda: True), ("get_world_size", lambda: 2), ("all_gather", exchange)):
        monkeypatch.setattr(torch.distributed, name, value)
    with Numbers() as numbers:
        found = gathered(second)
    assert torch.equal(found, torch.cat([first, second])) and numbers.read == 0


@pytest.mark.parametrize(
    "text",
    ["[.../gloo/transport/tcp/pair.cc:537] Read error: Connection reset", "Application timeout caused pair closure"],
)
def test_an_exchange_that_fails_names_the_rank_and_what_it_did(text):
    said = "rank 1 of 2 on .*, step 3: loading images: another process has ended or does"
    with pytest.raises(LostError, match=said), Process(CPU, 1, 2).exchanging("step 3: loading images"):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="out of memory"), Process(CPU, 1, 2).exchanging("step 3"):
        raise RuntimeError("out of memory")
