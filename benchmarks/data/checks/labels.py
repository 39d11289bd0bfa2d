"""Find defects of the labels of a classification set, without stopping at the first."""

from collections.abc import Iterator

import numpy as np

from kdep.data.sources.names import SUFFIXES, is_image_name
from kdep.guard import NOT_REGULAR, walk
from kdep_benchmarks.data.cards import Dataset, folder_of
from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.pictures import Picture
from kdep_benchmarks.data.readers.classification import LabelledSource, pictures_of, read_labelled


def label_findings(dataset: Dataset, role: str) -> tuple[LabelledSource | None, list[Finding]]:
    """Open a split without downloading anything, and list what is wrong with its labels."""
    try:
        found = read_labelled(dataset, role, download=False)
    except ValueError as error:
        return None, [Finding("split does not open", f"{role} {dataset.files[role]}", str(error))]
    if len(found.labels) != len(found.source.names):
        what = f"{len(found.labels)} labels for {len(found.source.names)} images"
        return None, [Finding("split does not open", f"{role} {dataset.files[role]}", what)]
    findings = list(_wrong_labels(found, role))
    for path, why in getattr(found.source, "skipped", ()):
        findings.append(Finding("path skipped", str(path), why, defect=why == NOT_REGULAR))
    if dataset.layout == "imagefolder":
        findings += _ignored_files(dataset, folder_of(dataset.files[role]))
    return found, findings


def class_findings(splits: dict[str, LabelledSource], dataset: Dataset, *, expected: int) -> Iterator[Finding]:
    """Compare the splits' classes with each other, with those named and with the number expected (0: any)."""
    train = splits.get("train")
    if train is None:
        return
    if len(train.classes) < 2:
        what = f"one only ({train.classes[0]}), so every answer is right; at least two are needed"
        yield Finding("too few classes", f"classes of {dataset.files['train']}", what)
    pairs = [(f"train and {role}", split.classes) for role, split in splits.items()]
    pairs += [("named and found", dataset.classes)] if dataset.classes else []
    for where, classes in pairs:
        if odd := sorted(set(classes) ^ set(train.classes)):
            yield Finding("classes differ", where, f"{', '.join(odd[:5])} ({len(odd)}) only in one of them")
    if "val" not in dataset.files and len(train.labels):
        for label in np.flatnonzero(np.bincount(train.labels[train.labels >= 0]) == 1):
            where = f"class {dict(enumerate(train.classes)).get(int(label))!r} of {dataset.files['train']}"
            what = "it stays in train: the fifth of each class that settings are chosen on has none of it"
            yield Finding("one image in train", where, what, defect=False)
    if expected and len(train.classes) != expected:
        where = f"classes of {dataset.files['train']}"
        yield Finding("wrong count", where, f"{len(train.classes)}, expected {expected}")


def labelled_pictures(split: LabelledSource) -> list[Picture]:
    """Every image of a split with the name of its class; a label out of range has none."""
    names = dict(enumerate(split.classes))
    pictures = pictures_of(split.source)
    return [picture._replace(label=names.get(int(n), "")) for picture, n in zip(pictures, split.labels, strict=True)]


def _wrong_labels(split: LabelledSource, role: str) -> Iterator[Finding]:
    count = len(split.classes)
    outside = (split.labels < 0) | (split.labels >= count)
    for index in np.flatnonzero(outside):
        what = f"{split.labels[index]}; the {count} classes are numbered from 0 to {count - 1}"
        yield Finding("label out of range", pictures_of(split.source)[index].where, what)
    for label in np.flatnonzero(np.bincount(split.labels[~outside], minlength=count) == 0):
        yield Finding("empty class", f"class {split.classes[label]!r} of {role}", "has no image")


def _ignored_files(dataset: Dataset, folder: str) -> Iterator[Finding]:
    for path in sorted(walk(dataset.root / folder, lambda name: not is_image_name(name)).files):
        what = f"not read: images end in {', '.join(sorted(SUFFIXES))}"
        yield Finding("file that is no image", path, what, defect=False)
