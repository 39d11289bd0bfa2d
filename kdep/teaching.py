"""What a run teaches: features of a live teacher or of a bank, or labels, and how they become the student's target."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from kdep.bank import prepare as targets
from kdep.bank.read import Bank
from kdep.bank.write import exactly
from kdep.config import Config, Named
from kdep.data.views import Batch, Views, load, once
from kdep.method.align import Logits, Target, map_on_grid
from kdep.method.scale import Scaler
from kdep.method.statistics import Moments, Statistics, finish, merged
from kdep.models.backbone import Backbone
from kdep.models.forms import choose_frozen, sample
from kdep.models.weights import open_classifier
from kdep.parts import data_identity, make_pixels, open_teacher, refuse_impossible, teacher_identity
from kdep.run.device import Process
from kdep.run.folder import RunFolder

logger = logging.getLogger("kdep")


@dataclass(frozen=True)
class Known:
    """What is known of the teacher, live or from a bank; or of the labels, in its place.

    Attributes:
        statistics: of its features; None for labels.
        tap: where they were taken.
        features: (batch, its pixels) -> features (B, 1 or 1 + grid^2, D_t or axes): pooled, then the map.
        axes: number of leading axes in which the features come, None as they are.
        bank: where they are stored, None with a live teacher.
        views: distinct views per image, None for a new one in every epoch.
        classes: of the labels.
    """

    statistics: Statistics | None
    tap: str
    features: Callable[[Batch, torch.Tensor], torch.Tensor]
    axes: int | None = None
    bank: Bank | None = None
    views: int | None = None
    classes: int = 0


def teacher_source(config: Config, student: Backbone, views: Views, run: RunFolder, process: Process) -> Known:
    """A live teacher beside the student."""
    teacher = open_teacher(config).to(process.device, memory_format=torch.channels_last)
    refuse_impossible(config, student, teacher, len(views.source.names))
    grid = targets.grid_of(config, student)
    # Logits read no axes at all: a live teacher's classifier takes its features as they come.
    axes = 0 if config.loss.name == "logits" else targets.width_of(config, student)
    statistics = teacher_statistics(config, teacher, views, run, process, axes=axes)
    images = sample(config.optim.batch_size // process.world, config.data.size, process.device)
    chosen = choose_frozen(
        "teacher",
        teacher,
        images,
        precision=config.precision,
        tune=config.tune,
        process=process,
        earlier=run.forms.get("teacher"),
    )
    run.forms["teacher"] = chosen.name

    def features(_: Batch, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), chosen.half(images.device):
            if not grid:
                return chosen.network(images)[:, None]
            pooled, maps = chosen.network(images, with_map=True)
            return torch.cat([pooled[:, None], map_on_grid(maps, grid)], 1)

    return Known(statistics, teacher.tap, features)


def bank_source(config: Config, student: Backbone, views: Views, run: RunFolder, process: Process) -> Known:
    """A bank of targets, made first where it is not there."""
    bank = targets.ready(config, student, views, process)
    rows = 1 + targets.grid_of(config, student) ** 2
    # Of an earlier start, which may have had another bank.path: the run must go on with the same teacher.
    run.load_statistics(teacher=bank.statistics.teacher, data=bank.statistics.data)
    if process.is_first:
        run.save_statistics(bank.statistics.leading(targets.width_of(config, student)))

    def features(batch: Batch, images: torch.Tensor) -> torch.Tensor:
        return bank.decode(batch.stored[:, :rows].to(images.device, non_blocking=True))

    views.stored = bank
    about = bank.description
    return Known(
        bank.statistics, about.teacher["tap"], features, about.axes, bank, config.bank.views or config.optim.epochs
    )


def labels_source(config: Config, student: Backbone, views: Views, run: RunFolder, process: Process) -> Known:
    """Labels instead of a teacher: the supervised baseline on the same loop."""
    labels = torch.from_numpy(views.labels).to(process.device)

    def numbers(batch: Batch, images: torch.Tensor) -> torch.Tensor:
        return labels[batch.numbers.to(labels.device)][:, None]

    return Known(None, "", numbers, classes=int(labels.max()) + 1)


def teacher_statistics(
    config: Config, teacher: Backbone, views: Views, run: RunFolder, process: Process, *, axes: int | None = None
) -> Statistics:
    """Moments of the teacher's features over the first view of every image, or of `align.images` of them.

    Of the axes only the leading `axes` (None: all) are kept, in memory as on disk: all of 2048 take 34 MB.
    """
    identity = {"teacher": teacher_identity(teacher), "data": data_identity(views)}
    known = run.load_statistics(**identity)
    if known is not None:
        return known.leading(axes)
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
    with exactly(process.device):
        batches = load(views, batches, workers=config.data.workers, pin=process.device.type == "cuda")
        bar = tqdm(batches, "statistics", disable=not process.is_first)
        for batch in bar:
            run.note_unreadable(batch.unreadable, limit=config.data.max_unreadable, images=len(views.source.names))
            if batch.images is not None:
                moments.add(teacher(pixels(batch)))
    statistics = finish(merged(process.gather(moments)), **identity, widths=teacher.widths).leading(axes)
    if process.is_first:
        run.save_statistics(statistics)
    return statistics


def make_target(config: Config, student: Backbone, known: Known, scaler: Scaler) -> tuple[nn.Module, int]:
    """How the teacher's features become what the student is held to, and its width."""
    if known.statistics is None:
        return nn.Identity(), known.classes
    if config.loss.name == "logits":
        assert isinstance(config.teacher.source, str)
        classifier = open_classifier(config.teacher.source, arch=config.teacher.arch)
        return Logits(known.statistics, classifier, axes=known.axes), len(classifier[1])
    width = student.dim if config.project is None else len(known.statistics.mean)
    return Target(known.statistics, width, aligner=config.align.name, scaler=scaler, axes=known.axes), width


def without_match(scale: Named) -> dict[str, Any]:
    """A scaler's own options.

    Raises:
        ValueError: `match` is something else than student.
    """
    options = dict(scale.options)
    if options.pop("match", "student") != "student":
        raise ValueError(f"scale.match: expected student, got {scale.options['match']!r}")
    return options


def match_student(
    config: Config, student: Backbone, known: Known, target: nn.Module, views: Views, process: Process
) -> None:
    """With scale.match: give targets the root mean square of the untrained student's features, on the first views.

    For Power Temperature Scaling this is a choice of T, which is one factor (METHOD: PTS = T^(-1/n) sign(f) |f|^(1/n)).
    """
    if config.scale.options.get("match") is None:
        return
    pixels, wanted, own = make_pixels(views.augmentation, process.device), 0.0, 0.0
    copied = copy.deepcopy(student).train()  # BatchNorm would take these images into its statistics
    batches = once(len(views.source.names), config.optim.batch_size, count=256, seed=config.view_seed)
    with torch.no_grad():
        for batch in load(views, batches, workers=0):
            if batch.images is not None:
                images = pixels(batch)
                wanted += float(target(known.features(batch, images))[:, 0].square().mean())
                own += float(copied(images).square().mean())
    target.factor.fill_((own / wanted) ** 0.5)
    logger.info("targets times %.4g: the scale of the student at its start", float(target.factor))
