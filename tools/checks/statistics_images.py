"""How many images the teacher's statistics need: axes of a part of the images against axes of all of them.

    python -m tools.checks.statistics_images classification/tiny_imagenet200.npz:train OUT.json

A part is a random choice, as `align.images` takes it. Every tenth image is held out: what counts is how much of the
variance of other images the leading axes hold, and how far targets from a part are from targets from all images. Single
axes with nearly equal variance may turn into each other without harm, so the first figure is the one to go by.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from kdep.config import parse_config
from kdep.data.loading.order import once
from kdep.data.loading.training import make_pixels
from kdep.data.loading.views import Augmentation, Views, load
from kdep.data.sources.source import choose, open_source
from kdep.files import write_text
from kdep.method.statistics import Moments, Statistics, finish
from kdep.models.teacher import fastest_form, open_teacher
from kdep.run.device import exactly

PARTS = (500, 1000, 2000, 4000, 8000, 16_000, 32_000)
WIDTHS = (64, 256, 512)
BATCH = 64


def features_of(source: Any, teacher_name: str, size: int) -> torch.Tensor:
    """Features (N, D) of the first view of every image."""
    run = {"name": "x", "teacher": {"source": teacher_name, "tap": "post"}, "student": {"arch": "resnet18"}}
    run |= {"data": {"source": "x"}, "optim": {"epochs": 1, "batch_size": 2, "lr": 1}}
    cpu = torch.device("cpu")
    teacher = fastest_form(open_teacher(parse_config(run, "here")), size, cpu)
    views = Views(source, Augmentation(size, (0.4, 1.0)), 0)
    pixels = make_pixels(views.augmentation, cpu)
    with exactly(cpu):
        batches = load(views, once(len(source.names), BATCH), workers="auto")
        return torch.cat([teacher(pixels(batch)) for batch in batches if batch.images is not None])


def statistics_of(features: torch.Tensor) -> Statistics:
    """Statistics of features."""
    moments = Moments(features.shape[1])
    for part in features.split(1024):
        moments.add(part)
    return finish(moments, teacher="check", data="check")


def held(statistics: Statistics, other: torch.Tensor, width: int) -> float:
    """Share of the variance of other features that the leading axes hold."""
    centred = other.double() - statistics.mean
    return float((centred @ statistics.basis[:, :width]).square().sum() / centred.square().sum())


def compare(features: torch.Tensor, seed: int) -> dict[str, dict[str, float]]:
    """Compare every part with all images."""
    mask = torch.zeros(len(features), dtype=torch.bool)
    mask[::10] = True
    other, rest = features[mask], features[~mask]
    whole = statistics_of(rest)
    widths = [width for width in WIDTHS if width <= features.shape[1]]
    found = {}
    for count in [*(part for part in PARTS if part < len(rest)), len(rest)]:
        part = statistics_of(rest[torch.from_numpy(choose(len(rest), count, seed))])
        found[str(count)] = {
            f"variance of other images on {width} axes": held(part, other, width) for width in widths
        } | {
            f"of that of all images on {width} axes": held(part, other, width) / held(whole, other, width)
            for width in widths
        }
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="as data.source")
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", default="pypi:efficientnet_lite0")
    parser.add_argument("--size", type=int, default=64, help="side of the views [64]")
    parser.add_argument("--limit", type=int, help="images [all]")
    args = parser.parse_args(arguments)
    source = open_source(args.source, limit=args.limit)
    features = features_of(source, args.teacher, args.size)
    about = {"source": args.source, "teacher": args.teacher, "size": args.size, "images": len(features)}
    document = {**about, "dimensions": features.shape[1], "parts": compare(features, seed=0)}
    write_text(args.out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))  # noqa: T201 - the answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
