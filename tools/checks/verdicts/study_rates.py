"""Measure how often a study's intervals are wrong where they are known to be too narrow, in simulated studies.

    python -m tools.checks.verdicts.study_rates --out docs/figures/study_rates.json

Scores are normal, and the standard deviation over seeds is 1 unless a row says otherwise. Differences are before Holm's
correction. Right is 5 %.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdep.files import write_text
from kdep_benchmarks.studies.claims import best_without
from kdep_benchmarks.studies.savings import best_of, reached
from kdep_benchmarks.studies.stats import paired_difference, pooled
from kdep_benchmarks.verdicts.difference import Interval
from kdep_benchmarks.verdicts.intervals import mean

Case = Callable[[np.random.Generator], bool | None]  # whether a simulated study is wrong; None: it has no verdict


def excludes(interval: Interval | None, truth: float = 0.0) -> bool | None:
    """Whether an interval misses the truth; None without an interval."""
    return None if interval is None else not interval.low <= truth <= interval.high


def odd_spread(random: np.random.Generator, *, spread: float, seeds: int) -> bool | None:
    """Compare the first of eight equal arms, whose spread is another, with the second, by the pooled spread."""
    drawn = random.normal(size=(8, 3))
    drawn[0] *= spread
    arms = {arm: dict(enumerate(scores)) for arm, scores in enumerate(drawn.tolist())}
    arms[0] = {seed: arms[0][seed] for seed in range(seeds)}
    return excludes(paired_difference(arms[0], arms[1], pooled(arms)))


def chosen(random: np.random.Generator, *, seeds: int, pool: bool) -> bool | None:
    """Choose one of five equal arms for each seed by the others' val scores, and compare it with the first arm.

    A student's scores on val and on test share its quality and have a noise of half its standard deviation each.
    """
    quality = random.normal(size=(5, seeds))
    val, test = (quality + random.normal(scale=0.5, size=(5, seeds)) for _ in range(2))
    on_val, scores = ({str(arm): dict(enumerate(own)) for arm, own in enumerate(part.tolist())} for part in (val, test))
    picks = {seed: best_without(on_val, seed) for seed in range(seeds)}
    if set(picks.values()) == {"0"}:
        return None
    own = {seed: scores[arm][seed] for seed, arm in picks.items()}
    return excludes(paired_difference(own, scores["0"], pooled(scores) if pool else None))


def failing(random: np.random.Generator) -> bool | None:
    """Claim with five seeds, where one run in ten of one arm ends ten standard deviations lower; the truth is -1."""
    first, second = random.normal(size=(2, 5))
    first -= 10 * (random.random(5) < 0.1)
    return excludes(paired_difference(dict(enumerate(first)), dict(enumerate(second))), -1.0)


def saving(random: np.random.Generator, *, seeds: int, slope: float) -> bool | None:
    """Compare with how many images two equal arms reach the second's best score, over five budgets, each the double.

    Args:
        random: draws the scores.
        seeds: of each arm.
        slope: what each doubling adds to the score.
    """
    budgets = [2.0**power for power in range(5)]
    first, second = (
        {seed: [(spent, slope * step + random.normal()) for step, spent in enumerate(budgets)] for seed in range(seeds)}
        for _ in range(2)
    )
    goal = best_of(second)
    found = {seed: reached(first[seed], goal.scores[seed]) for seed in range(seeds)}
    if None in found.values():
        return None
    logs = {seed: math.log(goal.spent[seed] / there) for seed, there in found.items()}
    return excludes(paired_difference(logs, dict.fromkeys(logs, 0.0)))


def worlds() -> Iterator[tuple[str, int, Case]]:
    """Name what is simulated, how often, and the function that simulates it once."""
    for seeds, name in ((3, "eight equal arms of three seeds"), (1, "the same, this arm with one seed")):
        for spread in (1, 2, 3):
            yield f"{name}; spread x {spread}", 20_000, partial(odd_spread, spread=spread, seeds=seeds)
    for seeds in (3, 5, 10):
        for pool in (True, False):
            name = f"chosen on val among five equal arms, {seeds} seeds, {'pooled' if pool else 'own'} spread"
            yield name, 10_000, partial(chosen, seeds=seeds, pool=pool)
    yield "claim of five seeds, one run in ten of one arm ten standard deviations lower", 50_000, failing
    for seeds in (3, 5):
        for slope in (1, 3):
            name = f"savings of two equal arms, {seeds} seeds, {slope} standard deviations a doubling"
            yield name, 20_000, partial(saving, seeds=seeds, slope=slope)


def rate(case: Case, repeats: int, seed: int) -> dict[str, Any]:
    """Percent of the simulated studies with a verdict that are wrong, and its standard error."""
    random = np.random.default_rng(seed)
    found = [wrong for _ in range(repeats) if (wrong := case(random)) is not None]
    share = mean([float(wrong) for wrong in found])
    error = 100 * math.sqrt(share * (1 - share) / len(found))
    return {"repeats": repeats, "with_verdict": len(found), "percent": round(100 * share, 1), "error": round(error, 1)}


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = {name: rate(case, repeats, args.seed) for name, repeats, case in worlds()}
    write_text(args.out, json.dumps({"seed": args.seed, "wrong": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
