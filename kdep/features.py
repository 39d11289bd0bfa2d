"""Where the features of a batch come from: a live teacher, a bank of stored features, or labels in their place."""

import hashlib
from typing import Protocol

import numpy as np
import torch
from tqdm import tqdm

from kdep.bank.prepare import open_bank
from kdep.config import Config
from kdep.data.loading.order import once
from kdep.data.loading.training import data_identity, make_pixels
from kdep.data.loading.views import Batch, Stored, Views, load
from kdep.method.statistics import Moments, Statistics, finish, sum_moments
from kdep.method.target import Classifier, axes_read
from kdep.models.backbones.backbone import Backbone
from kdep.models.backbones.maps import map_on_grid, map_side
from kdep.models.teacher import fastest_form, open_teacher, teacher_identity
from kdep.run.checks import check_fit, open_teachers_classifier
from kdep.run.device import choose_teacher_precision, computing_in, exactly
from kdep.run.distributed.processes import Process
from kdep.run.folder import RunFolder

SAME_AXES = 1e-3  # largest difference of an entry of two equal axes; those of nearly equal variance may turn by more


class FeatureSource(Protocol):
    """What a run asks of its teacher, live or from a bank, or of the labels in its place.

    Attributes:
        sources: hashes of what the features are made from: the teacher (not of labels) and the images.
        tap: where the features were taken; empty for labels.
        axes: number of leading principal axes the features are projected on; None for features as the teacher gives
            them.
        views: distinct views per image; None for a new one in every epoch.
        stored: what a batch has to bring for `features`, by image and view; None where it brings nothing.
        classifier: the teacher's, for loss.name logits.
        classes: number of classes, for loss.name labels.
        code: how a bank stores its features; None without one.
    """

    sources: dict[str, str]
    tap: str
    axes: int | None
    views: int | None
    stored: Stored | None
    classifier: Classifier | None
    classes: int
    code: str | None

    def statistics(self, run: RunFolder) -> Statistics | None:
        """Statistics of the teacher's features, kept in the run folder; None for labels."""

    def features(self, batch: Batch, images: torch.Tensor) -> torch.Tensor:
        """Features (B, 1 or 1 + grid^2, D) of a batch and its pixels: pooled, then the map; or class numbers (B, 1)."""


def open_features(config: Config, student: Backbone, views: Views, process: Process) -> FeatureSource:
    """Open the teacher, its bank or the labels, as the configuration says.

    Raises:
        ValueError: teacher, student and settings do not fit together, or the bank is another one's.
    """
    if config.loss.name == "labels":
        return Labels(views, process)
    return (
        StoredTeacher(config, student, views, process) if config.bank else LiveTeacher(config, student, views, process)
    )


class LiveTeacher:
    """The frozen teacher computes its features of every batch."""

    axes, views, stored, classes, code = None, None, None, 0, None

    def __init__(self, config: Config, student: Backbone, views: Views, process: Process) -> None:
        self._config, self._images, self._process = config, views, process
        self._precision = choose_teacher_precision(config.teacher.precision, process.device)
        teacher = open_teacher(config)
        check_fit(config, student, teacher, len(views.source.names))
        self.tap, self.classifier = teacher.tap, open_teachers_classifier(config)
        self.sources = {"teacher": teacher_identity(teacher), "images": data_identity(views)}
        self._grid = map_side(config, student)
        # The teacher's classifier reads the features themselves, not their axes.
        self._axes_kept = 0 if config.loss.name == "logits" else axes_read(config, student.dim)
        self._teacher = fastest_form(teacher, config.data.size, process.device)

    def statistics(self, run: RunFolder) -> Statistics:
        """Take them in float32, in one pass; only the leading axes that the run reads are kept (all of 2048: 34 MB)."""
        self._process.agree(self.sources)
        statistics = run.load_statistics(self.sources)
        if statistics is not None:
            return statistics.leading(self._axes_kept)
        moments = self._moments(run)
        identity = {"teacher": self.sources["teacher"], "data": self.sources["images"]}
        # The axes of one process for all: another CPU may round their signs and order differently.
        statistics = self._process.told(
            lambda: finish(moments, **identity, widths=self._teacher.widths).leading(self._axes_kept)
        )
        run.save_statistics(statistics)
        return statistics

    def _moments(self, run: RunFolder) -> Moments:
        """Moments over the first view of every image, or of `align.images` of them, seen by all processes."""
        config, views, process = self._config, self._images, self._process
        share = {"rank": process.rank, "world": process.world}
        images, size = len(views.source.names), config.optim.batch_size // process.world
        batches = once(images, size, count=config.align.images, seed=config.view_seed, **share)
        moments, pixels = Moments(self._teacher.dim), make_pixels(views.augmentation, process.device)
        with exactly(process.device):
            loader = load(views, batches, workers=config.data.workers, pin=process.device.type == "cuda")
            for batch in tqdm(loader, "statistics", disable=not process.is_first):
                run.note_unreadable(batch, None, images=images)
                if batch.images is not None:
                    moments.add(self._teacher(pixels(batch)))
        run.share_unreadable(images=images)
        return moments if process.world == 1 else sum_moments(moments, process.total)

    @torch.no_grad()
    def features(self, batch: Batch, images: torch.Tensor) -> torch.Tensor:
        """See `FeatureSource`; computed in `teacher.precision`."""
        with computing_in(self._precision, images.device):
            if not self._grid:
                return self._teacher(images)[:, None]
            pooled, maps = self._teacher(images, with_map=True)
            return torch.cat([pooled[:, None], map_on_grid(maps, self._grid)], 1)


class StoredTeacher:
    """A bank holds the teacher's features of every view; it is made first if it is missing."""

    classes = 0

    def __init__(self, config: Config, student: Backbone, views: Views, process: Process) -> None:
        assert config.bank is not None
        self.stored = open_bank(config, student, views, process)
        statistics = self.stored.statistics
        self.sources = {"teacher": statistics.teacher, "images": statistics.data}
        self._rows = 1 + map_side(config, student) ** 2
        self._axes_kept = axes_read(config, student.dim)
        self.tap, self.classifier = self.stored.description.teacher["tap"], open_teachers_classifier(config)
        self.axes, self.code = self.stored.description.axes, self.stored.description.code
        self.views = config.bank.views or config.optim.epochs

    def statistics(self, run: RunFolder) -> Statistics:
        """Those of the bank; a resumed run must find the statistics it began with.

        Raises:
            ValueError: the bank was made anew since, and rounding has given it other axes.
        """
        statistics = self.stored.statistics
        own, began = statistics.leading(self._axes_kept), run.load_statistics(self.sources)
        if began is not None and not torch.allclose(began.axes, own.axes, rtol=0, atol=SAME_AXES):
            run.refuse_other_axes(self.stored.path)
        run.save_statistics(own)
        return statistics

    def features(self, batch: Batch, images: torch.Tensor) -> torch.Tensor:
        """See `FeatureSource`."""
        return self.stored.decode(batch.stored[:, : self._rows].to(images.device, non_blocking=True))


class Labels:
    """Class numbers instead of features: the supervised baseline on the same loop."""

    tap, axes, views, stored, classifier, code = "", None, None, None, None, None

    def __init__(self, views: Views, process: Process) -> None:
        labels = hashlib.sha256(np.ascontiguousarray(views.labels, np.int64).tobytes()).hexdigest()
        self.sources = {"images": data_identity(views), "labels": labels}
        self._labels = torch.from_numpy(views.labels).to(process.device)
        self.classes = int(self._labels.max()) + 1

    def statistics(self, run: RunFolder) -> None:
        """There is no teacher to take any of."""

    def features(self, batch: Batch, images: torch.Tensor) -> torch.Tensor:
        """See `FeatureSource`."""
        return self._labels[batch.numbers.to(self._labels.device, non_blocking=True)][:, None]
