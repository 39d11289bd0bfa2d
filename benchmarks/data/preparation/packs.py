"""Write packs: a seeded choice of the images of class folders in one .npz, with the list of what went in beside it."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdep.data.decoding.opening import UNREADABLE, eight_bit, open_image
from kdep.files import write_atomically, write_text
from kdep.guard import printable, read_regular
from kdep_benchmarks.data.readers.classification import images_of

SPLITS = ("train", "val", "test")
TEST_SHARE = 0.2
QUALITY = 90  # of JPEG, where an image is resized


class Packed(NamedTuple):
    """An image of a pack: its split, class and name, and its encoded bytes."""

    split: str
    label: str
    name: str
    content: bytes


def pack_folder(
    folder: Path,
    out: Path,
    *,
    size: int | None = None,
    per_class: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Write OUT.npz, and OUT.txt with a line per image: split, class, file.

    Args:
        folder: has train and val or test folders of class folders; or class folders, of which a fifth becomes test.
        out: a .npz.
        size: images with a longer short side are resized to it and encoded as JPEG; the others keep their bytes.
        per_class: split -> images of each class, drawn with seed 0 [all].
        names: class folder -> name of the class [the folder's].

    Raises:
        ValueError: no class folders, too few images in one, or an image that cannot be read.
    """
    chosen = _chosen(folder, per_class or {}, np.random.Generator(np.random.Philox(0)))

    def images() -> Iterable[Packed]:
        for split, label, path in chosen:
            name = (names or {}).get(label, label)
            yield Packed(split, name, str(path.relative_to(folder)), _encoded(path, size))

    write_pack(out, images(), f"of {folder.name}, size {size or 'as it was'}, seed 0")


def write_pack(out: Path, images: Iterable[Packed], said: str) -> None:
    """Write a pack and its list; classes are numbered in the order in which they first appear."""
    classes: dict[str, int] = {}
    blobs: dict[str, list[bytes]] = {}
    labels: dict[str, list[int]] = {}
    lines = [f"# {said}: split, class, image"]
    for image in images:
        blobs.setdefault(image.split, []).append(image.content)
        labels.setdefault(image.split, []).append(classes.setdefault(image.label, len(classes)))
        lines.append(f"{image.split}\t{printable(image.label)}\t{printable(image.name)}")
    content = {"classes": np.array(list(classes))}
    for split, encoded in blobs.items():
        content[f"{split}_blob"] = np.frombuffer(b"".join(encoded), np.uint8)
        content[f"{split}_offsets"] = np.cumsum([0, *map(len, encoded)])
        content[f"{split}_labels"] = np.array(labels[split], np.int16)

    def into(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **content)

    write_text(out.with_suffix(".txt"), "\n".join(lines) + "\n")
    write_atomically(out, into)


def _chosen(folder: Path, per_class: Mapping[str, int], draw: np.random.Generator) -> list[tuple[str, str, Path]]:
    """(split, class folder, file), class by class within each split."""
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    chosen: list[tuple[str, str, Path]] = []
    for place in [folder / split for split in splits] or [folder]:
        classes = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not classes:
            raise ValueError(f"{place}: no class folders")
        by_class, _ = images_of(place, [label.name for label in classes])
        for label in classes:
            files = by_class[label.name]
            order = draw.permutation(len(files))
            parts = {place.name: order}
            if not splits:
                count = max(1, round(TEST_SHARE * len(files)))
                parts = {"train": order[count:], "test": order[:count]}
            for split, positions in parts.items():
                wanted = per_class.get(split, len(positions))
                if wanted > len(positions) or not wanted:
                    raise ValueError(f"{label}: {len(positions)} images for {split}, {max(wanted, 1)} are needed")
                chosen += [(split, label.name, files[position]) for position in sorted(positions[:wanted])]
    return sorted(chosen, key=lambda item: SPLITS.index(item[0]))


def _encoded(path: Path, size: int | None) -> bytes:
    """The file's bytes, or a smaller JPEG of the image."""
    try:
        content = read_regular(path)
        image = eight_bit(open_image(content))
        image.load()
        if size is None or min(image.size) <= size:
            return content
        scale = size / min(image.size)
        sides = [max(size, round(side * scale)) for side in image.size]
        memory = io.BytesIO()
        image.convert("RGB").resize(sides, Image.Resampling.LANCZOS).save(memory, "JPEG", quality=QUALITY)
    except UNREADABLE as error:
        raise ValueError(f"{printable(path)}: cannot be read ({error}); repair or remove it") from error
    return memory.getvalue()
