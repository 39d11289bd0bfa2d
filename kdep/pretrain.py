"""The main path, top to bottom: config -> teacher, statistics, target -> student -> student.pth."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from kdep import targets
from kdep.align import Target, map_on_grid
from kdep.backbone import Backbone
from kdep.bank import Bank
from kdep.checkpoint import Checkpoint, fingerprint, load_exactly, save, write_student
from kdep.config import Config, Loss
from kdep.data import Batch, Order, Views, load, once
from kdep.device import Process, choose_precision, join
from kdep.forms import choose_student, choose_teacher, sample
from kdep.journal import Journal
from kdep.optim import learning_rate, make_optimizer
from kdep.parts import data_identity, make_pixels, open_student, open_teacher, open_views, teacher_identity
from kdep.run import RunFolder, provenance_of_code
from kdep.scale import make_scaler
from kdep.statistics import (
    Moments,
    Statistics,
    effective_rank,
    explained,
    finish,
    merged,
    numerical_rank,
    std_ratio,
)

logger = logging.getLogger("kdep")


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
    views = open_views(config, process)
    student = open_student(config).to(process.device)
    scaler = make_scaler(config.scale.name, config.scale.options)
    source = bank_source if config.bank else teacher_source
    known = source(config, student, views, run, process)
    target = Target(known.statistics, student.dim, aligner=config.align.name, scaler=scaler, axes=known.axes)
    report(config, known.statistics, student, target)
    seen = train(config, student, known, target.to(process.device), views, run, process)
    if process.is_first:
        write_student(as_checkpoint(config, student, known, views, seen), run.student)
        run.draw_loss()
        logger.info("student written: %s", run.student)
    process.wait()
    return run.student


@dataclass(frozen=True)
class Known:
    """What is known of the teacher, live or from a bank.

    Attributes:
        statistics: of its features.
        tap: where they were taken.
        features: (batch, its pixels) -> features (B, 1 or 1 + grid^2, D_t or axes): pooled, then the map.
        axes: number of leading axes in which the features come, None as they are.
        bank: where they are stored, None with a live teacher.
        views: distinct views per image, None for a new one in every epoch.
    """

    statistics: Statistics
    tap: str
    features: Callable[[Batch, torch.Tensor], torch.Tensor]
    axes: int | None = None
    bank: Bank | None = None
    views: int | None = None


def teacher_source(config: Config, student: Backbone, views: Views, run: RunFolder, process: Process) -> Known:
    """A live teacher beside the student."""
    teacher = open_teacher(config).to(process.device, memory_format=torch.channels_last)
    grid = targets.grid_of(config, student)
    run.bind()
    statistics = teacher_statistics(config, teacher, views, run, process)
    images = sample(config.optim.batch_size // process.world, config.data.size, process.device)
    teacher = choose_teacher(teacher, images, tune=config.tune, process=process)

    def features(_: Batch, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if not grid:
                return teacher(images)[:, None]
            pooled, maps = teacher(images, with_map=True)
            return torch.cat([pooled[:, None], map_on_grid(maps, grid)], 1)

    return Known(statistics, teacher.tap, features)


def bank_source(config: Config, student: Backbone, views: Views, run: RunFolder, process: Process) -> Known:
    """A bank of targets, made first where it is not there."""
    bank = targets.ready(config, views, process, dim=student.dim, grid=targets.grid_of(config, student))
    rows = 1 + targets.grid_of(config, student) ** 2
    run.bind()
    if process.is_first:
        run.save_statistics(bank.statistics)

    def features(batch: Batch, images: torch.Tensor) -> torch.Tensor:
        return bank.decode(batch.stored[:, :rows].to(images.device, non_blocking=True))

    views.stored = bank
    about = bank.description
    return Known(
        bank.statistics, about.teacher["tap"], features, about.axes, bank, config.bank.views or config.optim.epochs
    )


def distill_loss(student: nn.Module, wanted: torch.Tensor, images: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Mean squared error between student features and aligned teacher features of the same pixels.

    Args:
        student: (B, 3, S, S) -> (B, D_s).
        wanted: (B, 1 + positions, D_s), pooled first.
        images: (B, 3, S, S).
        loss: weights of the pooled and of the dense term.
    """
    if wanted.shape[1] == 1:
        return loss.weight * F.mse_loss(student(images).float(), wanted[:, 0])
    pooled, maps = student(images, with_map=True)
    dense = F.mse_loss(maps.float().flatten(2).transpose(1, 2), wanted[:, 1:])
    return loss.weight * F.mse_loss(pooled.float(), wanted[:, 0]) + loss.dense * dense


def teacher_statistics(config: Config, teacher: Backbone, views: Views, run: RunFolder, process: Process) -> Statistics:
    """Moments of the teacher's features over the first view of every image, or of `align.images` of them."""
    identity = {"teacher": teacher_identity(teacher), "data": data_identity(views)}
    known = run.load_statistics(**identity)
    if known is not None:
        return known
    batches = once(
        len(views.source.names),
        config.optim.batch_size,
        count=config.align.images,
        seed=config.view_seed,
        rank=process.rank,
        world=process.world,
    )
    moments = Moments(teacher.dim)
    pixels = make_pixels(views.augmentation, process.device)
    # TF32 convolutions would drown the small axes in rounding noise and hide a teacher's missing rank.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        batches = load(views, batches, workers=config.data.workers, pin=process.device.type == "cuda")
        bar = tqdm(batches, "statistics", disable=not process.is_first)
        for batch in bar:
            run.note_unreadable(batch.unreadable, limit=config.data.max_unreadable, images=len(views.source.names))
            if batch.images is not None:
                moments.add(teacher(pixels(batch)))
    statistics = finish(merged(process.gather(moments)), **identity)
    if process.is_first:
        run.save_statistics(statistics)
    return statistics


def report(config: Config, statistics: Statistics, student: Backbone, target: Target) -> None:
    """Say what the student is asked to learn."""
    std = statistics.variances.sqrt()
    logger.info(
        "teacher: %d features, numerical rank %d, effective rank %.0f; std ratio %.1f of the channels, %.1f of the %d "
        "leading axes, which hold %.1f %% of the variance",
        len(std),
        numerical_rank(statistics),
        effective_rank(statistics),
        std_ratio(statistics.channel_variances.sqrt()),
        std_ratio(std[: student.dim]),
        student.dim,
        100 * explained(statistics, student.dim),
    )
    head = getattr(student.network, "conv_head", None)
    if student.tap == "pre" and isinstance(head, nn.Conv2d) and head.in_channels < student.dim:
        logger.warning(
            "the student's %d pooled features before its final activation move in %d dimensions only (its last "
            "convolution commutes with the pooling): it can match at most that many target axes",
            student.dim,
            head.in_channels,
        )


def train(
    config: Config,
    student: Backbone,
    known: Known,
    target: Target,
    views: Views,
    run: RunFolder,
    process: Process,
) -> int:
    """Train to the last step, saving on the way; returns the number of images seen."""
    optim, device = config.optim, process.device
    if optim.batch_size % process.world:
        raise ValueError(f"optim.batch_size={optim.batch_size} does not divide among {process.world} processes")
    precision = choose_precision(config.precision, device)
    choose_student(
        student, sample(optim.batch_size // process.world, config.data.size, device), tune=config.tune, process=process
    )
    optimizer = make_optimizer(student, optim)
    gradients = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    torch.manual_seed(config.seed)  # dropout draws the same with a live teacher and from a bank
    step, seen = resume(run, student, optimizer, gradients)
    images = len(views.source.names)
    order = Order(images, optim.batch_size, optim.epochs, config.seed, step, process.rank, process.world, known.views)
    model = nn.parallel.DistributedDataParallel(student) if process.world > 1 else student
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
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                pixels = to_pixels(batch)
                wanted = target(known.features(batch, pixels))
                loss = distill_loss(model, wanted, pixels, config.loss)
            optimizer.zero_grad(set_to_none=True)
            gradients.scale(loss).backward()
            if optim.clip is not None:
                gradients.unscale_(optimizer)
                nn.utils.clip_grad_norm_(student.parameters(), optim.clip)
            gradients.step(optimizer)
            gradients.update()
            step, seen = step + 1, seen + len(batch.images) * process.world
            journal.step(loss.detach(), len(batch.images) * process.world, rate)
            if step % config.log.every == 0 or step == total:
                journal.flush()
            if step % config.log.checkpoint_every == 0 or step == total:
                journal.flush()
                if process.is_first:
                    save_run(run, student, optimizer, gradients, step, seen)
    return seen


def resume(
    run: RunFolder, student: nn.Module, optimizer: torch.optim.Optimizer, gradients: torch.amp.GradScaler
) -> tuple[int, int]:
    """Take up the last good state; returns (step, images seen)."""
    state = run.load_checkpoint()
    if state is None:
        return 0, 0
    load_exactly(student, state["student"], str(run.checkpoint))
    optimizer.load_state_dict(state["optimizer"])
    gradients.load_state_dict(state["gradients"])
    torch.set_rng_state(state["random"])
    logger.info("resumed at step %d from %s", state["step"], run.checkpoint)
    return state["step"], state["images_seen"]


def save_run(
    run: RunFolder,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradients: torch.amp.GradScaler,
    step: int,
    seen: int,
) -> None:
    """Write run.pt, unless the last step ruined the weights: its loss was still finite."""
    if not all(bool(tensor.isfinite().all()) for tensor in student.state_dict().values()):
        raise run.diverged(f"the weights are no longer finite after step {step}")
    save(
        {
            "step": step,
            "images_seen": seen,
            "student": student.state_dict(),
            "optimizer": optimizer.state_dict(),
            "gradients": gradients.state_dict(),
            "random": torch.get_rng_state(),
        },
        run.checkpoint,
    )


def as_checkpoint(config: Config, student: Backbone, known: Known, views: Views, seen: int) -> Checkpoint:
    """The student with where it came from."""
    statistics = known.statistics
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.network.state_dict().items()}
    std = statistics.variances.sqrt()
    return Checkpoint(
        name=config.name,
        arch=config.student.arch,
        weights=weights,
        mean=tuple(student.mean.flatten().tolist()),
        std=tuple(student.std.flatten().tolist()),
        size=config.data.size,
        tap=student.tap,
        sha256=fingerprint(weights),
        provenance={
            "kind": "student",
            "method": f"kdep {config.align.name} {config.scale.name}",
            "teacher": {"source": config.teacher.source, "tap": known.tap, "sha256": statistics.teacher},
            "statistics": {
                "images": statistics.count,
                "numerical_rank": numerical_rank(statistics),
                "explained": explained(statistics, student.dim),
                "std_ratio_channels": std_ratio(statistics.channel_variances.sqrt()),
                "std_ratio_axes": std_ratio(std[: student.dim]),
            },
            "data": {
                "source": config.data.source,
                "images": len(views.source.names),
                "fingerprint": views.source.fingerprint,
            },
            "images_seen": seen,
            "views": known.views or config.optim.epochs,
            "bank": known.bank.description.code if known.bank else None,
            "config": config.model_dump(mode="json"),
            **provenance_of_code(),
        },
    )
