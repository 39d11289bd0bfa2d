"""The main path, top to bottom: config -> teacher, statistics, target -> student -> student.pth."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from kdep.config import Config, Loss
from kdep.data.views import Order, Views, load, mix
from kdep.method.loss import Learner, make_head, make_loss, mse
from kdep.method.scale import make_scaler
from kdep.models.checkpoint import write_student
from kdep.models.forms import choose_student, sample
from kdep.parts import make_pixels, open_student, open_views
from kdep.run.device import Process, choose_precision, computing_in, join
from kdep.run.folder import RunFolder
from kdep.run.journal import Journal
from kdep.run.optim import learning_rate, make_optimizer
from kdep.run.provenance import as_checkpoint, report
from kdep.run.resume import Training, resume, save_run
from kdep.teaching import Known, bank_source, labels_source, make_target, match_student, teacher_source, without_match

logger = logging.getLogger("kdep")

Comparison = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def pretrain(config: Config) -> Path:
    """Distil the teacher into the student and return the path of student.pth.

    Started again with the same configuration it goes on where it was interrupted.

    Raises:
        ValueError: something in the configuration or the data cannot be.
        LoadError: weights that do not load completely.
        DivergedError: the loss is no longer finite; the last good run checkpoint stays.
    """
    process = join(config.device)
    run = RunFolder(config, is_first=process.is_first)
    if run.student.exists():
        logger.info("%s is already done: %s", config.name, run.student)
        return run.student
    if config.optim.batch_size % process.world:
        raise ValueError(f"optim.batch_size={config.optim.batch_size} does not divide among {process.world} processes")
    choose_precision(config.precision, process.device)  # refused before a bank is made
    views = open_views(config, process)
    student = open_student(config).to(process.device)
    scaler = make_scaler(config.scale.name, without_match(config.scale))
    find_known = labels_source if config.loss.name == "labels" else bank_source if config.bank else teacher_source
    known = find_known(config, student, views, run, process)
    target, width = make_target(config, student, known, scaler)
    run.bind()  # teacher, images and student go together: from here on the run's only configuration
    if known.statistics is not None:
        report(config, known.statistics, student, target)
    learner = Learner(student, make_head(config, student.dim, width)).to(process.device)
    match_student(config, student, known, target.to(process.device), views, process)
    loss = make_loss(config.loss, width)
    seen = train(config, learner, known, target, loss, views, run, process)
    if process.is_first:
        write_student(as_checkpoint(config, student, known, views, seen, run.forms), run.student)
        run.draw_loss()
        logger.info("student written: %s", run.student)
    process.wait()
    return run.student


def distill_loss(
    learner: nn.Module, targets: torch.Tensor, images: torch.Tensor, loss: Loss, compare: Comparison = mse
) -> torch.Tensor:
    """How far the student is from the aligned teacher on the same pixels; the method's comparison is `mse`.

    Args:
        learner: (B, 3, S, S) -> (B, D), the student, with its head if it has one.
        targets: (B, 1 + positions, D), pooled first; or class numbers (B, 1).
        images: (B, 3, S, S).
        loss: weights of the pooled and of the dense term.
        compare: of `kdep.method.loss`.
    """
    if targets.shape[1] == 1:
        return loss.factor * compare(learner(images).float(), targets[:, 0])
    pooled, maps = learner(images, with_map=True)
    dense = F.mse_loss(maps.float().flatten(2).transpose(1, 2), targets[:, 1:])
    return loss.factor * compare(pooled.float(), targets[:, 0]) + loss.dense * dense


def train(
    config: Config,
    learner: Learner,
    known: Known,
    target: nn.Module,
    loss: Comparison,
    views: Views,
    run: RunFolder,
    process: Process,
) -> int:
    """Train to the last step, saving on the way; returns the number of images seen."""
    optim, device, student = config.optim, process.device, learner.student
    compare = loss.to(device) if isinstance(loss, nn.Module) else loss
    noise = sample(optim.batch_size // process.world, config.data.size, device)
    chosen = choose_student(
        student,
        noise,
        precision=config.precision,
        tune=config.tune,
        process=process,
        earlier=run.forms.get("student"),
    )
    run.forms["student"], precision = chosen.name, chosen.precision
    optimizer = make_optimizer(learner, optim)
    gradients = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    torch.manual_seed(config.seed)  # dropout draws the same with a live teacher and from a bank
    state = Training(learner, compare, optimizer, gradients)
    step, seen = resume(run, state)
    images = len(views.source.names)
    order = Order(images, optim.batch_size, optim.epochs, config.seed, step, process.rank, process.world, known.views)
    model = nn.parallel.DistributedDataParallel(learner) if process.world > 1 else learner
    model.train()
    to_pixels = make_pixels(views.augmentation, device)
    journal = Journal(config, run, order.steps_per_epoch, show=process.is_first, step=step, seen=seen)
    batches = iter(load(views, order, workers=config.data.workers, pin=device.type == "cuda"))
    total = optim.epochs * order.steps_per_epoch
    with journal:
        while step < total:
            with journal.waiting():
                batch = next(batches)
            run.note_unreadable(batch.unreadable, limit=config.data.max_unreadable, images=images)
            if batch.images is None:
                raise ValueError(f"step {step}: no image of the batch is readable; see {run.unreadable_list}")
            rate = learning_rate(optim, step, order.steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with computing_in(precision, device):
                pixels = to_pixels(batch)
                if config.data.mixup:
                    pixels = mix(pixels, seed=config.seed, step=step)
                targets = target(known.features(batch, pixels))
                value = distill_loss(model, targets, pixels, config.loss, compare)
            optimizer.zero_grad(set_to_none=True)
            gradients.scale(value).backward()
            if optim.clip is not None:
                gradients.unscale_(optimizer)
                nn.utils.clip_grad_norm_(learner.parameters(), optim.clip)
            gradients.step(optimizer)
            gradients.update()
            step, seen = step + 1, seen + len(batch.images) * process.world
            journal.step(value.detach(), len(batch.images) * process.world, rate)
            if step % config.log.every == 0 or step == total:
                journal.flush()
            if step % config.log.checkpoint_every == 0 or step == total:
                journal.flush()
                if process.is_first:
                    save_run(run, state, step, seen)
    return seen
