"""Write a target bank: run the teacher on all views and store its features file by file, each batch by batch.

Features of the first view are stored unprojected until their statistics give the axes.
"""

import itertools
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from kdep.bank.file import Description
from kdep.bank.hashes import beside, hash_file, is_known, known_hashes, note_hash
from kdep.bank.read import (
    ABSENT,
    HEADROOM,
    Bank,
    encode,
    missing,
    project,
    shard_path,
    share_of,
)
from kdep.config import Config
from kdep.data.loading.training import make_pixels
from kdep.data.loading.views import Views, load
from kdep.data.sources.source import choose
from kdep.files import write_atomically
from kdep.guard import printable
from kdep.method.statistics import Moments, Statistics, finish, sum_moments
from kdep.models.backbones.backbone import Backbone
from kdep.models.backbones.maps import map_on_grid
from kdep.run.device import exactly
from kdep.run.distributed.processes import Process

logger = logging.getLogger("kdep")


class Writer:
    """Computes and writes the files of a bank."""

    def __init__(
        self, config: Config, description: Description, teacher: Backbone, views: Views, process: Process
    ) -> None:
        assert config.bank is not None
        self.config, self.description, self.views, self.process = config, description, views, process
        self.path = config.bank.path
        self.teacher = teacher
        self.pixels = make_pixels(views.augmentation, process.device)
        self.unreadable: set[str] = set()
        self.for_axes = chosen_for_axes(description.images, config.align.images, config.view_seed)

    def raw_files(self) -> list[tuple[int, int]]:
        """List the missing files of raw features; with a grid, only those with images that determine the axes."""
        files = missing(self.description, self.path, [-1])
        return [file for file in files if self.plan([file]).images > 0]

    def plan(self, files: list[tuple[int, int]]) -> "Plan":
        """Plan the batches of one process for these files."""
        return Plan(files, self.description, self.config.optim.batch_size // self.process.world, self.for_axes)

    def announce(self, files: list[tuple[int, int]]) -> None:
        """Log how much is to be computed.

        Raises:
            ValueError: the disk has less free space than the bank needs.
        """
        if not files:
            return
        about, size = self.description, 0
        for number, shard in files:
            stored = int(np.prod(about.row)) * ABSENT[about.code].dtype.itemsize
            size += len(about.images_of(shard)) * (4 * self.teacher.dim if number < 0 else stored)
        free = shutil.disk_usage(self.path).free
        if size > free:
            raise ValueError(
                f"{self.path}: the bank needs {size / 1e9:.1f} GB more; the disk has {free / 1e9:.1f} GB free. Reduce "
                "bank.views or bank.axes, or set bank.code=int8"
            )
        views = self.plan(files).images
        logger.info("bank %s: %d views of %d images to compute, %.2f GB", self.path, views, about.images, size / 1e9)

    def run(self, files: list[tuple[int, int]], *, projection: Bank | None) -> None:
        """Compute and write these files: raw features without a projection, encoded entries with it.

        Raises:
            ValueError: the processes together found more unreadable images than data.max_unreadable allows.
        """
        files = share_of(files, self.description.shards, self.process)
        self.process.together(lambda: self._run(files, projection))
        self.unreadable = set().union(*self.process.gather(self.unreadable))
        self.check_unreadable()

    def _run(self, files: list[tuple[int, int]], projection: Bank | None) -> None:
        if not files:
            return
        plan = self.plan(files)
        bar = tqdm(total=plan.images, unit="img", desc="targets", disable=not self.process.is_first, smoothing=0.1)
        loader = load(self.views, plan, workers=self.config.data.workers, pin=self.process.device.type == "cuda")
        with exactly(self.process.device), bar:
            steps = zip(plan.steps(), loader, strict=True)
            for file, own in itertools.groupby(steps, key=lambda step: step[0][0]):
                self.write(file, self._computed(file, own, projection, bar), projection)

    def _computed(
        self, file: tuple[int, int], steps: Iterable[Any], bank: Bank | None, bar: tqdm
    ) -> Iterator[torch.Tensor]:
        """Yield the entries of a file in order, NaN for images that are unreadable or not planned."""
        shape, images = self.entry(bank), self.description.images_of(file[1])
        written = images.start
        for (_, numbers), views in steps:
            rows = torch.full((numbers[-1] + 1 - written, *shape), float("nan"))
            for name, reason in views.unreadable:
                logger.warning("no target for an unreadable image: %s (%s)", name, reason)
                self.unreadable.add(name)
            self.check_unreadable()
            if views.images is not None:
                rows[views.numbers - written] = self.compute(self.pixels(views), bank).cpu()
            yield rows
            written = numbers[-1] + 1
            bar.update(len(numbers))
        if written < images.stop:
            yield torch.full((images.stop - written, *shape), float("nan"))

    def check_unreadable(self) -> None:
        """Raise a ValueError if too many images are unreadable: the bank would lack their targets for good."""
        count, limit = len(self.unreadable), self.config.data.max_unreadable
        if count > limit * self.description.images:
            raise ValueError(
                f"{self.path}: {count} of {self.description.images} images are unreadable, more than "
                f"data.max_unreadable={limit} allows, such as {printable(min(self.unreadable))}; repair or remove "
                "them, or raise data.max_unreadable"
            )

    def compute(self, images: torch.Tensor, projection: Bank | None) -> torch.Tensor:
        """Compute the entries of a batch: (B, D_t) raw, or (B, 1 + grid^2, axes) projected."""
        if projection is None:
            return self.teacher(images)
        if self.description.grid == 0:
            return project(self.teacher(images), projection)[:, None]
        pooled, maps = self.teacher(images, with_map=True)
        return project(torch.cat([pooled[:, None], map_on_grid(maps, self.description.grid)], 1), projection)

    def entry(self, bank: Bank | None) -> tuple[int, ...]:
        """Return the shape of the entry of an image: raw features without a bank, projected ones with it."""
        return (self.teacher.dim,) if bank is None else self.description.row

    def write(self, file: tuple[int, int], entries: Iterable[torch.Tensor], bank: Bank | None) -> None:
        """Write one file from its entries in order, as they are without a bank and encoded with it."""
        place = Path(shard_path(self.path, *file))
        kind = np.dtype(np.float32) if bank is None else ABSENT[self.description.code].dtype
        shape = (len(self.description.images_of(file[1])), *self.entry(bank))
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}

        def into(part: Path) -> None:
            with part.open("wb") as handle:
                np.lib.format.write_array_header_1_0(handle, header)
                for rows in entries:
                    array = rows.numpy() if bank is None else encode(rows, self.description.code, bank.peaks)
                    handle.write(np.ascontiguousarray(array).data)
            note_hash(part, place)

        write_atomically(place, into)

    def own_raw(self) -> Iterator[int]:
        """Yield the numbers of the raw files of this process; refuse a file that changed since it was written."""
        shards = self.description.shards
        for _, shard in share_of([(-1, shard) for shard in range(shards)], shards, self.process):
            path = Path(shard_path(self.path, -1, shard))
            if path.exists():
                if hash_file(path) != beside(path).read_text():
                    raise ValueError(f"{path}: changed since it was written; remove it, and it is computed again")
                yield shard

    def raw(self, shard: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the raw features of a file (B, D_t) in order, and whether each image determines the axes (B,)."""
        stored = np.load(shard_path(self.path, -1, shard), mmap_mode="r")
        chosen = self.for_axes[self.description.images_of(shard).start :]
        for start in range(0, len(stored), self.config.optim.batch_size):
            features = torch.from_numpy(np.array(stored[start : start + self.config.optim.batch_size]))
            yield features, chosen[start : start + len(features)]

    def statistics(self) -> tuple[Statistics, torch.Tensor]:
        """Compute statistics of the raw features of all processes, and the largest |z| on each stored axis."""
        about, moments = self.description, Moments(self.teacher.dim)
        for shard in self.own_raw():
            for features, chosen in self.raw(shard):
                kept = features[~features[:, 0].isnan() & chosen]  # without unreadable images, as with a live teacher
                if len(kept):
                    moments.add(kept)
        identity = {"teacher": about.teacher["sha256"], "data": about.data["identity"]}
        moments = moments if self.process.world == 1 else sum_moments(moments, self.process.total)
        statistics = self.process.told(lambda: finish(moments, **identity, widths=self.teacher.widths))
        peaks = torch.zeros(about.axes)
        for features, _ in itertools.chain.from_iterable(map(self.raw, self.own_raw())):
            z = (features - statistics.mean.float()) @ statistics.basis[:, : about.axes].float()
            # Concatenated with the earlier peaks, because a batch may have no readable image.
            peaks = torch.cat([peaks[None], z[~features[:, 0].isnan()].abs()]).amax(0)
        peaks = torch.stack(self.process.gather(peaks)).amax(0)
        return statistics, (peaks * HEADROOM).clamp_min(1e-12)

    def project_raw(self, bank: Bank) -> None:
        """Project the raw features into the files of the first view."""
        known = known_hashes(self.path)
        for shard in self.own_raw():
            file = Path(shard_path(self.path, 0, shard))
            if not is_known(file, known) and self.description.grid == 0:
                self.write((0, shard), (project(features, bank)[:, None] for features, _ in self.raw(shard)), bank)
            Path(shard_path(self.path, -1, shard)).unlink()


@dataclass(frozen=True)
class Plan:
    """Batches of (image, view), file after file. No batch spans two files.

    With a grid, raw features serve only the statistics: they are limited to the images in the mask `for_axes` (N,).
    """

    files: list[tuple[int, int]]
    description: Description
    batch_size: int
    for_axes: torch.Tensor

    @property
    def images(self) -> int:
        """Number of views to compute."""
        return sum(len(self.images_of(file)) for file in self.files)

    def images_of(self, file: tuple[int, int]) -> Sequence[int]:
        """List the images of a file that are computed, in ascending order."""
        number, shard = file
        images = self.description.images_of(shard)
        if number < 0 and self.description.grid:
            return (self.for_axes[images.start : images.stop].nonzero()[:, 0] + images.start).tolist()
        return images

    def steps(self) -> Iterator[tuple[tuple[int, int], Sequence[int]]]:
        """Yield (file, images) of every batch."""
        for file in self.files:
            images = self.images_of(file)
            for start in range(0, len(images), self.batch_size):
                yield file, images[start : start + self.batch_size]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for (number, _), images in self.steps():
            yield [(index, max(number, 0)) for index in images]


def chosen_for_axes(images: int, count: int | None, seed: int) -> torch.Tensor:
    """Mask the images whose features determine the axes; the same choice as `kdep.data.loading.order.once`."""
    if count is None or count >= images:
        return torch.ones(images, dtype=torch.bool)
    mask = torch.zeros(images, dtype=torch.bool)
    mask[torch.from_numpy(choose(images, count, seed))] = True
    return mask
