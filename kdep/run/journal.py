"""Log a pretraining run: progress bar, log.jsonl and trackers."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from tqdm import tqdm

from kdep.config import Config
from kdep.run.folder import RunFolder
from kdep.run.trackers import Tracker, open_trackers

TRACKED = ("loss", "lr", "images_per_second", "data_wait")


class Journal:
    """Keeps losses on the device until they are logged, and stops the run if one is not finite.

    Every process has one; the first logs the means of their losses and the sum of their images.

    Attributes:
        seen: images of all processes up to the last `flush`.
    """

    def __init__(self, config: Config, run: RunFolder, steps_per_epoch: int, *, step: int, seen: int) -> None:
        self._config, self._run, self._steps_per_epoch = config, run, steps_per_epoch
        self._process, self._show = run.process, run.process.is_first
        self._step, self.seen, self._rate = step, seen, 0.0
        self._losses: list[torch.Tensor] = []
        self._found: dict[str, str] = {}  # scores of the last look, for the progress bar
        total = config.optim.total(steps_per_epoch) * config.optim.batch_size
        self._bar = tqdm(
            total=total, initial=seen, unit="img", desc=config.name, disable=not self._show, smoothing=0.05
        )
        self._since = time.perf_counter()
        self._waited, self._images = 0.0, 0
        self._trackers: list[Tracker] = []

    def __enter__(self) -> "Journal":
        if self._show:
            self._trackers = open_trackers(self._config, self._run.path, self._step)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        for tracker in self._trackers:
            tracker.close(failed=error is not None)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time spent waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def step(self, loss: torch.Tensor, images: int, rate: float) -> None:
        """Record one step of this process without waiting for the device."""
        self._losses.append(loss)
        self._step, self._rate = self._step + 1, rate
        self._images += images
        self._bar.update(images * self._process.world)

    def flush(self, look: Callable[[int], Mapping[str, float]] | None = None) -> None:
        """Log the mean loss since the last call, and what a look at the student finds, which happens if it is finite.

        The processes call this after the same steps. A look is told how many images were seen.

        Raises:
            DivergedError: a loss was NaN or infinite; names its step.
        """
        if not self._losses:
            return
        losses = self._process.total(torch.stack(self._losses).float().cpu().double()) / self._process.world
        images = int(self._process.total(torch.tensor([self._images])))
        self.seen += images
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            first = self._step - len(losses) + int(bad[0]) + 1
            epoch = (first - 1) // self._steps_per_epoch
            raise self._run.diverged(f"the loss is {losses[bad[0]].item()} at step {first}, epoch {epoch}")
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        record = {
            "step": self._step,
            "epoch": self._step / self._steps_per_epoch,
            "images": self.seen,
            "loss": losses.mean().item(),
            "lr": self._rate,
            "images_per_second": images / seconds,
            "data_wait": self._waited / seconds,
        }
        looked = {} if look is None else look(self.seen)
        record |= looked
        self._losses, self._since, self._waited, self._images = [], time.perf_counter(), 0.0, 0
        if self._show:
            self._run.append_log(record)
            for tracker in self._trackers:
                tracker.log({name: record[name] for name in (*TRACKED, *looked)}, self._step)
            self._found |= {name.removeprefix("probe_"): f"{score:.1f}" for name, score in looked.items()}
            wait = f"{100 * record['data_wait']:.0f}%"
            self._bar.set_postfix(loss=f"{record['loss']:.4f}", wait=wait, **self._found)
