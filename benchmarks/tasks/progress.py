"""How far a cell is, as a small JSON file in its folder: tasks write it, the table of a running suite reads it."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

FILE = "progress.json"


class Progress(NamedTuple):
    """What a cell is doing.

    Attributes:
        began: when the cell began, in seconds since the epoch.
        step: what it is doing, such as `features`.
        share: of this step, 0 to 1; None where it is not known.
    """

    began: float
    step: str
    share: float | None = None


class Bar(tqdm):
    """A progress bar that also writes how far it is to a cell's folder; to none where `folder` is None."""

    def __init__(self, folder: Path | None, **options: Any) -> None:
        known = None if folder is None else read_progress(folder)
        self.folder, self.began = folder, time.time() if known is None else known.began
        super().__init__(mininterval=1, **options)

    def display(self, *args: Any, **options: Any) -> Any:
        """Show the bar, and write the file; tqdm calls this at most once a second."""
        if self.folder is not None and self.total:
            write_progress(self.folder, self.desc.removesuffix(": "), self.n / self.total, began=self.began)
        return super().display(*args, **options)


def write_progress(folder: Path, step: str, share: float | None = None, *, began: float) -> None:
    """Replace a cell's file in one step. On a full disk nothing is written, and the cell goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{FILE}.part"
    with contextlib.suppress(OSError):
        part.write_text(json.dumps(Progress(began, step, share)._asdict()))
        part.replace(folder / FILE)


def read_progress(folder: Path) -> Progress | None:
    """What a cell wrote last; None where it is not running."""
    try:
        content = json.loads((folder / FILE).read_text())
        return Progress(float(content["began"]), str(content["step"]), content["share"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # of a damaged one nothing depends
        return None


def clear_progress(folder: Path) -> None:
    """Remove the file of a cell that has ended."""
    with contextlib.suppress(FileNotFoundError):
        (folder / FILE).unlink()
