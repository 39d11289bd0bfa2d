"""What scenes are drawn with: ground textures, outlines of objects, surface patterns.

Everything is a function of the generator it is given. Fields are computed in float64 and end in uint8 images, so
that the last bits, in which two processors' sines differ, do not reach the pixels.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

# A ring of vertices, (N, 2) in units of the object's radius, x right and y down.
Ring = np.ndarray
Coordinates = tuple[np.ndarray, np.ndarray]


def value_noise(rng: np.random.Generator, size: int, *, cells: int) -> np.ndarray:
    """Smooth noise (size, size) in [0, 1] with about `cells` bumps a side."""
    coarse = rng.integers(0, 256, (cells + 1, cells + 1), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float64) / 255


def turned_coordinates(rng: np.random.Generator, size: int) -> Coordinates:
    """Pixel coordinates (size, size) in [-0.5, 0.5], turned by a random angle."""
    axis = (np.arange(size) + 0.5) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    x, y = axis[None, :], axis[:, None]
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def noise(rng: np.random.Generator, size: int) -> np.ndarray:
    fine = value_noise(rng, size, cells=int(rng.integers(14, 28)))
    return 0.5 * value_noise(rng, size, cells=int(rng.integers(3, 7))) + 0.5 * fine


def stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    u, v = turned_coordinates(rng, size)
    bend = rng.uniform(0, 0.04) * np.sin(v * rng.uniform(6, 14))
    return 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(5, 11) * (u + bend) + rng.uniform(0, 6))


def checks(rng: np.random.Generator, size: int) -> np.ndarray:
    u, v = turned_coordinates(rng, size)
    cells = rng.uniform(5, 11)
    return (np.floor(u * cells) + np.floor(v * cells)) % 2


def gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    u, _ = turned_coordinates(rng, size)
    return np.clip(0.5 + rng.uniform(0.6, 1.0) * u + 0.1 * (value_noise(rng, size, cells=5) - 0.5), 0, 1)


def leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    count = 70
    leaf = np.array([(-1, 0), (-0.4, -0.35), (0.3, -0.3), (1, 0), (0.3, 0.3), (-0.4, 0.35)])
    angles, radii = rng.uniform(0, 2 * np.pi, (count, 1)), rng.uniform(0.06, 0.12, (count, 1, 1)) * size
    x = leaf[:, 0] * np.cos(angles) - leaf[:, 1] * np.sin(angles)
    y = leaf[:, 0] * np.sin(angles) + leaf[:, 1] * np.cos(angles)
    outlines = np.rint(np.stack([x, y], axis=2) * radii + rng.uniform(0, size, (count, 1, 2))).astype(int)
    canvas = Image.new("L", (size, size), 40)
    draw = ImageDraw.Draw(canvas)
    for outline, tone in zip(outlines.reshape(count, -1).tolist(), rng.integers(60, 256, count).tolist(), strict=True):
        draw.polygon(outline, fill=tone)
    return np.asarray(canvas, np.float64) / 255


def wood(rng: np.random.Generator, size: int) -> np.ndarray:
    u, v = turned_coordinates(rng, size)
    rings = np.hypot(u + rng.uniform(0.5, 1.2), 0.25 * v) + 0.12 * value_noise(rng, size, cells=4)
    return (rings * rng.uniform(9, 16)) % 1.0


STUFF: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "noise": noise,
    "stripes": stripes,
    "checks": checks,
    "gradient": gradient,
    "leaves": leaves,
    "wood": wood,
}


def flat(ring: Ring) -> list[tuple[int, int]]:
    """Vertices for PIL, on whole pixels: its rounding of fractions has changed between releases."""
    return [(int(x), int(y)) for x, y in np.rint(ring)]


def turn(ring: Ring, angle: float) -> Ring:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([ring[:, 0] * cosine - ring[:, 1] * sine, ring[:, 0] * sine + ring[:, 1] * cosine], axis=1)


def spokes(radii: np.ndarray) -> Ring:
    """A closed ring whose vertices stand at equal angles, at the given radii."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def circle(radius: float) -> Ring:
    return spokes(np.full(40, radius))


def square(rng: np.random.Generator) -> list[Ring]:
    return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.8]


def triangle(rng: np.random.Generator) -> list[Ring]:
    return [spokes(np.full(3, 1.1)) + rng.uniform(-0.12, 0.12, (3, 2))]


def star(rng: np.random.Generator) -> list[Ring]:
    return [spokes(np.tile([1.1, rng.uniform(0.4, 0.52)], int(rng.integers(5, 8))))]


def cross(rng: np.random.Generator) -> list[Ring]:
    w = rng.uniform(0.24, 0.38)
    quarter = np.array([(w, -1), (w, -w), (1, -w)])
    return [np.concatenate([turn(quarter, k * np.pi / 2) for k in range(4)])]


def gear(rng: np.random.Generator) -> list[Ring]:
    teeth = np.tile([1.0, 1.0, 0.74, 0.74], int(rng.integers(7, 11)))
    return [spokes(teeth), circle(rng.uniform(0.2, 0.34))]


def crescent(rng: np.random.Generator) -> list[Ring]:
    return [circle(1.0), circle(rng.uniform(0.75, 0.85)) + (rng.uniform(0.4, 0.55), 0)]


def arrow(rng: np.random.Generator) -> list[Ring]:
    w, head = rng.uniform(0.18, 0.3), rng.uniform(-0.1, 0.2)
    return [np.array([(-1, -w), (head, -w), (head, -0.75), (1.1, 0), (head, 0.75), (head, w), (-1, w)])]


def heart(rng: np.random.Generator) -> list[Ring]:
    t = 2 * np.pi * np.arange(40) / 40
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([np.sin(t) ** 3, -y / 16 - 0.1], axis=1)]


def ellipse(rng: np.random.Generator) -> list[Ring]:
    return [circle(1.0) * (1.1, rng.uniform(0.6, 0.75))]


# Several classes share an outline or a surface: neither alone, and no colour, tells them all apart. The first ring is
# filled, the others are holes.
CLASSES: dict[str, Callable[[np.random.Generator], list[Ring]]] = {
    "disc": lambda rng: [circle(0.9)],
    "ring": lambda rng: [circle(1.0), circle(rng.uniform(0.5, 0.72))],
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "gear": gear,
    "crescent": crescent,
    "arrow": arrow,
    "heart": heart,
    "striped_ellipse": ellipse,
    "dotted_ellipse": ellipse,
}


def plain(rng: np.random.Generator, at: Coordinates) -> np.ndarray:
    return np.zeros_like(at[0])


def shaded(rng: np.random.Generator, at: Coordinates) -> np.ndarray:
    return np.clip(0.5 + 0.5 * at[0], 0, 1)


def mottled(rng: np.random.Generator, at: Coordinates) -> np.ndarray:
    a, b = rng.uniform(4, 8, 2)
    return 0.5 + 0.5 * np.sin(a * at[0] + 2 * np.sin(b * at[1])) * np.sin(b * at[1] + rng.uniform(0, 6))


def banded(rng: np.random.Generator, at: Coordinates) -> np.ndarray:
    return (np.sin(at[0] * rng.uniform(11, 16) + rng.uniform(0, 6)) > 0).astype(np.float64)


def dotted(rng: np.random.Generator, at: Coordinates) -> np.ndarray:
    cells = rng.uniform(2.0, 2.8)
    u, v = (at[0] * cells) % 1 - 0.5, (at[1] * cells) % 1 - 0.5
    return (u * u + v * v < 0.1).astype(np.float64)


def checked(rng: np.random.Generator, at: Coordinates) -> np.ndarray:
    cells = rng.uniform(1.8, 2.8)
    return (np.floor(at[0] * cells) + np.floor(at[1] * cells)) % 2


Surface = Callable[[np.random.Generator, Coordinates], np.ndarray]
SURFACES: dict[str, Surface] = {
    "disc": shaded,
    "ring": banded,
    "square": checked,
    "triangle": plain,
    "star": dotted,
    "cross": mottled,
    "gear": plain,
    "crescent": shaded,
    "arrow": checked,
    "heart": mottled,
    "striped_ellipse": banded,
    "dotted_ellipse": dotted,
}
