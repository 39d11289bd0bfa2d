"""Decode images once for a check: size, hash of the bytes, perceptual hash."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from kdep.cores import cores
from kdep.data.decoding.opening import UNREADABLE, eight_bit, open_image, read_header
from kdep.guard import read_regular
from kdep_benchmarks.data.findings import Finding

SIDE, LOW = 32, 8
# Rows are the 8 lowest frequencies of a discrete cosine transform of 32 values.
COSINES = np.cos(np.pi / (2 * SIDE) * np.outer(np.arange(LOW), 2 * np.arange(SIDE) + 1))
ORIENTATION = 0x0112  # EXIF
AT_ONCE = 1024  # tasks queued at once: a queue of all of ImageNet would take gigabytes

T, R = TypeVar("T"), TypeVar("R")


class Picture(NamedTuple):
    """An image to open, with the name that messages use.

    `content` returns its file's bytes, or the image where it has no file. `label` is its class, where it has one only.
    """

    where: str
    content: Callable[[], bytes | Image.Image]
    label: str = ""


class Look(NamedTuple):
    """What decoding an image found; only `problem` where the image cannot be read.

    `orientation` is the EXIF tag by which viewers turn or mirror an image, 1 to 8; 1 is upright.
    """

    digest: bytes = b""
    appearance: int = 0
    size: tuple[int, int] = (0, 0)
    problem: str | None = None
    orientation: int = 1


def of_file(path: Path, where: str | None = None) -> Picture:
    """An image file."""
    return Picture(where or str(path), partial(read_regular, path))


def look(picture: Picture) -> Look:
    """Decode a whole image, which is the only way to notice that its file is cut short."""
    try:
        content = picture.content()
        opened = _opened(content)
        image = eight_bit(opened)
        data = content if isinstance(content, bytes) else f"{image.mode}{image.size}".encode() + image.tobytes()
        # The hash of appearance decodes every pixel, whatever the file's size.
        shown = appearance(image)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        return Look(digest, shown, image.size, orientation=orientation_of(opened))
    except UNREADABLE as error:
        return Look(problem=f"cannot be read ({type(error).__name__}: {error})")


def decoded(content: bytes | Image.Image) -> Image.Image:
    """The image of a `Picture`'s content, with 8 bits per channel.

    Raises:
        RefusedError: see `kdep.data.decoding.opening`.
    """
    return eight_bit(_opened(content))


def _opened(content: bytes | Image.Image) -> Image.Image:
    return open_image(content) if isinstance(content, bytes) else content


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a decoded image, 1 where it has none. Pillow turns a TIFF itself and removes the tag."""
    try:
        tag = image.getexif().get(ORIENTATION)
    except UNREADABLE:  # damaged tags; the pixels are there
        return 1
    return tag if tag in range(1, 9) else 1


def appearance(image: Image.Image) -> int:
    """The perceptual hash pHash: 64 bits that hardly change when an image is resized or compressed again.

    Bit k says whether the k-th of the 8 x 8 lowest frequencies of the grey image at 32 x 32 is above their median; the
    first frequency is the highest bit. The bits equal those of `imagehash.phash`, whose dependency PyWavelets is
    avoided.
    """
    grey = small_grey(image)
    frequencies = (COSINES @ grey @ COSINES.T).ravel()
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def small_grey(image: Image.Image) -> np.ndarray:
    """(32, 32) float64, 0 to 255."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)


def look_at(pictures: Sequence[Picture], name: str, *, show: bool) -> list[Look]:
    """Decode images in threads; Pillow releases the interpreter lock while it decodes."""
    return list(in_threads(look, pictures, name, show=show))


def in_threads(function: Callable[[T], R], items: Sequence[T], name: str, *, show: bool) -> Iterator[R]:
    """Map in order, with a progress bar where `show`."""
    workers = min(16, cores())
    bar = tqdm(total=len(items), desc=name, unit="img", mininterval=1, disable=not show)
    with ThreadPoolExecutor(workers) as pool, bar:
        for start in range(0, len(items), AT_ONCE):
            for result in pool.map(function, items[start : start + AT_ONCE]):
                bar.update()
                yield result


def unreadable(pictures: Sequence[Picture], looks: Sequence[Look]) -> list[Finding]:
    """Images that do not open and decode."""
    return [
        Finding("image cannot be read", picture.where, look.problem)
        for picture, look in zip(pictures, looks, strict=True)
        if look.problem is not None
    ]


def turned(pictures: Sequence[Picture], looks: Sequence[Look]) -> list[Finding]:
    """Images that viewers turn or mirror by their orientation tag."""
    return [
        Finding(
            "orientation tag",
            picture.where,
            f"tag {look.orientation} is ignored: images are read as they are stored, and boxes and masks must fit that",
            defect=False,
        )
        for picture, look in zip(pictures, looks, strict=True)
        if look.orientation != 1
    ]


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height from the file's header; None where there is no header to read."""
    try:
        return read_header(path).size
    except UNREADABLE:
        return None
