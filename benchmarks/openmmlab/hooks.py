"""What mmengine's Runner does at its own moments: load weights exactly, save for a restart, watch loss and clock."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from kdep.files import write_atomically
from kdep.models.checkpoint import Checkpoint, LoadError, load_exactly
from kdep_benchmarks.openmmlab.backbones import map_difference, toolbox_weights
from kdep_benchmarks.tasks.progress import Bar
from kdep_benchmarks.tasks.training_state import random_state

SECONDS = 60  # between training checkpoints


class LoadExactly(Hook):
    """Load the student into the model's backbone when training begins, or raise.

    Earlier would be too early: `Runner.train` calls `init_weights`, which overwrites what was loaded before. A resumed
    run (`runner.iter > 0`) keeps the weights that it had reached.
    """

    def __init__(self, checkpoint: Checkpoint, toolbox: str) -> None:
        self.checkpoint, self.toolbox = checkpoint, toolbox

    def before_train(self, runner: Runner) -> None:
        """Load, then compare tensors bit by bit and maps with the student's own."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        weights = toolbox_weights(self.checkpoint.arch, self.checkpoint.weights, self.toolbox)
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
    """Keep one training checkpoint, replaced in one step, that opens without running code.

    mmengine's own hook removes the old file before it writes the new one, and writes objects that torch >= 2.6 refuses
    to read back. The objects are the log's memory, its smoothed histories above all; it is left out.

    Args:
        path: the checkpoint.
        every: optimizer steps between two; None for one whenever `SECONDS` have passed, so that a run of any length
            loses as much by an interruption, and little by saving.
        accumulate: iterations per optimizer step; gradients that are half gathered are not kept.
    """

    priority = "VERY_LOW"  # after the schedulers have stepped

    def __init__(self, path: Path, *, every: int | None, accumulate: int) -> None:
        self.path, self.every, self.accumulate = path, every, accumulate
        self.saved = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save now and then, and after the last iteration, so that an interrupted scoring need not train again."""
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
        """Leave out what the log has gathered, which a resumed run gathers anew, and add the random numbers' state."""
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
    """Record the training loss now and then, and stop a run that has diverged."""

    def __init__(self, *, every: int) -> None:
        self.every = every
        self.iterations: list[int] = []
        self.losses: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Read the loss, which waits for the device; hence not at every iteration."""
        if self.every_n_train_iters(runner, self.every) or self.is_last_train_iter(runner):
            loss = outputs["loss"].item()
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at iteration {runner.iter + 1}; a lower lr, a longer warmup or clip_grad helps"
                )
            self.iterations.append(runner.iter + 1)
            self.losses.append(loss)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Let the curve survive an interruption."""
        checkpoint["meta"]["curve"] = [self.iterations, self.losses]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Go on with the curve."""
        self.iterations, self.losses = checkpoint["meta"]["curve"]


class WatchClock(Hook):
    """Time the training between the ends of its first and of its last iteration in this process.

    The first one warms up. Registered behind `WatchLoss`, whose look at the last loss has waited for the device.
    """

    def __init__(self) -> None:
        self.iterations = 0
        self.first = self.last = 0.0  # when the first iteration ended, and the last so far

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note the time."""
        self.iterations += 1
        self.last = time.perf_counter()
        if self.iterations == 1:
            self.first = self.last

    @property
    def iterations_per_second(self) -> float | None:
        """None after fewer than two iterations, as where a restarted cell had only its scoring left."""
        return (self.iterations - 1) / (self.last - self.first) if self.iterations > 1 else None
