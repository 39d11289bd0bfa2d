"""Tell by two short texts whether two data sets have images in common.

Such a text lists the smallest hashes of a set's images (a bottom-k sketch: Broder, 1997, "On the resemblance and
containment of documents"). Up to the largest hash of a full list it lists every image of the set, so there the images
that two sets share can be counted.
"""

from collections.abc import Iterable
from functools import lru_cache

SIZE = 128  # hashes of a list that is full: sets of one size that share half of their images have about 85 in common
DIGITS = 12  # of a hash: among a million images, two of one beginning are unlikely
SHARED = 0.1  # of the smaller set's images, from which on two sets are not independent


def sketch_of(hashes: Iterable[bytes]) -> str:
    """The smallest hashes, the first `DIGITS` hex digits of each; an image that is there twice counts once."""
    return "".join(sorted({content.hex()[:DIGITS] for content in hashes})[:SIZE])


@lru_cache(maxsize=2**16)  # a board compares each pair of rows on each pair of columns
def share_images(first: str, second: str) -> bool:
    """Whether a tenth or more of the images of the smaller set are in the other; False where a sketch is empty."""
    sides = [{text[at : at + DIGITS] for at in range(0, len(text), DIGITS)} for text in (first, second)]
    for end in [max(side) for side in sides if len(side) == SIZE]:
        sides = [{content for content in side if content <= end} for side in sides]
    fewer = min(map(len, sides))
    return fewer > 0 and len(sides[0] & sides[1]) >= SHARED * fewer
