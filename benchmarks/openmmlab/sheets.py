"""Sheets to look at: image, truth and prediction side by side, one PNG per cell, for segmentation and detection.

A cell writes its sheet beside its result, `RESULTS/<sha8>/<task>/<protocol>/seed0.sheet.png` (`sheet_path`); the page
of the board shows the sheet of the lowest seed. Arrays are numpy; nothing here knows a toolbox.
"""

import base64
import colorsys
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kdep_benchmarks.results import Result, write_bytes

TILE, GAP, LINE = 240, 6, 18  # pixels: the longer side of a picture, the space between two, a line of text
ROWS = 6  # images of a sheet; more are left out
LEGEND = 24  # classes named below a sheet
IGNORED = (96, 96, 96)
INK, PAPER = (235, 238, 243), (24, 30, 39)  # readable on a light and on a dark page
WIDTH_ON_PAGE, QUALITY = 744, 80


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image: truth where `scores` is None.

    Attributes:
        corners: (N, 4) x1, y1, x2, y2 in pixels of the image, float.
        labels: (N,) class numbers from 0.
        scores: (N,) 0 to 1, of a prediction.
    """

    corners: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


def segmentation_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    path: Path,
    *,
    classes: Sequence[str],
    ignore: int = 255,
) -> None:
    """Write a sheet of the first images: image, true mask, predicted mask; the classes that appear are named below.

    Args:
        images: (H, W, 3) uint8 RGB each, of any size.
        truths: (H, W) integers each, of the image's size: the class, or `ignore`, which is drawn grey.
        predictions: (H, W) integers each, as the truths.
        path: a .png; `sheet_path` says which.
        classes: names by class number.
        ignore: label of pixels that do not count.

    Raises:
        ValueError: lengths or sizes that do not fit, or a label without a class; names the image by its number.
    """
    colours, rows = _palette(len(classes)), []
    for number, (image, *masks) in enumerate(_zipped(images, truths, predictions)):
        seen = set()
        for name, mask in zip(("truth", "prediction"), masks, strict=True):
            if mask.shape != image.shape[:2]:
                raise ValueError(f"sheet: {name} {number} is {mask.shape}, its image {image.shape[:2]}")
            seen |= {int(label) for label in np.unique(mask)} - {ignore}
        _check_labels(seen, number, classes)
        tiles = [image, *(_coloured(mask, colours, ignore) for mask in masks)]
        rows.append(([_fit(tile, nearest=tile is not image) for tile in tiles], seen))
    _write(rows, path, classes, colours)


def _check_labels(labels: set[int], number: int, classes: Sequence[str]) -> None:
    if labels and not 0 <= min(labels) <= max(labels) < len(classes):
        raise ValueError(f"sheet: image {number} has labels {min(labels)} to {max(labels)} for {len(classes)} classes")


def detection_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[Boxes],
    predictions: Sequence[Boxes],
    path: Path,
    *,
    classes: Sequence[str],
    threshold: float = 0.3,
) -> None:
    """Write a sheet of the first images: image, true boxes, predicted boxes of at least the score `threshold`.

    Args:
        images: (H, W, 3) uint8 RGB each, of any size.
        truths: boxes of each image.
        predictions: boxes with scores of each image.
        path: a .png; `sheet_path` says which.
        classes: names by class number.
        threshold: lowest score that is drawn. Where an image has none, its best three are drawn, so that a weak
            detector shows something; each box says its score.

    Raises:
        ValueError: lengths that do not fit, predictions without scores, or a label without a class.
    """
    colours, rows = _palette(len(classes)), []
    for number, (image, truth, predicted) in enumerate(_zipped(images, truths, predictions)):
        if predicted.scores is None:
            raise ValueError(f"sheet: prediction {number} has no scores")
        shown = _shown(predicted, threshold)
        labels = {int(label) for boxes in (truth, shown) for label in boxes.labels}
        _check_labels(labels, number, classes)
        tiles = [_fit(image), _with_boxes(image, truth, colours), _with_boxes(image, shown, colours)]
        rows.append((tiles, labels))
    _write(rows, path, classes, colours)


def sheet_path(result: Path) -> Path:
    """The sheet that belongs to a result's file: `seed0.json` -> `seed0.sheet.png`."""
    return Path(result).with_suffix(".sheet.png")


def place(result: Result) -> Path:
    """Where below a folder of results the sheets of a result's task lie."""
    return result.key.path(Path()).parent


def find_sheets(results: Iterable[Result], folders: Iterable[Path]) -> dict[Path, Path]:
    """Sheets by `place`: of each checkpoint, task and protocol the one of the lowest seed."""
    folders, found = list(folders), {}
    for result in sorted(results, key=lambda result: result.seed):
        for folder in folders:
            path = sheet_path(result.key.path(folder))
            if result.status == "ok" and path.is_file():
                found.setdefault(place(result), path)
    return found


def data_uri(path: Path) -> str:
    """A picture as text for a page: as JPEG and no wider than it is shown.

    Raises:
        ValueError: no picture; names the file.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path}: no picture ({error}); remove it or write the sheet again") from error
    picture.thumbnail((WIDTH_ON_PAGE, 10 * WIDTH_ON_PAGE), Image.Resampling.LANCZOS)
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(memory.getvalue()).decode()


def _zipped(images: Sequence, truths: Sequence, predictions: Sequence) -> list[tuple]:
    counts = [len(images), len(truths), len(predictions)]
    if not images or len(set(counts)) > 1:
        raise ValueError(f"sheet: {counts[0]} images, {counts[1]} truths, {counts[2]} predictions; as many of each")
    for number, image in enumerate(images):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"sheet: image {number} is {image.shape} {image.dtype}; (H, W, 3) uint8 RGB is right")
    return list(zip(images, truths, predictions, strict=True))[:ROWS]


def _palette(count: int) -> np.ndarray:
    """(count, 3) uint8: hues by the golden ratio, so that neighbours differ; three brightnesses in turn."""
    colours = [
        colorsys.hsv_to_rgb((0.6 + i * 0.618034) % 1, (0.75, 0.55, 0.9)[i % 3], (0.95, 0.8, 0.65)[i % 3])
        for i in range(count)
    ]
    return (255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)


def _coloured(mask: np.ndarray, colours: np.ndarray, ignore: int) -> np.ndarray:
    picture = np.empty((*mask.shape, 3), dtype=np.uint8)
    picture[:] = IGNORED
    counts = mask != ignore
    picture[counts] = colours[mask[counts]]
    return picture


def _fit(pixels: np.ndarray, *, nearest: bool = False) -> Image.Image:
    """Longer side `TILE`; masks keep their colours."""
    scale = TILE / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS)


def _shown(boxes: Boxes, threshold: float) -> Boxes:
    order = np.argsort(-boxes.scores, kind="stable")
    kept = order[boxes.scores[order] >= threshold]
    kept = kept if len(kept) else order[:3]
    return Boxes(boxes.corners[kept], boxes.labels[kept], boxes.scores[kept])


def _with_boxes(image: np.ndarray, boxes: Boxes, colours: np.ndarray) -> Image.Image:
    tile = _fit(image)
    draw, scale = ImageDraw.Draw(tile), TILE / max(image.shape[:2])
    for index in reversed(range(len(boxes.labels))):  # the most certain on top
        colour = tuple(int(value) for value in colours[int(boxes.labels[index])])
        x1, y1, x2, y2 = (float(value) * scale for value in boxes.corners[index])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2)
        if boxes.scores is not None:
            draw.text((x1 + 4, y1 + 3), f"{boxes.scores[index]:.2f}", INK, _font(11), stroke_width=2, stroke_fill=PAPER)
    return tile


def _write(
    rows: list[tuple[list[Image.Image], set[int]]], path: Path, classes: Sequence[str], colours: np.ndarray
) -> None:
    width = 3 * TILE + 4 * GAP
    entries = sorted(set().union(*(seen for _, seen in rows)))
    legend = [(classes[label], tuple(int(v) for v in colours[label])) for label in entries[:LEGEND]]
    if len(entries) > LEGEND:
        legend.append((f"and {len(entries) - LEGEND} more", PAPER))
    heights = [max(tile.height for tile in tiles) for tiles, _ in rows]
    lines = _lay_out([name for name, _ in legend], width)
    height = LINE + GAP + sum(height + GAP for height in heights) + LINE * (1 + max((y for _, y in lines), default=-1))
    sheet = Image.new("RGB", (width, height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("image", "truth", "prediction")):
        draw.text((GAP + column * (TILE + GAP), 4), title, INK, _font(12))
    top = LINE + GAP
    for (tiles, _), row_height in zip(rows, heights, strict=True):
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (GAP + column * (TILE + GAP), top))
        top += row_height + GAP
    for (name, colour), (x, line) in zip(legend, lines, strict=True):
        y = top + LINE * line
        draw.rectangle((x, y + 3, x + 10, y + 13), fill=colour)
        draw.text((x + 15, y + 1), name, INK, _font(12))
    memory = io.BytesIO()
    sheet.save(memory, "PNG", optimize=True)
    write_bytes(Path(path), memory.getvalue())


def _lay_out(names: Sequence[str], width: int) -> list[tuple[int, int]]:
    """(x, line) of each entry of the legend, line after line."""
    places, x, line = [], GAP, 0
    for name in names:
        needed = 15 + round(_font(12).getlength(name)) + 14
        if x > GAP and x + needed > width:
            x, line = GAP, line + 1
        places.append((x, line))
        x += needed
    return places


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
