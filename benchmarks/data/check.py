"""Look over a data set before anything trains on it: counts, images, labels, masks, boxes, and what splits share."""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from kdep_benchmarks.data import boxes as data_boxes
from kdep_benchmarks.data import labels as data_labels
from kdep_benchmarks.data import masks as data_masks
from kdep_benchmarks.data.cards import CARDS, CLASSIFICATION, Card, Dataset, absent, known
from kdep_benchmarks.data.duplicates import overlap, repeated
from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.pictures import Picture, look_at, unreadable
from kdep_benchmarks.tasks.task import load_suite

ROLES = ("train", "val", "test")


class Subject(NamedTuple):
    """A data set to check: `family` says what of it is used, `card` what is expected of a known one."""

    dataset: Dataset
    family: str
    card: Card | None


class Report(NamedTuple):
    """What a check found; `images` are those seen by role."""

    dataset: Dataset
    images: dict[str, int]
    findings: list[Finding]

    @property
    def defects(self) -> int:
        """Findings to repair."""
        return sum(finding.defect for finding in self.findings)


def subjects(name: str, data_root: Path) -> list[Subject]:
    """Data sets meant by a name: a known one, SUITE.yaml (all of its own), or SUITE.yaml:NAME, a set or a task in it.

    Raises:
        ValueError: no such set, task or suite.
    """
    named = re.fullmatch(r"(.+\.ya?ml)(?::(.+))?", name)
    if named is None:
        dataset = known(name, data_root)
        return [Subject(dataset, family_of(dataset), CARDS[name])]
    suite, part = named.groups()
    found = {}
    tasks = load_suite(suite, data_root)
    for task in tasks:
        if part in (None, task.name, task.dataset.name):
            dataset = task.dataset
            card = CARDS.get(dataset.name)
            if card is not None and dataset != known(dataset.name, data_root):
                card = None  # a set of the user's that bears a known one's name
            key = (dataset.layout, str(dataset.root), str(dataset.files), dataset.classes, task.family)
            found[key] = Subject(dataset, task.family, card)
    if not found:
        there = dict.fromkeys(name for task in tasks for name in (task.dataset.name, task.name))
        raise ValueError(f"{suite}: no data set or task {part!r}; there are {', '.join(there)}")
    return list(found.values())


def family_of(dataset: Dataset) -> str:
    """What a set is for; VOC trees serve two families, by where their lists lie."""
    if dataset.layout in CLASSIFICATION:
        return "classification"
    detection = dataset.layout == "coco" or (dataset.layout == "voc" and "/Main/" in dataset.files["train"])
    return "detection" if detection else "segmentation"


def check(subject: Subject, *, show: bool = False) -> Report:
    """Read all of a data set and collect what is wrong; nothing is written or downloaded."""
    dataset, card = subject.dataset, subject.card
    if reason := absent(dataset):
        return Report(dataset, {}, [Finding("not there", dataset.name, reason)])
    pictures, findings = READERS[subject.family](subject, show)
    for role, expected in (card.images if card else {}).items():
        if (count := len(pictures.get(role, ()))) != expected:
            findings.append(Finding("wrong count", f"images of {role}", f"{count}, expected {expected}"))
    findings += _look_over(pictures, show)
    return Report(dataset, {role: len(found) for role, found in pictures.items()}, findings)


Read = tuple[dict[str, list[Picture]], list[Finding]]


def _classification(subject: Subject, show: bool) -> Read:
    splits, findings = {}, []
    for role in ROLES:
        if role in subject.dataset.files:
            split, wrong = data_labels.read(subject.dataset, role)
            findings += wrong
            if split is not None:
                splits[role] = split
    expected = subject.card.labels if subject.card else 0
    findings += data_labels.wrong_classes(splits, subject.dataset, expected=expected)
    return {role: split.pictures for role, split in splits.items()}, findings


def _segmentation(subject: Subject, show: bool) -> Read:
    pictures, findings = {}, []
    for role in ("train", "test"):
        pictures[role], wrong = data_masks.read(subject.dataset, role, show=show)
        findings += wrong
    return pictures, findings


def _detection(subject: Subject, show: bool) -> Read:
    splits = {role: data_boxes.read(subject.dataset, role) for role in ("train", "test")}
    expected = subject.card.labels if subject.card else 0
    findings = [finding for split in splits.values() for finding in split.findings]
    findings += data_boxes.wrong_classes(splits, subject.dataset, expected=expected)
    return {role: split.pictures for role, split in splits.items()}, findings


READERS = {"classification": _classification, "segmentation": _segmentation, "detection": _detection}


def _look_over(pictures: dict[str, list[Picture]], show: bool) -> Iterator[Finding]:
    looks = {role: look_at(found, f"{role} images", show=show) for role, found in pictures.items()}
    for role, found in pictures.items():
        yield from unreadable(found, looks[role])
        yield from repeated(role, found, looks[role])
    for role, other in combinations(pictures, 2):
        yield from overlap((role, pictures[role], looks[role]), (other, pictures[other], looks[other]))
