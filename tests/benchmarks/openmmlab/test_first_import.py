"""mmengine's first import in a new installation, by several processes at once."""

import os
import sys
from subprocess import PIPE, Popen

import pytest

pytestmark = pytest.mark.openmmlab


def test_processes_that_start_at_once_do_not_read_half_of_yapfs_grammar(tmp_path):
    """yapf renames the file before it is flushed. One process stays there while another imports."""
    slow = (
        "import os, time\n"
        "rename = os.rename\n"
        "os.rename = lambda one, other: (rename(one, other), time.sleep(3 * ('PatternGrammar' in str(other))))\n"
    )
    prepare = "from kdep_benchmarks.openmmlab.compat import prepare; print(flush=True); input(); prepare()"
    own = {"env": {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, "stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
    both = [Popen([sys.executable, "-c", code + prepare], text=True, **own) for code in (slow, "")]
    for process in both:
        process.stdout.readline()  # has imported torch
    both[0].stdin.write("\n")
    both[0].stdin.flush()
    while not list(tmp_path.rglob(f"Pattern*.{sys.version_info[4]}.pickle")):
        assert both[0].poll() is None
    said = [process.communicate("\n")[1] for process in both[::-1]]
    assert [process.returncode for process in both] == [0, 0], said
