"""How differences are said: a sentence each, or one table of several checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdep_benchmarks.result import Protocol
from kdep_benchmarks.verdicts.difference import Interval, end_text
from kdep_benchmarks.verdicts.intervals import CONFIDENCE

WHAT_IT_COVERS = (
    "95 % intervals over the choice of the test images and, where a training was run several times, over its runs. "
    "That of a mean over data sets is over the choice of these. A verdict is about these weights; for one about a "
    "recipe, pretrain several times and use kdep study."
)
MEAN = "mean over data sets"


@dataclass(frozen=True)
class Difference:
    """Scores of A minus those of B.

    Attributes:
        of: the task's name, or None for the mean over data sets.
        names: of A and B on the board.
        protocol: by which both were measured.
        interval: of the difference in points; None where there is none.
        over: what the interval is over, in words.
        adjusted: Holm's p value among all tasks and checkpoints of the comparison, or among all means over data sets;
            None where there is no interval.
        tests: how many these are.
    """

    of: str | None
    names: tuple[str, str]
    protocol: Protocol
    interval: Interval | None
    over: str
    adjusted: float | None = None
    tests: int = 1

    @property
    def verdict(self) -> str:
        """better, worse or no difference."""
        return self.interval.verdict if self.interval else "no difference"

    @property
    def adjusted_verdict(self) -> str:
        """The same, with at most a 5 % chance of any wrong one among all of the comparison."""
        return self.verdict if self.adjusted is not None and self.adjusted < 1 - CONFIDENCE else "no difference"

    @property
    def row(self) -> dict[str, Any]:
        """The same as columns of a table."""
        (a, b), found = self.names, self.interval
        where = {"protocol": str(self.protocol), "a": a, "b": b, "task": self.of}
        ends = {"difference": found.value, "low": found.low, "high": found.high, "p": found.p} if found else {}
        said = {"verdict": self.verdict, "verdict_holm": self.adjusted_verdict} if found else {}
        return {**where, **ends, "p_holm": self.adjusted, **said, "over": self.over}

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        (a, b), found = self.names if self.verdict != "worse" else self.names[::-1], self.interval
        where = f" on {self.of}" if self.of else " over data sets"
        if found is None:
            return f"No verdict{f' on {a} and {b}' if self.of else ''}{where}: {self.over}."
        beside = ""
        if self.tests > 1:
            still = "holds" if self.adjusted_verdict != "no difference" else "does not hold"
            beside = f"; {still} among {self.tests} comparisons (Holm)" * (self.verdict != "no difference")
        if self.verdict == "no difference":
            return f"No difference shown between {a} and {b}{where}: {found.text} ({self.over})."
        low, high = (end_text(end).lstrip("+") for end in sorted((abs(found.low), abs(found.high))))
        return f"{a} is better than {b}{where} by {abs(found.value):.2f} [{low}, {high}] ({self.over}{beside})."


def as_table(differences: Sequence[Difference]) -> list[str]:
    """Lines of a table of one checkpoint minus several others under one protocol, and what its marks mean.

    A row per task and a column per other; then the mean over data sets, where one has an interval.
    """
    found = {(one.of, one.names[1]): one for one in differences if one.of or one.interval}
    tasks, others = (list(dict.fromkeys(key[place] for key in found)) for place in (0, 1))
    tasks = [*sorted(of for of in tasks if of), *([None] if None in tasks else [])]
    rows = [["", *others, ""]]
    for of in tasks:
        own = [found.get((of, other)) for other in others]
        over = "; ".join(dict.fromkeys(one.over for one in own if one and one.interval))
        rows.append([of or MEAN, *map(_cell, own), over])
    *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:]), row[-1]]).rstrip() for row in rows
    ]
    tests = [max((one.tests for one in differences if (one.of is None) == means), default=1) for means in (False, True)]
    return [*lines, marks_mean(tests[0], tests[1] if None in tasks else 0)]


def marks_mean(tests: int, means: int) -> str:
    """What the marks of a table mean that holds so many comparisons on tasks, and of means over data sets."""
    also = f"; of means {means}" if means else ""
    return (
        f"** different, also among all {tests} comparisons (Holm{also}); * different when taken alone; no mark: no "
        "difference shown"
    )


def mark_of(verdict: str, adjusted: str) -> str:
    """`**` for a difference that holds after Holm's correction, `*` for another, or nothing."""
    return "**" if adjusted != "no difference" else "*" if verdict != "no difference" else ""


def _cell(one: Difference | None) -> str:
    """`+2.24 [+1.29, +3.19] **`; numbers stand below each other whatever the mark."""
    if one is None or one.interval is None:
        return f"{'no verdict' if one else '-'}   "
    return f"{one.interval.text} {mark_of(one.verdict, one.adjusted_verdict):2}"
