"""The order in which images are seen: batches of (image, view), a function of (seed, epoch).

Images of tar shards are read shard after shard. An epoch lays the shards behind each other in a random order, gives
each process an equal part, and cuts the part into lanes that take turns, a batch each. A lane shuffles within a window.
If the number of loading processes divides the number of lanes, a loading process reads only lanes of its own. The order
does not depend on the number of loading processes, so a run is resumed exactly with any.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdep.data.sources.source import choose

LANES = 24  # divided by 1, 2, 3, 4, 6, 8, 12 and 24 loading processes
WINDOW = 512  # images: of ImageNet 56 MB, so that the lanes of a process keep 1.4 GB of blocks of a URL


@dataclass(frozen=True)
class Order:
    """Batches of (image, view) from step `start` on. Epoch e shows view e of every image in a new random order.

    The last, incomplete batch of an epoch is dropped. Each of several processes takes its share of every batch. With
    fewer `views` than epochs, epoch e shows view e modulo `views`. `steps` is the length of the run where it is not a
    whole number of epochs. `starts` are the first images of tar shards and the number of images, see `Shards`.
    """

    images: int
    batch_size: int
    epochs: int | None
    seed: int
    start: int = 0
    rank: int = 0
    world: int = 1
    views: int | None = None
    steps: int | None = None
    starts: np.ndarray | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches in an epoch."""
        return self.images // self.batch_size

    def __len__(self) -> int:
        return (self.steps or self.epochs * self.steps_per_epoch) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        total = self.start + len(self)
        first, skip = divmod(self.start, self.steps_per_epoch)
        for epoch in range(first, -(-total // self.steps_per_epoch)):
            batches = self._shuffled(epoch) if self.starts is None else self._sharded(epoch)
            for step in range(skip, min(self.steps_per_epoch, total - epoch * self.steps_per_epoch)):
                yield [(int(index), epoch % (self.views or epoch + 1)) for index in batches[step]]
            skip = 0

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Permute all images: (steps, images of this process)."""
        order = _generator(self.seed, epoch, 1, 0).permutation(self.images)
        whole = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)
        return whole[:, self.rank :: self.world]

    def _sharded(self, epoch: int) -> np.ndarray:
        """Permute the shards, and the images of each lane within a window: (steps, images of this process)."""
        own, steps = self.batch_size // self.world, self.steps_per_epoch
        shards = _generator(self.seed, epoch, 1, 0).permutation(len(self.starts) - 1)
        row = np.concatenate([np.arange(self.starts[shard], self.starts[shard + 1]) for shard in shards])
        part = row[self.rank * steps * own : (self.rank + 1) * steps * own]
        lanes = min(LANES, max(1, len(part) // WINDOW))
        draw = _generator(self.seed, epoch, 3, self.rank)  # 2 is that of `kdep.data.loading.views.mix`
        batches = np.empty((steps, own), np.int64)
        start = 0
        for lane in range(lanes):
            end = start + len(range(lane, steps, lanes)) * own
            places = np.arange(end - start) + draw.random(end - start) * WINDOW
            batches[lane::lanes] = part[start:end][np.argsort(places, kind="stable")].reshape(-1, own)
            start = end
        return batches


def _generator(seed: int, epoch: int, purpose: int, rank: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, purpose, rank]))


@dataclass(frozen=True)
class Once:
    """Batches of the first view of each of these images. Made while they are read: ten million would fill 2 GB."""

    images: Sequence[int] | np.ndarray
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for at in range(0, len(self.images), self.batch_size):
            yield [(int(index), 0) for index in self.images[at : at + self.batch_size]]


def once(
    images: int, batch_size: int, *, count: int | None = None, seed: int = 0, rank: int = 0, world: int = 1
) -> Once:
    """Batch the first view of every image, or of `count` randomly chosen images, for the statistics."""
    chosen: Sequence[int] | np.ndarray = range(images)
    if count is not None and count < images:
        # Chosen at random: the first images in a sorted folder belong to few classes.
        chosen = choose(images, count, seed)
    return Once(chosen[rank::world], batch_size)
