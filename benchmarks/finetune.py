"""Fine-tuning: the whole network and a new linear classifier, trained on deterministic views, scored at the end."""

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from benchmarks.features import as_input, frames
from benchmarks.images import Labelled, Splits
from benchmarks.settings import Finetune
from kdep.backbone import build_backbone
from kdep.checkpoint import Checkpoint
from kdep.config import Optim
from kdep.data import Augmentation, Order, Views, load
from kdep.device import choose_precision, computing_in
from kdep.optim import learning_rate, make_optimizer
from kdep.sources import Names


class DivergedError(ValueError):
    """The loss is no longer finite."""


class Part:
    """The images of some positions, as a source of views."""

    def __init__(self, images: Labelled, positions: np.ndarray) -> None:
        self.images, self.positions = images, positions
        self.names = Names(images.names[position] for position in positions)
        self.fingerprint = ""  # views need none

    def read(self, index: int) -> Any:
        """Decode image `index` to RGB."""
        return self.images.read(int(self.positions[index]))


def choose(
    checkpoint: Checkpoint,
    splits: Splits,
    settings: Finetune,
    *,
    grid: list[tuple[float, float]],
    seed: int,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train on fit at every (lr, weight decay) and take the best last epoch on select, the first of equals.

    Returns:
        What was chosen, and the curves.

    Raises:
        ValueError: every one of them diverges.
    """
    labels = torch.from_numpy(splits.pool.labels[splits.select])
    top1: list[float | None] = []
    for at in grid:
        try:
            scores, _ = train_and_predict(checkpoint, splits, settings, at, final=False, seed=seed, device=device)
            top1.append(100.0 * int((scores.argmax(1) == labels).sum()) / len(labels))
        except DivergedError:
            top1.append(None)  # a learning rate too high is an answer, too
    if all(value is None for value in top1):
        raise ValueError(f"fine-tuning diverges at every lr of {list(settings.lr)}; use lower ones")
    best = max(range(len(grid)), key=lambda number: -1.0 if top1[number] is None else top1[number])
    lr, decay = grid[best]
    chosen = {"lr": lr, "weight_decay": decay}
    for key, value, values in (("lr", lr, settings.lr), ("weight_decay", decay, settings.weight_decay)):
        chosen[f"{key}_at_edge"] = len(values) > 1 and value in (min(values), max(values))
    return chosen, {"lr": [at[0] for at in grid], "weight_decay": [at[1] for at in grid], "select_top1": top1}


def train_and_predict(
    checkpoint: Checkpoint,
    splits: Splits,
    settings: Finetune,
    at: tuple[float, float],
    *,
    final: bool,
    seed: int,
    device: torch.device,
) -> tuple[torch.Tensor, float]:
    """Train at one (lr, weight decay), on fit for select or, `final`, on fit and select for score.

    Returns:
        Scores (N, C), and the images per second of the training.

    Raises:
        DivergedError: a loss is not finite.
        ValueError: an image cannot be read.
    """
    positions = np.arange(len(splits.pool)) if final else splits.fit
    torch.manual_seed(seed)
    backbone = build_backbone(checkpoint, tap="post")
    model = nn.Sequential(backbone, nn.Linear(backbone.dim, len(splits.pool.classes)))
    model = model.to(device, memory_format=torch.channels_last)
    speed = train(model, splits.pool, positions, settings, at, seed=seed, device=device)
    images, asked = (splits.score, np.arange(len(splits.score))) if final else (splits.pool, splits.select)
    return predict(model, images, asked, settings, device=device), speed


def train(
    model: nn.Module,
    images: Labelled,
    positions: np.ndarray,
    settings: Finetune,
    at: tuple[float, float],
    *,
    seed: int,
    device: torch.device,
) -> float:
    """Train in place for all epochs, BatchNorm included: the network is trained as a whole.

    Returns:
        Images per second, reading and decoding included.
    """
    optim = as_optim(settings, at, images=len(positions))
    optimizer, dtype = make_optimizer(model, optim), choose_precision(settings.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    labels = torch.from_numpy(images.labels[positions])
    order = Order(len(positions), optim.batch_size, settings.epochs, seed)
    augmentation = Augmentation(settings.size, settings.crop_scale, settings.flip)
    views, pin = Views(Part(images, positions), augmentation, seed), device.type == "cuda"
    loader = load(views, order, workers=settings.workers, pin=pin)
    bar = tqdm(total=len(order), desc=f"lr {at[0]:g} wd {at[1]:g}", unit="step", mininterval=1)
    losses: list[torch.Tensor] = []
    model.train()
    seen, started = 0, time.perf_counter()
    for step, (numbers, batch) in enumerate(zip(order, loader, strict=True)):
        if batch.unreadable:
            raise ValueError(batch.unreadable[0][1].removeprefix("ValueError: "))
        _set_rate(optimizer, learning_rate(optim, step, order.steps_per_epoch))
        truth = labels[[index for index, _ in numbers]]
        optimizer.zero_grad()
        for part, wanted in zip(batch.images.chunk(settings.accumulate), truth.chunk(settings.accumulate), strict=True):
            with computing_in(dtype, device):
                loss = F.cross_entropy(model(as_input(part, device)).float(), wanted.to(device, non_blocking=True))
            scaler.scale(loss * len(wanted) / len(truth)).backward()
            losses.append(loss.detach())
        scaler.step(optimizer)
        scaler.update()
        bar.update()
        seen += len(truth)
        if (step + 1) % order.steps_per_epoch == 0:
            bar.set_postfix(loss=f"{_mean(losses, at):.3f}")
            losses = []
    bar.close()
    return seen / (time.perf_counter() - started)  # the last epoch's losses have been waited for


def as_optim(settings: Finetune, at: tuple[float, float], *, images: int) -> Optim:
    """The training recipe in the words of `kdep.optim`; a set smaller than a batch is one batch."""
    return Optim(
        name=settings.optimizer,
        epochs=settings.epochs,
        batch_size=min(settings.batch_size, images),
        lr=at[0],
        weight_decay=at[1],
        momentum=settings.momentum,
        schedule=settings.schedule,
        lr_step_epochs=settings.lr_step_epochs,
        warmup_epochs=min(settings.warmup_epochs, settings.epochs / 2),
    )


def predict(
    model: nn.Module, images: Labelled, positions: np.ndarray, settings: Finetune, *, device: torch.device
) -> torch.Tensor:
    """Scores (N, C) on the CPU of the images at `positions`, in eval mode, as many at once as in training."""
    model.eval()
    at_once = replace(settings, batch_size=math.ceil(settings.batch_size / settings.accumulate))
    with torch.no_grad():
        batches = frames(images, positions, pixels=at_once)
        return torch.cat([model(as_input(batch, device)).float().cpu() for batch in batches])


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _mean(losses: list[torch.Tensor], at: tuple[float, float]) -> float:
    value = float(torch.stack(losses).mean())
    if not math.isfinite(value):
        raise DivergedError(f"fine-tuning: the loss is {value} at lr {at[0]:g}; use a lower one")
    return value
