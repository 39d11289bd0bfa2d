"""Open every image that a task scores before anything trains: a training of days must not end at a damaged file."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kdep.data.decoding.opening import UNREADABLE, read_header, read_image, refuse_mode
from kdep.data.sources.contents import content_hashes
from kdep.data.sources.source import Pack
from kdep.guard import printable
from kdep_benchmarks.data.cards import Use
from kdep_benchmarks.data.pictures import Picture, decoded, in_threads
from kdep_benchmarks.data.readers.boxes import class_names, read_boxes
from kdep_benchmarks.data.readers.classification import files_of, pictures_of, read_labelled
from kdep_benchmarks.data.readers.masks import read_masks
from kdep_benchmarks.kinds import TOOLBOXES

SHOWN = 3


class Entry(NamedTuple):
    """An image or a mask to open: its file, or what has its bytes and a text that changes with them."""

    place: Path | Picture
    is_mask: bool = False
    state: str = ""


def refuse_unreadable(task: Use, known: Path) -> None:
    """Decode every test image and test mask. For mmseg and mmdet, which open files themselves, check train's headers.

    Nothing is repeated while names and contents are unchanged.

    Args:
        task: its family decides which files are read.
        known: folder that remembers what was opened.

    Raises:
        ValueError: names the files that cannot be read, and says what to do.
    """
    for role in ("train", "test") if task.kind in TOOLBOXES else ("test",):
        entries = entries_of(task, role)
        stamp = known / stamp_of(role, entries)
        if stamp.exists():
            continue
        tried = in_threads(partial(problem, whole=role == "test"), entries, f"{role} images", show=False)
        wrong = [f"{name_of(entry)}: {why}" for entry, why in zip(entries, tried, strict=True) if why]
        if wrong:
            shown = "; ".join(wrong[:SHOWN]) + (f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
            raise ValueError(
                f"data set {task.dataset.name}: {len(wrong)} of {len(entries)} files of {role} cannot be read: "
                f"{shown}. Repair them, or remove them from the data set; nothing was trained"
            )
        known.mkdir(parents=True, exist_ok=True)
        stamp.touch()  # one step: writing and renaming could be killed in between, and nobody would remove the part


def entries_of(task: Use, role: str) -> list[Entry]:
    """List what a task reads of a role. Images that torchvision holds in memory are decoded already."""
    if task.family == "segmentation":
        pairs = read_masks(task.dataset, role).pairs
        return [Entry(path, path is pair.mask) for pair in pairs for path in (pair.image, pair.mask)]
    if task.family == "detection":
        split = read_boxes(task.dataset, role, classes=class_names(task.dataset))
        return [Entry(image.path) for image in split.images]
    source = read_labelled(task.dataset, role).source
    if (files := files_of(source)) is not None:
        return [Entry(path) for path in files]
    packed = isinstance(source, Pack)
    return [Entry(picture, state=source.fingerprint) for picture in pictures_of(source)] if packed else []


def stamp_of(role: str, entries: Sequence[Entry]) -> str:
    """Hash the names and the contents of files; missing files count too."""
    digest = hashlib.sha256(f"opened 1|{role}\n".encode())
    for entry in entries:
        digest.update(os.fsencode(f"{entry.is_mask}|{name_of(entry)}|{entry.state}\n"))
    digest.update(content_hashes([entry.place for entry in entries if isinstance(entry.place, Path)]).tobytes())
    return digest.hexdigest()[:32]


def name_of(entry: Entry) -> str:
    """The name of an entry in messages."""
    return printable(entry.place.absolute() if isinstance(entry.place, Path) else entry.place.where)


def problem(entry: Entry, *, whole: bool) -> str | None:
    """Say why a file cannot be read; None if it can. Only the header is read unless `whole`."""
    try:
        if isinstance(entry.place, Picture):
            decoded(entry.place.content()).load()
            return None
        image = read_image(entry.place) if whole else read_header(entry.place)
        if not entry.is_mask:
            refuse_mode(image)
        if whole:
            image.load()
    except UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    return None
