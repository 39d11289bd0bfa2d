"""A source decoded once: every image as uint8 RGB in one file, for sets small enough to lie on a fast disk.

Images are stored with their short side at the training size times a margin, only ever shrunk. Views keep the draws of
the source: boxes are drawn on the original size and scaled. Where nothing was shrunk the pixels, and so the
fingerprint, are those of the source. Of images that were shrunk small crops have less detail than from the source,
which is said when a run starts.
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
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from kdep.data.decode import PIXELS, UNREADABLE, Box, KnownUnreadableError, reason, resample
from kdep.data.sources import Source

logger = logging.getLogger("kdep")

FORMAT = 1
MARGIN = 1.25  # a crop of 64 % of the area still has the training size
SAMPLE = 64  # images from which the file's size is estimated
BLOCK = 256  # images in memory while the file is written


class Cached:
    """The images of a cache's folder; opened by `open_cache`.

    A crop reads its rows from the file, so memory does not grow with the set.
    """

    def __init__(self, folder: Path, names: Any) -> None:
        index = np.load(folder / "index.npz", allow_pickle=False)
        self._sizes, self._originals, self._offsets = index["sizes"], index["originals"], index["offsets"]
        about = json.loads(str(index["about"]))
        self.names, self.fingerprint = names, about["fingerprint"]
        self._reasons = {int(number): text for number, text in about["unreadable"].items()}
        self._path = folder / "pixels.bin"
        self._file = os.open(self._path, os.O_RDONLY)

    def open(self, index: int) -> "_Stored":
        """Image `index`, in the file.

        Raises:
            KnownUnreadableError: it could not be read when the cache was made.
        """
        if int(index) in self._reasons:
            raise KnownUnreadableError(self._reasons[int(index)])
        width, height = self._sizes[index].tolist()
        return _Stored(self._file, int(self._offsets[index]), (width, height), tuple(self._originals[index].tolist()))

    def read(self, index: int) -> Image.Image:
        """All of image `index` as it is stored."""
        picture = self.open(index)
        return Image.fromarray(picture.rows(0, picture.stored[1]))

    def lost_detail(self, size: int, crop_scale: tuple[float, float]) -> str | None:
        """Say what views of shrunk images lose; None where they have all the pixels that they could have.

        Of a square image, a share s of the area has sqrt(s) of the side. From a stored side c that is fewer than `size`
        pixels where s < (size / c)^2. What the image lacks itself, the cache does not lose.
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
            f"{list(crop_scale)} draws, have fewer pixels there than the view's {size} and are enlarged. All detail "
            f"needs a short side of {math.ceil(size / math.sqrt(low))} px: leave data.cache out, or let "
            f"data.crop_scale start at {math.ceil(100 * enough - 1e-6) / 100:.2f}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A worker that is spawned opens the file for itself.
        self.__dict__.update(state)
        self._file = os.open(self._path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class _Stored:
    """One image in the file; boxes are in the coordinates of the image before it was shrunk."""

    def __init__(self, file: int, offset: int, stored: tuple[int, int], size: tuple[int, int]) -> None:
        self._file, self._offset, self.stored, self.size = file, offset, stored, size

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Resample a box, rounded to stored pixels."""
        left, right = _scaled(box[0], box[2], self.stored[0], self.size[0])
        top, bottom = _scaled(box[1], box[3], self.stored[1], self.size[1])
        pixels = self.rows(top, bottom)[None, :, left:right].transpose(0, 3, 1, 2)
        return resample(torch.from_numpy(pixels), size)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Rows of the image as (rows, W, 3) uint8."""
        width = self.stored[0]
        buffer = bytearray((bottom - top) * width * 3)
        if os.preadv(self._file, [buffer], self._offset + top * width * 3) != len(buffer):
            raise OSError("the cache's pixels.bin is shorter than its index says; remove the folder to make it again")
        return np.frombuffer(buffer, np.uint8).reshape(bottom - top, width, 3)


def _scaled(low: float, high: float, stored: int, original: int) -> tuple[int, int]:
    """An interval in stored pixels: the nearest whole ones, at least one."""
    if stored == original:
        return int(low), int(high)
    start = min(round(low * stored / original), stored - 1)
    return start, max(round(high * stored / original), start + 1)


def open_cache(source: Source, folder: Path, *, size: int, margin: float = MARGIN, show: bool = True) -> Cached:
    """Open the cache of a source in `folder`, and make it first where it is missing.

    Args:
        source: its images need `open`.
        folder: holds pixels.bin and index.npz, and nothing else.
        size: side of the views; images are stored with a short side of size * margin at most.
        margin: at least 1 and below 2, from where on the source itself would decode at reduced scale.
        show: draw a progress bar.

    Raises:
        ValueError: a cache of other images or another size is there, or the disk is too small.
    """
    if not 1 <= margin < 2:
        raise ValueError(f"margin {margin}: expected at least 1 and less than 2")
    identity = {"format": FORMAT, "pixels": PIXELS, "source": source.fingerprint, "short_side": round(size * margin)}
    if (folder / "index.npz").is_file():
        _check(folder, identity)
    else:
        _make(source, folder, identity, show=show)
    return Cached(folder, source.names)


def estimate(source: Source, short_side: int) -> int:
    """Bytes of the cache's pixels, from the headers of some images spread over the source."""
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
    """The size at which an image is stored: its own, or shrunk to `short_side`."""
    short = min(size)
    if short <= short_side:
        return size
    return round(size[0] * short_side / short), round(size[1] * short_side / short)


def _check(folder: Path, identity: dict[str, Any]) -> None:
    with np.load(folder / "index.npz", allow_pickle=False) as index:
        found = json.loads(str(index["about"]))["identity"]
        expected = int(index["offsets"][-1])
    wrong = [f"{key} {found.get(key)}, now {identity[key]}" for key in identity if found.get(key) != identity[key]]
    if wrong:
        raise ValueError(
            f"{folder}: a cache of other images ({'; '.join(wrong)}); remove the folder or name another one"
        )
    there = (folder / "pixels.bin").stat().st_size if (folder / "pixels.bin").is_file() else 0
    if there != expected:
        raise ValueError(f"{folder}: pixels.bin has {there} bytes, its index says {expected}; remove the folder")


def _make(source: Source, folder: Path, identity: dict[str, Any], *, show: bool) -> None:
    """Write the pixels, then the index: a folder with an index is complete."""
    from kdep.files import write_atomically

    expected = estimate(source, identity["short_side"])
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    logger.info("%s: decoding %d images once, about %s", folder, len(source.names), _human(expected))
    if expected > 0.95 * free:
        raise ValueError(f"{folder}: the cache needs about {_human(expected)}, the disk has {_human(free)} free")
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
    """Each image as ((H, W, 3) uint8, its original size), or why it is unreadable, decoded by threads, in order."""

    def decode(index: int) -> tuple[np.ndarray, tuple[int, int]] | str:
        try:
            picture = source.open(index)
            width, height = stored_size(picture.size, short_side)
            pixels = picture.crop((0, 0, *picture.size), (width, height))
        except UNREADABLE as error:
            return reason(error)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), picture.size

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(source.names), BLOCK):
            yield from pool.map(decode, range(start, min(start + BLOCK, len(source.names))))


def _write_pixels(file: IO[bytes], pixels: np.ndarray, folder: Path) -> None:
    try:
        file.write(pixels.data)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ValueError(f"{folder}: the disk is full; nothing is kept of the unfinished cache") from error
        raise


def _fingerprint(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _human(size: float) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if size >= u), (1e3, "kB"))
    return f"{size / unit:.1f} {name}"
