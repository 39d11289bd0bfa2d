"""Read and write results: an immutable JSON file per cell, with the answers per test image in a file beside it."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from kdep.files import write_atomically, write_bytes
from kdep.json_file import read_json
from kdep.settings import shown, validate
from kdep_benchmarks.answers.metrics import NAMES
from kdep_benchmarks.answers.resample import standard_errors
from kdep_benchmarks.answers.store import Answers, read_file
from kdep_benchmarks.result import CellKey, Result

logger = logging.getLogger("kdep")

FORMAT = 2


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
    """Read the answers per test image of a result that was found below one of these folders.

    Raises:
        ValueError: the result has none, or their file is missing or damaged; names the file.
    """
    what = f"{result.task.name}, seed {result.seed} of {result.checkpoint.name}"
    folders = [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]
    if not result.answers:
        place = result.key.path(folders[0])
        raise ValueError(f"{what}: the result has no answers per test image; measure it again with --force ({place})")
    places = [answers_path(result, result.key.path(folder)) for folder in folders]
    found = [path for path in places if path.is_file()]
    if not found:
        found = [path for root, place in zip(folders, places, strict=True) for path in _below(root, place)]
    if not found:
        raise ValueError(f"{what}: its answers {places[0]} are missing; measure it again with --force")
    answers = read_file(found[0])
    if answers.sha256 != result.answers:
        raise ValueError(f"{found[0]}: not the answers of {what}, or damaged; measure it again with --force")
    if result.main_metric not in (there := NAMES[answers.form]):
        raise ValueError(
            f"{found[0]}: answers that give {', '.join(there)}, and not the {result.main_metric} of {what}; measure it "
            "again with --force"
        )
    return answers


def _below(root: Path, place: Path) -> Iterable[Path]:
    """Files of the same relative place anywhere below a folder."""
    return sorted(root.glob(f"**/{place.relative_to(root)}"))


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
    if Path(path).absolute().parts[-4:] != place.parts:
        raise ValueError(f"{path}: holds the result of {place}, so one of the two was changed; move it away")
    return result


class Found(NamedTuple):
    """Results below folders, and a sentence for each file that is left out; it names the file."""

    results: list[Result]
    damaged: list[str]


def read_results(folders: Path | Iterable[Path]) -> list[Result]:
    """Read every result, see `find_results`, with a warning for each file that is left out."""
    found = find_results(folders)
    for reason in found.damaged:
        logger.warning("left out: %s", reason)
    return found.results


def find_results(folders: Path | Iterable[Path]) -> Found:
    """Read every result below one or several folders, in a fixed order; a success hides an older failure of its cell.

    A file that is damaged is left out. Two files of one cell with different settings are two results.

    Raises:
        ValueError: no such folder, or two files that tell different scores of one cell.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    for folder in folders:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder}: no such folder of results")
    roots = {Path(folder): Path(folder).resolve() for folder in folders}
    # Folders may lie in each other: each file is read once.
    paths = {root / path.relative_to(folder): path for folder, root in roots.items() for path in result_paths(folder)}
    read, damaged = [], []
    for path in paths.values():
        try:
            read.append((read_result(path), path))
        except (ValueError, OSError) as error:
            damaged.append(str(error))
    odd = _other_metrics(read)
    cells: dict[CellKey, list[tuple[Result, Path]]] = {}
    for result, path in read:
        if path not in odd:
            cells.setdefault(result.key, []).append((result, path))
    order = sorted(cells, key=lambda key: (key.sha256, key.task, key.protocol, key.data_fingerprint, key.seed))
    return Found([result for key in order for result in _distinct(cells[key])], [*damaged, *odd.values()])


def _other_metrics(read: Iterable[tuple[Result, Path]]) -> dict[Path, str]:
    """Files whose main metric is another than that of most results of the same task: path -> a sentence."""
    columns: dict[tuple[str, ...], list[tuple[Result, Path]]] = {}
    for result, path in read:
        if result.metrics:
            own = (result.task.name, str(result.protocol), result.data_fingerprint, result.settings_text)
            columns.setdefault(own, []).append((result, path))
    odd = {}
    for files in columns.values():
        usual = Counter(result.main_metric for result, _ in files).most_common(1)[0][0]
        for result, path in files:
            if result.main_metric != usual:
                odd[path] = f"{path}: its main metric is {result.main_metric}, in others {usual}; move it away"
    return odd


def _distinct(files: list[tuple[Result, Path]]) -> list[Result]:
    """Results of one cell: one, or one for each of its settings; failures only where nothing succeeded."""
    succeeded = [(result, path) for result, path in files if result.status == "ok"]
    if not succeeded:
        return [files[-1][0]]
    kept: list[tuple[Result, Path]] = []
    for result, path in succeeded:
        same = next((file for file in kept if file[0].settings == result.settings), None)
        if same is None:
            kept.append((result, path))
        elif same[0].metrics != result.metrics:
            raise ValueError(f"{same[1]} and {path}: the same cell with different scores; keep one of them")
    return [result for result, _ in kept]


def result_paths(folder: Path) -> list[Path]:
    """Every file of a result below a folder, sorted."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.endswith(".work")]
        found += [Path(place, name) for name in files if name.startswith("seed") and name.endswith(".json")]
    return sorted(found)
