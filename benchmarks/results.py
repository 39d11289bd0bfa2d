"""Read and write results: an immutable JSON file per cell, with the answers per test image in a file beside it."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from kdep.files import write_atomically, write_bytes
from kdep.json_file import read_json
from kdep.settings import shown, validate
from kdep_benchmarks.answers.metrics import NAMES
from kdep_benchmarks.answers.resample import standard_errors
from kdep_benchmarks.answers.store import Answers, read_file
from kdep_benchmarks.result import CellKey, Result

logger = logging.getLogger("kdep")

FORMAT = 2
PARTS = 4  # of a result's path in its folder, see `CellKey.path`


def write_result(result: Result, folder: Path, *, answers: Answers | None = None, force: bool = False) -> Path:
    """Write one result, its answers beside it, and return its path. A finished result is never overwritten.

    A failure may be overwritten, and goes away when the cell later succeeds. Answers are written first: an interrupted
    writer leaves no result without them.

    Raises:
        FileExistsError: the cell is finished already, and `force` is not set.
    """
    path = result.key.path(folder, result.status)
    if answers is not None:
        result = replace(result, answers=answers.sha256, errors=standard_errors(answers))
        write_bytes(answers_path(result, path), answers.to_bytes())
    text = json.dumps({"format": FORMAT, **asdict(result)}, indent=1, allow_nan=False) + "\n"
    try:
        overwrite = force or result.status == "failed"
        write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"), overwrite=overwrite)
    except FileExistsError:
        remove_other_answers(path)  # those that were written above
        raise FileExistsError(f"{path}: finished already; --force measures it again") from None
    if result.status == "ok":
        remove_other_answers(path)
        result.key.path(folder, "failed").unlink(missing_ok=True)
    return path


def answers_path(result: Result, path: Path) -> Path:
    """Where the answers of a result lie whose JSON is at `path`; two sets of answers never share a name."""
    return path.with_name(f"seed{result.seed}.answers-{result.answers[:8]}.npz")


def remove_other_answers(path: Path) -> None:
    """Remove answers beside the result at `path` that are not its own: of one that was replaced, or came second."""
    result = read_result(path)
    for other in path.parent.glob(f"seed{result.seed}.answers-*.npz"):
        if other != answers_path(result, path):
            other.unlink(missing_ok=True)


def read_answers(result: Result, folders: Path | Iterable[Path]) -> Answers:
    """Read the answers per test image of a result in one of these folders; `with_those_below` finds all.

    Raises:
        ValueError: the result has none, or their file is missing or damaged; names the file.
    """
    what = f"{result.task.name}, seed {result.seed} of {result.checkpoint.name}"
    folders = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    places = [answers_path(result, result.key.path(folder)) for folder in folders]

    def refused(why: str) -> ValueError:
        files = [result.key.path(folder) for folder in folders]
        file = next((path for path in files if path.exists()), files[0])
        return ValueError(f"{why}; remove {file}, and kdep transfer measures this cell again")

    if not result.answers:
        raise refused(f"{what}: the result has no answers per test image")
    found = next((path for path in places if path.exists()), None)  # a pipe is refused below
    if found is None:
        raise refused(f"{what}: its answers {places[0]} are missing")
    try:
        answers = read_file(found)
    except ValueError as error:
        raise refused(str(error)) from error
    if answers.sha256 != result.answers:
        raise refused(f"{found}: not the answers of {what}, or damaged")
    if result.main_metric not in (there := NAMES[answers.form]):
        raise refused(f"{found}: answers that give {', '.join(there)}, and not the {result.main_metric} of {what}")
    return answers


def read_result(path: Path) -> Result:
    """Read one file.

    Raises:
        ValueError: not a result of this format, or not the one of its place; the message names the file.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = f"format {shown(content.get('format'))}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: not a result of this scoreboard: {found}; this version reads format {FORMAT}")
    del content["format"]
    result = validate(Result, content, str(path), remedy="not a result of this scoreboard; move it away")
    place = result.key.path(Path(), result.status)
    if Path(path).absolute().parts[-PARTS:] != place.parts:
        raise ValueError(f"{path}: holds the result of {place}, so one of the two was changed; move it away")
    return result


class Found(NamedTuple):
    """Results below folders, and a sentence for each file that is left out; it names the file."""

    results: list[Result]
    damaged: list[str]


class File(NamedTuple):
    """A result, its file, and the folder below which it was found: of those that were named, the innermost."""

    result: Result
    path: Path
    folder: Path

    @property
    def depth(self) -> int:
        """Folders between the two, and the file."""
        return len(self.path.parts) - len(self.folder.parts)


def read_results(folders: Path | Iterable[Path]) -> list[Result]:
    """Read every result, see `find_results`, with a warning for each file that is left out."""
    found = find_results(folders)
    for reason in found.damaged:
        logger.warning("left out: %s", reason)
    return found.results


def find_results(folders: Path | Iterable[Path]) -> Found:
    """Read every result below one or several folders, in a fixed order; a success hides an older failure of its cell.

    A damaged file is left out. Two files of one cell with different kinds or settings are two results. Of files of one
    cell with different scores below one folder the nearest counts, and the others are left out: `kdep study` writes
    below the folder of `kdep transfer`, and both may measure one baseline.

    Raises:
        ValueError: no such folder, or two files that tell different scores of one cell, and neither is nearer.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    refuse_missing(folders)
    read, damaged = [], []
    for path, folder in _paths(folders):
        try:
            read += _still_there(path, folder)
        except (ValueError, OSError) as error:
            damaged.append(str(error))
    odd = _other_metrics(read)
    cells: dict[CellKey, list[File]] = {}
    for file in read:
        if file.path not in odd:
            cells.setdefault(file.result.key, []).append(file)
    order = sorted(cells, key=lambda key: (key.sha256, key.task, key.protocol, key.data_fingerprint, key.seed))
    parts = [_distinct(cells[key]) for key in order]
    farther = [said for part in parts for said in part.damaged]
    return Found([result for part in parts for result in part.results], [*damaged, *odd.values(), *farther])


def _still_there(path: Path, folder: Path) -> list[File]:
    """The result of a file that was listed. A failure goes away when its cell succeeds, which may be at this moment."""
    try:
        return [File(read_result(path), path, folder)]
    except FileNotFoundError:
        if path.is_symlink():
            raise
    done = path.with_name(path.name.replace(".failed.json", ".json"))
    return [File(read_result(done), done, folder)] if done.is_file() else []


def refuse_missing(folders: Iterable[Path]) -> None:
    """Raise a ValueError that names the first folder of results that is not there."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder}: no such folder of results; name the one that `kdep transfer` wrote")


def _paths(folders: Iterable[Path]) -> Iterable[tuple[Path, Path]]:
    """Each file of a result once, although folders may lie in each other, with the innermost of its folders."""
    roots = {Path(folder): Path(folder).resolve() for folder in folders}
    found: dict[Path, tuple[Path, Path]] = {}
    for folder, root in roots.items():
        for path in result_paths(folder):
            place = root / path.relative_to(folder)
            if place not in found or len(root.parts) > len(roots[found[place][1]].parts):
                found[place] = (path, folder)
    return found.values()


def _other_metrics(read: Iterable[File]) -> dict[Path, str]:
    """Files whose main metric is another than that of most results of the same task: path -> a sentence."""
    columns: dict[tuple[Any, ...], list[File]] = {}
    for file in read:
        result = file.result
        if result.metrics:
            own = (result.task.name, str(result.protocol), result.data_fingerprint, _how(result))
            columns.setdefault(own, []).append(file)
    odd = {}
    for files in columns.values():
        usual = Counter(file.result.main_metric for file in files).most_common(1)[0][0]
        for result, path, _ in files:
            if result.main_metric != usual:
                odd[path] = f"{path}: its main metric is {result.main_metric}, in others {usual}; move it away"
    return odd


def _distinct(files: list[File]) -> Found:
    """Results of one cell: one, or one for each kind and its settings; failures only where nothing succeeded."""
    succeeded = [file for file in files if file.result.status == "ok"]
    later = [file for file in files if file.result.status == "failed" and succeeded and _is_later(file, succeeded)]
    said = [f"{file.path}: a later measurement of this cell failed; the earlier score counts" for file in later]
    if len(succeeded) < 2:
        return Found([(succeeded or files)[-1].result], said)
    nearest: dict[tuple[Path, tuple[str, str]], File] = {}
    left_out = said
    for file in sorted(succeeded, key=lambda file: file.depth):
        key = file.folder, _how(file.result)
        near = nearest.setdefault(key, file)
        if near.depth == file.depth:
            nearest[key] = _first_of(near, file)
        elif near.result.metrics != file.result.metrics:
            other = f"{near.path} has other scores of the same cell; it counts, since it is nearer to {file.folder}"
            left_out.append(f"{file.path}: {other}")
    kept: dict[tuple[str, str], File] = {}
    for file in nearest.values():
        kept[_how(file.result)] = _first_of(kept.get(_how(file.result), file), file)
    return Found([file.result for file in kept.values()], left_out)


def _is_later(failed: File, succeeded: Iterable[File]) -> bool:
    """Whether a run failed after every success of its folder, as one that `--force` asked for can."""
    beside = [file.result.started for file in succeeded if file.path.parent == failed.path.parent]
    return bool(beside) and failed.result.started > max(beside)


def _how(result: Result) -> tuple[str, str]:
    """What may differ between two results of one key: the kind and the settings."""
    return result.task.kind, result.settings_text


def _first_of(first: File, second: File) -> File:
    """Which of two files with the same scores counts, in whatever order their folders were named.

    An earlier version did not count test images that repeat others, and equal scores may have other answers.
    """
    if first.result.metrics != second.result.metrics:
        raise ValueError(
            f"{first.path} and {second.path}: the same cell with different scores; keep one of them, or name a folder "
            "that holds only one"
        )

    def place(file: File) -> tuple[bool, str, str]:
        return "effective" not in file.result.counts, file.result.started, file.result.answers or ""

    return min(first, second, key=place)


def with_those_below(folders: Iterable[Path]) -> list[Path]:
    """The folders, each with those below it that have results of their own, such as a study's; the nearest first."""
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        deep = [path for path in result_paths(folder) if len(path.parts) - len(folder.parts) > PARTS]
        below = sorted({path.parents[PARTS - 1] for path in deep}, key=lambda path: (len(path.parts), path))
        for path in (folder, *below):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def overlap_paths(folders: Iterable[Path]) -> list[Path]:
    """Every file of `kdep data overlap` beside the results below the folders."""
    return [path for folder in with_those_below(folders) for path in sorted((folder / "overlap").glob("*.json"))]


def result_paths(folder: Path) -> list[Path]:
    """Every file of a result below a folder, sorted. Links to folders are followed, each folder is entered once."""
    found, entered = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.endswith(".work")]
        found += [Path(place, name) for name in files if name.startswith("seed") and name.endswith(".json")]
    return sorted(found)
