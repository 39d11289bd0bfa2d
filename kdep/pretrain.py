"""The main path, top to bottom: config -> teacher, statistics, target -> student -> student.pth."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from kdep.align import Target
from kdep.backbone import Backbone, build_backbone, create_network, default_tap
from kdep.checkpoint import Checkpoint, fingerprint, load_exactly, save, write_student
from kdep.config import Config
from kdep.data import Augmentation, Batch, Order, Views, load, once, open_source, recolour
from kdep.device import Process, choose_precision, join
from kdep.journal import Journal
from kdep.optim import learning_rate, make_optimizer
from kdep.run import RunFolder, provenance_of_code
from kdep.scale import make_scaler
from kdep.statistics import Moments, Statistics, effective_rank, explained, finish, numerical_rank, std_ratio
from kdep.weights import open_checkpoint

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
    views = open_views(config)
    teacher = open_teacher(config).to(process.device, memory_format=torch.channels_last).eval().requires_grad_(False)
    student = open_student(config).to(process.device)
    scaler = make_scaler(config.scale.name, config.scale.options)
    run.bind()
    statistics = teacher_statistics(config, teacher, views, run, process)
    target = Target(statistics, student.dim, aligner=config.align.name, scaler=scaler).to(process.device)
    report(config, statistics, student, target)
    seen = train(config, student, teacher, target, views, run, process)
    if process.is_first:
        write_student(as_checkpoint(config, student, teacher, statistics, views, seen), run.student)
        run.draw_loss()
        logger.info("student written: %s", run.student)
    if process.world > 1:
        dist.barrier()
    return run.student


def distill_step(student: nn.Module, teacher: nn.Module, target: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Mean squared error between student features and aligned teacher features of the same pixels."""
    with torch.no_grad():
        wanted = target(teacher(images))
    return F.mse_loss(student(images).float(), wanted)


def open_views(config: Config) -> Views:
    """Images and how they are cropped and coloured."""
    data = config.data
    source = open_source(data.source, root=data.root, limit=data.limit, seed=config.seed)
    if len(source.names) < config.optim.batch_size:
        raise ValueError(
            f"{data.source}: {len(source.names)} images do not fill optim.batch_size={config.optim.batch_size}"
        )
    augmentation = Augmentation(data.size, data.crop_scale, data.flip, data.jitter, data.lighting)
    return Views(source, augmentation, config.seed)


def open_teacher(config: Config) -> Backbone:
    """The teacher's backbone at its tap, resampling the shared view to the size it knows."""
    checkpoint = open_checkpoint(config.teacher.source, arch=config.teacher.arch)
    checkpoint = dataclasses.replace(checkpoint, resample=config.teacher.size or checkpoint.resample)
    return build_backbone(checkpoint, tap=config.teacher.tap)


def open_student(config: Config) -> Backbone:
    """The student's backbone, seeded or from given weights."""
    torch.manual_seed(config.seed)
    network = create_network(config.student.arch)
    tap = config.student.tap or default_tap(network)
    if config.student.weights is None:
        return Backbone(network, tap=tap)
    start = open_checkpoint(config.student.weights, arch=config.student.arch)
    load_exactly(network, start.weights, config.student.weights)
    return Backbone(network, tap=tap, mean=start.mean, std=start.std)


def teacher_identity(teacher: Backbone) -> str:
    """Fingerprint of everything that shapes the teacher's features."""
    shape = torch.tensor([teacher.resample or 0, ["pre", "post", "before_head"].index(teacher.tap)])
    return fingerprint({**teacher.network.state_dict(), ".mean": teacher.mean, ".std": teacher.std, ".shape": shape})


def data_identity(views: Views) -> str:
    """Fingerprint of the images and of how their views are drawn."""
    return f"{views.source.fingerprint}:{views.seed}:{dataclasses.astuple(views.augmentation)}"


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
        seed=config.seed,
        rank=process.rank,
        world=process.world,
    )
    moments = Moments(teacher.dim)
    pixels = make_pixels(views.augmentation, process.device)
    # TF32 convolutions would drown the small axes in rounding noise and hide a teacher's missing rank.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        bar = tqdm(load(views, batches, workers=config.data.workers), "statistics", disable=not process.is_first)
        for batch in bar:
            run.note_unreadable(batch.unreadable, limit=config.data.max_unreadable, images=len(views.source.names))
            if batch.images is not None:
                moments.add(teacher(pixels(batch)))
    statistics = finish(gather(moments, process), **identity)
    if process.is_first:
        run.save_statistics(statistics)
    return statistics


def gather(moments: Moments, process: Process) -> Moments:
    """Merge what all processes have seen, in the order of their ranks."""
    if process.world == 1:
        return moments
    everyone: list[Any] = [None] * process.world
    dist.all_gather_object(everyone, moments)
    total = everyone[0]
    for other in everyone[1:]:
        total.merge(other)
    return total


def make_pixels(augmentation: Augmentation, device: torch.device) -> Callable[[Batch], torch.Tensor]:
    """How a batch becomes RGB float32 in [0, 1] on the device: one function for teacher, statistics and student."""
    coloured = augmentation.jitter > 0 or augmentation.lighting > 0

    def pixels(batch: Batch) -> torch.Tensor:
        images = batch.images.to(device, non_blocking=True)
        return recolour(images, batch.colour.to(device, non_blocking=True)) if coloured else images.float() / 255

    return pixels


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
    teacher: Backbone,
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
    # Measured on 2 CPU cores: channels_last loses at 64 px and wins at 224; GPUs gain where half precision runs.
    if device.type == "cuda" or config.data.size >= 128:
        student.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(student, optim)
    gradients = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    step, seen = resume(run, student, optimizer, gradients)
    images = len(views.source.names)
    order = Order(images, optim.batch_size, optim.epochs, config.seed, step, process.rank, process.world)
    model = nn.parallel.DistributedDataParallel(student) if process.world > 1 else student
    model.train()
    pixels = make_pixels(views.augmentation, device)
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
                loss = config.loss.weight * distill_step(model, teacher, target, pixels(batch))
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


def as_checkpoint(
    config: Config, student: Backbone, teacher: Backbone, statistics: Statistics, views: Views, seen: int
) -> Checkpoint:
    """The student with where it came from."""
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
            "teacher": {"source": config.teacher.source, "tap": teacher.tap, "sha256": statistics.teacher},
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
            "config": config.model_dump(mode="json"),
            **provenance_of_code(),
        },
    )
