"""What an interrupted run takes up, and how it is kept."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from kdep.files import save
from kdep.method.loss import Learner
from kdep.models.checkpoint import load_exactly
from kdep.run.folder import RunFolder

logger = logging.getLogger("kdep")


@dataclass(frozen=True)
class Training:
    """What a resumed run takes up."""

    learner: Learner
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    optimizer: torch.optim.Optimizer
    gradients: torch.amp.GradScaler

    def parts(self) -> dict[str, nn.Module]:
        """Modules with a state: the student, and what learns or remembers beside it."""
        found = {"student": self.learner.student, "head": self.learner.head, "loss": self.loss}
        return {name: part for name, part in found.items() if isinstance(part, nn.Module)}


def resume(run: RunFolder, training: Training) -> tuple[int, int]:
    """Take up the last good state; returns (step, images seen)."""
    state = run.load_checkpoint()
    if state is None:
        return 0, 0
    for name, part in training.parts().items():
        load_exactly(part, state[name], str(run.checkpoint))
    training.optimizer.load_state_dict(state["optimizer"])
    training.gradients.load_state_dict(state["gradients"])
    torch.set_rng_state(state["random"])
    logger.info("resumed at step %d from %s", state["step"], run.checkpoint)
    return state["step"], state["images_seen"]


def save_run(run: RunFolder, training: Training, step: int, seen: int) -> None:
    """Write run.pt, unless the last step ruined the weights: its loss was still finite."""
    if not all(bool(tensor.isfinite().all()) for tensor in training.learner.state_dict().values()):
        raise run.diverged(f"the weights are no longer finite after step {step}")
    save(
        {
            "step": step,
            "images_seen": seen,
            **{name: part.state_dict() for name, part in training.parts().items()},
            "optimizer": training.optimizer.state_dict(),
            "gradients": training.gradients.state_dict(),
            "random": torch.get_rng_state(),
            "forms": run.forms,
        },
        run.checkpoint,
    )
