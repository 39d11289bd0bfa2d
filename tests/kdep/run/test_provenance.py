import subprocess

import pytest

from kdep.run import provenance


@pytest.mark.parametrize("tracked", [False, True])
def test_the_commit_is_kdep_s_own_and_not_that_of_a_repository_around_its_virtual_environment(
    tmp_path, monkeypatch, tracked
):
    file = tmp_path / ".venv" / "kdep" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "train.py").touch()

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    git("init")
    git("add", "." if tracked else "train.py")
    git("commit", "--message", "first")
    monkeypatch.setattr(provenance, "__file__", str(file))
    found = provenance.provenance_of_code()["commit"]
    assert found == (git("rev-parse", "HEAD")[:12] if tracked else "unknown")
