"""Find data sets below one folder, the data root."""

import os
from pathlib import Path


def data_root() -> Path:
    """Return the folder in the environment variable KDEP_DATA, else `data` in the current folder."""
    return Path(os.environ.get("KDEP_DATA") or "data")


def located(path: Path) -> Path:
    """Return the path below the data root if it only exists there, else the path as given."""
    below = data_root() / path
    return below if not path.exists() and below.exists() else path
