"""Check a recipe without training: look for the images, build the networks without memory, list every problem."""

from collections.abc import Callable
from typing import TypeVar

import torch

from kdep.config import Config
from kdep.data.loading.training import check_images, source_of
from kdep.models.backbones.backbone import Backbone, Teachers, create_network
from kdep.models.backbones.taps import default_tap
from kdep.models.student import open_student
from kdep.models.teacher import open_teacher, teacher_size
from kdep.models.weights import split_size
from kdep.run.checks import check_fit
from kdep.run.device import find_device, resolve_precision
from kdep.run.trackers import check_installed

Found = TypeVar("Found")


def problems(config: Config) -> list[str]:
    """One sentence for each problem that would stop the run; empty if it can start.

    The student and teachers of timm are built on torch's meta device: nothing is downloaded. Other teachers are opened.
    """
    said: list[str] = []

    def attempt(look: Callable[[], Found]) -> Found | None:
        try:
            return look()
        except (ValueError, OSError) as error:
            said.append(str(error))
            return None

    attempt(lambda: resolve_precision(config, torch.device(find_device(config.device))))
    for tracker in config.log.trackers:
        attempt(lambda name=tracker: check_installed(name))
    source = attempt(lambda: source_of(config))
    if source is not None:
        attempt(lambda: check_images(config, source))
    student = attempt(lambda: outline_student(config))
    teacher = None if config.loss.name == "labels" else attempt(lambda: outline_teacher(config))
    if source is not None and student is not None and teacher is not None:
        attempt(lambda: check_fit(config, student, teacher, len(source.names)))
    return said


def outline_student(config: Config) -> Backbone:
    """Build the student on the meta device; its starting weights are opened if it has some."""
    if config.student.weights is not None:
        return open_student(config)
    with torch.device("meta"):
        return open_student(config)


def outline_teacher(config: Config) -> Backbone | Teachers:
    """Build teachers of timm on the meta device, which downloads nothing; open all others."""
    source = config.teacher.source
    if isinstance(source, list) or not source.startswith("timm:"):
        return open_teacher(config)
    with torch.device("meta"):
        name, size = split_size(source)
        network = create_network(name.removeprefix("timm:"))
        tap = "post" if config.loss.name == "logits" else config.teacher.tap
        return Backbone(network, tap=tap or default_tap(network), resample=teacher_size(config, size))
