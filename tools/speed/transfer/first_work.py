"""Run a cell's process up to the moment when its task would begin.

python -m tools.speed.transfer.first_work CELL.json
"""

import json
import sys
import time
from typing import Any, NoReturn

from kdep_benchmarks.jobs import measure

genuine = measure.run_kind


def run_child(path: str) -> None:
    """Start the cell with the function that finds a kind's work replaced by one whose work is to say the time."""

    def stop(*_: Any, **__: Any) -> NoReturn:
        print(json.dumps({"at": time.time()}), flush=True)  # noqa: T201 - the answer to the parent process
        sys.exit(0)

    def find(kind: str) -> Any:
        genuine(kind)  # what a kind imports is part of the start
        return stop

    measure.run_kind = find
    sys.exit(measure.main(path))


if __name__ == "__main__":
    run_child(sys.argv[1])
