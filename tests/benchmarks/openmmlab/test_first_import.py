"""mmengine's first import in a new installation, by several processes at once."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.openmmlab


def test_processes_that_start_at_once_do_not_read_half_of_yapfs_grammar(tmp_path):
    """One process is slow to write the grammar, longer than another takes to import torch and to come there."""
    prepare = "from kdep_benchmarks.openmmlab.compat import prepare; prepare()"
    slow = (
        "import pickle, time\n"
        "dump = pickle.dump\n"
        "pickle.dump = lambda content, file, *more: (time.sleep(5), dump(content, file, *more))\n"
    )
    own = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    first = subprocess.Popen([sys.executable, "-c", slow + prepare], env=own)
    while not list(tmp_path.rglob("*.pickle")):
        assert first.poll() is None
    second = subprocess.run([sys.executable, "-c", prepare], env=own, capture_output=True)
    assert (first.wait(), second.returncode) == (0, 0), second.stderr
