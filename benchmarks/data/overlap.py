"""Images of a pretraining source that also stand in test splits: found once, kept in a file, shown on the board.

A file `RESULTS/overlap/NAME.json` is read with the results beside it. It belongs to the rows whose checkpoint was
pretrained on its source (by the source's fingerprint or address, as the checkpoint says) and to those that it names.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdep_benchmarks.results import CheckpointCard, Result, write_text

if TYPE_CHECKING:
    from kdep_benchmarks.data.check import Use
    from kdep_benchmarks.data.pictures import Look, Picture

FORMAT = 1
EXACT = ("bytes", "pixels")


@dataclass(frozen=True)
class Match:
    """An image of a test split and the one of the pretraining data that it equals.

    `how`: bytes or pixels, when they are the same, or look, where perceptual hash and thumbnail agree: a suspicion.
    """

    test: str
    pretraining: str
    how: str


@dataclass(frozen=True)
class SetOverlap:
    """What was found in one test split of `images` images."""

    dataset: str
    data_fingerprint: str
    images: int
    matches: tuple[Match, ...]

    @property
    def exact(self) -> int:
        """Images whose bytes or pixels are the same."""
        return sum(match.how in EXACT for match in self.matches)


@dataclass(frozen=True)
class Overlap:
    """One file: a pretraining source against the sets of a suite.

    Attributes:
        source, fingerprint, images, unreadable: of the pretraining data.
        sets: what was looked at.
        absent: data sets of the suite that were not there, and why.
        checkpoints: names of rows that were pretrained on it although their files do not say so.
    """

    source: str
    fingerprint: str
    images: int
    unreadable: int
    sets: tuple[SetOverlap, ...]
    absent: dict[str, str]
    checkpoints: tuple[str, ...] = ()

    def is_of(self, card: CheckpointCard) -> bool:
        """Whether the checkpoint was pretrained on this source."""
        known = (card.summary.get("pretrain_fingerprint"), card.summary.get("pretrain_data"))
        return card.name in self.checkpoints or known[0] == self.fingerprint or known[1] == self.source


def find_overlap(
    spec: str, tasks: Sequence["Use"], *, root: Path | None = None, checkpoints: Sequence[str] = (), show: bool = False
) -> Overlap:
    """Look for the images of a pretraining source in the test splits of tasks.

    Args:
        spec: as `kdep.data.sources.open_source` takes it.
        root: likewise.
        tasks: their data sets are looked at once each.
        checkpoints: names on the board to which the answer belongs too.
        show: progress bars.

    Raises:
        ValueError: nothing at `spec`.
    """
    from kdep.data.sources import open_source
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
            missing[dataset.name] = reason
            continue
        known = fingerprint(dataset)
        if known not in sets:
            theirs = test_pictures(task)
            matches = tuple(find(pictures, looks, theirs, look_at(theirs, f"{dataset.name} test", show=show)))
            sets[known] = SetOverlap(dataset.name, known, len(theirs), matches)
    unreadable = sum(look.problem is not None for look in looks)
    found = (str(spec), source.fingerprint, len(pictures), unreadable)
    return Overlap(*found, tuple(sets.values()), missing, tuple(checkpoints))


def find(
    pictures: Sequence["Picture"], looks: Sequence["Look"], others: Sequence["Picture"], other_looks: Sequence["Look"]
) -> Iterator[Match]:
    """The `others` that stand among `pictures`, one match each; unreadable images match nothing."""
    import numpy as np

    from kdep_benchmarks.data.duplicates import NEAR, alike, nearest

    bytes_of = {look.digest: index for index, look in reversed(list(enumerate(looks))) if look.problem is None}
    readable = [index for index, look in enumerate(looks) if look.problem is None]
    rest = []
    for index, look in enumerate(other_looks):
        if look.problem is None and look.digest in bytes_of:
            yield Match(others[index].where, pictures[bytes_of[look.digest]].where, "bytes")
        elif look.problem is None:
            rest.append(index)
    hashes = np.array([looks[index].appearance for index in readable], dtype=np.uint64)
    asked = np.array([other_looks[index].appearance for index in rest], dtype=np.uint64)
    for at, candidate, _ in nearest(hashes, asked, within=NEAR):
        theirs, ours = others[rest[at]], pictures[readable[candidate]]
        if alike(ours, theirs):
            yield Match(theirs.where, ours.where, "pixels" if _same_pixels(ours, theirs) else "look")


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
    write_text(path, json.dumps({"format": FORMAT, **asdict(overlap)}, indent=1, ensure_ascii=False) + "\n")


def read_overlap(path: Path) -> Overlap:
    """Read what `write_overlap` wrote.

    Raises:
        ValueError: another file; names it.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"this version reads format {FORMAT}")
        sets = [SetOverlap(**{**one, "matches": tuple(Match(**m) for m in one["matches"])}) for one in content["sets"]]
        return Overlap(**{**content, "sets": tuple(sets), "checkpoints": tuple(content["checkpoints"])})
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise ValueError(
            f"{path}: not a file of `kdep data overlap` ({type(problem).__name__}: {problem}); move it away"
        ) from problem


def read_overlaps(folders: Iterable[Path]) -> list[Overlap]:
    """Every `overlap/*.json` of folders of results."""
    return [read_overlap(path) for folder in folders for path in sorted((Path(folder) / "overlap").glob("*.json"))]


def with_overlap(results: Iterable[Result], overlaps: Sequence[Overlap]) -> list[Result]:
    """Results whose counts say how many test images stand in the checkpoint's pretraining data.

    `overlap` counts all, `overlap_exact` those with the same bytes or pixels; absent where nobody looked. An image that
    several sources hold counts once.
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


def lines(overlap: Overlap, *, shown: int = 3) -> list[str]:
    """What was found, for people."""
    unreadable = f", {overlap.unreadable:,} of them unreadable" if overlap.unreadable else ""
    text = [f"{overlap.source}: {overlap.images:,} images{unreadable}"]
    for one in overlap.sets:
        similar = len(one.matches) - one.exact
        text.append(f"  {one.dataset}: {one.exact} exact and {similar} by look, of {one.images:,} test images")
        text += [f"    {match.test} = {match.pretraining} ({match.how})" for match in one.matches[:shown]]
        text += [f"    and {len(one.matches) - shown} more"] if len(one.matches) > shown else []
    return text + [f"  {name}: not looked at: {reason}" for name, reason in overlap.absent.items()]


def _same_pixels(a: "Picture", b: "Picture") -> bool:
    return _rgb(a) == _rgb(b)


def _rgb(picture: "Picture") -> tuple[tuple[int, int], bytes]:
    from PIL import Image

    content = picture.content()
    image = (Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content).convert("RGB")
    return image.size, image.tobytes()
