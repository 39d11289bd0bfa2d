"""Save the state of a training run, and restore it.

Each process draws random numbers of its own (dropout), on its CPU and on its GPU, and goes on where it was.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from kdep.files import flush, save
from kdep.method.loss import Criterion
from kdep.method.rivals import Learner
from kdep.models.backbones.backbone import Backbone
from kdep.models.checkpoints.checkpoint import LoadError, load_exactly
from kdep.run.distributed.processes import Process
from kdep.run.folder import RunFolder

logger = logging.getLogger("kdep")


class Watching(Protocol):
    """Looks at the student while it trains, and may stop the run; see `kdep.probe.watch`."""

    @property
    def stops(self) -> bool:
        """Whether the run ends now."""

    def look(self, student: Backbone, step: int, seen: int) -> dict[str, float]:
        """Score the student after a step and so many images."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: plain values and tensors; empty where there is nothing to keep."""

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""


@dataclass(frozen=True)
class Training:
    """Everything with a state that a resumed run restores, and the precision in which the student computes.

    `sources` are hashes of what the run is made from: teacher and images. `watch` decides when a run stops early.
    `average` is the running average of the student, for optim.ema.
    """

    learner: Learner
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    gradients: torch.amp.GradScaler
    precision: torch.dtype
    sources: Mapping[str, str]
    watch: Watching | None = None
    average: AveragedModel | None = None

    @property
    def exported(self) -> Backbone:
        """The student that the run exports and looks at: the average of the student's weights, or the student."""
        return self.learner.student if self.average is None else self.average.module

    def parts(self) -> dict[str, nn.Module]:
        """Modules with a state: the student, its head, a criterion that keeps a queue, and the average."""
        learner = {"student": self.learner.student, "head": self.learner.head}
        found = {**learner, "criterion": self.criterion, "average": self.average}
        return {name: part for name, part in found.items() if isinstance(part, nn.Module)}

    def update(self, loss: torch.Tensor, rate: float, *, clip: float | None) -> None:
        """Take one optimizer step at a learning rate, with the gradient's norm clipped to `clip`."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.gradients.scale(loss).backward()
        if clip is not None:
            self.gradients.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.learner.parameters(), clip)
        self.gradients.step(self.optimizer)
        self.gradients.update()
        if self.average is not None:
            self.average.update_parameters(self.learner.student)


def seed_random(seed: int, process: Process) -> None:
    """Seed the random numbers of the training. The first process draws what a single one would."""
    own = np.random.SeedSequence([seed, process.rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    torch.manual_seed(seed if process.is_first else int(own))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states of the random numbers, of the CPU and of a GPU."""
    state = {"cpu": torch.get_rng_state()}
    return state if device.type == "cpu" else {**state, "cuda": torch.cuda.get_rng_state(device)}


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def resume(run: RunFolder, training: Training) -> tuple[int, int]:
    """Restore the last run checkpoint; returns (step, images seen), (0, 0) without one.

    Raises:
        ValueError: the checkpoint is damaged; names it.
    """
    state = run.load_checkpoint()
    if state is None:
        return 0, 0
    try:
        for name, part in training.parts().items():
            load_exactly(part, state[name], str(run.checkpoint))
        load_optimizer(training.optimizer, state["optimizer"])
        training.gradients.load_state_dict(state["gradients"])
        set_random_state(state["random"][run.process.rank], run.process.device)
        if training.watch is not None and state["watch"]:
            training.watch.load(state["watch"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, LoadError):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{run.checkpoint}: does not fit the training ({reason}); {run.begin_again}") from error
    if run.process.is_first:
        logger.info("resumed at step %d from %s", state["step"], run.checkpoint)
    return state["step"], state["images_seen"]


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore what an optimizer keeps of every parameter.

    Its settings are those of the configuration.

    Raises:
        ValueError: something has another shape than its parameter, or is not finite.
        KeyError, TypeError, AttributeError: another content than `state_dict` gives.
    """
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            tensor = torch.as_tensor(0.0 if value is None else value)
            if (tensor.ndim and tensor.shape != parameter.shape) or not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} of the optimizer is {tuple(tensor.shape)} for {tuple(parameter.shape)}")


def save_run(run: RunFolder, training: Training, step: int, seen: int) -> None:
    """Write run.pt, with the random states of all processes. Every process calls this.

    Raises:
        DivergedError: the last step made a weight NaN or infinite, although its loss was finite.
    """
    if not all(bool(tensor.isfinite().all()) for tensor in training.learner.state_dict().values()):
        raise run.diverged(f"the weights are no longer finite after step {step}")
    random = run.process.gather(random_state(run.process.device))
    if not run.process.is_first:
        return
    if run.log.exists():
        flush(run.log)  # a checkpoint must not survive a power cut that its log does not
    save(
        {
            "step": step,
            "sources": dict(training.sources),
            "images_seen": seen,
            **{name: part.state_dict() for name, part in training.parts().items()},
            "optimizer": training.optimizer.state_dict(),
            "gradients": training.gradients.state_dict(),
            "random": random,
            "processes": run.processes,
            "watch": {} if training.watch is None else training.watch.state(),
        },
        run.checkpoint,
    )
