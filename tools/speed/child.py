"""Child process: call one function and print its result as JSON on the last line.

python -m tools.speed.child MODULE:FUNCTION '{"argument": 1}'
"""

import importlib
import json
import sys


def run_child(function: str, arguments: str) -> None:
    """Call MODULE:FUNCTION with keyword arguments."""
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    print(f"\n{json.dumps(result)}", flush=True)  # noqa: T201 - the answer to the parent process


if __name__ == "__main__":
    run_child(*sys.argv[1:])
