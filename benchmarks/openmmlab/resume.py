"""Resume an interrupted training without reading the images of finished iterations."""

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
    """Restore the random number generators, and skip the finished iterations of mmengine's loop.

    On a CPU without worker processes, the rest is bit for bit that of an uninterrupted run.
    """

    priority = "LOWEST"  # after `LoadExactly`, which builds networks and so draws random numbers

    def __init__(self, done: int, state: dict[str, Any]) -> None:
        self.done, self.state = done, state

    def before_train(self, runner: Runner) -> None:
        """Prepend as many empty batches as the loop will skip."""
        loop = runner.train_loop
        loop.dataloader_iterator = itertools.chain(itertools.repeat(None, self.done), loop.dataloader_iterator)
        set_random_state(self.state)


def go_on(config: "Config", path: Path, *, seed: int) -> GoOn:
    """Configure a run to resume from a checkpoint of `hooks.KeepLast`, and return the hook it needs."""
    config.load_from, config.resume = str(path), True
    meta = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["meta"]
    loader, done = config.train_dataloader, meta["iter"]
    loader.batch_sampler = {"type": "FromBatch", "first": done, "batches": loader.get("batch_sampler")}
    # Workers are seeded when they start. With the run's own seed they would repeat the augmentations of the first
    # images. With this seed the images and their order match an uninterrupted run; the augmentations differ.
    drawn = int(np.random.SeedSequence([seed, done]).generate_state(1)[0] >> 1)
    loader.worker_init_fn = {"type": "seed_worker", "seed": drawn}
    return GoOn(done, meta["random"])


@DATA_SAMPLERS.register_module(force=True)
class FromBatch(BatchSampler):
    """Yield batches from number `first` on; the positions of earlier batches are drawn without reading images.

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
    """Seed the random number generators of a data-loader worker."""
    random.seed(seed + worker_id)
    np.random.seed(seed + worker_id)
    torch.manual_seed(seed + worker_id)
