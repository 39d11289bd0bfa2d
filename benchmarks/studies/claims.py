"""The comparisons of a study's answer: which arm is better than which, by the seeds that both have.

The exploratory ones are about the mean over tasks. Their spread is pooled over the arms that a study trains. That of a
claim is the pair's own, so that arms which are scored later do not change its verdict.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdep_benchmarks.studies.file import SHARE, Claim, Study
from kdep_benchmarks.studies.rows import AnswerRow
from kdep_benchmarks.studies.stats import MIN_SEEDS, Noise, differences, paired_difference, pooled
from kdep_benchmarks.verdicts.difference import Interval, holm
from kdep_benchmarks.verdicts.intervals import CONFIDENCE, mean

WORDS = {"better": "is better than", "worse": "is worse than", "no difference": "shows no difference to"}
Cell = tuple[str, Any, str]  # arm, value of the axis, task
Networks = dict[int, str]  # the weights, as the answer names them, by seed


class Scores(dict[Cell, dict[int, float]]):
    """Score by seed, for every arm, value and task.

    Attributes:
        networks: the networks that have the scores, by arm and value.
        left_out: arms and values whose scores choose nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.networks: dict[tuple[str, Any], Networks] = {}
        self.left_out: frozenset[tuple[str, Any]] = frozenset()

    def of_seeds(self, seeds: Sequence[int]) -> "Scores":
        """Those of some seeds."""
        found = Scores()
        found.update({key: {seed: cell[seed] for seed in cell if seed in seeds} for key, cell in self.items()})
        found.networks = self.networks
        return found

    def without(self, cells: Iterable[tuple[str, Any]]) -> "Scores":
        """Those of other arms and values."""
        found, left_out = Scores(), frozenset(cells)
        found.update({key: cell for key, cell in self.items() if key[:2] not in left_out})
        found.networks, found.left_out = self.networks, left_out
        return found

    def networks_of(self, arms: Iterable[str], value: Any) -> dict[str, Networks]:
        """The networks of some arms at a value of the axis."""
        return {arm: self.networks.get((arm, value), {}) for arm in arms}


def by_cell(rows: Sequence[AnswerRow], column: str = "score") -> Scores:
    """Score by seed, for every arm, value and task; or another column, where a row has it."""
    scores = Scores()
    for row in rows:
        if row[column] is not None:
            scores.setdefault((row["arm"], row["value"], row["task"]), {})[row["seed"]] = row[column]
            scores.networks.setdefault((row["arm"], row["value"]), {})[row["seed"]] = row["checkpoint"]
    return scores


def over_tasks(
    study: Study, scores: Scores, arm: str, value: Any, tasks: Sequence[str] | None = None
) -> dict[int, float]:
    """Mean over tasks (all, or some) by seed, of the seeds that all of them have."""
    cells = [scores.get((arm, value, task), {}) for task in tasks or study.tasks]
    shared = set.intersection(*(set(cell) for cell in cells))
    return {seed: mean([cell[seed] for cell in cells]) for seed in sorted(shared)}


@dataclass(frozen=True)
class Comparison:
    """One arm against another.

    Attributes:
        arm: its name, or how it was chosen.
        other: the arm it is compared with.
        value: mean difference over the seeds of both, in points.
        interval: None where there are too few seeds, where all differ by the same, or where a network counts twice.
        seeds: how many both have.
        networks: what is to be known of the networks, where an arm has fewer than seeds, or only one seed.
        same_as: the arm's own name in backticks, where `arm` says that all seeds choose it.
        before: sentences that come first.
        adjusted: Holm's p value among `tests` comparisons.
        awaited: how many of a claim's seeds are still to come, before which it has no verdict.
    """

    arm: str
    other: str
    value: float
    interval: Interval | None
    seeds: int
    before: str = ""
    adjusted: float | None = None
    tests: int = 1
    awaited: int = 0
    networks: str = ""
    same_as: str = ""

    @property
    def holds(self) -> bool:
        """Whether zero is excluded after Holm's correction."""
        return self.adjusted is not None and self.adjusted < 1 - CONFIDENCE

    @property
    def text(self) -> str:
        """The difference, with its interval where there is one."""
        return self.interval.text if self.interval else f"{self.value:+.2f}"

    @property
    def sentence(self) -> str:
        """The comparison for people."""
        known, n = f"{self.value:+.2f}", f"n = {self.seeds}"
        if self.awaited:
            # Whoever may stop as soon as the interval leaves zero finds a difference too often.
            there = f"{self.seeds} of {self.seeds + self.awaited} seeds" + (f", {known}" if self.seeds else "")
            return f"{self.before}{self.arm} against {self.other}: no verdict before all are scored ({there})."
        if self.interval is None:
            reason = "too few runs for an interval" if self.seeds < MIN_SEEDS else "the same in every run"
            reason = self.networks or reason
            return f"{self.before}{self.arm} against {self.other}: {known}, no verdict ({n}, {reason})."
        words = WORDS[self.interval.verdict]
        if self.adjusted is not None and self.tests > 1 and self.interval.verdict != "no difference":
            n += f"; {'holds' if self.holds else 'does not hold'} among {self.tests} comparisons (Holm)"
        n += f"; {self.networks}" if self.networks else ""
        return f"{self.before}{self.arm} {words} {self.other} ({self.text}, {n})."


def adjusted(groups: Iterable[list[Comparison]]) -> list[list[Comparison]]:
    """Give Holm's p values, among all groups; a pair that is compared in several of them counts once."""
    groups = list(groups)
    tested = {_pair(one): one.interval.p for group in groups for one in group if one.interval}
    known = dict(zip(tested, holm(list(tested.values())), strict=True))
    return [[replace(one, adjusted=known.get(_pair(one)), tests=len(known)) for one in group] for group in groups]


def _pair(one: Comparison) -> tuple[frozenset[str], float, float | None]:
    p = round(one.interval.p, 9) if one.interval else None
    return frozenset((one.same_as or one.arm, one.other)), round(abs(one.value), 9), p


def adjusted_claims(claims: Sequence[Comparison]) -> list[Comparison]:
    """Give Holm's p values among all claims.

    One that has no verdict yet counts with p = 1, so what the others say holds whatever it turns out to be.
    """
    found = holm([1.0 if one.awaited or not one.interval else one.interval.p for one in claims])
    return [replace(one, adjusted=p, tests=len(claims)) for one, p in zip(claims, found, strict=True)]


@dataclass(frozen=True)
class Arms:
    """Scores by arm and seed at one value of the axis, mean over tasks, their networks and their pooled spread."""

    scores: dict[str, dict[int, float]]
    networks: dict[str, Networks]
    noise: dict[str, Noise | None]


def arms_at(study: Study, scores: Scores, value: Any) -> Arms:
    """Every arm's scores at a value. The spread is pooled over the arms that are trained here; see `pooled`."""
    found = {arm: over_tasks(study, scores, arm, value) for arm in study.arms}
    return with_noise(study, found, scores.networks_of(study.arms, value))


def with_noise(study: Study, found: dict[str, dict[int, float]], networks: dict[str, Networks]) -> Arms:
    """Add the pooled spread to the scores of all arms."""
    trained = {arm: by_seed for arm, by_seed in found.items() if study.trains(arm)}
    noise = pooled(trained)
    return Arms(found, networks, {arm: noise if arm in trained else None for arm in found})


def without_noise(found: dict[str, dict[int, float]], networks: dict[str, Networks]) -> Arms:
    """Leave out the pooled spread: two arms are compared by their own differences."""
    return Arms(found, networks, dict.fromkeys(found))


def claimed(study: Study, scores: Scores, value: Any) -> list[Comparison]:
    """The comparisons that the study file names before its runs: two arms, a metric and seeds each."""
    return [_claimed(study, claim, scores, value) for claim in study.claims]


def named(study: Study, scores: Scores) -> list[tuple[Any, Comparison]]:
    """The claims at every value of the axis, with that value, after Holm's correction among all of them."""
    values = [value for value in study.values for _ in study.claims]
    found = adjusted_claims([one for value in study.values for one in claimed(study, scores, value)])
    return list(zip(values, found, strict=True))


def _claimed(study: Study, claim: Claim, scores: Scores, value: Any) -> Comparison:
    (arm, other), metric, seeds = claim.arms, claim.metric, claim.seeds or study.seeds
    chosen, tasks = scores.of_seeds(seeds), None if metric == "mean" else [metric]
    own = {name: over_tasks(study, chosen, name, value, tasks) for name in claim.arms}
    found = without_noise(own, scores.networks_of(own, value))
    shared = set(found.scores[arm]) & set(found.scores[other])
    what = "the mean over tasks" if metric == "mean" else metric
    at = f", at {study.axis.key} = {value}" if study.axis else ""
    before, awaited = f"By {what}, seeds {seeds}{at}: ", len(seeds) - len(shared)
    if not shared:
        return Comparison(f"`{arm}`", f"`{other}`", math.nan, None, 0, before, awaited=awaited)
    return replace(compared(arm, other, found), before=before, awaited=awaited)


def against_baseline(study: Study, scores: Scores, value: Any) -> list[Comparison]:
    """Each arm against the baseline."""
    return _compare_all(study, scores, value, [(arm, study.baseline) for arm in study.arms if arm != study.baseline])


def asked_for(study: Study, scores: Scores, value: Any) -> list[Comparison]:
    """The pairs of arms that the study file names."""
    return _compare_all(study, scores, value, study.pairs)


def against_all_images(study: Study, scores: Scores) -> list[Comparison]:
    """Each arm with fewer images against itself with the most; nothing along an axis that is no share of the data."""
    if not study.axis or study.axis.key != SHARE:
        return []
    said: list[Comparison] = []
    for arm in [arm for arm in study.arms if study.trains(arm)]:  # a checkpoint has seen none of the images
        names = {f"{arm}, {value:,} images": value for value in sorted(study.values)}
        # The pooled spread at each share leaves out what a seed does to all arms there, which two shares do not share.
        own = without_noise(
            {name: over_tasks(study, scores, arm, value) for name, value in names.items()},
            {name: scores.networks.get((arm, value), {}) for name, value in names.items()},
        )
        *fewer, most = names
        said += [compared(name, most, own) for name in fewer if set(own.scores[name]) & set(own.scores[most])]
    return said


def _compare_all(study: Study, scores: Scores, value: Any, pairs: Sequence[Sequence[str]]) -> list[Comparison]:
    found = arms_at(study, scores, value)
    shared = [pair for pair in pairs if set(found.scores[pair[0]]) & set(found.scores[pair[1]])]
    return [compared(*pair, found) for pair in shared if not _is_claimed(study, pair)]


def _is_claimed(study: Study, pair: Sequence[str]) -> bool:
    """Whether a claim is about this pair, which then has its verdict there, and not among the exploratory ones.

    Exploratory comparisons are about the mean over tasks, which is the score of the only task where there is one.
    """
    metrics = {"mean", *study.tasks} if len(study.tasks) == 1 else {"mean"}
    return any(claim.metric in metrics and set(pair) == set(claim.arms) for claim in study.claims)


def chosen_on_val(study: Study, scores: Scores, val: Scores, value: Any) -> tuple[str, list[Comparison]]:
    """The arm that is best on val, in a sentence; for each seed the arm that the others choose, against the baseline.

    Test images are not those of the choice, but the students are: a lucky one is lucky on both. So what is compared
    with the baseline at a seed was chosen without that seed. Nothing before all arms have all seeds on val: the best
    of those that are done is another question. Arms that val leaves out are not waited for; nothing is chosen where
    fewer than two others are left. Where all seeds choose one arm and a claim is about it and the baseline, the claim
    has the verdict.
    """
    left_out = [arm for arm in study.arms if (arm, value) in val.left_out]
    on_val = {arm: over_tasks(study, val, arm, value) for arm in study.arms if arm not in left_out}
    own = arms_at(study, scores, value)
    needed = [*on_val.values(), *(own.scores[arm] for arm in {*on_val, study.baseline})]
    if any(set(by_seed) != set(study.seeds) for by_seed in needed) or (left_out and len(on_val) < 2):
        return "", []
    best = best_without(on_val, None)
    top = mean(list(on_val[best].values()))
    equal = [arm for arm, by_seed in on_val.items() if mean(list(by_seed.values())) == top]
    named_best = (
        f"`{best}` is the best" if len(equal) == 1 else f"{_quoted(equal)} are the best, of which the first counts"
    )
    said = f"On the val split {named_best} ({top:.2f})"
    if len(study.seeds) < 2:
        return f"{said}; one seed, so no other to choose by.", []
    chosen = {seed: best_without(on_val, seed) for seed in study.seeds}
    if {best, *chosen.values()} == {study.baseline}:
        return f"{said}, whichever seed is left out: no arm is above the baseline.", []
    name = "chosen"
    picks = Arms(
        {**own.scores, name: {seed: own.scores[arm][seed] for seed, arm in chosen.items()}},
        {**own.networks, name: {seed: own.networks[arm][seed] for seed, arm in chosen.items()}},
        {**own.noise, name: own.noise[study.baseline] if all(own.noise[arm] for arm in chosen.values()) else None},
    )
    same = f"`{best}`" if set(chosen.values()) == {best} else ""
    if same and _is_claimed(study, (best, study.baseline)):
        return f"{said}, whichever seed is left out: the claims have its verdict against `{study.baseline}`.", []
    named = f"{same} each time" if same else ", ".join(f"`{arm}`" for arm in chosen.values())
    what = f"the arm that the other seeds choose ({named})"
    found = compared(name, study.baseline, picks)
    return f"{said}.", [replace(found, before="For each seed, ", arm=what, same_as=same)]


def best_without(val: dict[str, dict[int, float]], left_out: int | None) -> str:
    """The arm whose mean on val is the highest, without one seed; the first of equals."""
    kept = {arm: [score for seed, score in found.items() if seed != left_out] for arm, found in val.items()}
    return max(kept, key=lambda arm: mean(kept[arm]))


def compared(arm: str, other: str, found: Arms) -> Comparison:
    """Two arms that share a seed.

    A seed counts where it changes a network. Two arms of one network each are one measurement, and one such arm has an
    interval over the seeds of the other, which is about these weights. No verdict where some seeds share a network. The
    pooled spread has nothing of an arm with one seed, which the comparison says.
    """
    first, second = found.scores[arm], found.scores[other]
    pairs, shared = differences(first, second), sorted(set(first) & set(second))
    own = {name: {seed: found.networks[name][seed] for seed in shared} for name in (arm, other)}
    single = [name for name in own if len(shared) > 1 and len(set(own[name].values())) == 1]
    copies = [name for name in own if name not in single and len(set(own[name].values())) < len(shared)]
    if copies or len(single) == 2:
        said = "one network each" if len(single) == 2 else f"some seeds of {_quoted(copies)} have the same network"
        seeds = 1 if len(single) == 2 else len(pairs)
        return Comparison(f"`{arm}`", f"`{other}`", mean(pairs), None, seeds, networks=said)
    noise = found.noise[arm] if found.noise[other] else None  # one for all arms that are trained
    interval = paired_difference(first, second, None if single else noise)
    said = f"{_quoted(single)} is one network, and the interval is about its weights" if single and interval else ""
    if alone := [name for name in (arm, other) if len(found.scores[name]) == 1 and noise]:
        said = f"{_quoted(alone)} {'has' if len(alone) == 1 else 'have'} one seed, and the spread is that of other arms"
    return Comparison(f"`{arm}`", f"`{other}`", mean(pairs), interval, len(pairs), networks=said)


def _quoted(arms: Sequence[str]) -> str:
    return " and ".join(f"`{arm}`" for arm in arms)
