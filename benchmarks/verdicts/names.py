"""What checkpoints are called on a board: one name for the same weights, and never one name for two."""

from collections import Counter
from collections.abc import Iterable


def first_names(measured: Iterable[tuple[str, str]]) -> dict[str, str]:
    """sha256 -> name, from pairs of the two; of several names of the same weights the first by alphabet."""
    names: dict[str, str] = {}
    for sha256, name in measured:
        names[sha256] = min(name, names.get(sha256, name))
    return names


def board_names(measured: Iterable[tuple[str, str]]) -> dict[str, str]:
    """`first_names`, each that several weights have with the first digits of their sha256: `last (1a2b3c4d)`."""
    names = first_names(measured)
    bearers = Counter(names.values())
    return {sha: f"{name} ({sha[:8]})" if bearers[name] > 1 else name for sha, name in names.items()}
