"""The savings of a study's answer: with how many times fewer images or seconds an arm reaches another's best score.

All of them are about the mean over tasks, paired by seed of pretraining.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdep_benchmarks.studies.claims import Scores, over_tasks
from kdep_benchmarks.studies.file import BUDGET, SHARE, Study
from kdep_benchmarks.studies.rows import AnswerRow
from kdep_benchmarks.verdicts.intervals import mean

Curve = list[tuple[float, float]]  # (what was spent, score), in the order of the axis's values


@dataclass(frozen=True)
class Measure:
    """What an arm spends along an axis.

    Attributes:
        column: of a row; None: the axis's own value.
        what: is counted, in words.
        note: what one must know to read the sentences.
    """

    column: str | None
    what: str
    note: str = ""


IMAGES, IMAGES_SEEN = Measure(None, "images"), Measure("images_seen", "images seen")
SECONDS = Measure(
    "pretrain_seconds",
    "seconds of training",
    "Seconds are those of the run itself, on the machine as it was then. What the making of a bank of targets took is "
    "not among them.",
)


def measures(study: Study) -> list[Measure]:
    """What is saved along the study's axis; nothing along one that is no budget."""
    along = {BUDGET: [IMAGES_SEEN, SECONDS], SHARE: [IMAGES]}
    return along.get(study.axis.key, []) if study.axis else []


@dataclass(frozen=True)
class Goal:
    """The best score of an arm along the axis: at the value whose mean over seeds is highest.

    Attributes:
        spent: up to this value, by seed.
        scores: by seed.
    """

    spent: dict[int, float]
    scores: dict[int, float]


def savings(study: Study, scores: Scores, rows: Sequence[AnswerRow], measure: Measure) -> list[str]:
    """The baseline against the best score of each other arm along the axis, and the other way round."""
    curves = {arm: curves_of(study, scores, rows, arm, measure) for arm in study.arms}
    said = []
    for other in study.arms:
        for arm, goal in ((study.baseline, other), (other, study.baseline)):
            if other != study.baseline and curves[arm] and curves[goal]:
                said.append(saving(measure.what, arm, goal, curves[arm], best_of(curves[goal])))
    return [sentence for sentence in said if sentence]


def spent(rows: Sequence[AnswerRow], measure: Measure) -> dict[tuple[str, Any, int], float]:
    """What each run has spent, by arm, value and seed; nothing of a checkpoint, which was not trained here."""
    return {
        (row["arm"], row["value"], row["seed"]): row["value"] if measure.column is None else row[measure.column]
        for row in rows
        if row["images_seen"] and (measure.column is None or row[measure.column])
    }


def curves_of(study: Study, scores: Scores, rows: Sequence[AnswerRow], arm: str, measure: Measure) -> dict[int, Curve]:
    """An arm's curve by seed, of the mean over tasks; only of seeds that have every value. None of a checkpoint's."""
    known = spent(rows, measure)
    curves: dict[int, Curve] = {}
    for value in sorted(study.values):
        for seed, score in over_tasks(study, scores, arm, value).items():
            if (arm, value, seed) in known:
                curves.setdefault(seed, []).append((known[arm, value, seed], score))
    return {seed: curve for seed, curve in curves.items() if len(curve) == len(study.values) > 1}


def best_of(curves: dict[int, Curve]) -> Goal:
    """The best score along the curves, which have their points at the same values."""
    columns = list(zip(*curves.values(), strict=True))
    best = max(columns, key=lambda column: mean([score for _, score in column]))
    at = dict(zip(curves, best, strict=True))
    return Goal({seed: point[0] for seed, point in at.items()}, {seed: point[1] for seed, point in at.items()})


def reached(curve: Curve, goal: float) -> float | None:
    """What is spent when a curve, straight between its points over the logarithm, first has the score; None if never.

    Its points are taken in the order of what was spent: on a busy machine fewer epochs may have taken more seconds.
    """
    (before, low), *rest = sorted(curve)
    if low >= goal:
        return before
    for there, score in rest:
        if score >= goal:
            share = (goal - low) / (score - low)
            return math.exp(math.log(before) + share * (math.log(there) - math.log(before)))
        before, low = there, score
    return None


def saving(what: str, arm: str, other: str, curves: dict[int, Curve], goal: Goal) -> str | None:
    """With how many times fewer images an arm has another's best score, or that it has not; None without a shared seed.

    The factor is a geometric mean over seeds, with the lowest and the highest of them. It has no interval: the other's
    best score is picked from its curve, and an arm that never reaches it gives no factor, so that equal arms often seem
    to save.
    """
    seeds = sorted(set(curves) & set(goal.scores))
    if not seeds:
        return None
    height, at = mean([goal.scores[seed] for seed in seeds]), mean([goal.spent[seed] for seed in seeds])
    best = f"the best score of `{other}` ({height:.2f} with {at:,.0f} {what})"
    found = {seed: reached(curves[seed], goal.scores[seed]) for seed in seeds}
    there = {seed: amount for seed, amount in found.items() if amount is not None}
    most = max(amount for curve in curves.values() for amount, _ in curve)
    if not there:
        return f"`{arm}` does not reach {best} within {most:,.0f} {what} in any run (n = {len(seeds)})."
    if len(there) < len(seeds):
        return (
            f"`{arm}` does not reach {best} within {most:,.0f} {what} in {len(seeds) - len(there)} of "
            f"{len(seeds)} runs."
        )
    logs = [math.log(goal.spent[seed] / amount) for seed, amount in there.items()]
    early = sum(min(curves[seed])[1] >= goal.scores[seed] for seed in seeds)
    return f"`{arm}` reaches {best} {in_words(logs, early, what)}."


def in_words(logs: Sequence[float], early: int, what: str) -> str:
    """`with 3.2 times fewer images seen (2.1 to 4.9 in 3 runs)`; `early` runs had the score at their first point.

    Args:
        logs: natural logarithm of the factor of each seed.
        early: of how many it is only a lower bound: less may have done.
        what: is counted.
    """
    factor = math.exp(mean(logs))
    if early:
        bound = "at least" if factor >= 1 else "at most"  # `1.25 times as many` is from above
        return f"with {bound} {times(factor, what)} ({early} of {len(logs)} runs have it at the smallest value already)"
    if len(logs) == 1:
        return f"with {times(factor, what)} (one run)"
    low, high = sorted(math.exp(log if factor >= 1 else -log) for log in (min(logs), max(logs)))
    return f"with {times(factor, what)} ({low:.2f} to {high:.2f} in {len(logs)} runs)"


def times(factor: float, what: str) -> str:
    """`3.20 times fewer images seen`, or for a factor below 1 `1.25 times as many`."""
    return f"{factor:.2f} times fewer {what}" if factor >= 1 else f"{1 / factor:.2f} times as many {what}"
