"""The wheel, installed elsewhere and used from a folder that has a `benchmarks` and a `configs` of its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.few_scenes import draw_few_scenes

ROOT = Path(__file__).parents[1]
SMALL = ["optim.epochs=1", "optim.batch_size=16", "optim.warmup_epochs=0", "data.limit=600", "data.size=32"]
SMALL += ["data.workers=0", "teacher.size=32"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build from a copy: setuptools leaves build folders beside setup.py."""
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    for name in names:
        if name.startswith(("kdep/", "benchmarks/", "configs/")) or name in ("setup.py", "pyproject.toml", "README.md"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source")]
    subprocess.run(build, check=True)
    return next(folder.glob("*.whl"))


def test_nothing_lands_at_the_top_of_site_packages_that_another_project_could_own(wheel):
    top = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"kdep", "kdep_benchmarks", "kdep_configs"}


def test_every_package_and_every_configuration_is_in_the_wheel(wheel):
    found = set(zipfile.ZipFile(wheel).namelist())
    for folder, name in (("kdep", "kdep"), ("benchmarks", "kdep_benchmarks"), ("configs", "kdep_configs")):
        ours = [p for ending in ("*.py", "*.yaml", "*.html") for p in (ROOT / folder).rglob(ending)]
        assert {f"{name}/{path.relative_to(ROOT / folder)}" for path in ours} - found == set()


@pytest.fixture(scope="module")
def anywhere(wheel, tmp_path_factory):
    """Run a command of the installed wheel from a folder of a user's."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("user")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    draw_few_scenes(site / "kdep_benchmarks")
    for name in ("benchmarks", "configs"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('not kdep')\n")

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, str(site / "bin" / "kdep"), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run.site = site
    return run


def test_the_wheel_is_what_runs(anywhere):
    code = "import kdep, kdep_benchmarks, kdep_configs; print(kdep.__file__, kdep_benchmarks.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(anywhere.site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(anywhere.site)) for path in done.stdout.split())


def test_the_demo_works_from_anywhere_by_names(anywhere):
    assert "  demo\n" in anywhere("ls", "recipes")
    assert "student.pth" in anywhere("pretrain", "demo", *SMALL)  # draws the images it needs
    tasks = ["--suite", "demo", "--data-root", "demo", "--tasks", "scenes-knn", "--results", "demo/results"]
    assert "scenes-knn" in anywhere("transfer", "runs/demo/student.pth", *tasks)
