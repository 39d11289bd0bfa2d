"""Find images of a pretraining source in test splits, write them to a file, and count them on the board.

A file `RESULTS/overlap/NAME.json` is read with the results in `RESULTS`. It applies to checkpoints that were pretrained
on its source (by fingerprint or address) and to those that it names.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from kdep.files import write_text
from kdep.guard import printable
from kdep.json_file import read_json
from kdep.settings import validate
from kdep_benchmarks.result import CHECKED, CheckpointCard, Count, Result, with_digits
from kdep_benchmarks.results import Found, find_results, overlap_paths

if TYPE_CHECKING:
    from kdep_benchmarks.data.cards import Use
    from kdep_benchmarks.data.pictures import Look, Picture

FORMAT = 1
EXACT = ("bytes", "pixels")
SHOWN = 3  # matches of a set that are listed on the screen


@dataclass(frozen=True, config=CHECKED)
class Match:
    """An image of a test split and the one of the pretraining data that it equals.

    `how`: bytes or pixels, when they are the same, or look, where perceptual hash and thumbnail agree: a suspicion.
    """

    test: str
    pretraining: str
    how: str


@dataclass(frozen=True, config=CHECKED)
class SetOverlap:
    """Matches in one test split of `images` images."""

    dataset: str
    data_fingerprint: str
    images: Count
    matches: tuple[Match, ...]

    @property
    def exact(self) -> int:
        """Images whose bytes or pixels are the same."""
        return sum(match.how in EXACT for match in self.matches)


@dataclass(frozen=True, config=CHECKED)
class Overlap:
    """One file: a pretraining source compared with the data sets of a suite.

    Attributes:
        source, fingerprint, images, unreadable: of the pretraining data.
        sets: the data sets that were compared.
        absent: data sets of the suite that are missing, and why.
        checkpoints: names of rows that were pretrained on the source although their files do not say so.
    """

    source: str
    fingerprint: str
    images: Count
    unreadable: Count
    sets: tuple[SetOverlap, ...]
    absent: dict[str, str]
    checkpoints: tuple[str, ...] = ()

    def is_of(self, card: CheckpointCard) -> bool:
        """Whether the checkpoint was pretrained on this source."""
        known = (card.summary.get("pretrain_fingerprint"), card.summary.get("pretrain_data"))
        rows = {card.name, with_digits(card.sha256, card.name)}  # the board has one of them
        return not rows.isdisjoint(self.checkpoints) or known[0] == self.fingerprint or known[1] == self.source


def find_overlap(
    spec: str, tasks: Sequence["Use"], *, root: Path | None = None, checkpoints: Sequence[str] = (), show: bool = False
) -> Overlap:
    """Find the images of a pretraining source in the test splits of tasks.

    Args:
        spec: as `kdep.data.sources.source.open_source` takes it.
        root: likewise.
        tasks: each of their data sets is compared once.
        checkpoints: further names on the board to which the result applies.
        show: progress bars.

    Raises:
        ValueError: nothing at `spec`.
    """
    from kdep.data.sources.source import open_source
    from kdep_benchmarks.data.cards import absent, fingerprint
    from kdep_benchmarks.data.pictures import look_at
    from kdep_benchmarks.data.readers.classification import pictures_of

    source = open_source(spec, root=root)
    pictures = pictures_of(source, full_paths=False)
    looks = look_at(pictures, "pretraining images", show=show)
    sets, missing = {}, {}
    for task in tasks:
        dataset = task.dataset
        if reason := absent(dataset):
            missing[dataset.name] = printable(reason)
            continue
        known = fingerprint(dataset)
        if known not in sets:
            theirs = test_pictures(task)
            matches = tuple(matches_of(pictures, looks, theirs, look_at(theirs, f"{dataset.name} test", show=show)))
            sets[known] = SetOverlap(dataset.name, known, len(theirs), matches)
    unreadable = sum(look.problem is not None for look in looks)
    found = (printable(spec), source.fingerprint, len(pictures), unreadable)
    return Overlap(*found, tuple(sets.values()), missing, tuple(checkpoints))


def matches_of(
    pictures: Sequence["Picture"], looks: Sequence["Look"], others: Sequence["Picture"], other_looks: Sequence["Look"]
) -> Iterator[Match]:
    """The `others` that are among `pictures`, one match each; unreadable images match nothing."""
    from kdep_benchmarks.data.checks.duplicates import same_images

    for same in same_images(pictures, looks, others, other_looks):
        ours, theirs = pictures[same.first], others[same.second]
        how = "bytes" if same.bits is None else "pixels" if _rgb(ours) == _rgb(theirs) else "look"
        yield Match(printable(theirs.where), printable(ours.where), how)  # JSON holds no name that is not UTF-8


def test_pictures(use: "Use") -> list["Picture"]:
    """The images that a task is scored on.

    Raises:
        ValueError: the split does not open, or has no images.
    """
    from kdep_benchmarks.data.pictures import of_file
    from kdep_benchmarks.data.readers.boxes import read_boxes
    from kdep_benchmarks.data.readers.classification import pictures_of, read_labelled
    from kdep_benchmarks.data.readers.masks import read_masks

    if use.family == "classification":
        pictures = pictures_of(read_labelled(use.dataset, "test", download=False).source)
    elif use.family == "segmentation":
        pictures = [of_file(pair.image) for pair in read_masks(use.dataset, "test").pairs]
    else:
        pictures = [of_file(image.path) for image in read_boxes(use.dataset, "test").images]
    if not pictures:
        raise ValueError(f"{use.name}: the test split of {use.dataset.name} has no images")
    return pictures


def write_overlap(overlap: Overlap, path: Path) -> None:
    """Write one file for the board."""
    write_text(path, json.dumps({"format": FORMAT, **asdict(overlap)}, indent=1) + "\n")


def read_overlap(path: Path) -> Overlap:
    """Read what `write_overlap` wrote.

    Raises:
        ValueError: another file; names it.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(f"{path}: not a file of `kdep data overlap` in format {FORMAT}; move it away")
    return validate(Overlap, content, str(path), remedy="not a file of `kdep data overlap`; move it away")


def read_with_overlap(folders: Sequence[Path]) -> Found:
    """Find all results below folders, with the overlaps that the files beside them count; say which are left out."""
    found, overlaps, damaged = find_results(folders), [], []
    for path in overlap_paths(folders):
        try:
            overlaps.append(read_overlap(path))
        except (ValueError, OSError) as error:
            damaged.append(str(error))
    return Found(with_overlap(found.results, overlaps), [*found.damaged, *damaged])


def with_overlap(results: Iterable[Result], overlaps: Sequence[Overlap]) -> list[Result]:
    """Results with the number of test images that are in the checkpoint's pretraining data.

    `overlap` counts all, `overlap_exact` those with the same bytes or pixels; both are absent where nothing was
    compared. An image in several sources counts once.
    """

    def counted(result: Result) -> Result:
        of = [one for overlap in overlaps if overlap.is_of(result.checkpoint) for one in overlap.sets]
        of = [one for one in of if one.data_fingerprint == result.data_fingerprint]
        if not of:
            return result
        matches = [match for one in of for match in one.matches]
        exact = {match.test for match in matches if match.how in EXACT}
        counts = {"overlap": len({match.test for match in matches}), "overlap_exact": len(exact)}
        return replace(result, counts={**result.counts, **counts})

    return [counted(result) for result in results]


def overlap_lines(overlap: Overlap) -> list[str]:
    """The result in lines of text."""
    unreadable = f", {overlap.unreadable:,} of them unreadable" if overlap.unreadable else ""
    text = [f"{overlap.source}: {overlap.images:,} images{unreadable}"]
    for one in overlap.sets:
        similar = len(one.matches) - one.exact
        text.append(f"  {one.dataset}: {one.exact} exact and {similar} by look, of {one.images:,} test images")
        text += [
            f"    {printable(match.test)} = {printable(match.pretraining)} ({match.how})"
            for match in one.matches[:SHOWN]
        ]
        text += [f"    and {len(one.matches) - SHOWN} more"] if len(one.matches) > SHOWN else []
    return text + [f"  {name}: not compared: {reason}" for name, reason in overlap.absent.items()]


def _rgb(picture: "Picture") -> tuple[tuple[int, int], bytes]:
    from kdep_benchmarks.data.pictures import decoded

    image = decoded(picture.content()).convert("RGB")
    return image.size, image.tobytes()
