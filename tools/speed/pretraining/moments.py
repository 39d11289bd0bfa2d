"""Compare streaming statistics of N x D features with the singular value decomposition of the whole matrix."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.linalg
import torch

from kdep.method.statistics import Moments, Statistics, finish
from tools.speed.clock import in_child, peak_mb
from tools.speed.row import Row, Setting

IMAGES, DIM, LEADING, BATCH = 50_000, 2048, 512, 128
QUICK = (2000, 64, 16)
# Radians between the leading spaces: what rounding in float32 does to the whole-matrix decomposition. Axis by axis they
# cannot be held together: where neighbouring variances nearly meet, rounding turns their axes in their common plane.
SAME = 1e-3
WHAT = "streaming moments in float64, then axes"
AGAINST = "torch.linalg.svd of the whole centred float32 matrix"


def statistics(setting: Setting) -> list[Row]:
    """Alternate both in child processes, each on the same features made anew from a seed."""
    images, dim, leading = QUICK if setting.quick else (IMAGES, DIM, LEADING)
    files = {kind: str(setting.work / f"axes-{kind}.pt") for kind in ("stream", "whole")}

    def child(kind: str, count: int, threads: int | None = None) -> dict[str, Any]:
        return in_child(
            "tools.speed.pretraining.moments:measure",
            kind=kind,
            images=count,
            dim=dim,
            out=files[kind],
            threads=threads,
        )

    turns = [{kind: child(kind, images) for kind in files} for _ in range(setting.repeats)]
    middle = {
        kind: {key: median(turn[kind][key] for turn in turns) for key in ("seconds", "peak_mb")} for kind in files
    }
    same = compare_axes(Path(files["stream"]), Path(files["whole"]), leading)
    smaller = {name: child("stream", images // share) for name, share in (("1x", 4), ("2x", 2))}
    one = child("stream", images, threads=1)
    parts = {key: median(turn["stream"][key] for turn in turns) for key in ("moments", "axes", "products")}
    detail = {"turns": turns, **same, "dim": dim, "same_axes": same["angle"] < SAME}
    note = (
        f"{parts['moments']:.2f} s are for moments, whose float64 products alone take {parts['products']:.2f} s, and "
        f"{parts['axes']:.2f} s for axes; leading {leading} axes: largest 1 - |cos| {same['one_minus_cos']:.1e}, "
        f"largest angle between the spaces {same['angle']:.1e} rad"
    )
    lines = []
    for key, unit, target in (("seconds", "s", 5.0), ("peak_mb", "MB above the source of features", 20.0)):
        ours, theirs = middle["stream"][key], middle["whole"][key]
        grown = {"unit": unit, **{name: made[key] for name, made in smaller.items()}, "4x": ours}
        lines.append(
            Row(
                "statistics-" + ("time" if key == "seconds" else "memory"),
                f"{WHAT}, {images} x {dim}",
                AGAINST,
                unit=unit,
                ours=ours,
                theirs=theirs,
                # Speed counts only if the axes are the same.
                ratio=theirs / ours if detail["same_axes"] else 0.0,
                target=target,
                images=images,
                growth={"images": grown, "threads": {"unit": unit, "1": one[key], "all": ours}},
                note=note,
                detail=detail,
            )
        )
    return lines


@dataclass(frozen=True)
class Source:
    """Batches (B, D) float32 with the decaying spectrum of a network's features, a function of the seed alone."""

    mix: torch.Tensor
    mean: torch.Tensor
    draw: torch.Generator

    def batches(self, images: int) -> Iterator[torch.Tensor]:
        """So many images, `BATCH` at a time."""
        for start in range(0, images, BATCH):
            count = min(BATCH, images - start)
            yield torch.randn(count, len(self.mean), generator=self.draw) @ self.mix + self.mean


def make_source(dim: int) -> Source:
    """Features of width `dim`."""
    draw = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=draw))[0]
    # sigma falls like 1 / k: the leading axes lie apart, so that they can be compared one by one.
    mix = (torch.arange(1, dim + 1).float().reciprocal()[:, None] * rotation).contiguous()
    return Source(mix, torch.rand(dim, generator=draw), draw)


def measure(kind: str, images: int, dim: int, out: str, threads: int | None = None) -> dict[str, float]:
    """In a child process: time without making the features, peak memory above that of their source, axes in a file."""
    torch.set_num_threads(threads or torch.get_num_threads())
    torch.linalg.svd(torch.eye(256))  # load the libraries and allocate their thread buffers first
    scipy.linalg.eigh(np.eye(256))
    source, clock = make_source(dim), {"moments": 0.0, "axes": 0.0}
    axes, peak = peak_mb(lambda: {"stream": _stream, "whole": _whole}[kind](source, images, clock))
    torch.save(axes.float(), out)
    return {"seconds": sum(clock.values()), "peak_mb": peak, **clock, "products": products(images, dim)}


def products(images: int, dim: int) -> float:
    """Time the float64 products of half of the scatter matrix alone."""
    left, right = torch.ones(dim, BATCH, dtype=torch.float64), torch.ones(BATCH, dim, dtype=torch.float64)
    out = left @ right
    began = time.perf_counter()
    for _ in range(8):
        torch.mm(left, right, out=out)
    return (time.perf_counter() - began) / 8 * images / BATCH / 2


def _stream(source: Source, images: int, clock: dict[str, float]) -> torch.Tensor:
    moments = Moments(len(source.mean))
    for batch in source.batches(images):
        began = time.perf_counter()
        moments.add(batch)
        clock["moments"] += time.perf_counter() - began
    began = time.perf_counter()
    found: Statistics = finish(moments, teacher="", data="")
    clock["axes"] += time.perf_counter() - began
    return found.axes


def _whole(source: Source, images: int, clock: dict[str, float]) -> torch.Tensor:
    matrix = torch.empty(images, len(source.mean))
    for number, batch in enumerate(source.batches(images)):
        matrix[number * BATCH : number * BATCH + len(batch)] = batch
    began = time.perf_counter()
    matrix -= matrix.mean(0)
    axes = torch.linalg.svd(matrix, full_matrices=False)[2].T.contiguous()
    clock["axes"] += time.perf_counter() - began
    return axes


def compare_axes(ours: Path, theirs: Path, leading: int) -> dict[str, float]:
    """How far two sets of leading axes, columns of (D, D), lie apart: axis by axis, and as spaces."""
    a, b = (torch.load(path, weights_only=True)[:, :leading].double() for path in (ours, theirs))
    cosines = (a * b).sum(0).abs() / (a.norm(dim=0) * b.norm(dim=0))
    # The sine of the largest angle between two spaces is the norm of what one leaves outside the other.
    a, b = torch.linalg.qr(a)[0], torch.linalg.qr(b)[0]
    sine = float(np.linalg.norm((b - a @ (a.T @ b)).numpy(), 2))
    return {"one_minus_cos": float((1 - cosines).max()), "angle": math.asin(min(sine, 1.0))}
