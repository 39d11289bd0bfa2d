"""The method, top to bottom: images, teacher, student -> statistics -> target -> loss -> training -> student.pth.

`kdep.pretrain(data="photos", student="resnet18", name="mine", optim={"epochs": 3})` runs it from Python, by a recipe
with changes as on the command line, and returns the path of student.pth.
"""

import contextlib
import copy
import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from kdep.config import Config, flatten, in_quotes, read_config
from kdep.data.loading.order import Order, once
from kdep.data.loading.training import make_pixels, open_views, sample_for_statistics
from kdep.data.loading.views import Batch, Views, load, mix
from kdep.features import FeatureSource, open_features
from kdep.method.loss import Criterion, distill_loss, make_criterion
from kdep.method.rivals import Learner, make_head
from kdep.method.target import make_target
from kdep.models.backbones.backbone import Backbone
from kdep.models.checkpoints.checkpoint import write_student
from kdep.models.student import open_student, student_sources
from kdep.probe.watch import Watch, open_watch
from kdep.run.checks import check_batch_size
from kdep.run.curves import draw_loss
from kdep.run.device import computing_in, resolve_precision
from kdep.run.distributed.alarm import Alarm
from kdep.run.distributed.batchnorm import synchronise
from kdep.run.distributed.processes import Process, gathered, join
from kdep.run.folder import RunFolder
from kdep.run.journal import Journal
from kdep.run.optim import learning_rate, make_average, make_optimizer
from kdep.run.provenance import as_checkpoint, report
from kdep.run.resume import Training, resume, save_run, seed_random

logger = logging.getLogger("kdep")


def pretrain(config: Config) -> Path:
    """Distil the teacher into the student and return the path of student.pth.

    Started again with the same configuration, an interrupted run resumes.

    Raises:
        ValueError: the configuration or the data is invalid.
        LoadError: weights that do not load completely.
        DivergedError: the loss is no longer finite; the last good run checkpoint stays.
    """
    process = join(config.device)
    process.agree({"kind of device": process.device.type, **flatten(config.model_dump(mode="json"))})
    check_batch_size(config, process)
    given, config = config, process.told(lambda: resolve_precision(config, process.device))
    run = RunFolder(config, process)
    if run.is_done():
        logger.info("%s is already done: %s", config.name, run.student)
        if process.is_first:
            run.warn_of_other_images(config)
        return run.student

    views = process.per_machine(lambda: open_views(config, show=process.local == 0))
    config = sample_for_statistics(config, views.source)
    student = open_student(config)
    start = student_sources(config, student)
    student.to(process.device, memory_format=torch.channels_last)
    source = open_features(config, student, views, process)  # of the teacher: live, or stored in a bank; or labels
    views.stored = source.stored  # of a bank: from here on a batch brings its stored features

    watch = process.alone(lambda: open_watch(config, student))
    sources = {**source.sources, **start, **(watch.sources if watch else {})}
    run.refuse_other_sources(sources)
    statistics = source.statistics(run)
    own = {"axes": source.axes, "classifier": source.classifier, "classes": source.classes}
    target, width = make_target(config, statistics, student.dim, **own)
    target.to(process.device)
    run.bind()  # teacher, student and images fit together: from here on the folder takes no other configuration
    if statistics is not None:
        report(statistics, student)
    if config.scale.options.get("match") is not None:
        match_scale(target, config, student, source, views, process)

    learner = Learner(student, make_head(config, student.dim, width, statistics)).to(process.device)
    criterion = make_criterion(config.loss, width, gathered)
    training = prepare(config, learner, criterion, process, sources, watch)
    seen = train(config, training, source, target, views, run)
    student = training.exported  # with optim.ema the running average
    if process.is_first:
        stopped = watch.finish(student) if watch else {}
        seen = stopped.get("images_seen", seen)
        precision = {"student": config.precision, "teacher": config.teacher.precision}
        begun = config.optim.begun(len(views.source.names), seen)
        distinct = min(source.views or begun, begun)
        facts = {"views": distinct, "bank": source.code, "precision": precision, "loss": run.last_loss()}
        facts |= {"processes": run.processes, **({"stopped": stopped} if stopped else {})}
        draw_loss(run)
        # Last: where student.pth is, a run is done, and nobody looks at what a kill has left of other files.
        write_student(as_checkpoint(given, student, views, seen, statistics, source.tap, facts), run.student)
        logger.info("student written: %s", run.student)
    process.wait()
    return run.student


def prepare(
    config: Config,
    learner: Learner,
    criterion: Criterion,
    process: Process,
    sources: Mapping[str, str],
    watch: Watch | None = None,
) -> Training:
    """Make optimizer and gradient scaler, and seed the random numbers of the training."""
    if config.optim.sync_bn and process.world > 1:
        synchronise(learner, process.device)
    if isinstance(criterion, nn.Module):
        criterion.to(process.device)
    precision = getattr(torch, config.precision)
    optimizer = make_optimizer(learner, config.optim)
    gradients = torch.amp.GradScaler(process.device.type, enabled=precision == torch.float16)
    seed_random(config.seed, process)  # dropout draws the same with a live teacher and from a bank
    average = make_average(learner.student, config.optim)
    return Training(learner, criterion, optimizer, gradients, precision, sources, watch, average)


def train(
    config: Config, training: Training, source: FeatureSource, target: nn.Module, views: Views, run: RunFolder
) -> int:
    """Train to the last step, saving on the way; returns the number of images seen."""
    step, seen = resume(run, training)
    optim, images, process, watch = config.optim, len(views.source.names), run.process, training.watch
    share = {"rank": process.rank, "world": process.world, "views": source.views, "steps": optim.steps}
    share["starts"] = getattr(views.source, "starts", None)
    order = Order(images, optim.batch_size, optim.epochs, config.order_seed, step, **share)
    total = optim.total(order.steps_per_epoch)
    model = training.learner.train()
    if process.world > 1:
        model = nn.parallel.DistributedDataParallel(model).train()
    to_pixels = make_pixels(views.augmentation, process.device)
    batches = iter(load(views, order, workers=config.data.workers, pin=process.device.type == "cuda"))

    def loss_of(batch: Batch) -> torch.Tensor:
        with computing_in(training.precision, process.device):
            pixels = to_pixels(batch)
            if config.data.mixup:
                pixels = mix(pixels, seed=config.seed, step=step)
            targets = target(source.features(batch, pixels))
            return distill_loss(model, targets, pixels, config.loss, training.criterion)

    def stops() -> bool:  # the first process alone looks at the student; the others wait here while it does
        return config.probe is not None and process.told(lambda: watch is not None and watch.stops)

    journal = Journal(config, run, order.steps_per_epoch, step=step, seen=seen)
    with contextlib.closing(batches), journal, Alarm(process) as alarm:
        stop = stops()
        while step < total and not stop:
            with alarm.during(step, "loading images"), journal.waiting():
                batch = next(batches)
            run.note_unreadable(batch, step, images=images)
            rate = learning_rate(optim, step, order.steps_per_epoch)
            with alarm.during(step, "computing and exchanging gradients"):
                loss = loss_of(batch)
                training.update(loss, rate, clip=optim.clip)
            step += 1
            journal.step(loss.detach(), len(batch.images), rate)
            save_now = step % config.log.checkpoint_every == 0 or step == total
            look_now = config.probe is not None and (step % config.probe.every == 0 or step == total)
            if save_now or look_now or step % config.log.every == 0:
                with alarm.during(step - 1, "waiting for the device"):
                    loss.detach().cpu()  # of a GPU: its exchanges are only queued until here
                run.share_unreadable(images=images)
                look = partial(watch.look, training.exported, step) if look_now and watch else None
                journal.flush(look)
            stop = look_now and stops()
            if save_now or stop:
                save_run(run, training, step, journal.seen)
    return journal.seen


@torch.no_grad()
def match_scale(
    target: nn.Module, config: Config, student: Backbone, source: FeatureSource, views: Views, process: Process
) -> None:
    """For scale.match: multiply the target so that its root mean square is that of the untrained student's features.

    Both are taken on the first view of 256 images at most. For Power Temperature Scaling this sets the temperature,
    which is one factor: PTS = T^(-1/n) sign(f) |f|^(1/n).
    """
    to_pixels, wanted, own = make_pixels(views.augmentation, process.device), 0.0, 0.0
    copied = copy.deepcopy(student).train()  # a copy: its BatchNorm statistics would move
    images, size = len(views.source.names), config.optim.batch_size
    few = min(images, 256)
    # Without a last batch that is smaller than the others: BatchNorm can do nothing with a single image.
    batches = once(images, size, count=few // size * size or few, seed=config.view_seed)
    for batch in load(views, batches, workers=0):
        if batch.images is not None:
            pixels = to_pixels(batch)
            wanted += float(target(source.features(batch, pixels))[:, 0].square().mean())
            own += float(copied(pixels).square().mean())
    target.factor.fill_((own / wanted) ** 0.5)
    logger.info("targets are multiplied by %.4g, to the scale of the untrained student", float(target.factor))


class _Function(ModuleType):
    """Let `kdep.pretrain(...)` be called: importing this file makes Python set `kdep.pretrain` to the module."""

    def __call__(
        self,
        recipe: str = "default",
        *,
        data: str | dict[str, Any] | None = None,
        student: str | dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        """Distil a teacher into a student, by a recipe with changes, and return the path of student.pth.

        Args:
            recipe: a shipped name such as `default`, or a YAML file.
            data: the images, as data.source; or keys of the section, such as `{"source": "photos", "size": 128}`.
            student: timm's name of the student, as student.arch; or keys of the section.
            changes: other keys of the recipe, such as `name="mine"` or `optim={"epochs": 3}`; a teacher with a source,
                and a scale with a name, replace all that the recipe says of them.
        """
        sections = {"data": {"source": data}, "student": {"arch": student}}
        for name, given in (("data", data), ("student", student)):
            changes |= {name: given if isinstance(given, dict) else sections[name]} if given is not None else {}
        # The options of a scaler or a teacher are its own: one that is named replaces the recipe's whole section, as
        # `teacher={source: ...}` does on the command line.
        overrides = []
        for section, named in (("scale", "name"), ("teacher", "source")):
            if isinstance(given := changes.get(section), dict) and named in given:
                overrides.append(f"{section}={in_quotes(changes.pop(section))}")
        overrides += [f"{key}={in_quotes(value)}" for key, value in flatten(changes).items()]
        return pretrain(read_config(recipe, overrides))


sys.modules[__name__].__class__ = _Function
