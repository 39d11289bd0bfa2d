"""Provide JPEG files to read: synthetic photographs as costly to decode as real ones.

A photograph is cheap or dear to decode by its size and by how many coefficients survive. Natural images have amplitudes
that fall like 1/f, correlated colours, edges and flat areas; a picture made so weighs about as much as an ImageNet file
of its size (about 110 kB on average at 500 x 375). Noise weighs three times as much, a smooth gradient a fifth.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from kdep.files import write_atomically

CLASSES = 4  # ImageFolder needs class folders
DISTINCT = 640  # more are links to these, in turn: views of equal files still differ
SIDES = (500, 375)
QUALITY = 90


def photographs(work: Path, count: int, sides: tuple[int, int] = SIDES) -> Path:
    """A folder of `count` JPEG files in class folders; made once."""
    for number in range(min(count, DISTINCT)):
        draw_one(work, number, sides)
    chosen = work / f"first-{count}-{sides[0]}x{sides[1]}"
    for number in range(count):
        _link(_place(chosen, number), _place(_drawn(work, sides), number % DISTINCT))
    return chosen


def draw_one(work: Path, number: int, sides: tuple[int, int] = SIDES) -> None:
    """Draw a photograph if it is missing; several processes may draw different ones."""
    path = _place(_drawn(work, sides), number)
    if not path.exists():
        image = photograph(number, sides)
        write_atomically(path, lambda part: image.save(part, format="JPEG", quality=QUALITY))


def _drawn(work: Path, sides: tuple[int, int]) -> Path:
    return work / f"photographs-{sides[0]}x{sides[1]}"


def photograph(seed: int, sides: tuple[int, int] = SIDES) -> Image.Image:
    """One picture: a scene of smooth surfaces with edges, under a texture whose amplitude falls like 1/f."""
    draw = np.random.Generator(np.random.Philox(seed))
    width, height = sides
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / width
    picture = _surfaces(draw, x, y)
    texture = _pink(draw, height, width)
    # Depth of field: the texture is crisp in one part of the picture and fades in another.
    sharp = 1 / (1 + np.exp(-8 * (x * draw.uniform(-1, 1) + y * draw.uniform(-1, 1) + 0.2)))
    tint = 1 + 0.25 * draw.normal(size=3)
    picture += (34 * texture * (0.25 + sharp))[..., None] * tint
    picture += draw.normal(0, 2.0, picture.shape)  # the sensor
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _surfaces(draw: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base, slope = draw.uniform(40, 200, 3), draw.uniform(-80, 80, (2, 3))
    picture = base + x[..., None] * slope[0] + y[..., None] * slope[1]
    for _ in range(draw.integers(8, 20)):
        cx, cy, angle = draw.uniform(0, 1), draw.uniform(0, 0.75), draw.uniform(0, np.pi)
        long, flat = draw.uniform(0.03, 0.3), draw.uniform(0.3, 1.0)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = (u / long) ** 2 + (v / (long * flat)) ** 2 < 1
        shade = draw.uniform(20, 230, 3) + (u / long)[..., None] * draw.uniform(-40, 40)
        picture = np.where(inside[..., None], shade, picture)
    return picture


def _pink(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    phase = np.exp(2j * np.pi * draw.random(frequency.shape))
    field = np.fft.irfft2(phase / frequency, s=(height, width))
    return field / field.std()


def _place(folder: Path, number: int) -> Path:
    return folder / f"class{number % CLASSES}" / f"{number:05d}.jpg"


def _link(path: Path, to: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a link to a missing photograph
        path.symlink_to(to.resolve())
