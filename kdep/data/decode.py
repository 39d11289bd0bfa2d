"""Encoded images -> the pixels of one crop, by a fixed rule.

The rule, version PIXELS: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop then still has at least the
pixels that are asked for, and resampled by Pillow over the exact box. Everything else is decoded whole, cut out and
resampled by torch (bilinear with antialias, uint8). The pixels are a function of the file, the box and the size.

simplejpeg decodes RGB JPEGs in two thirds of Pillow's time. Both are libjpeg-turbo with the same settings and give the
same pixels, so files that simplejpeg refuses, and machines without it, go to Pillow and nothing changes.

Compared with decoding whole and resampling with Pillow: a crop of a whole image differs by one level at most, except
along its border, where Pillow's filter looks over the box; a crop at reduced scale differs by about 1.4 levels in the
mean. `python -m tools.speed.decoders` measures both, and other decoders.
"""

import io
import struct
import zlib
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

PIXELS = 2  # raise it with every change of a pixel: it is part of the identity of the data
SCALES = (8, 4, 2)  # of the scaled DCT; Pillow offers no other
# What Pillow and the zip formats below it raise on bytes that are no image.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

Box = tuple[float, float, float, float]  # left, top, right, bottom


class KnownUnreadableError(OSError):
    """An image that is known not to be readable; the text is the reason as it was first found."""


def reason(error: BaseException) -> str:
    """Put into words why an image cannot be read."""
    return str(error) if isinstance(error, KnownUnreadableError) else f"{type(error).__name__}: {error}"


class Picture(Protocol):
    """An image of known size, of which only a crop is wanted.

    Attributes:
        size: (width, height), the coordinates of boxes.
    """

    size: tuple[int, int]

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Resample what is in the box to (width, height): (3, height, width) uint8 RGB."""
        ...


class Pixels:
    """A decoded image, (3, H, W) uint8 RGB."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels
        self.size = (pixels.shape[2], pixels.shape[1])

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Resample a box of whole pixels."""
        left, top, right, bottom = (int(edge) for edge in box)
        return resample(self.pixels[None, :, top:bottom, left:right], size)


class Encoded:
    """The bytes of an image file; only its header is read before a crop is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        size = _rgb_jpeg_size(data)
        self._opened: Image.Image | None = None if size else self._header()
        self._jpeg = size is not None or self._opened.format == "JPEG"
        self.size: tuple[int, int] = size or self._opened.size

    def crop(self, box: Box, size: tuple[int, int]) -> torch.Tensor:
        """Decode at the smallest scale that holds enough pixels, and resample."""
        scale = decoding_scale(box, size) if self._jpeg else 1
        if scale == 1:
            return Pixels(self._decode(1)).crop(box, size)
        decoded = Image.fromarray(self._decode(scale).permute(1, 2, 0).numpy())
        scaled = tuple(edge / scale for edge in box)
        return as_tensor(decoded.resize(size, Image.Resampling.BILINEAR, box=scaled))

    def whole(self) -> torch.Tensor:
        """Decode all of it: (3, H, W) uint8 RGB."""
        return self._decode(1)

    def _header(self) -> Image.Image:
        try:
            return Image.open(io.BytesIO(self._data))
        except UnidentifiedImageError:
            # Pillow's own words show the address of a buffer, another one each time.
            raise UnidentifiedImageError("not an image, or of a format that Pillow does not know") from None

    def _decode(self, scale: int) -> torch.Tensor:
        # Pillow's image, opened for its size, serves once: decoding changes it.
        image, self._opened = self._opened, None
        if image is None:
            pixels = _simplejpeg(self._data, self.size, scale)
            if pixels is not None:
                return torch.from_numpy(pixels).permute(2, 0, 1)
            image = self._header()
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        return as_tensor(image.convert("RGB"))


def _rgb_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a JPEG that simplejpeg may decode, at a tenth of the time that Pillow takes to open it.

    None where Pillow has to look: at what has another number of channels or several pictures in it, at what may be a
    decompression bomb, and at everything without simplejpeg.
    """
    try:
        from simplejpeg import decode_jpeg_header
    except ImportError:
        return None
    if not data.startswith(b"\xff\xd8\xff") or b"MPF\0" in data:
        return None
    try:
        height, width, colours, _ = decode_jpeg_header(data)
    except ValueError:
        return None
    small = width * height <= (Image.MAX_IMAGE_PIXELS or width * height)
    return (width, height) if colours in ("YCbCr", "RGB") and small else None


def _simplejpeg(data: bytes, size: tuple[int, int], scale: int) -> np.ndarray | None:
    """(H, W, 3) uint8 at 1 / scale, rounded up; None where Pillow has to try."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    width, height = (-(-side // scale) for side in size)
    try:
        pixels = decode_jpeg(data, min_width=width, min_height=height, min_factor=scale)
    except ValueError:
        return None  # damaged: Pillow has the last word, and says what is wrong
    return pixels if pixels.shape[:2] == (height, width) else None


def decoding_scale(box: Box, size: tuple[int, int]) -> int:
    """The largest reduction, 1, 2, 4 or 8, at which the box has at least `size` pixels on both sides."""
    shrinks = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    return next((scale for scale in SCALES if shrinks >= scale), 1)


def resample(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample (1, 3, H, W) uint8 to (3, height, width), each output pixel a mean over all that it covers."""
    return F.interpolate(pixels, (size[1], size[0]), mode="bilinear", antialias=True)[0]


def as_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image of Pillow's as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
