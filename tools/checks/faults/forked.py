"""Run kdep commands in processes forked from this one, which has imported torch already: a start costs milliseconds.

The processes that a command starts itself are forked too, in the place of `subprocess.Popen`, with the same pipes,
session and environment. Linux only.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import thread as pools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans of commands become children of this process, so none gets lost


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@dataclass(frozen=True)
class Box:
    """Where commands run: the folder they start in, their environment, and the largest file that they may write."""

    folder: Path
    environment: Mapping[str, str]
    largest_file: int | None = None


@dataclass
class Command:
    """A running command, the pipe that it prints to, and its exit code once it has ended; negative for a signal."""

    pid: int
    pipe: int
    printed: bytes = b""
    code: int | None = None
    began: float = field(default_factory=time.monotonic)

    def ended(self) -> bool:
        """Whether it has ended."""
        self._drain()
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it came."""
        end = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < end:
            time.sleep(0.005)
        return self.ended()

    def said(self) -> str:
        """What it has printed."""
        self._drain()
        return self.printed.decode(errors="replace")

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self.pipe, 1 << 16):
                self.printed += block

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.pipe)


def start(arguments: Sequence[str], box: Box, *, anew: bool = False) -> Command:
    """Start `kdep ARGUMENTS` in a fork of this process, or anew in an interpreter of its own, as users do."""
    sys.stdout.flush()
    sys.stderr.flush()
    pipe, end = os.pipe()  # not a file, which would count among those that a full disk cuts short
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(pipe, False)
    pid = os.fork()
    if pid == 0:
        _leave(lambda: (_run_anew if anew else _run)(arguments, box, end))
    os.close(end)
    return Command(pid, pipe)


def _run(arguments: Sequence[str], box: Box, output: int) -> int:
    _enter(box, output)
    from kdep.cli import main

    return main(arguments)


def _run_anew(arguments: Sequence[str], box: Box, output: int) -> NoReturn:
    _enter(box, output)
    os.execv(sys.executable, [sys.executable, "-m", "kdep.cli", *arguments])


def _enter(box: Box, output: int) -> None:
    os.setpgid(0, 0)
    os.chdir(box.folder)
    os.environ.update(box.environment)
    _redirect(output, os.open(os.devnull, os.O_RDONLY))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if box.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (box.largest_file, box.largest_file))


def _redirect(output: int, source: int) -> None:
    for number, descriptor in enumerate((source, output, output)):
        os.dup2(descriptor, number)
    nothing = os.open(os.devnull, os.O_RDWR)
    # Pipes and locks of the parent go. Their numbers stay taken: objects that were forked along may still close them.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.fstat(int(name))
                os.dup2(nothing, int(name))
    faulthandler.register(signal.SIGUSR1, file=2)  # tells where a process hangs
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: PTH123, SIM115


def renew_locks() -> None:
    """Replace the locks that a thread of the parent may have held when this process was forked.

    No thread would ever release them here. A study draws in one thread while another starts a process; without this
    harness, such a process is a new Python.
    """
    from matplotlib.figure import Figure
    from tqdm import tqdm

    Figure._render_lock = threading.RLock()
    tqdm.set_lock(threading.RLock())  # the one of multiprocessing, which a killed process keeps, is left out


def _leave(run: Any) -> NoReturn:
    """Run, and end this process as Python would, without going back into the code that forked it."""
    code = 1
    try:
        try:
            renew_locks()
            code = run() or 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                sys.stderr.write(f"{error.code}\n")
        except BaseException:
            traceback.print_exc()
        pools._shutdown = True  # as Python does at its end: else their threads wait for work for ever
        for work in list(pools._threads_queues.values()):
            work.put(None)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)


class Forked:
    """`subprocess.Popen` for `python -m kdep_benchmarks.jobs.engines.child MODULE ...`, without a new Python."""

    def __init__(self, args: Sequence[str], *, stdout: Any, env: Mapping[str, str], **_: Any) -> None:
        source, end = os.pipe()
        self.returncode: int | None = None
        # A new Python has no handlers of its parent: until the fork has none either, signals wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            self.pid = os.fork()
            if self.pid == 0:
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                _leave(lambda: _run_child(args[3:], env, source, stdout.fileno()))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(source)
        self.stdin = os.fdopen(end, "wb")

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("forked", timeout or 0)
            time.sleep(0.01)
        return self.returncode or 0

    def terminate(self) -> None:
        """Send SIGTERM."""
        send(self.pid, signal.SIGTERM)


def _run_child(arguments: Sequence[str], environment: Mapping[str, str], source: int, output: int) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    _redirect(output, source)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from kdep_benchmarks.jobs.engines import child

    child.main(list(arguments))


def fork_children() -> None:
    """Let the jobs of suites and studies be forked, in this process and in all that it forks."""
    from kdep_benchmarks.jobs.engines import choose, process

    choose.IMPORTED = ()  # no server, which would import torch anew for each command

    class Module:
        Popen, PIPE, STDOUT, TimeoutExpired = Forked, subprocess.PIPE, subprocess.STDOUT, subprocess.TimeoutExpired

    process.subprocess = Module  # type: ignore[assignment]


def below(pid: int) -> list[int]:
    """Processes below one, its children first; those that have ended and wait to be collected do not count."""
    found: list[int] = []
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names
        if entry.isdigit():
            try:
                state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(") ")[2].split()[:2]
            except OSError:
                continue
            if state not in "ZX":
                parents.setdefault(int(parent), []).append(int(entry))
    level = [pid]
    while level:
        level = [child for parent in level for child in parents.get(parent, [])]
        found += level
    return found


def collect() -> None:
    """Collect orphans that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def send(pid: int, number: int) -> bool:
    """Send a signal; whether the process was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
