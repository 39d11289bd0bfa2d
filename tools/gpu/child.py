"""Child process of a step: python -m tools.gpu.child STEP '{"device": "cuda", ...}'. It prints the record in a line."""

import json
import sys

from tools.gpu.main import in_process


def run_child(name: str, setting: str) -> None:
    """Run a step and print its record."""
    found = in_process(name, json.loads(setting))
    sys.stderr.flush()
    print("\n" + json.dumps(found), flush=True)  # noqa: T201 - the answer to the parent process


if __name__ == "__main__":
    run_child(*sys.argv[1:])
