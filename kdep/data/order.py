"""The order in which images are seen: batches of (image, view), a function of (seed, epoch)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdep.data.sources import choose


@dataclass(frozen=True)
class Order:
    """Batches of (image, view) from step `start` on. Epoch e shows view e of every image in a new random order.

    The last, incomplete batch of an epoch is dropped. Each of several processes takes its share of every batch. With
    fewer `views` than epochs, epoch e shows view e modulo `views`. `steps` is the length of the run where it is not a
    whole number of epochs.
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
            draw = np.random.Generator(np.random.Philox(key=[self.seed, epoch], counter=[0, 0, 1, 0]))
            order = draw.permutation(self.images)
            for step in range(skip, min(self.steps_per_epoch, total - epoch * self.steps_per_epoch)):
                batch = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(int(index), epoch % (self.views or epoch + 1)) for index in batch[self.rank :: self.world]]
            skip = 0


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
