"""Cache a source: decode every image once and store it as uint8 RGB in one file on a fast disk.

Large images are shrunk to a short side of the training size times a margin; small ones are stored as they are. Crop
boxes are drawn on the original size and scaled, so views have the same boxes with and without the cache. If no image
was shrunk, the pixels and the fingerprint equal those of the source. Small crops of shrunk images have less detail;
the run warns about this at its start.
"""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from kdep.cores import cores
from kdep.data.decode import PIXELS, UNREADABLE, Box, KnownUnreadableError, reason, resample
from kdep.data.disk import retried
from kdep.data.sources import Source
from kdep.files import write_atomically
from kdep.settings import Stored, validate

logger = logging.getLogger("kdep")

FORMAT = 1
MARGIN = 1.25  # a crop of 64 % of the area is as large as the view
SAMPLE = 64  # images that are read to estimate the size of the file
BLOCK = 256  # images in memory while the file is written


class Cached:
    """The images in a cache folder; see `open_cache`.

    A crop reads its rows from the file, so memory use does not grow with the data set.
    """

    def __init__(self, folder: Path, names: Any) -> None:
        index = _read_index(folder)
        self._sizes, self._originals, self._offsets = index.sizes, index.originals, index.offsets
        self.names, self.fingerprint, self._reasons = names, index.fingerprint, index.unreadable
        self._path = folder / "pixels.bin"
        self._file = os.open(self._path, os.O_RDONLY)

    def open(self, index: int) -> "_Stored":
        """Open image `index`.

        Raises:
            KnownUnreadableError: the image could not be decoded when the cache was made.
        """
        if int(index) in self._reasons:
            raise KnownUnreadableError(self._reasons[int(index)])
        width, height = self._sizes[index].tolist()
        return _Stored(self._file, int(self._offsets[index]), (width, height), tuple(self._originals[index].tolist()))

    def read(self, index: int) -> Image.Image:
        """Read the whole image `index` at its stored size."""
        picture = self.open(index)
        return Image.fromarray(picture.rows(0, picture.stored[1]))

    def lost_detail(self, size: int, crop_scale: tuple[float, float]) -> str | None:
        """Describe which crops of shrunk images have fewer pixels than the view; None if there are none.

        A crop with a share s of the area of a square image has sqrt(s) of its side. If the stored side is c, the crop
        has fewer than `size` pixels where s < (size / c)^2.
        """
        shrunk = (self._sizes != self._originals).any(1)
        if not shrunk.any():
            return None
        side, (low, high) = int(self._sizes[shrunk].min(1).min()), crop_scale
        if low * side**2 >= size**2:
            return None
        enough = (size / side) ** 2
        share = 1.0 if high <= enough else (enough - low) / (high - low)
        return (
            f"{int(shrunk.sum())} of {len(shrunk)} images are stored with a short side of {side} px. Crops of less "
            f"than {100 * enough:.0f} % of the area, about {100 * share:.0f} % of those that data.crop_scale "
            f"{list(crop_scale)} draws, are enlarged to the view's {size} px. Full detail needs a short side of "
            f"{math.ceil(size / math.sqrt(low))} px: remove data.cache, or let data.crop_scale start at "
            f"{math.ceil(100 * enough - 1e-6) / 100:.2f}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A spawned worker opens the file itself.
        self.__dict__.update(state)
        self._file = os.open(self._path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class _Stored:
    """One image in the file. Boxes are in coordinates of the original image."""

    def __init__(self, file: int, offset: int, stored: tuple[int, int], size: tuple[int, int]) -> None:
        self._file, self._offset, self.stored, self.size = file, offset, stored, size

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Resample a box, rounded to whole stored pixels."""
        left, right = _scaled(box[0], box[2], self.stored[0], self.size[0])
        top, bottom = _scaled(box[1], box[3], self.stored[1], self.size[1])
        pixels = self.rows(top, bottom)[None, :, left:right].transpose(0, 3, 1, 2)
        return resample(torch.from_numpy(pixels), size)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Rows of the image as (rows, W, 3) uint8."""
        width = self.stored[0]
        buffer = bytearray((bottom - top) * width * 3)
        count = retried(
            lambda: os.preadv(self._file, [buffer], self._offset + top * width * 3), "pixels.bin of the cache"
        )
        if count != len(buffer):
            raise OSError("pixels.bin of the cache is shorter than its index says; remove the folder to rebuild it")
        return np.frombuffer(buffer, np.uint8).reshape(bottom - top, width, 3)


def _scaled(low: float, high: float, stored: int, original: int) -> tuple[int, int]:
    """Scale an interval to stored pixels, rounded, at least one pixel long."""
    if stored == original:
        return int(low), int(high)
    start = min(round(low * stored / original), stored - 1)
    return start, max(round(high * stored / original), start + 1)


def open_cache(source: Source, folder: Path, *, size: int, margin: float = MARGIN, show: bool = True) -> Cached:
    """Open the cache of a source in `folder`; build it first if it does not exist.

    Args:
        source: a source with `open`.
        folder: for pixels.bin, index.npz and a lock only.
        size: side of the views in pixels; images are stored with a short side of at most size * margin.
        margin: at least 1 and below 2; from 2 on the source itself would decode at reduced scale.
        show: show a progress bar.

    Raises:
        ValueError: the folder has a cache of other images or another size, or the disk is too small.
    """
    if not 1 <= margin < 2:
        raise ValueError(f"margin {margin}: expected at least 1 and less than 2")
    identity = {"format": FORMAT, "pixels": PIXELS, "source": source.fingerprint, "short_side": round(size * margin)}
    if not (folder / "index.npz").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # another run or machine may be making it
            if not (folder / "index.npz").is_file():
                _make(source, folder, identity, show=show)
    _check(folder, identity)
    return Cached(folder, source.names)


def estimate(source: Source, short_side: int) -> int:
    """Estimate the size of the cache in bytes from the headers of up to `SAMPLE` images."""
    count = len(source.names)
    chosen = sorted({number * count // SAMPLE for number in range(SAMPLE)})
    found: list[int] = []
    for index in chosen:
        try:
            width, height = stored_size(source.open(index).size, short_side)
        except UNREADABLE:
            continue
        found.append(width * height * 3)
    return round(sum(found) / max(1, len(chosen)) * count)


def stored_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return the (width, height) at which an image is stored: its own, or shrunk to `short_side`."""
    short = min(size)
    if short <= short_side:
        return size
    return round(size[0] * short_side / short), round(size[1] * short_side / short)


class _About(Stored):
    """What index.npz says of the images, as JSON."""

    identity: dict[str, Any]
    fingerprint: str
    unreadable: dict[Annotated[int, Field(strict=False)], str]


class _Index(NamedTuple):
    """The content of index.npz."""

    sizes: np.ndarray
    originals: np.ndarray
    offsets: np.ndarray
    identity: dict[str, Any]
    fingerprint: str
    unreadable: dict[int, str]


def _read_index(folder: Path) -> _Index:
    file = folder / "index.npz"
    try:
        with np.load(file, allow_pickle=False) as content:
            sizes, originals, offsets, about = (content[n] for n in ("sizes", "originals", "offsets", "about"))
        known = validate(_About, json.loads(str(about)), "about")
        whole = np.concatenate([[0], np.cumsum(sizes.astype(np.int64).prod(1) * 3)])
        fits = sizes.ndim == 2 and sizes.shape == originals.shape and np.array_equal(whole, offsets)
        if not fits or sizes.dtype != np.int32 or originals.dtype != np.int32 or (sizes > originals).any():
            raise ValueError("its arrays do not fit together")
    except Exception as error:  # numpy and zipfile raise a dozen types for damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{file}: not the index of a cache ({reason}); remove {folder} to rebuild it") from error
    return _Index(sizes, originals, offsets, known.identity, known.fingerprint, known.unreadable)


def _check(folder: Path, identity: dict[str, Any]) -> None:
    index = _read_index(folder)
    found, expected = index.identity, int(index.offsets[-1])
    wrong = [f"{key} {found.get(key)}, now {identity[key]}" for key in identity if found.get(key) != identity[key]]
    if wrong:
        raise ValueError(
            f"{folder}: the cache does not match this run ({'; '.join(wrong)}); remove the folder or take another one"
        )
    there = (folder / "pixels.bin").stat().st_size if (folder / "pixels.bin").is_file() else 0
    if there != expected:
        raise ValueError(f"{folder}: pixels.bin has {there} bytes, its index says {expected}; remove the folder")


def _make(source: Source, folder: Path, identity: dict[str, Any], *, show: bool) -> None:
    """Write the pixels, then the index. A folder with an index is complete."""
    expected = estimate(source, identity["short_side"])
    free = shutil.disk_usage(folder).free
    logger.info("%s: decoding %d images once, about %s", folder, len(source.names), _human(expected))
    if expected > 0.95 * free:
        raise ValueError(f"{folder}: the cache needs about {_human(expected)}; the disk has {_human(free)} free")
    count = len(source.names)
    sizes, originals = np.zeros((count, 2), np.int32), np.zeros((count, 2), np.int32)
    unreadable: dict[int, str] = {}

    def write(path: Path) -> None:
        with path.open("wb") as file, tqdm(total=count, desc="cache", unit="img", disable=not show) as bar:
            for index, picture in enumerate(_pictures(source, identity["short_side"])):
                if isinstance(picture, str):
                    unreadable[index] = picture
                else:
                    pixels, originals[index] = picture
                    sizes[index] = pixels.shape[1::-1]
                    _write_pixels(file, pixels, folder)
                bar.update()

    write_atomically(folder / "pixels.bin", write)
    offsets = np.concatenate([[0], np.cumsum(sizes.astype(np.int64).prod(1) * 3)])
    shrunk = bool((sizes != originals).any())
    about = {
        "identity": identity,
        "fingerprint": _fingerprint(identity) if shrunk else source.fingerprint,
        "unreadable": unreadable,
    }
    content = {"sizes": sizes, "originals": originals, "offsets": offsets, "about": json.dumps(about)}

    def write_index(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **content)

    write_atomically(folder / "index.npz", write_index)


def _pictures(source: Source, short_side: int) -> Iterator[tuple[np.ndarray, tuple[int, int]] | str]:
    """Decode in threads; yield in order ((H, W, 3) uint8, original size), or the reason why an image is unreadable."""

    def decode(index: int) -> tuple[np.ndarray, tuple[int, int]] | str:
        try:
            picture = source.open(index)
            width, height = stored_size(picture.size, short_side)
            pixels = picture.crop((0, 0, *picture.size), (width, height))
        except UNREADABLE as error:
            return reason(error)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), picture.size

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(source.names), BLOCK):
            yield from pool.map(decode, range(start, min(start + BLOCK, len(source.names))))


def _write_pixels(file: IO[bytes], pixels: np.ndarray, folder: Path) -> None:
    try:
        file.write(pixels.data)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ValueError(f"{folder}: the disk is full; the unfinished cache was removed") from error
        raise


def _fingerprint(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _human(size: float) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if size >= u), (1e3, "kB"))
    return f"{size / unit:.1f} {name}"
