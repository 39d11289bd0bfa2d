import contextlib
import gc
import os
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks of the tests are too small to gain from a second thread


import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from kdep_benchmarks.openmmlab.compat import import_yapf

import_yapf()  # before two workers import mmengine at once

ROOT = Path(__file__).parents[1]

TINY = """
name: tiny
seed: 1
teacher: {{source: "random:test_efficientnet", tap: post, precision: float32}}
student: {{arch: test_resnet}}
data: {{source: "{photos}", size: 32, workers: 0}}
scale: {{name: pts}}
optim: {{name: adamw, epochs: 2, batch_size: 16, lr: 2e-3, weight_decay: 0.02, schedule: cosine}}
log: {{every: 4, checkpoint_every: 4}}
device: cpu
precision: float32
runs: "{runs}"
"""


def draw(path, seed):
    """A smooth random picture, 48 x 40."""
    noise = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC).save(path, quality=90)


@pytest.fixture(autouse=True)
def forget_logs_of_mmengine():
    """mmengine keeps the log files of all runs of a process and opens them again, but pytest removes their folders."""
    yield
    if logging := sys.modules.get("mmengine.logging"):
        logging.MMLogger._instance_dict.clear()


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 128 generated pictures in two subfolders."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(128):
        path = folder / f"class{number % 2}" / f"{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        draw(path, number)
    return folder


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """Make a folder once in a run of the tests, also over the processes of pytest-xdist: `make_once(name, fill)`."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name, fill):
        folder, part = shared / f"{name}-once", shared / f"{name}-once.part"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                fill(part)
                part.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def built(make_once):
    """A folder with the wheel and, in `site`, what pip installs from it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]

    def build(folder):
        """Build from a copy: setuptools leaves build folders beside setup.py."""
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in listed.splitlines():
            if name.startswith(("kdep/", "benchmarks/", "configs/")) or name in (
                "setup.py",
                "pyproject.toml",
                "README.md",
            ):
                (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
        command = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source")]
        subprocess.run(command, check=True)
        (wheel,) = folder.glob("*.whl")
        command = [*pip, "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel)]
        subprocess.run(command, check=True)

    return make_once("wheel", build)


@pytest.fixture(scope="session")
def wheel(built):
    """The wheel."""
    return next(built.glob("*.whl"))


@pytest.fixture(scope="session")
def site(built):
    """A folder of installed packages, with nothing but the wheel."""
    return built / "site"


@pytest.fixture(scope="session")
def forks():
    """Start `python -m WORDS` as a fork of a process that has imported kdep.pretrain: `forks.start(words, file)`."""
    from kdep_benchmarks.jobs.engines.forks import Forks

    server = Forks(("kdep.pretrain",), {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    yield server
    server.close()


@pytest.fixture
def loss_drawn():
    """For tests that look at loss.png."""


@pytest.fixture(autouse=True)
def loss_not_drawn(request, monkeypatch):
    """Drawing loss.png takes a third of a tiny run's time."""
    if "loss_drawn" not in request.fixturenames and "kdep.pretrain" in sys.modules:
        monkeypatch.setattr(sys.modules["kdep.pretrain"], "draw_loss", lambda run: None)


@pytest.fixture
def tiny(photos, tmp_path):
    """Make the configuration of a run of 16 steps, with overrides as on the command line."""

    def load(*overrides):
        from kdep.config import load_config

        file = tmp_path / "tiny.yaml"
        file.write_text(TINY.format(photos=photos, runs=tmp_path / "runs"))
        return load_config(file, overrides)

    return load


def measure_here(monkeypatch):
    """Measure cells in this process: a child would spend its time on importing. tests/benchmarks/jobs has children."""
    from kdep_benchmarks.jobs import cell, measure
    from kdep_benchmarks.jobs.engines.process import Ended

    def run(module, arguments, log, slot, *, timeout=None):
        with log.open("a") as file, contextlib.redirect_stderr(file):
            return Ended(measure.main(*arguments))

    monkeypatch.setattr(cell, "run_module", run)


@pytest.fixture
def cells_here(monkeypatch):
    """Cells are measured in this process."""
    measure_here(monkeypatch)


@pytest.fixture
def a_full_disk():
    """A context in which no file of this process grows beyond so many bytes."""

    @contextlib.contextmanager
    def full(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


@pytest.fixture
def shared():
    """The data root, where it holds real photographs."""
    from kdep.data.sources.root import data_root

    folder = data_root().absolute()
    if not (folder / "classification" / "flowers5_128px.npz").is_file():
        pytest.skip("no photographs below the data root (KDEP_DATA): this test needs real ones")
    return folder


def pytest_runtest_setup(item):
    """Every test draws the same numbers, whatever ran before it in this process."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def pytest_collection_finish():
    """Garbage collectors need not look at imported modules; mmengine starts one for every data set."""
    gc.collect()
    gc.freeze()


# They start first, the slowest before the others, so that no process is left with one of them at the end.
LONGEST = ("test_readme.py", "test_bank.py", "test_segment.py", "test_detect.py", "test_study.py", "test_export.py")
LONGEST += ("test_rivals.py", "test_run.py", "test_pretrain.py", "test_frozen.py", "test_classify.py")
LONGEST += ("test_studies_shipped.py", "test_distributed.py", "test_resume.py", "test_transfer.py", "test_audit.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
