"""What checkpoints are called on a board: one name for the same weights, and never one name for two."""

from collections import Counter
from collections.abc import Iterable

from kdep_benchmarks.result import with_digits


def first_names(measured: Iterable[tuple[str, str]]) -> dict[str, str]:
    """sha256 -> name, from pairs of the two; of several names of the same weights the first by alphabet."""
    names: dict[str, str] = {}
    for sha256, name in measured:
        names[sha256] = min(name, names.get(sha256, name))
    return names


def board_names(measured: Iterable[tuple[str, str]]) -> dict[str, str]:
    """`first_names`, each that several weights have `with_digits`."""
    names = first_names(measured)
    bearers = Counter(names.values())
    return {sha256: with_digits(sha256, name) if bearers[name] > 1 else name for sha256, name in names.items()}
