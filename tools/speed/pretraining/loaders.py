"""Compare kdep's loader with torchvision's ImageFolder and transforms: images per second and core."""

import gc
import itertools
import time
from pathlib import Path

import torch

from kdep.data.decoding.decode import resample
from kdep.data.loading.order import Order
from kdep.data.loading.views import Augmentation, Views, load, recolour
from kdep.data.sources.source import open_source
from tools.speed.clock import interleave, medians, processor_seconds, threads
from tools.speed.photographs import photographs
from tools.speed.pretraining import reference_loop
from tools.speed.row import Row, Setting

BATCH, IMAGES, SIZE = 32, 480, 224
EPOCHS = 4  # with the start of loading processes: ours once, theirs in every epoch
QUICK = (8, 32, 32)


def loader(setting: Setting) -> list[Row]:
    """Measure images per second of CPU time over all processes; waiting does not count."""
    batch, images, size = QUICK if setting.quick else (BATCH, IMAGES, SIZE)
    sides = (120, 90) if setting.quick else (500, 375)
    folder = photographs(setting.work, images, sides)
    wall: dict[str, float] = {}
    default: int | str = 1 if setting.device.type == "cuda" else "auto"  # on a CPU: threads, between the steps

    def rate(name: str, workers: int | str, count: int = images * EPOCHS) -> float:
        passes = {"ours": ours, "theirs": theirs}[name]
        began, busy = time.perf_counter(), processor_seconds()
        with threads(1):  # idle threads would spin and use CPU time
            seen = passes(folder, size, batch, workers, count)
        gc.collect()  # ends the loading processes; their CPU time is counted when they end
        wall[f"{name}-{workers}"] = seen / (time.perf_counter() - began)
        return seen / (processor_seconds() - busy)

    figures = interleave({"ours": lambda: rate("ours", default), "theirs": lambda: rate("theirs", 1)}, setting.repeats)
    middle = medians(figures)
    one, two = rate("ours", 1), {name: rate(name, 2) for name in ("ours", "theirs")}
    parts = parts_of(folder, size, count=16 if setting.quick else 256)
    shares = {f"{share}x": images * EPOCHS * share // 4 for share in (1, 2, 4)}
    by_images = {name: count / rate("ours", default, count) for name, count in shares.items()}
    return [
        Row(
            "loader",
            f"JPEG of about 500 x 375 to coloured crops of {size} px",
            "ImageFolder, torchvision transforms on PIL (crop, flip, ColorJitter, ToTensor, Lighting)",
            unit="images/s per core",
            ours=middle["ours"],
            theirs=middle["theirs"],
            ratio=middle["ours"] / middle["theirs"],
            target=2.0,
            batch=batch,
            resolution=size,
            images=images * EPOCHS,
            growth={
                "images": {"unit": "core-seconds", **by_images},
                "workers": {"unit": "images/s per core", "1": one, "2": two["ours"]},
            },
            note=f"processor time of all processes, start of the loading processes included; ours with workers: "
            f"{default}, with one process {one:.0f}, with two {two['ours']:.0f}; theirs with one, with two "
            f"{two['theirs']:.0f}; images/s of the wall clock with two: {wall['ours-2']:.0f} against "
            f"{wall['theirs-2']:.0f}; of ours, ms per image and core: {parts['decode']:.2f} in the JPEG decoder, "
            f"{parts['resample']:.2f} resampling, {parts['colour']:.2f} colours",
            detail={"figures": figures, "milliseconds": parts, "two_workers": two, "wall_images_per_second": wall},
        )
    ]


def parts_of(folder: Path, size: int, count: int) -> dict[str, float]:
    """Measure milliseconds per image on one core for decoding, resampling and colour."""
    source, parts = open_source(str(folder)), dict.fromkeys(("decode", "resample", "colour"), 0.0)
    with threads(1):
        for index in range(min(count, len(source.names))):
            picture = source.open(index)
            began = time.perf_counter()
            pixels = picture.whole()
            decoded = time.perf_counter()
            view = resample(pixels[None], (size, size))
            done = time.perf_counter()
            recolour(view[None], torch.ones(1, 6))
            parts["colour"] += 1000 * (time.perf_counter() - done) / count
            parts["resample"] += 1000 * (done - decoded) / count
            parts["decode"] += 1000 * (decoded - began) / count
    return parts


def ours(folder: Path, size: int, batch: int, workers: int | str, count: int) -> int:
    """Load, crop and colour images as pretraining does; return their number."""
    source = open_source(str(folder))
    views = Views(source, Augmentation(size, jitter=0.1, lighting=0.05), seed=0)
    batches = load(views, Order(len(source.names), batch, EPOCHS, seed=0), workers=workers)
    seen = 0
    for part in itertools.islice(batches, max(1, count // batch)):
        recolour(part.images, part.colour)
        seen += len(part.images)
    return seen


def theirs(folder: Path, size: int, batch: int, workers: int, count: int) -> int:
    """Load images with torchvision; return their number."""
    loader = reference_loop.make_loader(folder, size=size, batch=batch, workers=workers)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    return sum(len(images) for images, _ in itertools.islice(batches, max(1, count // batch)))
