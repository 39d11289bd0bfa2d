"""Save and restore the training state of an interrupted cell."""

import json
import logging
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdep.files import read, save, write_text
from kdep.json_file import read_json
from kdep_benchmarks.data.cards import fingerprint
from kdep_benchmarks.tasks.task import Task

LOG = logging.getLogger(__name__)
LAST, ENDED = "last.pth", "ended.json"  # state of the current training; outcomes of finished ones


def forget_others(work_dir: Path, task: Task, whose: dict[str, Any], left: Iterable[str]) -> None:
    """Delete state that another cell left in this cell's folder, so that training does not resume from it.

    Args:
        work_dir: the cell's folder.
        task: identifies the cell by its kind, its protocol, the user's own config, and the fingerprint of the data it
            trains on.
        whose: what else identifies the cell, as plain values: weights, settings at its budget, seed.
        left: names of the files to delete.
    """
    # Without test: a trained network is scored again, not trained again, after a test image was repaired.
    data = fingerprint(task.dataset, without="test")
    identity = {
        "task": task.name,
        "kind": task.kind,
        "protocol": f"{task.protocol}-v{task.version}",
        "config_sha256": task.config_sha256,
        "data": data,
    }
    text, path = json.dumps(whose | identity, indent=1), work_dir / "cell.json"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    for file in (work_dir / name for name in left):
        if file.exists():
            LOG.warning("%s: belongs to another cell; training starts from the beginning", file)
            file.unlink()
    write_text(path, text)


def tidy(work_dir: Path) -> None:
    """Delete the training state of a cell whose result is written."""
    for name in (LAST, ENDED):
        (work_dir / name).unlink(missing_ok=True)


class Trainings:
    """The trainings of one cell by name: outcomes of the finished ones, and the state of the current one.

    Args:
        folder: of the cell, after `forget_others`; None to keep nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        known = None if folder is None else folder / ENDED
        self._ended: dict[str, Any] = _read_ended(known) if known is not None and known.exists() else {}

    def __contains__(self, name: str) -> bool:
        return name in self._ended

    def __getitem__(self, name: str) -> Any:
        return self._ended[name]

    def end(self, name: str, outcome: Any) -> None:
        """Save the outcome of a finished training and delete its state."""
        self._ended[name] = outcome
        if self._folder is not None:
            text = json.dumps(self._ended, indent=1)
            write_text(self._folder / ENDED, text)
            (self._folder / LAST).unlink(missing_ok=True)

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Save the state of the current training, plain values and tensors, with all random states."""
        if self._folder is not None:
            save({"training": name, "random": random_state(), **state}, self._folder / LAST)

    def state(self, name: str) -> dict[str, Any] | None:
        """The saved state of this training; None where another one, or none, was saved."""
        if self._folder is None or not (self._folder / LAST).exists():
            return None
        state = read(self._folder / LAST)
        if not isinstance(state, dict) or "training" not in state:
            raise ValueError(
                f"{self._folder / LAST}: not the state of a training; remove it to train from the beginning"
            )
        return state if state["training"] == name else None


def _read_ended(path: Path) -> dict[str, Any]:
    ended = read_json(path)
    if not isinstance(ended, dict):
        raise ValueError(f"{path}: not the outcomes of trainings; remove it to train from the beginning")
    return ended


def random_state() -> dict[str, Any]:
    """States of the random generators of this process, as tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
