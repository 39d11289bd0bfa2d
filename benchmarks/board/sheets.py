"""Find the example sheets of segmentation and detection cells, and embed them in the page."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from kdep.data.decoding.opening import UNREADABLE, as_rgb, read_image
from kdep_benchmarks.board.table import Board
from kdep_benchmarks.result import Result
from kdep_benchmarks.results import read_result, with_those_below

WIDTH, QUALITY = 744, 80  # pixels on the page, JPEG


def find_sheets(board: Board, folders: Iterable[Path]) -> dict[tuple[str, str], Path]:
    """Return the sheet of the lowest seed that has one, by (checkpoint, column)."""
    folders, found = with_those_below(folders), {}
    dense = board.columns.index[board.columns.family != "classification"]  # the others have no sheets
    for run in (
        board.runs[board.runs.ok & board.runs.column.isin(dense)].sort_values("seed", kind="stable").itertuples()
    ):
        for folder in folders:
            path = run.result.key.path(folder)
            sheet = path.with_suffix(".sheet.png")
            if (run.checkpoint, run.column) not in found and sheet.is_file() and _holds(path, run.result):
                found[run.checkpoint, run.column] = sheet
    return found


def _holds(path: Path, result: Result) -> bool:
    """Whether a file holds this result, and not one of its cell with other settings or scores."""
    try:
        there = read_result(path)
    except (ValueError, OSError):
        return False
    return (there.settings, there.metrics) == (result.settings, result.metrics)


def data_uri(path: Path) -> str:
    """Return a picture as a JPEG in a data URI, no wider than it is shown.

    Raises:
        ValueError: the file is not a picture, or one that `kdep.data.decoding.opening` refuses; names it.
    """
    try:
        picture = as_rgb(read_image(path))
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a picture ({error}); remove it or write the sheet again") from error
    picture.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(memory.getvalue()).decode()
