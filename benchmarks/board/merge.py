"""Results of several machines into one folder: all of them, or nothing and the names of two files that disagree."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path

from kdep.files import write_bytes
from kdep_benchmarks.answers.store import read_file
from kdep_benchmarks.board.sheets import data_uri
from kdep_benchmarks.result import Result
from kdep_benchmarks.results import (
    answers_path,
    overlap_paths,
    read_result,
    refuse_missing,
    remove_other_answers,
    result_paths,
)

Found = tuple[Result, Path]
# What two files of one cell must agree in. Time, memory, device and versions may differ: the earlier one is kept.
NUMBERS = ("task.kind", "data_fingerprint", "settings", "status", "metrics", "counts", "chosen")


def merge(folders: Sequence[Path], out: Path) -> list[Path]:
    """Bring the results below several folders together in one, with answers, sheets and overlap files beside them.

    What `out` holds already takes part like any other folder, so that a merge can be repeated. A success replaces a
    failure of its cell; of two failures the later one is kept. Files are copied byte for byte.

    Returns:
        The files that were written; those that `out` had already are not among them.

    Raises:
        ValueError: no such folder, a file that is no result, no answers or no sheet, missing answers, or two files of
            one cell with other scores, counts, choices, settings, kind or data; names both. Nothing is written then.
    """
    out = Path(out)
    refuse_missing(folders)
    sources = [folder for folder in (out, *map(Path, folders)) if folder.is_dir()]
    cells: dict[Path, Found] = {}
    for found in _read(path.absolute() for folder in sources for path in result_paths(folder)):
        place = found[0].key.path(out)
        cells[place] = chosen(cells[place], found) if place in cells else found
    beside = _beside(sources, out, cells)
    # Answers first: an interrupted merge leaves no result without them.
    copies = beside | {result.key.path(out, result.status): path for result, path in cells.values()}
    written = [place for place, path in copies.items() if _copy(path, place)]
    for result, _ in cells.values():
        if result.answers:
            remove_other_answers(result.key.path(out))
    return written


def _read(paths: Iterable[Path]) -> list[Found]:
    read, damaged = [], []
    for path in {path.resolve(): path for path in paths}.values():
        try:
            read.append((read_result(path), path))
        except ValueError as error:
            damaged.append(str(error))
    if damaged:
        raise ValueError("\n".join([*damaged, "nothing was merged"]))
    return read


def chosen(first: Found, second: Found) -> Found:
    """Which of two files of one cell stays.

    Raises:
        ValueError: they disagree, or are of two checkpoints whose sha256 begin alike.
    """
    (a, path), (b, other) = first, second
    if a.checkpoint.sha256 != b.checkpoint.sha256:
        raise ValueError(
            f"{path} and {other}: two checkpoints ({a.checkpoint.sha256[:12]}, {b.checkpoint.sha256[:12]}) whose "
            "results have the same place; keep them in two folders"
        )
    if a.status != b.status:
        return first if a.status == "ok" else second
    if a.status == "failed":
        return max(first, second, key=lambda found: found[0].started)
    for name in NUMBERS:
        ours, theirs = attrgetter(name)(a), attrgetter(name)(b)
        if ours != theirs:
            raise ValueError(
                f"{path} and {other}: the same cell with different {name.rpartition('.')[2].replace('_', ' ')} "
                f"({_short(ours)} and {_short(theirs)}); nothing was merged, keep one of them"
            )
    return min(first, second, key=lambda found: found[0].started)


def _beside(sources: Iterable[Path], out: Path, cells: dict[Path, Found]) -> dict[Path, Path]:
    """Answers and sheets of the results that are kept, and the files of overlap: place in `out` -> file."""
    files = {}
    for place, (result, path) in cells.items():
        if result.answers:
            answers = answers_path(result, path)
            if not answers.is_file():
                raise ValueError(
                    f"{path}: its answers {answers.name} are missing; nothing was merged, bring them along"
                )
            if read_file(answers).sha256 != result.answers:
                raise ValueError(f"{answers}: not the answers of {path}, or damaged; nothing was merged")
            files[place.with_name(answers.name)] = answers
        sheet = path.with_name(f"seed{result.seed}.sheet.png")
        if result.status == "ok" and sheet.is_file():
            data_uri(sheet)
            files[place.with_name(sheet.name)] = sheet
    for path in overlap_paths(sources):
        place = out / "overlap" / path.name
        if place in files and files[place].read_bytes() != path.read_bytes():
            raise ValueError(f"{files[place]} and {path}: overlap files that differ; nothing was merged, rename one")
        files.setdefault(place, path)
    return files


def _copy(path: Path, place: Path) -> bool:
    """Whether the file had to be written."""
    content = path.read_bytes()
    failure = place.with_name(f"{place.stem}.failed.json")
    written = not place.is_file() or place.read_bytes() != content
    if written:
        write_bytes(place, content)
    if place.name.startswith("seed") and place.suffix == ".json" and not place.name.endswith(".failed.json"):
        failure.unlink(missing_ok=True)
    return written


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
