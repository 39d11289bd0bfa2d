"""Start processes as forks of one that has imported torch: a start takes milliseconds instead of seconds.

`Forks` runs the server, python -m kdep_benchmarks.jobs.engines.forks FD MODULE ..., which imports the modules and forks
a process for each request that comes through the socket FD. The server computes nothing, so that no thread is lost in
a fork. A fork behaves like `kdep_benchmarks.jobs.engines.child`: it ends when its parent does.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO

from kdep_benchmarks.jobs.engines import child

LARGEST = 1 << 16  # bytes of a request


class Forked:
    """A process that a server has forked, with the methods of `subprocess.Popen` that `jobs.process` uses."""

    def __init__(self, pid: int, stdin: IO[bytes], exit_code: IO[bytes]) -> None:
        self.pid, self.stdin, self._exit_code = pid, stdin, exit_code
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; SIGKILL's where the server has ended before it could tell it.

        Raises:
            TimeoutExpired: the process still runs.
        """
        if self.returncode is None:
            if not select.select([self._exit_code], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._exit_code.readline() or -signal.SIGKILL)
            self._exit_code.close()
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


class Forks:
    """A server that imports modules once; `start` forks from it. Its threads are those of its environment."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self.modules, self.environment, self.lock = tuple(modules), dict(environment), threading.Lock()
        self.channel: socket.socket | None = None

    def open(self) -> socket.socket:
        """The channel to the server, which the first call starts."""
        if self.channel is None:
            self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self.server = subprocess.Popen(
                    [*child.PYTHON_MODULE, "kdep_benchmarks.jobs.engines.forks", str(theirs.fileno()), *self.modules],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # a job has a log of its own
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=self.environment,
                    start_new_session=True,
                )
        return self.channel

    def start(self, words: Sequence[str], output: IO[bytes]) -> Forked | None:
        """Run `python -m WORDS` in a fork, in a process group of its own; None where the server has ended."""
        stdin, life = os.pipe()
        told, tell = os.pipe()
        try:
            with self.lock:
                socket.send_fds(self.open(), [json.dumps(list(words)).encode()], [stdin, output.fileno(), tell])
        except OSError:
            os.close(told)
            os.close(life)
            return None
        finally:
            os.close(stdin)
            os.close(tell)
        exit_code, lifeline = os.fdopen(told, "rb", buffering=0), os.fdopen(life, "wb", buffering=0)
        pid = exit_code.readline()  # waits until the server has imported its modules
        if pid:
            return Forked(int(pid), lifeline, exit_code)
        exit_code.close()
        lifeline.close()
        return None

    def close(self) -> None:
        """End the server; it may still be importing."""
        if self.channel is not None:
            self.channel.close()
            self.server.kill()
            self.server.wait()


def serve(channel: socket.socket) -> list[str] | None:
    """Fork a process for each request, and tell the parent its process id and its exit code, one line each.

    Returns:
        In a fork what it is to run; in the server None, when the parent has closed the channel.
    """
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakes)
    running: dict[int, int] = {}  # process id -> where to tell its exit code
    while True:
        ready = select.select([channel, woken], [], [])[0]
        if woken in ready:
            os.read(woken, LARGEST)
            tell_ends(running)
        if channel not in ready:
            continue
        request, descriptors, *_ = socket.recv_fds(channel, LARGEST, 3)
        if not request:
            return None
        stdin, output, tell = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            take_over(stdin, output)
            for descriptor in (channel.detach(), woken, wakes, stdin, output, tell, *running.values()):
                os.close(descriptor)
            return json.loads(request)
        with contextlib.suppress(OSError):  # the fork was faster, or has ended
            os.setpgid(pid, pid)
        os.close(stdin)
        os.close(output)
        running[pid] = tell
        say(tell, pid)


def take_over(stdin: int, output: int) -> None:
    """Give this process a group of its own, its standard input and its log."""
    with contextlib.suppress(OSError):  # the server was faster
        os.setpgid(0, 0)
    os.dup2(stdin, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def tell_ends(running: dict[int, int]) -> None:
    """Tell the exit codes of those that have ended."""
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            say(running[pid], os.waitstatus_to_exitcode(status))
            os.close(running.pop(pid))


def say(descriptor: int, number: int) -> None:
    """Write a line with a number, if anybody still reads it."""
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, b"%d\n" % number)


def main(arguments: list[str]) -> None:
    """Serve; in a fork, run a module with its arguments as a script."""
    channel = socket.socket(fileno=int(arguments[0]))
    for module in arguments[1:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # forks share the pages of what is imported
    words = serve(channel)
    if words is not None:
        child.main(words)


if __name__ == "__main__":
    child.leave_working_folder()
    main(sys.argv[1:])
