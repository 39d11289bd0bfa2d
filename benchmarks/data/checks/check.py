"""Check a data set before anything trains on it: counts, images, labels, masks, boxes, and images that splits share."""

from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from kdep_benchmarks.data.cards import CARDS, CLASSIFICATION, Card, Dataset, Use, absent, known
from kdep_benchmarks.data.checks.duplicates import repeated_images, shared_images
from kdep_benchmarks.data.checks.labels import class_findings, label_findings, labelled_pictures
from kdep_benchmarks.data.checks.masks import mask_findings
from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.pictures import Picture, look_at, of_file, turned, unreadable
from kdep_benchmarks.data.readers.boxes import differing_categories, read_boxes

ROLES = ("train", "val", "test")


class Subject(NamedTuple):
    """A data set to check: the family of tasks that use it, and the card of a known one."""

    dataset: Dataset
    family: str
    card: Card | None


class Report(NamedTuple):
    """The result of a check; `images` counts them by role."""

    dataset: Dataset
    images: dict[str, int]
    findings: list[Finding]

    @property
    def defects(self) -> int:
        """The number of findings to repair."""
        return sum(finding.defect for finding in self.findings)


def known_subject(name: str, data_root: Path) -> Subject:
    """A known data set.

    Raises:
        ValueError: no card of that name.
    """
    dataset = known(name, data_root)
    return Subject(dataset, family_of(dataset), CARDS[name])


def subjects_of(uses: Iterable[Use], data_root: Path) -> list[Subject]:
    """The data sets of some tasks, each once per family."""
    found = {}
    for use in uses:
        dataset, card = use.dataset, CARDS.get(use.dataset.name)
        if card is not None and dataset != known(dataset.name, data_root):
            card = None  # a set of the user's with the name of a known one
        key = (dataset.layout, str(dataset.root), str(dataset.files), dataset.classes, use.family)
        found[key] = Subject(dataset, use.family, card)
    return list(found.values())


def family_of(dataset: Dataset) -> str:
    """The family of tasks that a set serves; for VOC trees the folder of their lists decides."""
    if dataset.layout in CLASSIFICATION:
        return "classification"
    detection = dataset.layout == "coco" or (dataset.layout == "voc" and "/Main/" in dataset.files["train"])
    return "detection" if detection else "segmentation"


def check_dataset(subject: Subject, *, show: bool = False) -> Report:
    """Read a whole data set and list what is wrong; nothing is written or downloaded."""
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
            split, wrong = label_findings(subject.dataset, role)
            findings += wrong
            if split is not None:
                splits[role] = split
    expected = subject.card.labels if subject.card else 0
    findings += class_findings(splits, subject.dataset, expected=expected)
    return {role: labelled_pictures(split) for role, split in splits.items()}, findings


def _segmentation(subject: Subject, show: bool) -> Read:
    pictures, findings = {}, []
    for role in ("train", "test"):
        pictures[role], wrong = mask_findings(subject.dataset, role, show=show)
        findings += wrong
    return pictures, findings


def _detection(subject: Subject, show: bool) -> Read:
    splits, findings = {}, []
    for role in ("train", "test"):
        try:
            splits[role] = read_boxes(subject.dataset, role, open_images=True)
            findings += splits[role].findings
        except ValueError as error:
            findings.append(Finding("split does not open", role, str(error)))
    if len(splits) == 2:
        findings += differing_categories(splits, subject.dataset)
    expected, train = subject.card.labels if subject.card else 0, splits.get("train")
    if train is not None and expected and len(train.classes) != expected:
        where = f"classes of {subject.dataset.files['train']}"
        findings.append(Finding("wrong count", where, f"{len(train.classes)}, expected {expected}"))
    return {role: [of_file(image.path) for image in split.images] for role, split in splits.items()}, findings


READERS = {"classification": _classification, "segmentation": _segmentation, "detection": _detection}


def _look_over(pictures: dict[str, list[Picture]], show: bool) -> Iterator[Finding]:
    looks = {role: look_at(found, f"{role} images", show=show) for role, found in pictures.items()}
    for role, found in pictures.items():
        yield from unreadable(found, looks[role])
        yield from turned(found, looks[role])
        yield from repeated_images(role, found, looks[role])
    for role, other in combinations(pictures, 2):
        yield from shared_images((role, pictures[role], looks[role]), (other, pictures[other], looks[other]))
