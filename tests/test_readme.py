"""Every command of the README, in its order, in a copy of the repository with schedules cut to a few steps."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from kdep_benchmarks.tasks.task import load_suite
from tests.helpers.few_scenes import draw_few_scenes
from tests.helpers.kdep_server import start_server, write_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    command
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for command in block.replace("\\\n", "").splitlines()
]
# tools/test.sh cannot run inside itself, so it only collects tests. The fixture `site` installs kdep with pip.
INSTEAD = {
    "tools/test.sh": "tools/test.sh --collect-only -q tests/kdep/test_names.py",
    "pip install '.[openmmlab,demo]'": "true",
}
IMPORTED = (
    "kdep.pretrain",
    "kdep_benchmarks.transfer",
    "kdep_benchmarks.tasks.finetune",
    "kdep_benchmarks.tasks.dense.box",
)
IMPORTED += ("kdep_benchmarks.openmmlab.tasks.segment", "kdep_benchmarks.openmmlab.tasks.detect")
IMPORTED += ("kdep_benchmarks.page.report", "matplotlib.figure", "matplotlib.backends.backend_agg")

# Otherwise each of twenty children would spend five seconds on importing. tests/benchmarks/jobs starts children.
IN_THIS_PROCESS = """

# ruff: noqa
import threading

ONE_AT_A_TIME = threading.Lock()  # mmengine has one scope for all threads


def run_module(module, arguments, log, slot, *, timeout=None):
    from kdep_benchmarks.jobs import measure

    log.touch()
    with ONE_AT_A_TIME:
        return Ended(measure.main(*arguments))
"""


def shrink(installed):
    """A few scenes and steps, and cells that run in the process of their command; nothing else is changed."""
    cell = installed / "kdep_benchmarks/jobs/cell.py"
    cell.write_text(cell.read_text() + IN_THIS_PROCESS)
    draw_few_scenes(installed / "kdep_benchmarks")
    demo = installed / "kdep_configs/pretrain/demo.yaml"
    config = yaml.safe_load(demo.read_text())
    config["optim"] |= {"epochs": 1, "batch_size": 200, "warmup_epochs": 0}
    config["data"]["limit"], config["data"]["workers"] = 600, 0  # the statistics of 512 channels need 513
    config["teacher"]["size"], config["data"]["size"] = 32, 32
    demo.write_text(yaml.safe_dump(config))
    for name, settings in {
        **dict.fromkeys(("scenes-knn", "scenes-linear"), {"size": 32}),
        "scenes-finetune": {"epochs": 1, "size": 32},
        "scenes-segment": {"iterations": 2, "batch_size": 2, "crop": 32},
        "scenes-detect": {"iterations": 2, "scale": [64, 64], "warmup": 0},
        **dict.fromkeys(("scenes-dense-linear", "scenes-dense-knn"), {"size": 64, "positions": 1000}),
        "scenes-box": {"size": 64},
    }.items():
        path = installed / f"kdep_configs/transfer/{name}.yaml"
        task = yaml.safe_load(path.read_text())
        task["settings"] |= settings
        path.write_text(yaml.safe_dump(task))


def environment_of(folder):
    """The environment of somebody who has installed the wheel."""
    path = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(folder / "installed"), "PATH": path}


def write_own_files(folder):
    """Two checkpoints of a ResNet-18, and labelled images of three shades of grey."""
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        torch.save(timm.create_model("resnet18").state_dict(), folder / f"{name}.pth")
    for number in range(30):
        image = folder / "labelled" / f"shade{number % 3}" / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 60 * (number % 3) + number, np.uint8)).save(image)


@pytest.fixture(scope="module")
def copy(site, tmp_path_factory):
    """A copy of the repository whose .venv has the wheel, and whose commands are forks of one process."""
    folder = tmp_path_factory.mktemp("readme")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
        (folder / name).chmod((ROOT / name).stat().st_mode)
    shutil.copytree(site, folder / "installed")
    shrink(folder / "installed")
    write_own_files(folder)
    for path in (*Path(sys.prefix).iterdir(), *Path(sys.prefix, "bin").iterdir()):
        link = folder / ".venv" / path.relative_to(sys.prefix)
        link.parent.mkdir(exist_ok=True)
        if path.name not in ("bin", "kdep"):
            link.symlink_to(path)
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has at most a hundred characters
        address = Path(short) / "socket"
        for name in ("kdep", "forked"):
            write_command(folder / ".venv" / "bin" / name, address)
        server = start_server(address, IMPORTED, environment_of(folder))
        yield folder
        server.stdin.close()
        server.wait()


def run(command, copy):
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=copy,
        env=environment_of(copy),
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_readme_has_the_commands_that_people_come_for():
    compare = "kdep transfer a.pth b.pth --arch resnet18 --data labelled"
    assert COMMANDS[:3] == [compare, "tools/demo.sh", "tools/test.sh"]
    assert {command.split()[0] for command in COMMANDS} == {
        *(f"tools/{name}.sh" for name in ("demo", "test", "pretrain", "transfer", "leaderboard")),
        "kdep",
        "pip",
    }


@pytest.mark.openmmlab
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_works(command, copy):
    assert (Path(sys.prefix) / "complete").exists(), "run the tests with tools/test.sh, which sets .venv up"
    run(INSTEAD.get(command, command), copy)


@pytest.mark.openmmlab
def test_the_demo_has_ended_with_a_row_for_each_checkpoint_and_every_kind(copy):
    rows = list(csv.DictReader((copy / "demo/results/leaderboard.csv").open()))
    kinds = ("knn", "linear", "finetune", "segment", "detect")
    rows = [row for row in rows if row["name"] != "second"]  # of a later command, with two tasks
    assert {row["name"] for row in rows} == {"demo", "random:resnet18"}
    assert all(0 <= float(row[f"scenes-{kind}"]) <= 100 for row in rows for kind in kinds)


@pytest.mark.openmmlab
def test_the_notebook_runs(copy):
    """Its code cells as one script, in the folder of the demo, on fewer and smaller images."""
    cells = json.loads((ROOT / "docs" / "python.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    few = '{"source": "demo/scenes/images", "limit": 600, "size": 32, "workers": 0}'
    steps = '{"epochs": 1, "batch_size": 200, "warmup_epochs": 0}'
    assert 'data="demo/scenes/images"' in code
    code = code.replace('data="demo/scenes/images"', f'data={few}, optim={steps}, teacher={{"size": 32}}')
    code = re.sub(r"^!(.*)$", r"import subprocess; subprocess.run('\1'.split(), check=True)", code, flags=re.MULTILINE)
    (copy / "notebook.py").write_text(
        f"{code}\nassert features.shape == (1, 512) and len(results) >= 2\nassert verdicts.task[0] == 'scenes-knn'\n"
    )
    run("forked notebook.py", copy)


def test_the_suite_that_the_docs_show_is_a_suite(tmp_path):
    page = (ROOT / "docs/data.md").read_text()
    (tmp_path / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, flags=re.DOTALL)[1])
    (task,) = load_suite(str(tmp_path / "mine.yaml"), tmp_path)
    assert task.kind == "linear"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_every_link_of_the_readme_leads_somewhere(name):
    assert (ROOT / name).exists()
