import os
import sys
import traceback

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the harness reads /proc and adopts orphans by prctl")
def test_killed_commands_end_as_if_nothing_had_happened(tmp_path):
    from kdep import pretrain  # noqa: F401 - what is imported here need not be imported by each command
    from tools.checks.faults.kills import run

    pid = os.fork()  # in a process of its own, which becomes the parent of every orphan
    if pid == 0:
        code = 1
        try:
            record = run(5, 89, tmp_path / "record.json", ["pretrain"], trials=1)  # TERM, INT, KILL
            code = int(bool(record.content["broken"]))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, (tmp_path / "record.json").read_text()
    assert '"trials": 1' in (tmp_path / "record.json").read_text()
