"""How an interrupted training goes on: only images that are left to train on are read."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, FUNCTIONS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, Sampler

from kdep_benchmarks.tasks.training_state import set_random_state

if TYPE_CHECKING:
    from mmengine.config import Config


class GoOn(Hook):
    """Take up the random numbers where they were, and spare mmengine's loop what it has already trained on.

    Without worker processes the rest is then, on a CPU bit by bit, that of an uninterrupted run.
    """

    priority = "LOWEST"  # after `LoadExactly`, which builds networks and so draws random numbers

    def __init__(self, done: int, state: dict[str, Any]) -> None:
        self.done, self.state = done, state

    def before_train(self, runner: Runner) -> None:
        """Put as many empty batches before those that are left as the loop is about to drop."""
        loop = runner.train_loop
        loop.dataloader_iterator = itertools.chain(itertools.repeat(None, self.done), loop.dataloader_iterator)
        set_random_state(self.state)


def go_on(config: "Config", path: Path, *, seed: int) -> GoOn:
    """Set a run to go on from a training checkpoint of `hooks.KeepLast`, together with the hook that it needs."""
    config.load_from, config.resume = str(path), True
    meta = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["meta"]
    loader, done = config.train_dataloader, meta["iter"]
    loader.batch_sampler = {"type": "FromBatch", "first": done, "batches": loader.get("batch_sampler")}
    # Worker processes are seeded when they start. By the run's own seed they would draw once more what augmented its
    # first images; so the same images come in the same order, in other views than in an uninterrupted run.
    drawn = int(np.random.SeedSequence([seed, done]).generate_state(1)[0] >> 1)
    loader.worker_init_fn = {"type": "seed_worker", "seed": drawn}
    return GoOn(done, meta["random"])


@DATA_SAMPLERS.register_module(force=True)
class FromBatch(BatchSampler):
    """Batches from number `first` on; the positions of those before are drawn, and no image is read.

    Args:
        sampler: endless positions of images.
        batches: config of a batch sampler, by default the next `batch_size` positions.
    """

    def __init__(
        self, sampler: Sampler[int], batch_size: int, *, first: int, batches: dict[str, Any] | None = None
    ) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        own = {"sampler": sampler, "batch_size": batch_size}
        self.first = first
        self.batches = (
            DATA_SAMPLERS.build(batches, default_args=own) if batches else BatchSampler(**own, drop_last=False)
        )

    def __iter__(self) -> Iterator[list[int]]:
        return itertools.islice(self.batches, self.first, None)


@FUNCTIONS.register_module(force=True)
def seed_worker(worker_id: int, *, seed: int) -> None:
    """Seed all that augmentations draw from in a data-loader process."""
    random.seed(seed + worker_id)
    np.random.seed(seed + worker_id)
    torch.manual_seed(seed + worker_id)
