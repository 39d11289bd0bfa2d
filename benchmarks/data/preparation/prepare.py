"""Make known data sets from their owners' archives, in the layouts of their cards."""

from collections.abc import Callable
from pathlib import Path

from kdep_benchmarks.data.cards import absent, known
from kdep_benchmarks.data.preparation import owners, photographs
from kdep_benchmarks.data.preparation.archives import NotPrepared

RECIPES: dict[str, Callable[[Path, bool], None]] = {**owners.RECIPES, **photographs.RECIPES}


def prepare(name: str, data_root: Path, *, show: bool = False) -> None:
    """Make a known data set below the data root, unless it exists.

    Archives in the data root are used; missing ones are downloaded into it. Interrupted downloads and unpacking are
    resumed; a folder gets its name only when it is complete.

    Args:
        name: of a card.
        data_root: the folder of data sets and archives.
        show: progress bars.

    Raises:
        ValueError: no such set.
        NotPrepared: an archive is missing or wrong; says which file to place where.
    """
    dataset = known(name, data_root)
    RECIPES[name](data_root, show)
    if reason := absent(dataset):
        raise NotPrepared(f"{name}: not complete: {reason}")
