"""Labelled images of a Hugging Face data set: saved to disk, a folder of images, or a name on the hub."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdep.data.opening import as_rgb, open_image
from kdep.guard import read_regular
from kdep_benchmarks.data.cards import COLUMNS


class Rows:
    """One split: encoded images, labels and class names; a `kdep.data.views.Source`.

    Args:
        root: a data set saved by `save_to_disk`, a folder that `datasets.load_dataset` opens, or, for NAME:SPLIT, the
            folder below which NAME is looked for before it is downloaded there from the hub.
        split: SPLIT or NAME:SPLIT.
        columns: names for `image` and `label`, where they are ambiguous.

    Raises:
        ValueError: the package, the set, the split or a column is missing, or a column is ambiguous.
    """

    def __init__(self, root: Path, split: str, columns: Mapping[str, str]) -> None:
        name, _, part = split.rpartition(":")
        table = _open(root, name, part)
        import datasets  # after _open, which says what to do where it is not installed

        self.image = _column(table, "image", columns.get("image"), split)
        self.label = _column(table, "label", columns.get("label"), split)
        # Undecoded, the file's own bytes can be compared and hashed.
        self._table = table.cast_column(self.image, datasets.Image(decode=False))
        self.classes, self.labels = _labels(table, self.label)
        self.names = [f"{split}:{index}" for index in range(len(table))]
        self.fingerprint = hashlib.sha256(f"{split}|{table._fingerprint}".encode()).hexdigest()

    def encoded(self, index: int) -> bytes:
        """The image's file."""
        cell = self._table[index][self.image]
        return cell["bytes"] if cell["bytes"] is not None else read_regular(cell["path"])

    def read(self, index: int) -> Image.Image:
        """Decode image `index` to RGB."""
        return as_rgb(open_image(self.encoded(index)))


def _open(root: Path, name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError("the layout huggingface needs the package datasets: pip install '.[huggingface]'") from error
    place = root / name
    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            found = datasets.load_from_disk(str(place))
        elif place.is_dir():
            found = datasets.load_dataset(str(place), cache_dir=str(root / ".cache"))
        else:
            found = datasets.load_dataset(name, cache_dir=str(root))
    except Exception as error:  # the hub's client and the readers of many formats each raise their own
        raise ValueError(
            f"{place}: datasets cannot open it, nor {name or 'a set'} of the hub ({type(error).__name__}: {error})"
        ) from error
    if isinstance(found, datasets.Dataset):  # saved as a single split, under whatever name
        return found
    if split not in found:
        raise ValueError(f"{place}: no split {split!r}; there are {', '.join(map(str, found))}")
    return found[split]


def _column(table: Any, role: str, named: str | None, where: str) -> str:
    """The column of a role: as named, else the only one of its type, else the one of the role's name."""
    import datasets

    assert role in COLUMNS
    features = table.features
    if named is not None:
        if named not in features:
            raise ValueError(f"{where}: no column {named!r}; there are {', '.join(features)}")
        return named
    kind = datasets.Image if role == "image" else datasets.ClassLabel
    fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and role == "label" and role in features:
        return role
    raise ValueError(
        f"{where}: {len(fitting)} columns could be the {role} ({', '.join(fitting or features)}); name one as "
        f"{role}: among the files"
    )


def _labels(table: Any, column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and numbers; values without a list of classes are sorted."""
    import datasets

    values, feature = list(table[column]), table.features[column]
    if any(value is None for value in values):
        raise ValueError(f"column {column}: row {values.index(None)} has no label")
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), np.asarray(values, dtype=np.int64)
    distinct = sorted(set(values))
    return tuple(map(str, distinct)), np.searchsorted(distinct, values).astype(np.int64)
