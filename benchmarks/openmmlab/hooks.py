"""Hooks of mmengine's Runner: load the student exactly, save checkpoints, record the loss, measure the speed."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from kdep.files import write_atomically
from kdep.models.checkpoints.checkpoint import Checkpoint, LoadError, load_exactly
from kdep_benchmarks.openmmlab.backbones import map_difference, toolbox_weights
from kdep_benchmarks.tasks.progress import Bar
from kdep_benchmarks.tasks.training_state import random_state

SECONDS = 60  # between training checkpoints


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without what wraps it where several processes train it."""
    return model.module if is_model_wrapper(model) else model


class LoadExactly(Hook):
    """Load the student into the model's backbone when training begins, or raise.

    `Runner.train` calls `init_weights`, which would overwrite weights that were loaded earlier. A resumed run
    (`runner.iter > 0`) keeps its own weights.
    """

    def __init__(self, checkpoint: Checkpoint, toolbox: str) -> None:
        self.checkpoint, self.toolbox = checkpoint, toolbox

    def before_train(self, runner: Runner) -> None:
        """Load the weights, compare the tensors bit by bit, and compare the feature maps with the student's."""
        model = bare(runner.model)
        weights = self.weights = toolbox_weights(self.checkpoint.arch, self.checkpoint.weights, self.toolbox)
        config = runner.cfg.model.backbone.to_dict()
        # Also on resume: the check costs a second, and the result's row reports it.
        difference = map_difference(config, weights, self.checkpoint, model.data_preprocessor, self.toolbox)
        if runner.iter == 0:
            load_exactly(model.backbone, weights, f"{self.checkpoint.name} in {self.toolbox}")
            live = model.backbone.state_dict()
            changed = [name for name, tensor in weights.items() if not torch.equal(live[name].cpu(), tensor.cpu())]
            if changed:
                raise LoadError(f"{self.checkpoint.name}: {len(changed)} tensors changed on loading: {changed[:3]}")
        self.report = {
            "tensors": len(weights),
            "expected": len(model.backbone.state_dict()),
            "coverage": 100.0,
            "max_difference": difference,
            "student_tensors": len(self.checkpoint.weights),
        }


class KeepLast(Hook):
    """Keep one training checkpoint, replaced atomically, that opens with `weights_only=True`.

    mmengine's own hook deletes the old file before it writes the new one, and includes objects that torch >= 2.6 does
    not load. These objects are the log's history, which is left out here.

    Args:
        path: the checkpoint.
        every: optimizer steps between checkpoints; None saves every `SECONDS`.
        accumulate: iterations per optimizer step. Partly accumulated gradients are not saved.
    """

    priority = "VERY_LOW"  # after the schedulers have stepped

    def __init__(self, path: Path, *, every: int | None, accumulate: int) -> None:
        self.path, self.every, self.accumulate = path, every, accumulate
        self.saved = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save at intervals and after the last iteration, so that an interrupted evaluation does not train again."""
        if self._due(runner) or self.is_last_train_iter(runner):
            write_atomically(
                self.path, lambda part: runner.save_checkpoint(str(part.parent), part.name, by_epoch=False)
            )
            self.saved = time.monotonic()

    def _due(self, runner: Runner) -> bool:
        if self.every is not None:
            return self.every_n_train_iters(runner, self.every * self.accumulate)
        return self.every_n_train_iters(runner, self.accumulate) and time.monotonic() - self.saved >= SECONDS

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Leave out the log's history and add the state of the random number generators."""
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
        checkpoint["meta"]["random"] = random_state()


class TellProgress(Hook):
    """Write how far the training is to the cell's folder, at most once a second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before_train(self, runner: Runner) -> None:
        """Start where the run starts or resumes."""
        self.bar = Bar(self.folder, desc="training", total=runner.max_iters, initial=runner.iter, unit="it")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Count the iteration."""
        self.bar.update()


class WatchLoss(Hook):
    """Record the training loss every few iterations, and stop a run that diverges."""

    def __init__(self, *, every: int) -> None:
        self.every = every
        self.iterations: list[int] = []
        self.losses: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Read the loss. This waits for the device, so it does not happen at every iteration."""
        if self.every_n_train_iters(runner, self.every) or self.is_last_train_iter(runner):
            loss = outputs["loss"].item()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at iteration {runner.iter + 1}; use a lower lr, a longer warmup or clip_grad"
                )
            self.iterations.append(runner.iter + 1)
            self.losses.append(loss)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the curve."""
        checkpoint["meta"]["curve"] = [self.iterations, self.losses]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restore the curve."""
        self.iterations, self.losses = checkpoint["meta"]["curve"]


class WatchClock(Hook):
    """Measure the time from the end of the first to the end of the last iteration in this process.

    The first iteration is warm-up. Register it after `WatchLoss`, which waits for the device at the last iteration.
    """

    def __init__(self) -> None:
        self.iterations = 0
        self.first = self.last = 0.0  # when the first iteration ended, and the last so far

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Record the time."""
        self.iterations += 1
        self.last = time.perf_counter()
        if self.iterations == 1:
            self.first = self.last

    @property
    def iterations_per_second(self) -> float | None:
        """Return the speed; None after fewer than two iterations, as in a cell resumed after training."""
        return (self.iterations - 1) / (self.last - self.first) if self.iterations > 1 else None
