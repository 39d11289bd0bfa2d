import hashlib

import pytest

from kdep_benchmarks.answers.sketch import DIGITS, SIZE, share_images, sketch_of


def images(start, end):
    return [hashlib.sha256(str(number).encode()).digest() for number in range(start, end)]


def test_a_sketch_holds_the_smallest_hashes_once_and_in_any_order():
    every = images(0, 1000)
    sketch = sketch_of([*every[::-1], *every[:10]])
    assert sketch == "".join(sorted(one.hex()[:DIGITS] for one in every)[:SIZE])
    assert sketch_of(every[:3]) == "".join(sorted(one.hex()[:DIGITS] for one in every[:3]))


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ((0, 5000), (0, 5000), True),
        ((0, 5000), (1, 5000), True),  # a version without one image
        ((0, 5000), (4000, 9000), True),  # a fifth
        ((0, 5000), (4950, 9950), False),  # a hundredth
        ((0, 5000), (5000, 9000), False),
        ((0, 5000), (2000, 2500), True),  # a part of a tenth of the size
        ((0, 30), (20, 50), True),
        ((0, 30), (29, 59), False),
        ((0, 0), (0, 0), False),  # results of nothing known
    ],
)
def test_sets_that_share_a_tenth_of_the_smaller_one_are_found(first, second, shared):
    sketches = sketch_of(images(*first)), sketch_of(images(*second))
    assert share_images(*sketches) == share_images(*sketches[::-1]) == shared
