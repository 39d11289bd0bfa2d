"""What an interrupted cell has left in its folder, and whose it is."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.datasets import fingerprint
from benchmarks.tasks import Task
from kdep.checkpoint import write_atomically

LOG = logging.getLogger(__name__)


def forget_others(work_dir: Path, task: Task, whose: dict[str, Any], left: Iterable[str]) -> None:
    """Drop files of a cell's folder that another cell has left there; going on from them would be wrong.

    Args:
        work_dir: the cell's folder.
        task: its protocol and data set count; the latter by its fingerprint.
        whose: what else must be the same: weights, settings as the budget has them, seed; plain values.
        left: names of the files.
    """
    identity = {"task": task.name, "protocol": f"{task.protocol}-v{task.version}", "data": fingerprint(task.dataset)}
    text, path = json.dumps(whose | identity, indent=1), work_dir / "cell.json"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    for file in (work_dir / name for name in left):
        if file.exists():
            LOG.warning("%s: belongs to another cell, training starts anew", file)
            file.unlink()
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
