"""Find images that two splits share: the same bytes, or the same image resized or compressed again."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kdep_benchmarks.data.findings import Finding
from kdep_benchmarks.data.pictures import Look, Picture, decoded, small_grey

BITS = 64
# Of 64 bits; unrelated images differ in 32 on average. Near duplicates that differ in more bits are missed.
NEAR = 5
# Largest mean difference of two grey thumbnails, of 255, of one image. Close hashes alone do not suffice: flat images
# and those of one template have them too.
ALIKE = 6.0
AT_ONCE = 4_000_000  # pairs compared together
ONES = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)


class Same(NamedTuple):
    """Indices of an image in the second and in the first list; `bits` of the hashes differ, None if bytes are equal."""

    second: int
    first: int
    bits: int | None


def same_images(
    pictures: Sequence[Picture], looks: Sequence[Look], others: Sequence[Picture], other_looks: Sequence[Look]
) -> Iterator[Same]:
    """Images of `others` that are among `pictures`: by equal bytes, else by hash and thumbnail; one match each.

    Equal bytes are certain. An equal look is a suspicion: look at both images.
    """
    bytes_of = {look.digest: index for index, look in reversed(list(enumerate(looks))) if not look.problem}
    rest = []
    for index, look in enumerate(other_looks):
        if not look.problem and look.digest in bytes_of:
            yield Same(index, bytes_of[look.digest], None)
        elif not look.problem:
            rest.append(index)
    readable = [index for index, look in enumerate(looks) if not look.problem]
    hashes = np.array([looks[index].appearance for index in readable], dtype=np.uint64)
    asked = np.array([other_looks[index].appearance for index in rest], dtype=np.uint64)
    for at, candidate, distance in nearest(hashes, asked, within=NEAR):
        if alike(pictures[readable[candidate]], others[rest[at]]):
            yield Same(rest[at], readable[candidate], distance)


def shared_images(
    first: tuple[str, Sequence[Picture], Sequence[Look]], second: tuple[str, Sequence[Picture], Sequence[Look]]
) -> Iterator[Finding]:
    """Images of the split `second` (role, pictures, looks) that are also in `first`: equal bytes are a defect."""
    (role, pictures, looks), (other, others, other_looks) = first, second
    for same in same_images(pictures, looks, others, other_looks):
        there, here = pictures[same.first].where, others[same.second].where
        if same.bits is None:
            what = f"in {other}, has the bytes of {there} in {role}"
            yield Finding(f"image both in {role} and in {other}", here, what)
        else:
            what = f"in {other}, looks like {there} in {role} ({same.bits} of {BITS} bits differ)"
            yield Finding(f"image in {other} that looks like one in {role}", here, what, defect=False)


def repeated_images(role: str, pictures: Sequence[Picture], looks: Sequence[Look]) -> Iterator[Finding]:
    """Images that are more than once in one split; in two classes is a warning, for one of the labels is wrong."""
    seen: dict[bytes, int] = {}
    for index, look in enumerate(looks):
        if look.problem:
            continue
        if look.digest in seen:
            here, there = pictures[index], pictures[seen[look.digest]]
            if here.label == there.label:
                yield Finding(f"image twice in {role}", here.where, f"has the bytes of {there.where}", defect=False)
            else:
                what = f"class {here.label!r}, has the bytes of {there.where}, class {there.label!r}; keep one of them"
                yield Finding(f"image in two classes of {role}", here.where, what, defect=False, warning=True)
        seen.setdefault(look.digest, index)


def nearest(hashes: np.ndarray, asked: np.ndarray, *, within: int) -> list[tuple[int, int, int]]:
    """Find the nearest hash of each one asked about, if it is within so many bits.

    Two numbers that differ in at most `within` bits agree in at least one of `within + 1` pieces. Only numbers that
    share a piece are compared: the result is exact, and millions take seconds.

    Args:
        hashes: (N,) uint64.
        asked: (M,) uint64.
        within: number of differing bits allowed.

    Returns:
        (index into asked, index into hashes, bits that differ), by the first; of equally near ones the first.
    """
    if not len(hashes) or not len(asked):
        return []
    values, first_at = np.unique(hashes, return_index=True)
    best = np.full(len(asked), (within + 1) << 32, dtype=np.int64)  # distance, then index: the least is the answer
    edges = [round(BITS * piece / (within + 1)) for piece in range(within + 2)]
    for low, high in zip(edges, edges[1:], strict=False):
        mask = np.uint64((1 << (high - low)) - 1)
        keys, wanted = (values >> np.uint64(low)) & mask, (asked >> np.uint64(low)) & mask
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], wanted, side="left")
        counts = np.searchsorted(keys[order], wanted, side="right") - starts
        for rows in _parts(counts):
            row = np.repeat(rows, counts[rows])
            within_row = np.arange(len(row)) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
            column = order[starts[row] + within_row]
            distance = differing_bits(values[column], asked[row]).astype(np.int64)
            np.minimum.at(best, row, distance << 32 | first_at[column])
    found = np.flatnonzero(best >> 32 <= within)
    return [(int(at), int(best[at] & 0xFFFFFFFF), int(best[at] >> 32)) for at in found]


def _parts(counts: np.ndarray) -> list[np.ndarray]:
    """Divide positions so that the counts of each part sum to about AT_ONCE at most."""
    part = np.cumsum(counts) // AT_ONCE
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(part)) + 1)


def differing_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of bits in which uint64 numbers differ, elementwise."""
    pieces = np.ascontiguousarray(a ^ b).view(np.uint16).reshape(-1, 4)
    return ONES[pieces].sum(axis=1)


def alike(a: Picture, b: Picture) -> bool:
    """Whether two images are equal at 32 x 32 pixels, up to the effects of resizing and compression."""
    return bool(np.abs(_thumbnail(a) - _thumbnail(b)).mean() <= ALIKE)


def _thumbnail(picture: Picture) -> np.ndarray:
    return small_grey(decoded(picture.content()))
