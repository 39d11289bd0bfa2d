"""The documentation builds without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.reference import FOLDER, PAGES

ROOT = Path(__file__).parents[1]


def test_the_documentation_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra dev")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site" / "quickstart" / "index.html").is_file()


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_what_the_code_says(name, monkeypatch):
    monkeypatch.delenv("KDEP_DATA", raising=False)
    if name == "commands" and sys.version_info[:2] != (3, 11):
        pytest.skip("argparse lays out help in another way in every version of Python")
    assert (FOLDER / f"{name}.md").read_text() == PAGES[name](), "run python -m tools.reference"
