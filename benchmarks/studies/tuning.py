"""Give every arm of a study its own value of the axis, such as a learning rate, chosen on val, and compare them there.

Arms are compared fairly where each has tried the same values. At one value for all, the arm wins that this value suits.
"""

from dataclasses import dataclass, replace
from typing import Any

from kdep_benchmarks.studies.claims import Arms, Comparison, Networks, Scores, compared, over_tasks, with_noise
from kdep_benchmarks.studies.file import BUDGET, SHARE, Study
from kdep_benchmarks.table_line import table_line
from kdep_benchmarks.verdicts.intervals import mean


@dataclass(frozen=True)
class Tuned:
    """Each arm at its own value of the axis.

    Attributes:
        values: arm -> the value with the highest mean on val, over tasks and seeds; None for a checkpoint.
        on_val: arm -> that mean.
        arms: their scores on test there.
    """

    values: dict[str, Any]
    on_val: dict[str, float]
    arms: Arms


def is_tuning(study: Study) -> bool:
    """Whether the axis of a study is chosen on val, and not a budget or a share of the images."""
    return bool(study.axis) and study.axis.key not in (BUDGET, SHARE) and len(study.values) > 1


def val_means(study: Study, val: Scores, arm: str) -> dict[Any, float]:
    """An arm's mean over tasks and seeds on val, by value, where it has all of them."""
    tried = {value: over_tasks(study, val, arm, value) for value in study.values}
    return {value: mean(list(own.values())) for value, own in tried.items() if set(own) == set(study.seeds)}


def tuned(study: Study, scores: Scores, val: Scores) -> Tuned | None:
    """Choose a value for each arm that has all values and seeds on val; None along a budget or without the baseline."""
    if not is_tuning(study):
        return None
    values: dict[str, Any] = {}
    on_val: dict[str, float] = {}
    found: dict[str, dict[int, float]] = {}
    networks: dict[str, Networks] = {}
    for arm in study.arms:
        means = val_means(study, val, arm)
        if len(means) < len(study.values):
            continue
        best = max(means, key=means.__getitem__)
        values[arm], on_val[arm] = best if study.trains(arm) else None, means[best]
        found[arm] = over_tasks(study, scores, arm, best)
        networks |= scores.networks_of([arm], best)
    if study.baseline not in values:
        return None
    return Tuned(values, on_val, with_noise(study, found, networks))


def at_their_best(study: Study, found: Tuned | None) -> list[Comparison]:
    """Compare each arm at its value with the baseline at the baseline's, and the pairs that the study asks for.

    Two arms with the same value are left out: they are compared at that value already.
    """
    if found is None:
        return []
    pairs = [(arm, study.baseline) for arm in found.values if arm != study.baseline]
    pairs += [(one, other) for one, other in study.pairs if {one, other} <= set(found.values) - {study.baseline}]
    pairs = [(one, other) for one, other in pairs if found.values[one] != found.values[other]]
    names = {arm: f"`{arm}`" + ("" if value is None else f" at {value}") for arm, value in found.values.items()}
    return [replace(compared(arm, other, found.arms), arm=names[arm], other=names[other]) for arm, other in pairs]


def val_table(study: Study, val: Scores) -> list[str]:
    """Write a row per arm: its mean over tasks and seeds on val at each value; nothing where no value is chosen."""
    if not is_tuning(study):
        return []
    named = [f"{study.axis.key} = {study.values[0]}", *map(str, study.values[1:])]
    lines = [table_line(["arm", *named]), "|---" * (len(named) + 1) + "|"]
    for arm in study.arms:
        if means := val_means(study, val, arm):
            texts = [f"{means[value]:.2f}" if value in means else "-" for value in study.values]
            lines.append(table_line([arm, *texts]))
    return lines if len(lines) > 2 else []


def tuning_table(study: Study, found: Tuned) -> list[str]:
    """Write a row per arm: its value, and its mean over tasks on val and on test there."""
    lines = [table_line(["arm", study.axis.key, "val", "test"]), "|---|---|---|---|"]
    for arm, value in found.values.items():
        test = mean(list(found.arms.scores[arm].values()))
        lines.append(table_line([arm, _with_its_place(study, value), f"{found.on_val[arm]:.2f}", f"{test:.2f}"]))
    return lines


def _with_its_place(study: Study, value: Any) -> str:
    """Name a value, and say where it is the last of those tried: a better one may lie beyond."""
    if value is None:
        return "-"
    if all(type(each) in (int, float) for each in study.values) and len(study.values) > 2:
        if value == max(study.values):
            return f"{value} (the highest tried)"
        if value == min(study.values):
            return f"{value} (the lowest tried)"
    return str(value)


HOW = (
    "These arms have tried every value; an arm's own is the one with the best mean on val, over tasks and seeds. The "
    "students are those of the choice, so scores at the chosen values are slightly too high, more so where an arm "
    "spreads more. Only fresh seeds give scores without this."
)
SAME_VALUE = "Two arms with the same value are compared above, at that value."
