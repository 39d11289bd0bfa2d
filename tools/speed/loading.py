"""Measure what loading costs a training step on this CPU: the step alone and several loaders, in turns.

    python -m tools.speed.loading [--images FOLDER] [--sides 64 224] [--json FILE]

The step is a ResNet-18's, forward, backward and SGD, on a batch in memory; each way feeds the same step with views of
JPEG files of about 500 x 375, or of the cache of decoded images, coloured. A rate's share is that of the bare step in
the same round; the median round counts. On a machine with other work the shares mean little.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from kdep.data.cache import open_cache
from kdep.data.sources import open_source
from kdep.data.views import Augmentation, Batch, Order, Threaded, Views, load, recolour
from kdep.files import write_atomically
from kdep.run.device import choose_precision, computing_in
from tools.speed.decoders import photographs

BATCH = {64: 64, 128: 32, 224: 16}
ENDLESS = 10**6  # epochs; each loader is stopped early


def make_step(side: int) -> Callable[[torch.Tensor], None]:
    """One training step of a ResNet-18 as `kdep.pretrain` makes it on a CPU."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0).train()
    if side >= 128:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True)
    target = torch.randn(BATCH[side], model.num_features)
    precision = choose_precision("auto", torch.device("cpu"))

    def step(images: torch.Tensor) -> None:
        with computing_in(precision, torch.device("cpu")):
            loss = F.mse_loss(model(images).float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def feeds(views: Views, side: int) -> dict[str, Callable[[], Iterable[Batch]]]:
    """The ways to load."""
    order = Order(len(views.source.names), BATCH[side], ENDLESS, seed=0)
    threads = torch.get_num_threads()
    return {
        "in the training thread": lambda: load(views, order, workers=0),
        f"{threads} threads between steps": lambda: Threaded(views, order, threads),
        "1 worker process": lambda: load(views, order, workers=1),
        "2 worker processes": lambda: load(views, order, workers=2),
    }


def rate(batches: Iterator[torch.Tensor], step: Callable[[torch.Tensor], None], steps: int) -> float:
    """Images per second, after two steps to fill what is filled ahead."""
    seen, began = 0, 0.0
    for number in range(steps + 2):
        if number == 2:
            began = time.perf_counter()
        images = next(batches)
        step(images)
        seen += len(images) if number >= 2 else 0
    return seen / (time.perf_counter() - began)


def compare(files: list[bytes], side: int, *, steps: int, rounds: int) -> list[dict[str, Any]]:
    """The bare step and every way, from files and from the cache."""
    step, synthetic = make_step(side), torch.rand(BATCH[side], 3, side, side)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "files").mkdir()
        for number, data in enumerate(files):
            (folder / "files" / f"{number:05d}.jpg").write_bytes(data)
        source = open_source(str(folder / "files"))
        augmentation = Augmentation(side, jitter=0.1, lighting=0.05)
        cached = open_cache(source, folder / "cache", size=side, show=False)
        ways = {
            f"{kind}: {name}": feed
            for kind, origin in (("files", source), ("cache", cached))
            for name, feed in feeds(Views(origin, augmentation, 0), side).items()
        }
        shares: dict[str, list[float]] = {name: [] for name in ways}
        bare: list[float] = []
        for _ in range(rounds):
            bare.append(rate(iter(lambda: synthetic, None), step, steps))
            for name, feed in ways.items():
                batches = iter(feed())
                found = rate((recolour(batch.images, batch.colour) for batch in batches), step, steps)
                del batches  # ends its workers
                shares[name].append(found / bare[-1])
    rows = [{"side": side, "way": "bare step", "images_per_second": round(statistics.median(bare), 1), "share": 1.0}]
    for name, found in shares.items():
        rows.append({"side": side, "way": name, "share": round(statistics.median(found), 3), "of": len(found)})
    return rows


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of photographs; without it they are synthesised")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--count", type=int, default=128, help="photographs [128]")
    parser.add_argument("--sides", type=int, nargs="+", choices=sorted(BATCH), default=[64, 224], help="of the views")
    parser.add_argument("--steps", type=int, default=10, help="per way and round [10]")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts [5]")
    args = parser.parse_args()
    files = photographs(args.count, args.images)
    rows = [row for side in args.sides for row in compare(files, side, steps=args.steps, rounds=args.rounds)]
    if args.json:
        content = {"threads": torch.get_num_threads(), "rows": rows}
        write_atomically(args.json, lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))
    for row in rows:
        print(f"{row['side']:4d} {row['way']:32} {row['share']:.3f} {row.get('images_per_second', '')}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
