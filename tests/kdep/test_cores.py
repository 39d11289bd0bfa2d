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
    if task is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", task)
    assert cores.cores() == expected
