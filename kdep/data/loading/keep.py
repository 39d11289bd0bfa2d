"""Keep the decoded images of a small set in memory, where all of them fit a share of what is free.

The pixels of a view are the same as without it: what is kept is what the decoder gave, at each scale that a crop asked
for. The memory is shared with loading processes that are forked, and fills as images are read.
"""

import logging
import mmap
import multiprocessing
import os
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdep.cores import free_memory
from kdep.data.decoding.decode import SCALES, Box, Encoded, Picture, crop_decoded, decoding_scale
from kdep.data.decoding.opening import UNREADABLE
from kdep.data.sources.source import Source

logger = logging.getLogger("kdep")

ALL_SCALES = (1, *SCALES)
SMALLER = 1.34  # 1 + 1/4 + 1/16 + 1/64: a JPEG at every scale
SAMPLE, SPARE = 64, 1.1  # images whose headers are read; the estimate is from a sample


class Kept:
    """A source whose decoded images stay in memory; see `keep`.

    The table has a row for each image: its size, then where it lies at each scale, from 1; 0 if it is not there. The
    last row has the end of what is filled.
    """

    def __init__(self, source: Source, capacity: int) -> None:
        self._source, self._capacity = source, capacity
        self.names, self.fingerprint = source.names, source.fingerprint
        self.starts = getattr(source, "starts", None)
        shape = (len(source.names) + 1, 1 + len(ALL_SCALES))
        # Anonymous and shared: not limited by the size of /dev/shm, which containers keep small.
        self._table: np.ndarray | None = np.frombuffer(mmap.mmap(-1, 8 * shape[0] * shape[1]), np.int64).reshape(shape)
        self._memory = np.frombuffer(mmap.mmap(-1, capacity), np.uint8)
        self._lock = multiprocessing.Lock()

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return self._source.read(index)

    def open(self, index: int) -> Picture:
        """Open image `index`: from memory, or from the source."""
        if self._table is None:
            return self._source.open(index)
        known = int(self._table[index, 0])
        if known:
            return _Picture(self, index, (known >> 32, (known >> 1) & 0x7FFFFFFF), bool(known & 1), None)
        opened = self._source.open(index)
        if not isinstance(opened, Encoded):
            return opened
        self._table[index, 0] = opened.size[0] << 32 | opened.size[1] << 1 | opened.is_jpeg
        return _Picture(self, index, opened.size, opened.is_jpeg, opened)

    def decoded(self, index: int, scale: int, size: tuple[int, int], opened: Encoded | None) -> torch.Tensor:
        """Return image `index` at 1 / scale, (3, H, W) uint8; decode and keep it if it is not there."""
        width, height = (-(-side // scale) for side in size)
        column, length = 1 + ALL_SCALES.index(scale), 3 * width * height
        start = int(self._table[index, column]) - 1
        if start >= 0:
            pixels = self._memory[start : start + length].reshape(height, width, 3)
            return torch.from_numpy(pixels).permute(2, 0, 1)
        pixels = (opened or self._source.open(index)).decode(scale)
        if pixels.shape == (3, height, width):
            self._keep(index, column, pixels.permute(1, 2, 0).numpy().reshape(-1))
        return pixels

    def _keep(self, index: int, column: int, flat: np.ndarray) -> None:
        with self._lock:  # of processes and threads: a place is given once
            start = int(self._table[-1, 0])
            if start + len(flat) > self._capacity:
                return
            self._table[-1, 0] = start + len(flat)
        self._memory[start : start + len(flat)] = flat
        with self._lock:  # the pixels are seen by others before their place is
            self._table[index, column] = start + 1

    def __getstate__(self) -> dict[str, Any]:
        # A spawned process does not share the memory: it reads the source.
        return {**self.__dict__, "_table": None, "_memory": None, "_lock": None}


class _Picture:
    """One image; decodes like `Encoded`, once per scale."""

    def __init__(self, kept: Kept, index: int, size: tuple[int, int], is_jpeg: bool, opened: Encoded | None) -> None:
        self._kept, self._index, self.size, self._is_jpeg, self._opened = kept, index, size, is_jpeg, opened

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Resample a box; see `Encoded.crop`."""
        scale = decoding_scale(box, size) if self._is_jpeg else 1
        return crop_decoded(self._kept.decoded(self._index, scale, self.size, self._opened), scale, box, size)


def keep(source: Source, share: float, *, show: bool = True) -> Source:
    """Keep decoded images in memory if all of them fit into this share of the free memory; else return the source.

    Several processes of one machine get equal parts of the share.
    """
    if share == 0 or not _is_encoded(source):
        return source
    needed = round(estimate(source) * SMALLER * SPARE)
    allowed = round(share * free_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if not 0 < needed <= allowed:
        return source
    if show:
        logger.info("decoded images are kept in memory, up to %.2f GB (data.memory=0: never)", needed / 1e9)
    return Kept(source, needed)


def _is_encoded(source: Source) -> bool:
    for index in range(min(8, len(source.names))):
        try:
            return isinstance(source.open(index), Encoded)
        except UNREADABLE:
            continue
    return False


def estimate(source: Source) -> int:
    """Estimate the bytes of all images, decoded, from the headers of up to `SAMPLE` of them."""
    count = len(source.names)
    chosen = sorted({number * count // SAMPLE for number in range(SAMPLE)})
    found: list[int] = []
    for index in chosen:
        try:
            width, height = source.open(index).size
        except UNREADABLE:
            continue
        found.append(width * height * 3)
    return round(sum(found) / max(1, len(chosen)) * count)
