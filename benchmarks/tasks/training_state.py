"""What an interrupted cell has left in its folder, and whose it is."""

import json
import logging
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.files import read, save, write_atomically
from kdep_benchmarks.data.cards import fingerprint
from kdep_benchmarks.tasks.task import Task

LOG = logging.getLogger(__name__)
LAST, ENDED = "last.pth", "ended.json"  # the training in hand, and what has come out of those before it


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


def tidy(work_dir: Path) -> None:
    """Drop what an interrupted cell would have gone on from: its result is written."""
    for name in (LAST, ENDED):
        (work_dir / name).unlink(missing_ok=True)


class Trainings:
    """Several trainings of one cell, by name: what has come out of those that ended, and the state of one in hand.

    Args:
        folder: of the cell, freed from another cell's files by `forget_others`; None to keep nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        known = None if folder is None else folder / ENDED
        self._ended: dict[str, Any] = json.loads(known.read_text()) if known is not None and known.exists() else {}

    def __contains__(self, name: str) -> bool:
        return name in self._ended

    def __getitem__(self, name: str) -> Any:
        return self._ended[name]

    def end(self, name: str, outcome: Any) -> Any:
        """Keep a plain outcome instead of the state, and return it."""
        self._ended[name] = outcome
        if self._folder is not None:
            text = json.dumps(self._ended, indent=1)
            write_atomically(self._folder / ENDED, lambda part: part.write_text(text))
            (self._folder / LAST).unlink(missing_ok=True)
        return outcome

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Keep the state of the training in hand, plain values and tensors, together with all random numbers."""
        if self._folder is not None:
            save({"training": name, "random": random_state(), **state}, self._folder / LAST)

    def state(self, name: str) -> dict[str, Any] | None:
        """What `save` has kept of this training, if that is the one in hand."""
        if self._folder is None or not (self._folder / LAST).exists():
            return None
        state = read(self._folder / LAST)
        return state if state["training"] == name else None


def random_state() -> dict[str, Any]:
    """State of all random numbers of this process, in tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers of `random_state`."""
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
