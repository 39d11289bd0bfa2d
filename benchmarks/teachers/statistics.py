"""Measure a teacher's features in one pass over images: a dict of plain values.

Moments are streamed at every tap, so their memory does not grow with the images. Classes and scaled targets need
features; those of a seeded part of the images are kept at one tap.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from kdep.files import write_atomically
from kdep.method.align import ALIGNERS
from kdep.method.scale import SCALERS
from kdep.method.statistics import Moments, finish
from kdep.models.backbones.backbone import Backbone, build_backbone
from kdep.models.checkpoints.checkpoint import Checkpoint
from kdep.run.device import without_tf32
from kdep_benchmarks.tasks.features import as_input, frames, frozen
from kdep_benchmarks.tasks.settings import Pixels
from kdep_benchmarks.teachers.figures import (
    class_figures,
    halves,
    rounded,
    shown_width,
    spectrum_figures,
    width_figures,
)
from kdep_benchmarks.teachers.images import Pictures, seeded_order
from kdep_benchmarks.teachers.std_ratios import std_ratio_rows

FORMAT = 1  # raised when the same inputs would give other numbers
NEWLINE = r"\n\s*"


@dataclasses.dataclass(frozen=True)
class StatisticsSettings:
    """Settings of a measurement: the same for all teachers that are ranked together.

    Attributes:
        pixels: size and crop of the images.
        widths: of students.
        tap: where features are taken, None for each teacher's own.
        limit: number of images, None for all.
        keep: images whose features are kept.
    """

    pixels: Pixels
    widths: tuple[int, ...] = (320, 512, 1280)
    tap: str | None = None
    limit: int | None = None
    keep: int = 10_000


@dataclasses.dataclass(frozen=True)
class Pass:
    """Result of one pass: moments per tap, features (K, D) float32 of the kept images, their positions (K,)."""

    moments: dict[str, Moments]
    features: torch.Tensor
    kept: np.ndarray


def inputs_of(checkpoint: Checkpoint, images: Pictures, settings: StatisticsSettings) -> dict[str, Any]:
    """Everything that decides the figures; where it is equal, they are not measured again."""
    labels = images.labels
    tap = settings.tap or checkpoint.tap
    return {
        "format": FORMAT,
        "teacher": checkpoint.name,
        "arch": checkpoint.arch,
        "sha256": checkpoint.sha256,
        "tap": tap,
        "input": {"mean": checkpoint.mean, "std": checkpoint.std, "resample": checkpoint.resample},
        "images": images.source,
        "fingerprint": images.fingerprint,
        "labels": None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()[:16],
        "size": settings.pixels.size,
        "seen": min(settings.limit or len(images), len(images)),
        "keep": settings.keep,
        "widths": settings.widths,
        "aligners": list(ALIGNERS),
        "scalers": list(SCALERS),
    }


def study(
    checkpoint: Checkpoint, images: Pictures, settings: StatisticsSettings, *, device: torch.device
) -> dict[str, Any]:
    """Measure a teacher: a dict of plain values that JSON can hold, with `inputs` as `inputs_of` has them.

    Raises:
        ValueError: a tap that the teacher has not, fewer than two images of some class, or an unreadable image.
        LoadError: the weights do not fit their architecture.
    """
    inputs = inputs_of(checkpoint, images, settings)
    order = seeded_order(images)[: settings.limit]
    _check_classes(images, order[: settings.keep])
    backbone = build_backbone(checkpoint, tap="post").to(device, memory_format=torch.channels_last)
    if inputs["tap"] not in backbone.taps:
        raise ValueError(f"--tap {inputs['tap']}: {checkpoint.name} offers {', '.join(backbone.taps)}")
    found = run_once(backbone, images, order, settings, tap=inputs["tap"], device=device)
    seen = images.fingerprint
    statistics = {tap: finish(moments, teacher=checkpoint.sha256, data=seen) for tap, moments in found.moments.items()}
    at = statistics[inputs["tap"]]
    report = {
        "inputs": inputs,
        "taps": {tap: spectrum_figures(entry) for tap, entry in statistics.items()},
        "widths": [width_figures(at, width) for width in settings.widths],
        "kept": len(found.kept),
        "std_ratios": list(std_ratio_rows(at, found.features, settings.widths)),
        "shown_width": shown_width(at, settings.widths),
        "classes": None,
    }
    labels = None if images.labels is None else torch.from_numpy(images.labels[found.kept])
    report["halves"] = halves(found.features, labels)
    if labels is not None:
        report["classes"] = class_figures(found.features, labels)
    return rounded(report)


def _check_classes(images: Pictures, kept: np.ndarray) -> None:
    if images.labels is None:
        return
    counts = np.bincount(images.labels[kept], minlength=len(images.classes))
    if counts.min() < 2:
        raise ValueError(
            f"--labels: class {images.classes[counts.argmin()]!r} is seen in {counts.min()} of {len(kept)} images; "
            f"distances within a class need 2. Raise --limit or --keep to {2 * len(images.classes)} or more"
        )


def run_once(
    backbone: Backbone,
    images: Pictures,
    order: np.ndarray,
    settings: StatisticsSettings,
    *,
    tap: str,
    device: torch.device,
) -> Pass:
    """Moments of all images in `order` at every tap, features at `tap` of the first `settings.keep` of them.

    Images are read in ascending order of their positions, which is fastest on a disk.
    """
    positions, kept = np.sort(order), np.sort(order[: settings.keep])
    batches = frames(images, positions, pixels=settings.pixels, device=device)
    moments: dict[str, Moments] = {}
    features: list[torch.Tensor] = []
    with frozen(backbone), torch.no_grad(), without_tf32(), tqdm(total=len(order), unit="img", mininterval=1) as bar:
        for batch in batches:
            here, positions = positions[: len(batch)], positions[len(batch) :]
            taps = every_tap(backbone, as_input(batch, device))
            for name, values in taps.items():
                moments.setdefault(name, Moments(values.shape[1])).add(values)
            features.append(taps[tap].float().cpu()[torch.from_numpy(np.isin(here, kept))])
            bar.update(len(batch))
    return Pass(moments, torch.cat(features), kept)


def every_tap(backbone: Backbone, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pooled features at every tap that the network has, from one forward: tap -> (B, dim)."""
    taps: dict[str, torch.Tensor] = {}
    if "before_head" not in backbone.taps:
        return backbone.pooled_taps(images)

    def keep(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        taps["before_head"] = given[0].float().mean((2, 3))

    hook = backbone.network.conv_head.register_forward_pre_hook(keep)
    try:
        taps.update(backbone.pooled_taps(images))
    finally:
        hook.remove()
    return taps


def file_stems(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """A file name for each teacher: its own name, with its hash where two share one.

    Raises:
        ValueError: the same teacher twice.
    """
    stems = [re.sub(r"[^\w.@-]+", "_", checkpoint.name) for checkpoint in checkpoints]
    full = [f"{stem}-{checkpoint.sha256[:8]}" for stem, checkpoint in zip(stems, checkpoints, strict=True)]
    if twice := [stem for stem in full if full.count(stem) > 1]:
        raise ValueError(f"the teacher {twice[0]} is named twice")
    return [stem if stems.count(stem) == 1 else longer for stem, longer in zip(stems, full, strict=True)]


def study_or_read(
    checkpoint: Checkpoint, images: Pictures, settings: StatisticsSettings, *, device: torch.device, path: Path
) -> dict[str, Any]:
    """Measure a teacher and write its figures to `path`, or read them there if they are of the same inputs."""
    inputs = rounded(inputs_of(checkpoint, images, settings))
    if path.is_file():
        try:
            report = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not JSON ({error}); remove it or choose another --out") from error
        if isinstance(report, dict) and report.get("inputs") == inputs:
            return report
    report = study(checkpoint, images, settings, device=device)
    # Lists of numbers on one line each: a file that a person can open and git can compare.
    text = re.sub(
        r"\[\n\s+([^\[\]{}]*?)\n\s+\]",
        lambda found: f"[{re.sub(NEWLINE, ' ', found[1])}]",
        json.dumps(report, indent=1),
    )
    write_atomically(path, lambda neighbour: neighbour.write_text(text + "\n"))
    return report
