"""Fine-tune a whole network with a new linear classifier on reproducible augmented views, and predict."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from kdep.config import Optim
from kdep.data.loading.order import Order
from kdep.data.loading.views import Augmentation, Views, load
from kdep.data.sources.names import Names
from kdep.models.backbones.backbone import build_backbone
from kdep.models.checkpoints.checkpoint import Checkpoint, load_exactly
from kdep.run.device import choose_precision, computing_in
from kdep.run.optim import learning_rate, make_optimizer
from kdep_benchmarks.data.images import Labelled, Splits
from kdep_benchmarks.tasks.features import as_input, frames
from kdep_benchmarks.tasks.progress import Bar
from kdep_benchmarks.tasks.settings import Finetune
from kdep_benchmarks.tasks.task import Task
from kdep_benchmarks.tasks.training_state import ENDED, LAST, Trainings, forget_others, set_random_state


class Work(NamedTuple):
    """The saved trainings of a cell, and one progress bar over the steps of all of them."""

    trainings: Trainings
    bar: tqdm


@contextmanager
def going_on(
    checkpoint: Checkpoint,
    task: Task,
    splits: Splits,
    settings: Finetune,
    *,
    points: int,
    seed: int,
    work_dir: Path,
    device: torch.device,
) -> Iterator[Work]:
    """Open the trainings that an interrupted cell with the same arguments left in its folder, and the progress bar.

    Trainings of other cells are deleted. Each of the `points` of a grid is trained on train, then the best one on train
    and val. A single point is trained only on train and val.
    """
    # A requeued cell may meet another card, which computes in another precision.
    computed = {"device": device.type, "precision": str(choose_precision(settings.precision, device))}
    whose = {"checkpoint": checkpoint.identity, "settings": vars(settings), "seed": seed, **computed}
    forget_others(work_dir, task, whose, left=[LAST, ENDED])
    total = steps_of(settings, len(splits.pool)) + (points * steps_of(settings, len(splits.train)) if points > 1 else 0)
    with Bar(work_dir, total=total, unit="step") as bar:
        yield Work(Trainings(work_dir), bar)


class Part:
    """The images at some positions, as a source of views."""

    def __init__(self, images: Labelled, positions: np.ndarray) -> None:
        self.images, self.positions = images, positions
        self.names = Names(images.names[position] for position in positions)
        self.fingerprint = ""  # views do not use it

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
    work: Work,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train at every (lr, weight decay) and choose by accuracy on val after the last epoch; ties go to the first.

    Returns:
        The chosen values with their flags, and the curves.

    Raises:
        ValueError: every training diverges.
    """
    labels = torch.from_numpy(splits.pool.labels[splits.val])
    steps = steps_of(settings, len(splits.train))
    top1: list[float | None] = []
    for number, at in enumerate(grid):
        name = name_of(at, final=False)
        if name not in work.trainings:
            try:
                given = {"final": False, "seed": seed, "device": device, "work": work}
                scores, _ = train_and_predict(checkpoint, splits, settings, at, **given)
                work.trainings.end(name, 100.0 * int((scores.argmax(1) == labels).sum()) / len(labels))
            except FloatingPointError:
                work.trainings.end(name, None)  # recorded, so that a resumed cell does not train it again
        top1.append(work.trainings[name])
        show(work.bar, (number + 1) * steps)
    if all(value is None for value in top1):
        raise ValueError(f"fine-tuning diverges at every lr of {list(settings.lr)}; use lower ones")
    best = max(range(len(grid)), key=lambda number: -1.0 if top1[number] is None else top1[number])
    return flagged(grid[best], settings), {
        "lr": [at[0] for at in grid],
        "weight_decay": [at[1] for at in grid],
        "val_top1": top1,
    }


def flagged(at: tuple[float, float], settings: Finetune) -> dict[str, Any]:
    """Return the values with flags: `_fixed` if the task gives one value, else whether it is `_at_edge` of its grid."""
    chosen: dict[str, Any] = {"lr": at[0], "weight_decay": at[1]}
    for key, value, values in (("lr", at[0], settings.lr), ("weight_decay", at[1], settings.weight_decay)):
        if len(values) == 1:
            chosen[f"{key}_fixed"] = True
        else:
            chosen[f"{key}_at_edge"] = value in (min(values), max(values))
    return chosen


def train_and_predict(
    checkpoint: Checkpoint,
    splits: Splits,
    settings: Finetune,
    at: tuple[float, float],
    *,
    final: bool,
    seed: int,
    device: torch.device,
    work: Work | None = None,
) -> tuple[torch.Tensor, float]:
    """Train at one (lr, weight decay) on train and predict val; if `final`, train on train and val and predict test.

    Returns:
        Scores (N, C), and the training's images per second.

    Raises:
        FloatingPointError: a loss is not finite.
        ValueError: an image cannot be read.
    """
    positions = np.arange(len(splits.pool)) if final else splits.train
    torch.manual_seed(seed)
    backbone = build_backbone(checkpoint, tap="post")
    model = nn.Sequential(backbone, nn.Linear(backbone.dim, len(splits.pool.classes)))
    model = model.to(device, memory_format=torch.channels_last)
    name = name_of(at, final=final)
    speed = train(model, splits.pool, positions, settings, at, seed=seed, device=device, name=name, work=work)
    images, asked = (splits.test, np.arange(len(splits.test))) if final else (splits.pool, splits.val)
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
    name: str = "",
    work: Work | None = None,
) -> float:
    """Train the whole network in place for all epochs, with BatchNorm in training mode.

    Resumes after the last finished epoch if `work` holds the training `name`. On a CPU the result is bit for bit that
    of an uninterrupted training.

    Returns:
        Images per second, including reading and decoding, over all interrupted and resumed parts.
    """
    trainings, bar = work or Work(Trainings(None), tqdm(disable=True))
    optim = as_optim(settings, at, images=len(positions))
    optimizer, dtype = make_optimizer(model, optim), choose_precision(settings.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    labels = torch.from_numpy(images.labels[positions])
    done = trainings.state(name)
    start, seconds = (0, 0.0) if done is None else (done["step"], done["seconds"])
    order = Order(len(positions), optim.batch_size, settings.epochs, seed, start)
    augmentation = Augmentation(settings.size, settings.crop_scale, settings.flip)
    views, pin = Views(Part(images, positions), augmentation, seed), device.type == "cuda"
    batches = zip(order, load(views, order, workers=settings.workers, pin=pin), strict=True)
    if done is not None:
        load_exactly(model, done["model"], name)
        optimizer.load_state_dict(done["optimizer"])
        scaler.load_state_dict(done["scaler"])
        set_random_state(done["random"])  # last, because starting the loader's workers draws a random number
    bar.set_description(name, refresh=False)
    show(bar, bar.n + start)
    losses: list[torch.Tensor] = []
    model.train()
    started = time.perf_counter()
    for step, (numbers, batch) in enumerate(batches, start):
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
        if (step + 1) % order.steps_per_epoch == 0:
            bar.set_postfix(loss=f"{_mean(losses, at):.3f}")
            losses = []
            seconds += time.perf_counter() - started  # computing the mean loss has waited for the device
            parts = {"model": model, "optimizer": optimizer, "scaler": scaler}
            state = {key: part.state_dict() for key, part in parts.items()}
            trainings.save(name, {"step": step + 1, "seconds": seconds, **state})
            started = time.perf_counter()
    return optim.batch_size * order.steps_per_epoch * settings.epochs / seconds


def name_of(at: tuple[float, float], *, final: bool) -> str:
    """Name a training in the cell's folder and on the progress bar."""
    return f"lr {at[0]!r} wd {at[1]!r}" + (" on train and val" if final else "")


def steps_of(settings: Finetune, images: int) -> int:
    """Count the steps of one training on a number of images."""
    return len(Order(images, as_optim(settings, (settings.lr[0], 0.0), images=images).batch_size, settings.epochs, 0))


def show(bar: tqdm, steps: int) -> None:
    """Set the bar to a step; skipped steps do not count in its estimate of the remaining time."""
    if not bar.disable:
        bar.initial += steps - bar.n
        bar.n = bar.last_print_n = steps
        bar.refresh()


def as_optim(settings: Finetune, at: tuple[float, float], *, images: int) -> Optim:
    """Convert the settings for `kdep.run.optim`; a set smaller than a batch is one batch."""
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
    """Predict scores (N, C) in eval mode, on the CPU, with the batch size of training."""
    model.eval()
    at_once = settings.model_copy(update={"batch_size": math.ceil(settings.batch_size / settings.accumulate)})
    with torch.no_grad():
        batches = frames(images, positions, pixels=at_once, device=device)
        return torch.cat([model(as_input(batch, device)).float().cpu() for batch in batches])


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _mean(losses: list[torch.Tensor], at: tuple[float, float]) -> float:
    value = float(torch.stack(losses).mean())
    if not math.isfinite(value):
        raise FloatingPointError(f"fine-tuning: the loss is {value} at lr {at[0]:g}; use a lower lr")
    return value
