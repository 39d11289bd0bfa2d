"""Find data sets below one folder, the data root."""

import os
from pathlib import Path


def data_root() -> Path:
    """The folder that the environment variable KDEP_DATA names, else `data` in the current folder."""
    return Path(os.environ.get("KDEP_DATA") or "data")


def located(path: Path) -> Path:
    """The path as given where it exists, else the same path below the data root where that exists."""
    below = data_root() / path
    return below if not path.exists() and below.exists() else path
