"""Time a cell's Runner with our hooks and without them: same configuration, seed and data."""

import itertools
import time
from pathlib import Path
from statistics import median
from typing import Any

import mmengine.hooks
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep_benchmarks.openmmlab import hooks, runner
from kdep_benchmarks.openmmlab.tasks import detect, segment
from kdep_benchmarks.tasks.settings import SETTINGS, read_settings
from kdep_benchmarks.tasks.task import Task

FIRST = 3  # iterations left out: the loader starts, buffers are allocated


@HOOKS.register_module(name="kdepClock", force=True)
class Clock(Hook):
    """Record the time at the end of every iteration, after all other hooks."""

    priority = "LOWEST"
    ends: list[float] = []

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Synchronise the device, for both contenders."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        Clock.ends.append(time.perf_counter())


def alternate(checkpoint: Checkpoint, task: Task, work: Path, device: torch.device, *, repeats: int) -> dict[str, Any]:
    """Run A B A B.

    Returns:
        bare: median seconds per iteration; ours: that times the median ratio of paired iterations; hook_share: time
        inside our hooks at iterations over all time, measured directly; once_seconds: what ours adds once per run, for
        checking the weights and for saving.
    """
    turns: dict[str, list[dict[str, Any]]] = {"ours": [], "bare": []}
    for _ in range(repeats):
        for name, turn in turns.items():
            turn.append(timed(name, checkpoint, task, work, device))
    # Iteration i has the same images in both: pairs cancel what differs between batches, their median what disturbs.
    pairs = zip(turns["ours"], turns["bare"], strict=True)
    ratio = median(a / b for own, bare in pairs for a, b in zip(own["intervals"], bare["intervals"], strict=True))
    iteration = median(interval for turn in turns["bare"] for interval in turn["intervals"])
    once = {name: median(turn["once"] for turn in found) for name, found in turns.items()}
    share = median(turn["hooks"] for turn in turns["ours"]) / iteration
    return {
        "ours": iteration * ratio,
        "bare": iteration,
        "hook_share": share,
        "once_seconds": once["ours"] - once["bare"],
        "turns": turns,
    }


def timed(name: str, checkpoint: Checkpoint, task: Task, work: Path, device: torch.device) -> dict[str, Any]:
    """One run from its configuration on: seconds per iteration, of our hooks in it, and before the first."""
    cell = runner.Training(checkpoint, task, read_settings(SETTINGS[task.kind], task), 0, work / name, device)
    cell.work_dir.mkdir(parents=True, exist_ok=True)
    cell.last.unlink(missing_ok=True)
    config = {"segment": segment, "detect": detect}[task.kind].train_config(cell)
    config.custom_hooks = [{"type": "kdepClock"}]
    Clock.ends = []
    began = time.perf_counter()
    spent = ours(config, cell) if name == "ours" else bare(config, cell)
    cell.last.unlink(missing_ok=True)
    return summarise(began, Clock.ends, spent)


def summarise(began: float, ends: list[float], spent: list[float]) -> dict[str, Any]:
    """Seconds per iteration, of our hooks in it, and once: before the first and at the last, which saves.

    Args:
        began: when the run began.
        ends: when every iteration ended.
        spent: seconds of our hooks at every iteration; empty without them.
    """
    first = min(FIRST, len(ends) - 3)
    intervals = [after - before for before, after in itertools.pairwise(ends[first:-1])]
    once = ends[0] - began + ends[-1] - ends[-2] - median(intervals)
    inside = spent[first + 1 : -1]
    return {"intervals": intervals, "once": once, "hooks": sum(inside) / max(1, len(inside))}


def ours(config: Any, cell: runner.Training) -> list[float]:
    """Train as a cell does; seconds that our hooks took at every iteration."""
    spent: list[float] = []
    genuine = {hook: hook.after_train_iter for hook in (hooks.WatchLoss, hooks.WatchClock, hooks.KeepLast)}

    def clocked(method: Any) -> Any:
        def wrapper(*arguments: Any, **named: Any) -> None:
            began = time.perf_counter()
            method(*arguments, **named)
            spent.append(time.perf_counter() - began)

        return wrapper

    try:
        for hook, method in genuine.items():
            hook.after_train_iter = clocked(method)
        runner.train(config, cell)
    finally:
        for hook, method in genuine.items():
            hook.after_train_iter = method
    return [sum(spent[at : at + len(genuine)]) for at in range(0, len(spent), len(genuine))]


def bare(config: Any, cell: runner.Training) -> list[float]:
    """Train with mmengine alone, from the same configuration."""
    mmengine.device.utils.DEVICE = cell.device.type
    runner._complete(config, cell)
    made = Runner.from_cfg(config)
    made.train()
    return []
