"""Look at the test images by content: how many are in train or val too, or repeat others, and a sketch of them all."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from kdep.data.sources.contents import cache_folder, content_hashes
from kdep.files import write_text
from kdep_benchmarks.answers.sketch import DIGITS, SIZE, sketch_of
from kdep_benchmarks.data.cards import Use
from kdep_benchmarks.data.checks.contents import Contents
from kdep_benchmarks.data.checks.readable import entries_of
from kdep_benchmarks.data.readers.classification import files_of, hash_of, pictures_of, read_labelled

WORTH = 2000  # images from which on the counts are remembered


def contents_of(task: Use, fingerprint: str) -> Contents:
    """Look at the contents of a task's test images.

    Args:
        task: its family decides how the data set is read.
        fingerprint: of the data set; what a large one gives is remembered with it in the user's cache folder.

    Raises:
        ValueError: every image of test, or of val, is also in another split.
    """
    memory = (
        cache_folder("leaks")
        / f"{hashlib.sha256(f'{task.family}|{fingerprint}|{SIZE}|{DIGITS}'.encode()).hexdigest()}.json"
    )
    if (known := _known(memory)) is not None:
        return known
    roles = [role for role in ("train", "val", "test") if any(key.split("_")[0] == role for key in task.dataset.files)]
    images = {role: hashes_of(task, role) for role in roles}
    name = task.dataset.name
    for role, others in (("val", ("train",)), ("test", ("train",)), ("test", ("val",))):
        for other in (one for one in others if role in images and one in images):
            if images[role] and set(images[role]) <= set(images[other]):
                raise ValueError(
                    f"data set {name}: every one of the {len(images[role])} images of {role} is also in {other}, byte "
                    f"for byte; a score on them means nothing. Give the {role} split its own images"
                )
    fitted = {content for role in roles if role != "test" for content in images[role]}
    there = [content for content in images["test"] if any(content)]  # zeros stand for a missing file
    copies = Counter(there).values()
    found = Contents(
        leaked=sum(content in fitted for content in there),
        repeated=len(there) - len(copies),
        # The variance of a mean of n values, of which each counts c times, is the sum of c^2 over n^2 (Kish, 1965).
        effective=round(len(there) ** 2 / max(1, sum(count**2 for count in copies))),
        sketch=sketch_of(there),
    )
    if sum(map(len, images.values())) >= WORTH:
        _remember(memory, found)
    return found


def _known(memory: Path) -> Contents | None:
    try:
        content = TypeAdapter(dict[str, int | str]).validate_json(memory.read_text())
    except (OSError, ValueError):  # not there, or damaged: looked at again
        return None
    return Contents(**content) if content.keys() == asdict(Contents()).keys() else None


def _remember(memory: Path, found: Contents) -> None:
    try:
        write_text(memory, json.dumps(asdict(found)))
    except OSError:  # no cache folder that can be written: looked at again each time
        return


def hashes_of(task: Use, role: str) -> list[bytes]:
    """Hash the images of a role: their files' bytes, or their pixels where they have no file."""
    if task.family != "classification":
        return _of_files([entry.place for entry in entries_of(task, role) if not entry.is_mask])
    source = read_labelled(task.dataset, role).source
    if (files := files_of(source)) is not None:
        return _of_files(files)
    return [hash_of(picture.content()) for picture in pictures_of(source)]


def _of_files(files: Sequence[Path]) -> list[bytes]:
    return [content.tobytes() for content in content_hashes(files)]
