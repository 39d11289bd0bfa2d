"""What is known of the contents of a task's test images, without the imports that looking at them needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contents:
    """What the contents of the test images say.

    Attributes:
        leaked: how many have the bytes of an image of train or val.
        repeated: how many have the bytes of an earlier test image.
        effective: how many different images would be as certain: n^2 / sum(c^2) of n images, of which each is there c
            times.
        sketch: see `kdep_benchmarks.answers.sketch`.
    """

    leaked: int = 0
    repeated: int = 0
    effective: int = 0
    sketch: str = ""
