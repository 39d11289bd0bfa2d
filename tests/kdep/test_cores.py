from pathlib import Path

import pytest

from kdep import cores


@pytest.mark.parametrize(
    ("quotas", "task", "expected"),
    [
        ({}, None, 8),
        ({"": "max 100000", "job": "350000 100000"}, None, 3),
        ({"": "200000 100000", "job": "max 100000"}, None, 2),  # the limit of a group above
        ({"job": "50000 100000"}, None, 1),
        ({"job": "600000 100000"}, "4", 4),
        ({}, "32", 8),
    ],
)
def test_cores_are_those_of_the_job_and_not_of_the_machine(monkeypatch, tmp_path, quotas, task, expected):
    for group, content in quotas.items():
        (tmp_path / "cgroups" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroups" / group / "cpu.max").write_text(content + "\n")
    (tmp_path / "own").write_text("0::/job\n")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroups")
    monkeypatch.setattr(cores, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.delenv(cores.SHARE, raising=False)
    if task is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", task)
    assert cores.cores() == expected
    monkeypatch.setenv(cores.SHARE, "2")  # as a job beside others is told
    assert cores.cores() == min(2, expected)


@pytest.mark.parametrize(("here", "processes", "expected"), [(1, "1", 1), (8, "1", 7), (8, "4", 1), (64, "2", 16)])
def test_processes_of_torchrun_divide_the_cores_that_decode(monkeypatch, here, processes, expected):
    monkeypatch.setattr(cores, "cores", lambda: here)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert cores.decoders() == expected


def test_free_memory_is_the_least_of_the_machine_and_the_control_groups(tmp_path, monkeypatch):
    files = {"meminfo": "MemTotal: 9 kB\nMemAvailable: 5000 kB\n", "own": "0::/job\n", "memory.max": "max\n"}
    files |= {"memory.current": "7\n", "job/memory.max": "4000000\n", "job/memory.current": "1500000\n"}
    files["job/memory.stat"] = "active_file 1\ninactive_file 500000\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name, path in (("MEMINFO", "meminfo"), ("OWN_CGROUP", "own"), ("CGROUPS", "")):
        monkeypatch.setattr(cores, name, tmp_path / path)
    assert cores.free_memory() == 3_000_000
    monkeypatch.setattr(cores, "CGROUPS", Path("/nowhere"))
    assert cores.free_memory() == 5_120_000
