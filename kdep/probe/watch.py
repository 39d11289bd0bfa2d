"""Watch a student while it trains: nearest-neighbour probes on labelled images, every so many steps.

A look changes nothing about the training: the student computes in eval mode and without gradient, and the states of the
random generators are put back. With `patience` the run stops when the score no longer rises.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdep.config import Config, Probe
from kdep.models.backbones.backbone import Backbone
from kdep.models.backbones.maps import map_on_grid
from kdep.models.checkpoints.checkpoint import load_exactly
from kdep.probe.areas import image_areas, segmentation_metrics
from kdep.probe.knn import vote
from kdep.probe.labelled import Labelled, read_classes, read_masked
from kdep.probe.neighbours import Memory
from kdep.probe.positions import Draw, draw_positions, soft_counts
from kdep.run.device import exactly

logger = logging.getLogger("kdep")

# Fixed, not chosen on test: middle values of the grids of the tasks knn and dense-knn.
K, TEMPERATURE = 20, 0.05
DENSE_K, DENSE_TEMPERATURE, AXES = 30, 0.02, 256
POSITIONS, STRIDE, FINEST = 10_000, 8, 6  # drawn from train; pixels between them; maps of a smaller stride are left out
BATCH = 128


@dataclass
class Best:
    """The highest score, and the student at that point; `looks` counts those without a higher one since."""

    score: float = float("-inf")
    step: int = 0
    seen: int = 0
    looks: int = 0
    weights: dict[str, torch.Tensor] | None = None


class Watch:
    """Probes of one run.

    Args:
        probe: the section of the recipe.
        size: side in pixels of the images.
        device: where the student is.

    Raises:
        ValueError: the data is not there or has a mistake.
    """

    def __init__(self, probe: Probe, size: int, device: torch.device) -> None:
        self.every, self.patience, self.best = probe.every, probe.patience, Best()
        self._device = device
        own = {"size": probe.size or size, "most": probe.images}
        self._classes = None if probe.data is None else read_classes(probe.data, **own)
        self._masked = None if probe.masks is None else read_masked(probe.masks, **own)
        self._drawn = None if self._masked is None else drawn_positions(self._masked)

    @property
    def sources(self) -> dict[str, str]:
        """Hashes of the data, where it decides what the run exports."""
        parts = [part.fingerprint for part in (self._classes, self._masked) if part is not None]
        return {} if self.patience is None else {"probe": ":".join(parts)}

    @property
    def stops(self) -> bool:
        """Whether the last `patience` looks found no higher score."""
        return self.patience is not None and self.best.looks >= self.patience

    def look(self, student: Backbone, step: int, seen: int) -> dict[str, float]:
        """Score the student after a step: probe_knn in top-1 and probe_dense_knn in mIoU, in percent."""
        scores = self.scores(student)
        if self.patience is not None:
            mean = sum(scores.values()) / len(scores)
            if mean > self.best.score:
                weights = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
                self.best = Best(mean, step, seen, 0, weights)
            else:
                self.best.looks += 1
        return scores

    def scores(self, student: Backbone) -> dict[str, float]:
        """Probe the student and leave it, and the random generators, as they were."""
        training = {module: module.training for module in student.modules()}
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), exactly(self._device):
            student.eval()
            scores = {}
            if self._classes is not None:
                scores["probe_knn"] = knn(student, self._classes, self._device)
            if self._masked is not None:
                scores["probe_dense_knn"] = dense_knn(student, self._masked, self._drawn, self._device)
        for module, before in training.items():
            module.training = before
        return scores

    def finish(self, student: nn.Module) -> dict[str, Any]:
        """Give the student the weights of the best look if the run stopped early; return what its provenance says."""
        if not self.stops:
            return {}
        best = self.best
        load_exactly(student, best.weights, "the best look")
        logger.info(
            "stopped: no gain in the last %d looks (probe.patience); exporting the student of step %d, which scored "
            "%.2f",
            *(best.looks, best.step, best.score),
        )
        return {"best_step": best.step, "images_seen": best.seen, "score": best.score, "probe": self.sources["probe"]}

    def state(self) -> dict[str, Any]:
        """What a resumed run needs: nothing without `patience`."""
        return {} if self.patience is None else dict(vars(self.best))

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.best = Best(**state)


def open_watch(config: Config, student: Backbone) -> Watch | None:
    """Open the data of a recipe's probe; None where it has none.

    Raises:
        ValueError: the data is not there or has a mistake, or the student has no maps for `probe.masks`.
    """
    if config.probe is None:
        return None
    watch = Watch(config.probe, config.data.size, student.mean.device)
    if config.probe.masks is not None:
        side = config.probe.size or config.data.size
        with torch.no_grad():
            student.eval().stage_maps(torch.zeros(1, 3, side, side, device=student.mean.device))
    return watch


def problems(config: Config) -> list[str]:
    """What is wrong with the data of a recipe's probe, in sentences, for a dry run."""
    try:
        if config.probe is not None:
            Watch(config.probe, config.data.size, torch.device("cpu"))
    except ValueError as error:
        return [str(error)]
    return []


def knn(student: Backbone, data: Labelled, device: torch.device) -> float:
    """Top-1 in percent of nearest neighbours in cosine similarity, on the student's features at its tap."""
    bank, queries = (_features(student, images, device) for images in (data.train, data.test))
    labels, truth = (torch.from_numpy(side).to(device) for side in (data.train_labels, data.test_labels))
    (predicted,) = vote(queries, bank, labels, grid=[(min(K, len(bank)), TEMPERATURE)])
    return 100 * int((predicted == truth).sum()) / len(truth)


def drawn_positions(data: Labelled) -> Draw:
    """Draw the positions of train that dense-knn compares with."""
    grid = data.train.shape[-1] // STRIDE
    counts = [soft_counts(mask, (grid, grid), data.classes) for mask in data.train_labels]
    return draw_positions(counts, total=POSITIONS, balance=0.5)


def dense_knn(student: Backbone, data: Labelled, drawn: Draw, device: torch.device) -> float:
    """Mean IoU in percent of positions labelled by their nearest neighbours among those drawn from train."""
    grid = data.train.shape[-1] // STRIDE
    image, cell = (torch.from_numpy(part) for part in (drawn.image, drawn.cell))
    at, found = 0, []
    for maps in _maps(student, data.train, grid, device):
        own = (image >= at) & (image < at + len(maps))
        found.append(maps[image[own] - at, cell[own]].cpu())
        at += len(maps)
    memory = Memory(torch.cat(found), torch.from_numpy(drawn.labels), axes=AXES, device=device)
    masks, areas, k = iter(data.test_labels), 0, min(DENSE_K, len(cell))
    for positions in (one for maps in _maps(student, data.test, grid, device) for one in maps):
        scores = memory.ask(positions, k=k, temperature=DENSE_TEMPERATURE).T.reshape(-1, grid, grid)
        areas = areas + image_areas(scores, next(masks))
    return segmentation_metrics(areas)["mIoU"]


def _features(student: Backbone, images: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.cat([student(part.to(device).float() / 255).float() for part in images.split(BATCH)])


def _maps(student: Backbone, images: torch.Tensor, grid: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield, batch by batch, the maps of the student's stages on one grid, concatenated: (B, grid * grid, D)."""
    for part in images.split(BATCH):
        maps = student.stage_maps(part.to(device).float() / 255)
        coarse = [one for one in maps if part.shape[-1] / one.shape[-1] >= FINEST] or maps[-1:]
        yield torch.cat([map_on_grid(one.float(), grid) for one in coarse], 2)
