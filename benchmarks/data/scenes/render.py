"""One scene: an image with, for every pixel, what is seen there."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from kdep_benchmarks.data.scenes.drawing import CLASSES, STUFF, SURFACES, Ring, flat, turn, turned_coordinates

OTHER, HIDDEN = 255, 254
SUPERSAMPLING = 3
# An object of which less is left to see is not named: its pixels become HIDDEN.
LEAST_VISIBLE_PIXELS = 24
LEAST_VISIBLE_SHARE = 0.25
LEAST_CONTRAST = 60.0
# Difficulty. With these a linear probe of random ResNet-18 features stays near 20 %, of ImageNet features near 90 %
# (12 classes). Saturated colours, or ground as bright as objects, leave random features at chance: mean colour is what
# they see.
CHROMA = 30.0
GROUND_TONES, OBJECT_TONES, ANY_TONES = (20, 110), (100, 235), (20, 235)


@dataclass(frozen=True)
class Thing:
    """One annotated object.

    box is (left, top, right, bottom) of the visible pixels, right and bottom exclusive; visible, (H, W) bool, is those.
    """

    label: int
    box: tuple[int, int, int, int]
    visible: np.ndarray
    truncated: bool


@dataclass(frozen=True)
class Scene:
    """An RGB uint8 image (H, W, 3) and its truth.

    ground: index into STUFF at every pixel, as if there were no object. owner: 0 where the ground is seen, k where
    things[k - 1] is, OTHER on strokes and occluders, HIDDEN on objects of which too little is seen to name them.
    """

    image: np.ndarray
    ground: np.ndarray
    owner: np.ndarray
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class _Painted:
    label: int
    pixels: int
    truncated: bool


def render(rng: np.random.Generator, *, size: int, labels: list[int], radius: tuple[float, float]) -> Scene:
    """Draw objects of the given classes, the first one furthest back.

    labels are indices into CLASSES, none for ground alone; radius is the range of the objects' radius in units of the
    image's side.
    """
    image, ground = _paint_ground(rng, size)
    owner = np.zeros((size, size), np.uint8)
    _stroke(rng, image, owner, count=int(rng.integers(0, 2)))
    painted = [
        _paint_object(rng, image, owner, number=number, label=label, radius=size * rng.uniform(*radius))
        for number, label in enumerate(labels, start=1)
    ]
    if labels and rng.random() < 0.3:
        _occlude(rng, image, owner, centre=rng.uniform(0.15, 0.85, 2) * size)
    _stroke(rng, image, owner, count=int(rng.integers(0, 2)))
    things = _annotate(owner, painted)
    return Scene(_photograph(rng, image), ground, owner, things)


def _paint_ground(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One or two textures that meet along a wavy line."""
    textures = tuple(STUFF.values())
    kinds = rng.choice(len(textures), 2, replace=False)
    u, v = turned_coordinates(rng, size)
    beyond = u > rng.uniform(-0.1, 0.6) + 0.04 * np.sin(v * rng.uniform(5, 20))
    first, second = (_paint_texture(rng, textures[kind](rng, size)) for kind in kinds)
    image = np.where(beyond[..., None], second, first)
    return image, np.where(beyond, kinds[1], kinds[0]).astype(np.uint8)


def _paint_texture(rng: np.random.Generator, tone: np.ndarray) -> np.ndarray:
    dark, light = _colour(rng, GROUND_TONES), _colour(rng, ANY_TONES)
    contrast = (light - dark) * rng.uniform(0.15, 0.4)
    return dark.astype(np.float32) + tone.astype(np.float32)[..., None] * contrast.astype(np.float32)


def _colour(rng: np.random.Generator, between: tuple[int, int]) -> np.ndarray:
    """A muted colour; no class has one of its own."""
    return np.clip(rng.uniform(*between) + rng.uniform(-CHROMA, CHROMA, 3), 0, 255)


def _paint_object(
    rng: np.random.Generator, image: np.ndarray, owner: np.ndarray, *, number: int, label: int, radius: float
) -> _Painted:
    """Draw on `image`, write `number` into `owner` where the object covers it."""
    size = len(owner)
    # The centre keeps two thirds of a radius from the border: some objects are cut by it, none beyond recognition.
    centre = rng.uniform(radius * 0.67, size - radius * 0.67, 2)
    angle, squash = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    name = tuple(CLASSES)[label]
    rings = [turn(ring * (1.0, squash), angle) * radius + centre for ring in CLASSES[name](rng)]
    surface = SURFACES[name]

    left, top = (int(edge) for edge in np.floor(rings[0].min(axis=0)))
    right, bottom = (int(edge) for edge in np.ceil(rings[0].max(axis=0)) + 1)
    whole = _coverage([ring - (left, top) for ring in rings], width=right - left, height=bottom - top)
    rows, columns = slice(max(top, 0), min(bottom, size)), slice(max(left, 0), min(right, size))
    covered = whole[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    x = (np.arange(columns.start, columns.stop) - centre[0])[None, :] / radius
    y = (np.arange(rows.start, rows.stop) - centre[1])[:, None] / radius
    turned = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)

    patch = image[rows, columns]
    dark, light = _two_colours(rng, against=patch.mean(axis=(0, 1)))
    patch += covered[..., None] * (dark + surface(rng, turned)[..., None] * (light - dark) - patch)
    owner[rows, columns][covered >= 0.5] = number
    whole_pixels, seen_pixels = int((whole >= 0.5).sum()), int((covered >= 0.5).sum())
    return _Painted(label, whole_pixels, truncated=seen_pixels < whole_pixels)


def _coverage(rings: list[Ring], *, width: int, height: int) -> np.ndarray:
    """Share of every pixel that the first ring covers and the others do not, (height, width) in [0, 1]."""
    canvas = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for ring, fill in zip(rings, [255] + [0] * (len(rings) - 1), strict=True):
        draw.polygon(flat(ring * SUPERSAMPLING), fill=fill)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float64) / 255


def _two_colours(rng: np.random.Generator, *, against: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two colours that differ from each other and, the first, from what is behind: what no one can see is no label."""
    while True:
        first, second = _colour(rng, OBJECT_TONES), _colour(rng, ANY_TONES)
        if min(np.abs(first - against).mean(), np.abs(first - second).mean()) > LEAST_CONTRAST:
            return first, second


def _stroke(rng: np.random.Generator, image: np.ndarray, owner: np.ndarray, *, count: int) -> None:
    """Distractors: thin bent lines."""
    size = len(owner)
    for _ in range(count):
        mask = Image.new("L", (size, size))
        line = rng.uniform(-0.1, 1.1, (3, 2)) * size
        ImageDraw.Draw(mask).line(flat(line), fill=255, width=int(rng.integers(1, 2 + size // 32)))
        _cover(rng, image, owner, np.asarray(mask) > 0)


def _occlude(rng: np.random.Generator, image: np.ndarray, owner: np.ndarray, *, centre: np.ndarray) -> None:
    """One slab or pebble that hides what is behind it."""
    size = len(owner)
    mask = Image.new("L", (size, size))
    corners = rng.uniform(0.08, 0.16, int(rng.integers(4, 8))) * size
    corners_at = np.arange(len(corners)) * 2 * np.pi / len(corners)
    ring = np.stack([corners * np.cos(corners_at), corners * np.sin(corners_at)], axis=1) + centre
    ImageDraw.Draw(mask).polygon(flat(ring), fill=255)
    _cover(rng, image, owner, np.asarray(mask) > 0)


def _cover(rng: np.random.Generator, image: np.ndarray, owner: np.ndarray, where: np.ndarray) -> None:
    image[where] = _colour(rng, ANY_TONES)
    owner[where] = OTHER


def _annotate(owner: np.ndarray, painted: list[_Painted]) -> tuple[Thing, ...]:
    """Name the objects of which enough is seen, and renumber `owner` to match; the rest becomes HIDDEN."""
    seen = [owner == number for number in range(1, len(painted) + 1)]
    things: list[Thing] = []
    for mask, drawn in zip(seen, painted, strict=True):
        if mask.sum() < max(LEAST_VISIBLE_PIXELS, LEAST_VISIBLE_SHARE * drawn.pixels):
            owner[mask] = HIDDEN
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        things.append(Thing(drawn.label, box, mask, drawn.truncated))
        owner[mask] = len(things)
    return tuple(things)


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, slight blur, grain."""
    u, _ = turned_coordinates(rng, len(image))
    light = (rng.uniform(0.75, 1.1) + rng.uniform(0, 0.5) * u).astype(np.float32)
    sharp = Image.fromarray(_to_bytes(image * light[..., None]))
    soft = np.array(sharp.filter(ImageFilter.BoxBlur(rng.uniform(0, 0.8))), np.float32)
    grain = rng.standard_normal(light.shape, np.float32) * np.float32(rng.uniform(1, 5))
    return _to_bytes(soft + grain[..., None])


def _to_bytes(image: np.ndarray) -> np.ndarray:
    np.rint(image, out=image)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)
