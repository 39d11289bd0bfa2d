"""Decode one crop of an encoded image.

The rule (version PIXELS): a JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the crop is then still at least as large
as the output. The edges of the box are rounded to decoded pixels, and torch resamples it (bilinear with antialias,
uint8). All other images are decoded at full size. The pixels depend only on the file, the box and the output size.

simplejpeg decodes RGB JPEGs in two thirds of Pillow's time. Both use libjpeg-turbo with the same settings and give the
same pixels, so Pillow can decode the files that simplejpeg refuses.

Compared with decoding at full size and resampling with Pillow: a crop at full size differs by at most one level, except
along its border, where Pillow's filter reads pixels outside the box. A crop of 64 pixels at reduced scale differs by
3.5 levels on average: 1.3 of them are the decoder's, the rest is the rounded box (seen once).
"""

import math
from typing import Protocol

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image

from kdep.data.decoding.opening import as_rgb, open_image, refuse_pixels

PIXELS = 4  # increase with every change of the pixels: part of the fingerprint of the data
SCALES = (8, 4, 2)  # scaled DCT; Pillow supports no other

Box = tuple[float, float, float, float]  # left, top, right, bottom


def reason(error: BaseException) -> str:
    """Describe why an image cannot be read."""
    return f"{type(error).__name__}: {error}"


class Picture(Protocol):
    """An image that can be cropped before it is decoded.

    Attributes:
        size: (width, height) in pixels; boxes are in these coordinates.
    """

    size: tuple[int, int]

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Resample a box to (width, height); returns (3, height, width) uint8 RGB."""
        ...


class Pixels:
    """A decoded image, (3, H, W) uint8 RGB."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels
        self.size = (pixels.shape[2], pixels.shape[1])

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Resample a box with integer coordinates."""
        left, top, right, bottom = (int(edge) for edge in box)
        return resample(self.pixels[None, :, top:bottom, left:right], size)


class Encoded:
    """The bytes of an image file. The constructor reads only the header; `crop` decodes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        size = _rgb_jpeg_size(data)
        self._opened: Image.Image | None = None if size else open_image(data)
        self.is_jpeg = size is not None or self._opened.format == "JPEG"
        self.size: tuple[int, int] = size or self._opened.size

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Decode at the smallest scale with enough pixels, and resample."""
        scale = decoding_scale(box, size) if self.is_jpeg else 1
        return crop_decoded(self.decode(scale), scale, box, size)

    def whole(self) -> torch.Tensor:
        """Decode the whole image: (3, H, W) uint8 RGB."""
        return self.decode(1)

    def decode(self, scale: int) -> torch.Tensor:
        """Decode the whole image at 1 / scale, sides rounded up; only a JPEG has scales other than 1."""
        # Decoding changes the Pillow image that was opened for its size: use it once.
        image, self._opened = self._opened, None
        if image is None:
            pixels = _simplejpeg(self._data, self.size, scale)
            if pixels is not None:
                return torch.from_numpy(pixels).permute(2, 0, 1)
            image = open_image(self._data)
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        return as_tensor(as_rgb(image))


def _rgb_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a JPEG that simplejpeg can decode, in a tenth of the time of Pillow's open.

    None where Pillow must decode: other numbers of channels, and several images in a file.

    Raises:
        RefusedError: more pixels than `kdep.guard.max_pixels`.
    """
    if not data.startswith(b"\xff\xd8\xff") or b"MPF\0" in data:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    refuse_pixels(width, height)
    return (width, height) if colours in ("YCbCr", "RGB") else None


def _simplejpeg(data: bytes, size: tuple[int, int], scale: int) -> np.ndarray | None:
    """Decode to (H, W, 3) uint8 at 1 / scale, rounded up; None where Pillow must decode."""
    width, height = (-(-side // scale) for side in size)
    try:
        pixels = simplejpeg.decode_jpeg(data, min_width=width, min_height=height, min_factor=scale)
    except ValueError:
        return None  # damaged: Pillow decodes it, or says what is wrong
    return pixels if pixels.shape[:2] == (height, width) else None


def crop_decoded(pixels: torch.Tensor, scale: int, box: Box, size: tuple[int, int]) -> torch.Tensor:
    """Resample a box, in coordinates of the full size, of an image decoded at 1 / scale.

    Half a decoded pixel rounds up, so that a box which just fills `size` still does.
    """
    left, top, right, bottom = (math.floor(edge / scale + 0.5) for edge in box)
    return Pixels(pixels).crop((left, top, right, bottom), size)


def decoding_scale(box: Box, size: tuple[int, int]) -> int:
    """Return the largest of 1, 2, 4, 8 by which the box can be reduced without falling below `size` on either side."""
    shrinks = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    return next((scale for scale in SCALES if shrinks >= scale), 1)


def resample(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample (1, 3, H, W) uint8 to (3, height, width) with antialiasing."""
    return F.interpolate(pixels, (size[1], size[0]), mode="bilinear", antialias=True)[0]


def as_tensor(image: Image.Image) -> torch.Tensor:
    """Convert a Pillow RGB image to (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
