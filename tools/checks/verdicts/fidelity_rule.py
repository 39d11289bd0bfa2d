"""How often the rule of `kdep fidelity` says yes, in made worlds where the truth is known.

    python -m tools.checks.verdicts.fidelity_rule --out docs/figures/fidelity_rule.json

Worlds: columns without a relation; two clusters without a relation within; a cheap column of three values only, without
a relation; and two columns of one quality with noise. Every pair of checkpoints counts as different.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdep.files import write_text
from kdep_benchmarks.fidelity.agreement import agreement
from kdep_benchmarks.fidelity.judge import verdict

Columns = tuple[np.ndarray, np.ndarray]
DRAWS = 300  # of bootstrap and permutation; the command takes 1,000


def clusters(random: np.random.Generator, count: int) -> Columns:
    """Two groups far apart, a third of the checkpoints in the lower one."""
    group = 50.0 * (np.arange(count) >= count // 3)
    return group + random.normal(size=count), group + random.normal(size=count)


def related(random: np.random.Generator, count: int) -> Columns:
    """One quality, seen twice with noise of half its standard deviation."""
    quality = random.normal(size=count)
    return quality + random.normal(scale=0.5, size=count), quality + random.normal(scale=0.5, size=count)


WORLDS: dict[str, Callable[[np.random.Generator, int], Columns]] = {
    "no relation": lambda random, count: tuple(random.normal(size=(2, count))),
    "two clusters, no relation within": clusters,
    "three values, no relation": lambda random, count: (
        random.integers(3, size=count).astype(float),
        random.normal(size=count),
    ),
    "one quality with noise": related,
}


def shares(world: str, count: int, repeats: int) -> dict[str, float]:
    """Percent of repeats with each verdict, and of those in which the interval of tau alone excludes 0 from above."""
    random, seen = np.random.default_rng(count), Counter()
    for _ in range(repeats):
        cheap, expensive = WORLDS[world](random, count)
        found = agreement(cheap, expensive, ~np.eye(count, dtype=bool), draws=DRAWS)
        seen[verdict(found, found.p)] += 1
        seen["interval of tau above 0"] += found.tau.low > 0
    return {name: round(100 * number / repeats, 1) for name, number in sorted(seen.items())}


def main() -> None:
    """Simulate and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[5, 8, 12])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    found = {world: {str(n): shares(world, n, args.repeats) for n in args.checkpoints} for world in WORLDS}
    known = {"repeats": args.repeats, "draws": DRAWS, "percent": found}
    write_text(args.out, json.dumps(known, indent=1) + "\n")
    print(args.out.read_text())  # noqa: T201 - the script's answer


if __name__ == "__main__":
    main()
