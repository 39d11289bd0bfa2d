"""Do the board's intervals hold the truth, and how often are equal models called different? On simulated scores.

python -m tools.checks.intervals --out docs/figures/intervals.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.compare import compare
from kdep_benchmarks.board.intervals import half_width, new_images_half_width
from kdep_benchmarks.results import CheckpointCard, Protocol, Result, TaskCard, write_text

RUNS = (3, 5, 10)
CENTRE, SPREAD = 70.0, 1.0  # percent; neither changes the answers
# Standard deviation over models of their true means on a task, in units of the spread over seeds.
APART = {"close": 0.5, "usual": 1.5, "far": 4.0}
MODELS, TASKS = 5, 4
# How alike two runs answer an image: correlation of what decides the answer. A probe's runs are alike.
ALIKE = {"alike": 0.95, "half alike": 0.5}
IMAGES = (300, 3000)
WORKED = "Share of simulated cases in percent; error is its standard error."


def mean_coverage(runs: int, *, cases: int, seed: int) -> float:
    """How often, in percent, the 95 % interval of the mean of `runs` scores holds the true mean."""
    scores = np.random.default_rng(seed).normal(CENTRE, SPREAD, (cases, runs)).tolist()
    return 100 * sum(abs(sum(row) / runs - CENTRE) <= half_width(row) for row in scores) / cases


def new_image_coverage(runs: int, images: int, alike: float, *, cases: int, seed: int) -> tuple[float, float]:
    """How often, in percent, the board's interval holds the top-1 on all images there are, of which `images` are drawn.

    All runs answer the same images. An image's difficulty and the run's own noise decide each answer (a probit model);
    a run's true top-1 spreads by `SPREAD` points.

    Returns:
        Of the interval over runs and images, and of one over runs alone.
    """
    random, held, held_over_runs = np.random.default_rng(seed), 0, 0
    middle = ndtri(CENTRE / 100)
    spread = SPREAD / 100 / (np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi))  # of the threshold
    truth = 100 * ndtr(middle / np.sqrt(1 + spread**2))
    for _ in range(cases):
        hard = np.sqrt(alike) * random.standard_normal(images)
        own = np.sqrt(1 - alike) * random.standard_normal((runs, images))
        right = hard + own < middle + spread * random.standard_normal((runs, 1))
        scores = (100 * right.mean(axis=1)).tolist()
        error = abs(sum(scores) / runs - truth)
        held += error <= new_images_half_width(scores, images)
        held_over_runs += error <= half_width(scores)
    return 100 * held / cases, 100 * held_over_runs / cases


def false_alarms(runs: int, *, cases: int, seed: int) -> float:
    """How often, in percent, `kdep compare` calls two models better or worse whose true means are equal.

    A seed moves both models' scores alike (it draws the same val split for both); pairing takes that out again.
    """
    random = np.random.default_rng(seed)
    shared = random.normal(0, SPREAD, (1, cases, runs))
    scores = CENTRE + shared + random.normal(0, SPREAD, (2, cases, runs))
    results = made_results(scores, names=("A", "B"))
    differences = [one for one in compare(results, "A", "B") if one.of is not None]
    return 100 * sum(one.verdict in ("better", "worse") for one in differences) / cases


def power(runs: int, gap: float, *, cases: int, seed: int) -> float:
    """How often, in percent, `kdep compare` calls the better one better that is better by `gap` spreads."""
    scores = CENTRE + np.random.default_rng(seed).normal(0, SPREAD, (2, cases, runs))
    scores[0] += gap * SPREAD
    differences = [one for one in compare(made_results(scores, names=("A", "B")), "A", "B") if one.of is not None]
    return 100 * sum(one.verdict == "better" for one in differences) / cases


def rank_coverage(runs: int, apart: float, *, cases: int, seed: int) -> float:
    """How often, in percent of models, the interval of the average rank holds the rank of the true means."""
    random, held = np.random.default_rng(seed), 0
    names = [f"m{number}" for number in range(MODELS)]
    for _ in range(cases):
        truth = random.normal(CENTRE, apart * SPREAD, (MODELS, TASKS))
        true_ranks = (truth[:, None] < truth[None]).sum(axis=1).mean(axis=1) + 1
        (board,) = boards(made_results(random.normal(truth[..., None], SPREAD, (MODELS, TASKS, runs)), names=names))
        for row in board.rows.itertuples():
            held += row.average_rank_low <= true_ranks[names.index(row.name)] <= row.average_rank_high
    return 100 * held / cases / MODELS


def made_results(scores: np.ndarray, *, names: Sequence[str]) -> list[Result]:
    """Results from scores (models, tasks, seeds), as if they had been measured."""
    cards = [CheckpointCard(name, name.encode().hex().ljust(64, "0"), "simulated", 0) for name in names]
    tasks = [TaskCard(f"t{i}-linear", "linear", "classification", f"t{i}") for i in range(scores.shape[1])]
    known = {"protocol": Protocol("simulated", 1), "data_fingerprint": "0" * 64, "status": "ok", "started": ""}
    return [
        Result(checkpoint=card, task=task, seed=seed, metrics={"top1": float(scores[a, b, seed])}, **known)
        for a, card in enumerate(cards)
        for b, task in enumerate(tasks)
        for seed in range(scores.shape[2])
    ]


def measure(*, cases: int, rank_cases: int, seed: int) -> dict[str, object]:
    """Everything that docs/figures/intervals.json holds."""
    means = {str(runs): _rate(mean_coverage(runs, cases=10 * cases, seed=seed), 10 * cases) for runs in RUNS}
    drawn = {str(runs): _drawn(runs, cases=cases, seed=seed) for runs in RUNS}
    alarms = {str(runs): _rate(false_alarms(runs, cases=cases, seed=seed), cases) for runs in RUNS}
    powers = {
        str(runs): {f"{gap:g}": _rate(power(runs, gap, cases=cases, seed=seed), cases) for gap in (1, 2, 4)}
        for runs in RUNS
    }
    ranks = {
        str(runs): {
            name: _rate(rank_coverage(runs, apart, cases=rank_cases, seed=seed), rank_cases * MODELS)
            for name, apart in APART.items()
        }
        for runs in RUNS
    }
    return {
        "about": WORKED,
        "seed": seed,
        "interval_of_the_mean_holds_it": means,
        "interval_holds_the_top1_on_all_images": {"alike": ALIKE, "runs": drawn},
        "equal_models_called_different": alarms,
        "better_by_so_many_deviations_called_better": powers,
        "interval_of_the_rank_holds_it": {"models": MODELS, "tasks": TASKS, "apart": APART, "runs": ranks},
    }


def _drawn(runs: int, *, cases: int, seed: int) -> dict[str, object]:
    """By how alike runs answer and by the number of images: the board's interval, and one over runs alone."""
    names = ("runs_and_images", "runs_alone")
    return {
        how: {
            str(images): dict(
                zip(
                    names,
                    (_rate(p, cases) for p in new_image_coverage(runs, images, alike, cases=cases, seed=seed)),
                    strict=True,
                )
            )
            for images in IMAGES
        }
        for how, alike in ALIKE.items()
    }


def _rate(percent: float, cases: int) -> dict[str, float]:
    error = (percent * (100 - percent) / cases) ** 0.5
    return {"percent": round(percent, 2), "error": round(error, 2), "cases": cases}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--cases", type=int, default=4000, help="simulated comparisons [4000]")
    parser.add_argument("--rank-cases", type=int, default=300, help="simulated boards [300]")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    content = measure(cases=args.cases, rank_cases=args.rank_cases, seed=args.seed)
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    print(args.out)  # noqa: T201 - what it was run for


if __name__ == "__main__":
    main()
