"""The Slurm template, with commands of Slurm that say what they are given."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "slurm_pretrain.sh"


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({"SLURM_CPUS_PER_TASK": "64"}, "64"),
        ({"SLURM_CPUS_PER_TASK": "64", "SRUN_CPUS_PER_TASK": "8"}, "8"),
        ({}, "none"),  # without its #SBATCH line: as the cluster has it
    ],
)
def test_srun_gives_the_processes_the_cores_of_the_job(tmp_path, given, passed):
    for name, says in (
        ("scontrol", "echo first; sleep 0.1; echo second"),  # not all at once: who stops reading early ends it
        ("srun", 'echo "${SRUN_CPUS_PER_TASK-none} $MASTER_ADDR $NNODES $GPUS $*"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "first,second", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"}
    own = {"PATH": f"{tmp_path}:/usr/bin:/bin", **job, **given}
    said = subprocess.run([SCRIPT, "msr50_r18"], env=own, capture_output=True, text=True, check=True).stdout
    assert said == f"{passed} first 2 4 --kill-on-bad-exit=1 tools/pretrain.sh msr50_r18\n"
