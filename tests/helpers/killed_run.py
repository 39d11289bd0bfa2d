"""A run that kills itself: python -m tests.helpers.killed_run CONFIG STEP, when the line of the step is in log.jsonl.

At step 0 it does when its config.yaml is written. A test that looked for the line and then killed might come too late.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdep import cli
from kdep.run.folder import RunFolder


def die_after(method: str, ready: Callable[[RunFolder], bool]) -> None:
    """Kill this process, as `kill -9` does, when a method of its run has ended and the run is so far."""
    own = getattr(RunFolder, method)

    def call(run: RunFolder, *given: Any) -> None:
        own(run, *given)
        if ready(run):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(RunFolder, method, call)


if __name__ == "__main__":
    config, step = Path(sys.argv[1]), int(sys.argv[2])
    if step:
        die_after("append_log", lambda run: len(run.log.read_text().splitlines()) >= step)
    else:
        die_after("bind", lambda run: True)
    sys.exit(cli.main(["pretrain", str(config)]))
