"""Find the arms that were trained with labels of the very images that choose or score them.

Images are known by their place, which takes no time: a folder, the files of a list, a split of a pack, a torchvision
data set. Copies in another place and tar shards are not noticed.
"""

import contextlib
import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdep_benchmarks.studies.file import Run, Study
from kdep_benchmarks.studies.rows import is_file, load_tasks, student_card

if TYPE_CHECKING:
    from kdep_benchmarks.data.cards import Dataset

VAL, TEST = "val", "test"
Learned = dict[tuple[str, Any], dict[str, list[str]]]  # arm and value of the axis -> role -> tasks


def learned(study: Study) -> Learned:
    """The arms, at values of the axis, that were trained with labels on val or test images, and of which tasks.

    Raises:
        ValueError: as `load_tasks`, where an arm was trained with labels.
    """
    images: dict[tuple[str, Any], set[Path]] = {}
    for run in study.runs:
        if source := labelled_images(study, run):
            images.setdefault((run.arm, run.value), set()).update(image_places(*source))
    tasks = load_tasks(study) if images else []
    found: Learned = {}
    for key, own in images.items():
        roles = {role: [t.name for t in tasks if overlap(own, split_of(t.dataset, role))] for role in (VAL, TEST)}
        if any(roles.values()):
            found[key] = roles
    return found


def sentences(study: Study, found: Learned) -> list[str]:
    """A sentence or two for each such arm: which images it learned, and what this means for its scores."""
    said = []
    for arm in study.arms:
        own = {value: roles for (name, value), roles in found.items() if name == arm}
        at = f" at {study.axis.key} = {', '.join(map(str, own))}" if study.axis and len(own) < len(study.values) else ""
        val, test = (_tasks(study, own.values(), role) for role in (VAL, TEST))
        if val:
            said.append(
                f"`{arm}`{at} was trained with labels on images of the val split of {val}, so its val scores there "
                "are of answers that it learned. It is left out of all that is chosen on val."
            )
        if test:
            said.append(
                f"`{arm}`{at} was trained with labels on test images of {test}. Its test scores there say nothing of "
                "new images."
            )
    return said


def _tasks(study: Study, learned_by: Iterable[dict[str, list[str]]], role: str) -> str:
    """The tasks whose images of a role were learned at any value, in words."""
    names = {name for roles in learned_by for name in roles[role]}
    return ", ".join(name for name in study.tasks if name in names)


def labelled_images(study: Study, planned: Run) -> tuple[str, Path | None] | None:
    """Address and root of the images whose labels a run is trained with; None without labels, or if it is not known.

    A checkpoint says so itself where it is a student of kdep.
    """
    if planned.checkpoint is None:
        config = study.config(planned)
        return (config.data.source, config.data.root) if config.loss.name == "labels" else None
    from kdep.models.weights import file_of

    path = file_of(planned.checkpoint)
    if not is_file(planned) or not path.is_file():
        return None
    return _of_student(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _of_student(path: Path, changed: int) -> tuple[str, Path | None] | None:
    """The same of a file, as its provenance has it; None where it holds no student of kdep."""
    try:
        content = student_card(path, changed)[1]
        if content["loss"]["name"] != "labels":
            return None
        source, root = content["data"]["source"], content["data"].get("root")
        return str(source), None if root is None else Path(root)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def image_places(spec: str, root: Path | None) -> set[Path]:
    """Where the images of an address are, links resolved; nothing where this is not known.

    A folder is itself, a list the folders of its files, a split of a pack FILE.npz/SPLIT.
    """
    from kdep.data.sources.manifest import FILE, open_manifest

    kind, _, rest = spec.partition(":")
    if kind == "torchvision":
        return {Path(spec, "train")}
    if kind == "wds":
        return set()
    file, _, split = spec.rpartition(":")
    if file.endswith(".npz"):
        return {path / split for path in _candidates(file)}
    paths = _candidates(rest if kind == "manifest" else spec)
    with contextlib.suppress(ValueError, OSError):  # the run itself will say what is wrong with it
        if kind == "manifest":
            folders = {path.parent for path in paths if path.name == FILE}
            if root is not None or not folders:
                folders = {root or Path(open_manifest(path, spec).about["folder"]) for path in paths}
            return {folder.resolve() for folder in folders}
        if spec.endswith(".txt"):
            return set().union(*(_listed(path, root) for path in paths if path.is_file()))
    return paths


def _candidates(path: str) -> set[Path]:
    """A path as a run finds it; of one that is not there, both places in which a run looks, so that answers agree."""
    from kdep.data.sources.root import data_root, located

    found = located(Path(path))
    return {found.resolve()} if found.exists() else {found.resolve(), (data_root() / path).resolve()}


def _listed(path: Path, root: Path | None) -> set[Path]:
    """The folders of the files of a list."""
    from kdep.data.sources.lists import read_list
    from kdep.data.sources.root import located

    start = path.parent if root is None else located(root)
    folders = {os.path.dirname(name) for name in read_list(path)}  # noqa: PTH120 - there may be a million
    return {(start / folder).resolve() for folder in folders}


def split_of(dataset: "Dataset", role: str) -> Path | None:
    """Where the images of a split are, as `image_places` has it; a val split without a place of its own is in train.

    None for data of segmentation and detection, whose labels are no classes.
    """
    from kdep_benchmarks.data.cards import folder_of

    files = dataset.files.get(role) or dataset.files.get("train", "")
    if dataset.layout == "torchvision":
        return Path("torchvision:" + files.replace(":", "/"))
    if dataset.layout == "npz":
        file, _, split = files.rpartition(":")
        return (dataset.root / file).resolve() / split
    return (dataset.root / folder_of(files)).resolve() if dataset.layout == "imagefolder" else None


def overlap(images: set[Path], split: Path | None) -> bool:
    """Whether images are in the place of a split, below it or above it."""
    return split is not None and any(p == split or split in p.parents or p in split.parents for p in images)
