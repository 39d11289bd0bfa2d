"""Open images with Pillow: known formats only, within the limit of pixels, 16-bit grey scaled to 8 bits."""

import io
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdep.guard import RefusedError, max_pixels, open_regular, read_regular

# Pillow knows dozens of formats by their content, whatever the file's name; for PostScript it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
# Exceptions of Pillow and of zip formats on bytes that are not an image.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_image(path: str | Path) -> Image.Image:
    """Open an image file; see `open_image`.

    Raises:
        RefusedError: likewise, or not a regular file.
        OSError: the file cannot be opened.
    """
    return open_image(read_regular(path))


def open_image(content: bytes) -> Image.Image:
    """Read the header of an image. The image is decoded when its pixels are asked for.

    Raises:
        RefusedError: more pixels than `kdep.guard.max_pixels`.
        UnidentifiedImageError: not an image of a known format.
    """
    return _open(io.BytesIO(content))


def read_header(path: str | Path) -> Image.Image:
    """Open an image file for its size, mode and format; its pixels cannot be read.

    Raises:
        RefusedError: see `open_image`, or not a regular file.
        OSError: the file cannot be opened.
    """
    with open_regular(path) as file:
        return _open(file)


def _open(file: IO[bytes]) -> Image.Image:
    limit = max_pixels()
    if limit > (Image.MAX_IMAGE_PIXELS or limit):
        Image.MAX_IMAGE_PIXELS = limit  # Pillow's own limit, when KDEP_MAX_PIXELS is higher
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        # Pillow's message contains the address of a buffer, which differs in every run.
        raise UnidentifiedImageError(f"not an image, or in another format than {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:  # above twice Pillow's own limit
        raise RefusedError(f"{error}; KDEP_MAX_PIXELS allows {limit:,}") from error
    refuse_pixels(*image.size)
    return image


def refuse_pixels(width: int, height: int) -> None:
    """Refuse the size of an image.

    Raises:
        RefusedError: more pixels than `kdep.guard.max_pixels`.
    """
    if width * height > (limit := max_pixels()):
        raise RefusedError(f"{width} x {height} pixels; KDEP_MAX_PIXELS allows {limit:,}")


def as_rgb(image: Image.Image) -> Image.Image:
    """Decode to RGB, 8 bits per channel.

    Raises:
        RefusedError: see `eight_bit`.
    """
    return eight_bit(image).convert("RGB")


def eight_bit(image: Image.Image) -> Image.Image:
    """Return the image; 16-bit grey is scaled to 8 bits, which Pillow's `convert` would cut off at 255 (white).

    Raises:
        RefusedError: floating point or 32-bit values, which have no fixed white.
    """
    refuse_mode(image)
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 / 255 = 257


def refuse_mode(image: Image.Image) -> None:
    """Refuse a mode whose values do not say what is white; the header has it.

    Raises:
        RefusedError: floating point or 32-bit values.
    """
    # Pillow opens 16-bit PPM as I.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise RefusedError(
            f"mode {image.mode} (floating point or 32-bit values) does not say which value is white; "
            "convert the image to 8 or 16 bits"
        )
