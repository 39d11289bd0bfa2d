"""Run a module that ends with its parent: python -m kdep_benchmarks.jobs.engines.child MODULE [ARGUMENT ...].

The parent holds the other end of standard input, which closes when the parent ends, however it ends. Started by
`kdep_benchmarks.jobs.engines.process`, in a process group of its own.
"""

import os
import runpy
import signal
import sys
import threading
import time
from typing import Any

# `python -m` puts the working folder first on sys.path, and a user's folder may hold one that is called kdep.
PYTHON_MODULE = [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-m"]
GRACE = 5.0  # seconds between the SIGTERM and the SIGKILL of an orphan


def leave_working_folder() -> None:
    """Do on Python 3.10 what -P does on its successors."""
    if sys.version_info < (3, 11):
        del sys.path[0]


def end_with_parent(orphaned: threading.Event) -> None:
    """Terminate this process when standard input closes; kill its group if that does not end it."""

    def watch() -> None:
        os.read(0, 1)  # returns at the end of the pipe; nothing is ever written to it
        orphaned.set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def exit_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that half-written files are removed."""

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def main(arguments: list[str]) -> None:
    """Run a module with its arguments as a script."""
    exit_on_sigterm()
    orphaned = threading.Event()
    end_with_parent(orphaned)
    sys.argv = arguments
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        if orphaned.is_set():  # no parent is left to do it
            os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    leave_working_folder()
    main(sys.argv[1:])
