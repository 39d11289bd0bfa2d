"""The wheel, installed elsewhere and used from a folder that has a `benchmarks` and a `configs` of its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_nothing_lands_at_the_top_of_site_packages_that_another_project_could_own(wheel):
    top = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"kdep", "kdep_benchmarks", "kdep_configs"}


def test_every_package_and_every_configuration_is_in_the_wheel(wheel):
    found = set(zipfile.ZipFile(wheel).namelist())
    for folder, name in (("kdep", "kdep"), ("benchmarks", "kdep_benchmarks"), ("configs", "kdep_configs")):
        ours = [p for ending in ("*.py", "*.yaml", "*.html") for p in (ROOT / folder).rglob(ending)]
        assert {f"{name}/{path.relative_to(ROOT / folder)}" for path in ours} - found == set()


def run(site, folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_wheel_is_what_runs(site):
    code = "import kdep, kdep_benchmarks, kdep_configs; print(kdep.__file__, kdep_benchmarks.__file__)"
    assert all(path.startswith(str(site)) for path in run(site, "/", sys.executable, "-c", code).split())


def test_the_command_works_from_anywhere_by_names(site, tmp_path):
    """All that the demo does is done with this wheel in tests/test_readme.py."""
    for name in ("benchmarks", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not kdep')\n")
    command = [sys.executable, str(site / "bin" / "kdep")]
    assert "  demo\n" in run(site, tmp_path, *command, "ls", "recipes")
    assert "scenes" in run(site, tmp_path, *command, "ls", "data")
