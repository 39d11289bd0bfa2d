import os
import signal
import sys
import threading
import traceback

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads /proc and adopts orphans by prctl")


@linux
def test_a_command_forked_while_another_thread_draws_can_draw(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from tools.checks.faults import forked

    monkeypatch.setattr(forked, "_run", lambda *_: Figure().savefig(tmp_path / "drawn.png"))
    held, done = threading.Event(), threading.Event()

    def draw():
        with Figure._render_lock:
            held.set()
            done.wait(600)

    thread = threading.Thread(target=draw)
    thread.start()
    held.wait()
    command = forked.start([], forked.Box(tmp_path, {}))
    ended = command.wait(300)
    done.set()
    thread.join()
    if not ended:
        os.kill(command.pid, 9)
    assert ended and command.code == 0 and (tmp_path / "drawn.png").stat().st_size


@linux
def test_a_forked_child_has_no_handler_of_the_command_that_forked_it(monkeypatch, tmp_path):
    from tools.checks.faults import forked

    def run_child(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    def handler(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(forked, "_run_child", run_child)
    before = signal.signal(signal.SIGTERM, handler)  # as a suite does
    try:
        with (tmp_path / "log").open("w") as log:
            assert forked.Forked(["", "", ""], stdout=log, env={}).wait(300) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@linux
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
