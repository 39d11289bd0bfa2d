"""Freeze the backbone of a model of mmseg or mmdet, whatever its class, and check that it stayed as it was."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from kdep.models.checkpoints.checkpoint import LoadError
from kdep_benchmarks.openmmlab.hooks import LoadExactly, bare


def freeze(model: nn.Module) -> None:
    """Keep the backbone in evaluation mode and without gradients, also when the toolbox asks it to train.

    The toolboxes' own `frozen_stages` and `norm_eval` are options of some backbones only: `TIMMBackbone` has neither.
    The loop of mmengine calls `model.train()` before it trains. That call reaches the backbone, where it now has no
    effect.
    """
    backbone = bare(model).backbone
    backbone.eval()  # not chained: MobileNetV2.train of both toolboxes returns None
    backbone.requires_grad_(False)
    backbone.forward = torch.no_grad()(backbone.forward)

    def train(mode: bool = True) -> nn.Module:
        return backbone

    backbone.train = train


class StayFrozen(Hook):
    """Check after training that every tensor of the backbone is the student's, bit by bit.

    Args:
        load: the hook that loads the student; its report gets the number of tensors that stayed.
    """

    def __init__(self, load: LoadExactly) -> None:
        self.load = load

    def after_train(self, runner: Runner) -> None:
        """Compare parameters and BatchNorm statistics."""
        live: dict[str, Any] = bare(runner.model).backbone.state_dict()
        weights = self.load.weights
        changed = [name for name, tensor in weights.items() if not torch.equal(live[name].cpu(), tensor.cpu())]
        if changed:
            raise LoadError(f"{self.load.checkpoint.name}: {len(changed)} frozen tensors changed: {changed[:3]}")
        self.load.report["frozen"] = len(weights)
