"""Tell by two short texts whether two data sets have images in common.

Such a text lists the smallest hashes of a set's images (a bottom-k sketch: Broder, 1997, "On the resemblance and
containment of documents"). Up to the largest hash of a full list it lists every image of the set, so there the images
that two sets share can be counted.
"""

from collections.abc import Iterable
from functools import lru_cache

SIZE = 256  # hashes of a list that is full: sets of one size that share half of their images have about 128 in common
DIGITS = 8  # of a hash: of two full lists of other images among a million, in one case in twenty one hash is the same
SHARED, LEAST = 0.1, 2  # share of the smaller set's images, and their number, from which on two sets are not apart


def sketch_of(hashes: Iterable[bytes]) -> str:
    """The smallest hashes, the first `DIGITS` hex digits of each; an image that is there twice counts once."""
    return "".join(sorted({content.hex()[:DIGITS] for content in hashes})[:SIZE])


@lru_cache(maxsize=2**16)  # a board compares each pair of rows on each pair of columns
def share_images(first: str, second: str) -> bool:
    """Whether a tenth or more of the images of the smaller set are in the other; False where a sketch is empty.

    An estimate: of sets of more than `SIZE` images the lists hold a sample, which is small where one set is much larger
    than the other. A part of a hundredth is mostly missed.
    """
    sides = [{text[at : at + DIGITS] for at in range(0, len(text), DIGITS)} for text in (first, second)]
    for end in [max(side) for side in sides if len(side) == SIZE]:
        sides = [{content for content in side if content <= end} for side in sides]
    return len(sides[0] & sides[1]) >= max(LEAST, SHARED * min(map(len, sides)))
