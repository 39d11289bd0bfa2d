"""JPEG decoders and resizers side by side: core-milliseconds per crop, and how far its pixels are from Pillow's.

    python -m tools.speed.decoders [--images FOLDER] [--json FILE]

Every way takes an encoded photograph of about 500 x 375 and a box, and yields a square crop. The reference decodes all
of it with Pillow and resamples the box, bilinear. A way that can decode at reduced scale does so by the rule of
`kdep.data.decoding.decode`. `kdep` is what training uses. The last lines compare whole loaders: torchvision's
ImageFolder with its transforms on PIL images, and ours with its colour on batches. Times are the process's own CPU time
on one thread, so that neighbours disturb them little; ways take turns, the median of the rounds counts.
"""

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdep.data.decoding.decode import Box, Encoded, decoding_scale, resample
from kdep.data.loading.views import Augmentation, Views, collate, recolour
from kdep.data.sources.source import open_source
from kdep.files import write_text

BILINEAR = Image.Resampling.BILINEAR
LONG_SIDE, QUALITY = 500, 90
BATCH = 16  # of the loaders
PACKAGES = ("pillow", "torch", "torchvision", "simplejpeg", "PyTurboJPEG", "opencv-python-headless", "opencv-python")

# (data, scale) -> (H, W, 3) uint8, or Pillow's image
Decode = Callable[[bytes, int], Any]
# (decoded, box in its coordinates, side) -> (side, side, 3) uint8
Resize = Callable[[Any, Box, int], np.ndarray]


def decoders(library: str | None) -> tuple[dict[str, tuple[Decode, bool]], list[str]]:
    """Each decoder that is installed with whether it decodes at reduced scale, and those that are not."""
    makers = {
        "pillow": lambda: (_pillow, False),
        "pillow draft": lambda: (_pillow, True),
        "torchvision": lambda: (_torchvision(), False),
        "simplejpeg": lambda: (_simplejpeg(), True),
        "PyTurboJPEG": lambda: (_turbojpeg(library), True),
        "opencv": lambda: (_opencv(), True),
    }
    found: dict[str, tuple[Decode, bool]] = {}
    absent: list[str] = []
    for name, make in makers.items():
        try:
            found[name] = make()
        except (ImportError, RuntimeError, OSError) as error:
            absent.append(f"{name}: {type(error).__name__}: {error}".partition("\n")[0])
    return found, absent


def _pillow(data: bytes, scale: int) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    return image.convert("RGB")


def _torchvision() -> Decode:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(data: bytes, scale: int) -> np.ndarray:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_jpeg(encoded, ImageReadMode.RGB).permute(1, 2, 0).numpy()

    return decode


def _simplejpeg() -> Decode:
    import simplejpeg

    def decode(data: bytes, scale: int) -> np.ndarray:
        if scale == 1:
            return simplejpeg.decode_jpeg(data)
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return simplejpeg.decode_jpeg(
            data, min_height=-(-height // scale), min_width=-(-width // scale), min_factor=scale
        )

    return decode


def _turbojpeg(library: str | None) -> Decode:
    import turbojpeg

    codec = turbojpeg.TurboJPEG(library)
    return lambda data, scale: codec.decode(data, pixel_format=turbojpeg.TJPF_RGB, scaling_factor=(1, scale))


def _opencv() -> Decode:
    import cv2

    cv2.setNumThreads(1)
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }

    def decode(data: bytes, scale: int) -> np.ndarray:
        flag = flags[scale] | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), flag), cv2.COLOR_BGR2RGB)

    return decode


def resizers() -> dict[str, Resize]:
    """The resizers that are installed; only Pillow's take a box between pixels, the others one that is rounded."""
    found: dict[str, Resize] = {
        "pillow": lambda image, box, side: np.asarray(_image(image).resize((side, side), BILINEAR, box=box)),
        "pillow reducing_gap=2": lambda image, box, side: np.asarray(
            _image(image).resize((side, side), BILINEAR, box=box, reducing_gap=2.0)
        ),
        "torch antialias": _torch_antialias,
    }
    try:
        import cv2
    except ImportError:
        return found
    for name, how in (("opencv area", cv2.INTER_AREA), ("opencv linear", cv2.INTER_LINEAR)):
        found[name] = lambda image, box, side, how=how: cv2.resize(_cut(image, box), (side, side), interpolation=how)
    return found


def _torch_antialias(image: Any, box: Box, side: int) -> np.ndarray:
    import torch

    # torch warns of arrays that may not be written to, such as Pillow's.
    pixels = torch.from_numpy(np.require(_cut(image, box), requirements="W"))
    return resample(pixels.permute(2, 0, 1)[None], (side, side)).permute(1, 2, 0).numpy()


def _image(decoded: Any) -> Image.Image:
    return decoded if isinstance(decoded, Image.Image) else Image.fromarray(decoded)


def _cut(decoded: Any, box: Box) -> np.ndarray:
    left, top, right, bottom = (round(edge) for edge in box)
    return np.asarray(decoded)[top:bottom, left:right]


def crop(decode: Decode, scaled: bool, resize: Resize, data: bytes, box: Box, side: int) -> np.ndarray:
    """One crop by one way; (side, side, 3) uint8."""
    scale = decoding_scale(box, (side, side)) if scaled else 1
    return resize(decode(data, scale), tuple(edge / scale for edge in box), side)


def by_kdep(data: bytes, box: Box, side: int) -> np.ndarray:
    """One crop as the training takes it."""
    return Encoded(data).crop(box, (side, side)).permute(1, 2, 0).numpy()


def photographs(count: int, own: Path | None) -> list[bytes]:
    """JPEG files with a long side of 500: made of the user's photographs, or synthesised."""
    from tools.speed.photographs import photograph

    if own is None:
        return [_encode(photograph(number)) for number in range(count)]
    source = open_source(str(own))
    found: list[bytes] = []
    for index in range(min(count, len(source.names))):
        image = source.read(index)
        ratio = LONG_SIDE / max(image.size)
        sides = (round(image.width * ratio), round(image.height * ratio))
        found.append(_encode(image.resize(sides, Image.Resampling.LANCZOS)))
    return found


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def take_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each way, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if number:
                times[name].append(time.process_time() - began)
    return {name: statistics.median(found) for name, found in times.items()}


def compare(files: list[bytes], side: int, rounds: int, library: str | None) -> list[dict[str, Any]]:
    """All ways at one size of crop."""
    from kdep.data.loading.views import _crop_box

    boxes = [
        _crop_box(np.random.Generator(np.random.Philox(number)), *Image.open(io.BytesIO(data)).size, (0.08, 1.0))
        for number, data in enumerate(files)
    ]
    ways: dict[str, Callable[[bytes, Box], np.ndarray]] = {"kdep": lambda data, box: by_kdep(data, box, side)}
    for name, (decode, scaled) in decoders(library)[0].items():
        for label, resize in resizers().items():
            ways[f"{name} | {label}"] = lambda data, box, decode=decode, scaled=scaled, resize=resize: crop(
                decode, scaled, resize, data, box, side
            )
    pairs = list(zip(files, boxes, strict=True))
    times = take_turns({name: lambda way=way: [way(*pair) for pair in pairs] for name, way in ways.items()}, rounds)
    reference = [ways["pillow | pillow"](*pair).astype(int) for pair in pairs]
    rows = []
    for name, way in ways.items():
        off = [np.abs(way(*pair) - wanted) for pair, wanted in zip(pairs, reference, strict=True)]
        rows.append(
            {
                "side": side,
                "way": name,
                "ms": round(1e3 * times[name] / len(files), 3),
                "mean_difference": round(float(np.mean([part.mean() for part in off])), 3),
                "max_difference": int(max(part.max() for part in off)),
            }
        )
    return rows


def loaders(files: list[bytes], side: int, rounds: int) -> dict[str, Any]:
    """ImageFolder with transforms on PIL images against our views and colour, from files on disk."""
    import torch
    from torchvision import transforms

    from tools.speed.pretraining.reference_loop import make_loader

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "class"
        folder.mkdir()
        for number, data in enumerate(files):
            (folder / f"{number:05d}.jpg").write_bytes(data)
        theirs = make_loader(Path(temporary), size=side, batch=BATCH, workers=0).dataset
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        ours = Views(open_source(temporary), Augmentation(side, jitter=0.1, lighting=0.05), seed=0)

        batches = [range(len(files))[start : start + BATCH] for start in range(0, len(files), BATCH)]

        def by_torchvision() -> None:
            for batch in batches:
                torch.stack([normalize(theirs[number][0]) for number in batch])

        def by_views() -> None:
            for numbers in batches:
                batch = collate([ours[(number, 0)] for number in numbers])
                # Our networks normalise for themselves; counted here, as it is there.
                recolour(batch.images, batch.colour).sub_(0.45).div_(0.225)

        times = take_turns({"imagefolder": by_torchvision, "kdep": by_views}, rounds)
    found = {name: round(1e3 * seconds / len(files), 3) for name, seconds in times.items()}
    return {"side": side, "ms": found, "ratio": round(times["imagefolder"] / times["kdep"], 2)}


def measure(files: list[bytes], sides: list[int], rounds: int, library: str | None) -> dict[str, Any]:
    """Everything, for the JSON file."""
    import torch

    torch.set_num_threads(1)
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "images": len(files),
        "mean_bytes": round(statistics.mean(len(data) for data in files)),
        "machine": {
            "arch": platform.machine(),
            "cores": os.cpu_count(),
            "torch": torch.backends.cpu.get_cpu_capability(),
        },
        "versions": versions,
        "absent": decoders(library)[1],
        "crops": [row for side in sides for row in compare(files, side, rounds, library)],
        "loaders": [loaders(files, side, rounds) for side in sides],
    }


def table(found: dict[str, Any]) -> str:
    """The comparison as text."""
    lines = [f"{'side':>4} {'way':36} {'ms':>7} {'mean':>6} {'max':>4}   (levels from Pillow's)"]
    for row in sorted(found["crops"], key=lambda row: (row["side"], row["ms"])):
        figures = f"{row['ms']:7.3f} {row['mean_difference']:6.3f} {row['max_difference']:4d}"
        lines.append(f"{row['side']:4d} {row['way']:36} {figures}")
    for row in found["loaders"]:
        ms = row["ms"]
        lines.append(
            f"{row['side']:4d} ImageFolder {ms['imagefolder']:.2f} ms, kdep {ms['kdep']:.2f} ms: {row['ratio']} x"
        )
    lines += [f"absent: {name}" for name in found["absent"]]
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of photographs; without it they are synthesised")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--count", type=int, default=64, help="photographs [64]")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 224], help="of the crops [64 128 224]")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts [5]")
    parser.add_argument("--turbojpeg", metavar="LIB", help="libturbojpeg for PyTurboJPEG, where it is not found")
    args = parser.parse_args()
    files = photographs(args.count, args.images)
    found = {
        "photographs": "synthesised" if args.images is None else "real",
        **measure(files, args.sides, args.rounds, args.turbojpeg),
    }
    if args.json:
        write_text(args.json, json.dumps(found, indent=1) + "\n")
    print(table(found))  # noqa: T201 - the script's answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
