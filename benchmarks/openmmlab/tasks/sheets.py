"""Draw the sheet of a cell: image, truth and prediction side by side, one PNG for segmentation or detection.

A cell writes its sheet beside its result, `RESULTS/<sha8>/<task>/<protocol>/seed0.sheet.png` (`sheet_path`); the page
of the board shows the sheet of the lowest seed. Arrays are numpy; nothing here imports a toolbox.
"""

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kdep.files import write_bytes
from kdep_benchmarks.data.readers.masks import IGNORED

ROWS = 6  # most images on a sheet
SIDE = 248  # longer side in pixels of an image with boxes: the width of a column
LEAST = 0.3  # score of a drawn box
LEGEND = 24  # most classes in the legend
GREY = (96, 96, 96)  # ignored pixels
WIDTH, DPI = 744, 100  # pixels of a sheet


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image; `scores` is None for true boxes.

    Attributes:
        corners: (N, 4) x1, y1, x2, y2 in pixels of the image, float.
        labels: (N,) class numbers from 0.
        scores: (N,) scores of predictions, 0 to 1.
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
) -> None:
    """Write a sheet of the first images: image, true mask, predicted mask; the classes that appear are named below.

    Args:
        images: (H, W, 3) uint8 RGB each, of any size.
        truths: (H, W) integers each, of the image's size: the class, or 255, which counts nowhere and is drawn grey.
        predictions: (H, W) integers each, as the truths.
        path: a .png; `sheet_path` says which.
        classes: names by class number.
    """
    rows, seen = [], set()
    for image, *masks in list(zip(images, truths, predictions, strict=True))[:ROWS]:
        seen |= {int(label) for mask in masks for label in np.unique(mask)} - {IGNORED}
        rows.append([image, *(with_mask(image, mask) for mask in masks)])
    _write(rows, path, seen, classes)


def detection_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[Boxes],
    predictions: Sequence[Boxes],
    path: Path,
    *,
    classes: Sequence[str],
) -> None:
    """Write a sheet of the first images: image, true boxes, predicted boxes of at least the score `LEAST`.

    Where an image has none, its best three are drawn, so that a weak detector shows something; each box says its score.

    Args:
        images: (H, W, 3) uint8 RGB each, of any size.
        truths: boxes of each image.
        predictions: boxes with scores of each image.
        path: a .png; `sheet_path` says which.
        classes: names by class number.
    """
    rows, seen = [], set()
    for image, truth, predicted in list(zip(images, truths, predictions, strict=True))[:ROWS]:
        shown = _shown(predicted)
        seen |= {int(label) for boxes in (truth, shown) for label in boxes.labels}
        rows.append([image, *(with_boxes(image, boxes) for boxes in (truth, shown))])
    _write(rows, path, seen, classes)


def with_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw a mask over its image, (H, W, 3) uint8: a colour for each class, grey for ignored pixels."""
    import torch
    from torchvision.utils import draw_segmentation_masks

    labels = np.unique(mask)
    colours = [GREY if label == IGNORED else colour_of(int(label)) for label in labels]
    masks = torch.from_numpy(mask[None] == labels[:, None, None])
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return draw_segmentation_masks(pixels, masks, alpha=0.8, colors=colours).permute(1, 2, 0).numpy()


def with_boxes(image: np.ndarray, boxes: Boxes) -> np.ndarray:
    """Resize the image to `SIDE` pixels and draw its boxes with their scores, the highest score on top."""
    import torch
    from torchvision.utils import draw_bounding_boxes

    scale = SIDE / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    pixels = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    if not len(boxes.labels):
        return pixels
    order = slice(None, None, -1)
    corners = torch.from_numpy(np.ascontiguousarray(boxes.corners[order], dtype=np.float64) * scale)
    colours = [colour_of(int(label)) for label in boxes.labels[order]]
    scores = None if boxes.scores is None else [f"{score:.2f}" for score in boxes.scores[order]]
    drawn = draw_bounding_boxes(torch.from_numpy(pixels).permute(2, 0, 1), corners, scores, colours, width=2)
    return drawn.permute(1, 2, 0).numpy()


def sheet_path(result: Path) -> Path:
    """Return the path of a result's sheet: `seed0.json` -> `seed0.sheet.png`."""
    return Path(result).with_suffix(".sheet.png")


def colour_of(label: int) -> tuple[int, int, int]:
    """Return the colour of a class. Hues step by the golden ratio, so that neighbouring numbers differ."""
    saturation, value = (0.75, 0.55, 0.9)[label % 3], (0.95, 0.8, 0.65)[label % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.6 + label * 0.618034) % 1, saturation, value)
    return int(255 * red), int(255 * green), int(255 * blue)


def _shown(boxes: Boxes) -> Boxes:
    order = np.argsort(-boxes.scores, kind="stable")
    kept = order[boxes.scores[order] >= LEAST]
    kept = kept if len(kept) else order[:3]
    return Boxes(boxes.corners[kept], boxes.labels[kept], boxes.scores[kept])


def _write(rows: list[list[np.ndarray]], path: Path, seen: set[int], classes: Sequence[str]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    heights = [row[0].shape[0] / row[0].shape[1] for row in rows]
    figure = Figure((WIDTH / DPI, WIDTH / DPI * sum(heights) / 3 + 0.6), DPI, layout="constrained", facecolor="white")
    places = figure.subplots(len(rows), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, tile in zip(places.flat, (tile for row in rows for tile in row), strict=True):
        axes.imshow(tile, aspect="auto")
        axes.set_axis_off()
    for axes, title in zip(places[0], ("image", "truth", "prediction"), strict=True):
        axes.set_title(title, fontsize=9)
    labels = sorted(seen)
    handles = [Patch(color=np.array(colour_of(label)) / 255, label=classes[label]) for label in labels[:LEGEND]]
    if len(labels) > LEGEND:
        handles.append(Patch(alpha=0, label=f"and {len(labels) - LEGEND} more"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    write_bytes(Path(path), memory.getvalue())
