"""Time whole commands: wall time and CPU seconds, on a machine that does nothing else.

python -m tools.speed.times --out docs/figures/times.json tools/demo.sh tools/test.sh "kdep --help"
"""

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from kdep.files import write_text


def main() -> None:
    """Run the commands one after the other; the file keeps those of earlier calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", metavar="COMMAND")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.is_file() else {}
    for command in given.commands:
        found[command] = timed(command)
        write_text(given.out, json.dumps(found, indent=1) + "\n")


def timed(command: str) -> dict[str, Any]:
    """Run a command and return its exit code, its times in seconds, and the load of the machine before it."""
    load, began, before = os.getloadavg()[0], time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code = subprocess.run(shlex.split(command), check=False).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit_code": code,
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "load_before": round(load, 2),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
