"""The shell scripts, called from another folder than the checkout, in a copy whose programs say what they are given."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def elsewhere(tmp_path):
    """A folder beside a checkout; both have a space in their names."""
    binaries = tmp_path / "a checkout" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries.parent / "complete").touch()
    for name in ("kdep", "python", "ruff"):
        (binaries / name).write_text('#!/bin/sh\necho "$(basename "$0") in $(pwd): $*"\n')
        (binaries / name).chmod(0o755)
    shutil.copytree(TOOLS, tmp_path / "a checkout" / "tools")
    (tmp_path / "my work").mkdir()
    return tmp_path / "my work"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain.sh", "default", "data.source=a b"], "kdep in HERE: pretrain default data.source=a b"),
        (["transfer.sh", "a b.pth", "--data", "c"], "kdep in HERE: transfer a b.pth --data c"),
        (["leaderboard.sh", "results"], "kdep in HERE: leaderboard results"),
        (["leaderboard.sh", "compare", "a", "b"], "kdep in HERE: compare a b"),
        (["gpu.sh", "--list"], "python in ROOT: -m tools.gpu.main --list"),
        (["test.sh", "-k", "x"], "--no-loadscope-reorder -k x"),
        (["demo.sh"], "kdep in ROOT: pretrain demo"),
    ],
)
def test_a_script_takes_the_paths_of_the_folder_where_it_is_called(elsewhere, words, said):
    script, root = Path("..", "a checkout", "tools", words[0]), elsewhere.parent / "a checkout"
    done = subprocess.run([script, *words[1:]], cwd=elsewhere, capture_output=True, text=True, check=True)
    assert said.replace("HERE", str(elsewhere)).replace("ROOT", str(root)) in done.stdout


def test_several_processes_run_the_command_of_the_checkout_in_the_folder_where_it_is_called(elsewhere):
    environment, command = {**os.environ, "GPUS": "2"}, [Path("..", "a checkout", "tools", "pretrain.sh"), "default"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"python in {elsewhere}: -m torch.distributed.run --nproc-per-node 2 ")
    assert done.stdout.endswith(f"--no-python {elsewhere.parent / 'a checkout'}/.venv/bin/kdep pretrain default\n")


def test_several_machines_need_the_address_of_the_first(elsewhere):
    command, environment = [Path("..", "a checkout", "tools", "pretrain.sh"), "default"], {**os.environ, "NNODES": "2"}
    environment.pop("MASTER_ADDR", None)
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and not done.stdout
    assert "MASTER_ADDR: is to name the first of the NNODES machines" in done.stderr
    environment["MASTER_ADDR"] = "first"
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    assert "--rdzv-endpoint first:29500" in done.stdout
