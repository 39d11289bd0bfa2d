"""Convert masks to the form that tasks read: SBD's MATLAB files, Cityscapes' label numbers."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from kdep.data.decoding.opening import read_image
from kdep.files import write_atomically
from kdep_benchmarks.data.pictures import in_threads
from kdep_benchmarks.data.scenes.formats import voc_palette

IGNORED = 255
# Numbers of the 19 classes that are scored, in their order; from cityscapesscripts' table of labels.
CITYSCAPES_LABELS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def voc_mask(mat: bytes) -> Image.Image:
    """SBD's class mask (values 0 to 20, no border) as a PNG with VOC's palette."""
    from scipy.io import loadmat

    labels = loadmat(io.BytesIO(mat))["GTcls"][0]["Segmentation"][0]
    image = Image.fromarray(np.asarray(labels, dtype=np.uint8))
    image.putpalette(voc_palette())
    return image


def train_ids(labels: np.ndarray) -> np.ndarray:
    """Cityscapes' label numbers -> 0 to 18 for what is scored, 255 for the rest."""
    table = np.full(256, IGNORED, dtype=np.uint8)
    table[list(CITYSCAPES_LABELS)] = np.arange(len(CITYSCAPES_LABELS))
    return table[labels]


def write_train_ids(folder: Path, *, show: bool) -> None:
    """Write a labelTrainIds.png beside each labelIds.png that has none."""
    found = folder.rglob("*_gtFine_labelIds.png")
    pairs = [(path, path.with_name(path.name.replace("labelIds", "labelTrainIds"))) for path in found]
    todo = sorted(pair for pair in pairs if not pair[1].is_file())
    for _ in in_threads(_write_one, todo, "labelTrainIds", show=show):
        pass


def _write_one(paths: tuple[Path, Path]) -> None:
    made = Image.fromarray(train_ids(np.asarray(read_image(paths[0]))))
    write_atomically(paths[1], lambda part: made.save(part, "PNG"))
