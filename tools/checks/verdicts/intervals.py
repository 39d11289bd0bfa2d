"""Measure how often `kdep compare` calls equal models different: on simulated answers, and on answers swapped by image.

python -m tools.checks.verdicts.intervals --out docs/figures/intervals.json [--results DIR ...]

Writes a table beside the JSON after every line, so that an interrupted run has what it measured.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdep.files import write_text
from kdep_benchmarks.answers.metrics import metrics_of
from kdep_benchmarks.answers.resample import resamples_of
from kdep_benchmarks.answers.store import Answers
from kdep_benchmarks.results import read_answers, read_results, with_those_below
from kdep_benchmarks.verdicts.difference import difference
from kdep_benchmarks.verdicts.intervals import half_width, mean
from tools.checks.verdicts.made_answers import MADE, exchange

RUNS = (1, 3, 5)
# Of each kind: (images, cases, draws of the images), fewer where AP is slow. `compare` itself makes 2,000 draws.
SIZES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "probe": ((150, 2000, 500), (860, 2000, 500), (5000, 1000, 500)),
    "few-shot": ((150, 1000, 500), (860, 1000, 500)),
    "fine-tuning": ((150, 2000, 500), (860, 2000, 500), (5000, 1000, 500)),
    "segmentation": ((150, 2000, 500), (500, 2000, 500), (2000, 1000, 500), (5000, 600, 300)),
    "detection": ((150, 600, 200), (500, 400, 100), (2000, 120, 100)),
}
EXCHANGES, PAIRS = 1000, 20
ABOUT = (
    "How often, in percent, two equal models are called different where 5 is right; error is the standard error of the "
    "percentage. over_seeds: Student's t over the runs' scores alone, as earlier versions judged. seconds: of one core."
)


def false_alarms(kind: str, images: int, runs: int, *, cases: int, draws: int, seed: int) -> dict[str, Any]:
    """How often two simulated equal models are called different, by `difference` and by a t-test over seeds."""
    of_task, metric, make = MADE[kind]
    random, called, over_seeds = np.random.default_rng(seed), 0, 0
    for _ in range(cases):
        first, second = make(random, images, runs)
        called += _differ(first, second, metric, of_task, draws)
        over_seeds += runs > 1 and differ_over_seeds(first, second, metric)
    old = {"over_seeds": round(100 * over_seeds / cases, 2)} if runs > 1 else {}
    row = {"what": kind, "metric": metric, "images": images, "runs": runs, "draws": draws}
    return {**row, **_rate(called, cases), **old}


def _differ(first: Sequence[Answers], second: Sequence[Answers], metric: str, kind: str, draws: int) -> bool:
    sides = (resamples_of(side, metric, draws) for side in (first, second))
    return difference(*sides, kind).verdict != "no difference"


def differ_over_seeds(first: list[Answers], second: list[Answers], metric: str) -> bool:
    """Whether Student's t over paired runs calls two models different, as if other images would give the same."""
    pairs = [float((metrics_of(a)[metric] - metrics_of(b)[metric])[0]) for a, b in zip(first, second, strict=True)]
    return abs(mean(pairs)) > half_width(pairs)


def exchanged_alarms(
    pairs: Sequence[tuple[Answers, Answers]], metric: str, kind: str, *, cases: int, draws: int, seed: int
) -> dict[str, Any]:
    """How often two models are called different whose answers were exchanged at random, image by image."""
    random, called = np.random.default_rng(seed), 0
    for case in range(cases):
        first, second = pairs[case % len(pairs)]
        sides = exchange([first], [second], random.random(first.images) < 0.5)
        called += _differ(*sides, metric, kind, draws)
    return {"metric": metric, "images": pairs[0][0].images, "draws": draws, **_rate(called, cases)}


def made_exchanges(kind: str, images: int, *, cases: int, draws: int, seed: int) -> dict[str, Any]:
    """Exchange the answers of simulated models, of several pairs since the possible counts of one pair are few."""
    of_task, metric, make = MADE[kind]
    random = np.random.default_rng(seed)
    pairs = [tuple(side[0] for side in make(random, images, 1)) for _ in range(PAIRS)]
    return {
        "what": f"simulated {kind}",
        **exchanged_alarms(pairs, metric, of_task, cases=cases, draws=draws, seed=seed),
    }


def real_exchanges(folders: list[Path], *, seed: int) -> Iterator[dict[str, Any]]:
    """Exchange the answers of every pair of checkpoints that the results have on one task with seed 0."""
    results = [result for result in read_results(folders) if result.status == "ok" and result.seed == 0]
    folders = with_those_below(folders)
    for first, second in itertools.combinations(results, 2):
        if first.task == second.task and first.data_fingerprint == second.data_fingerprint:
            pair = tuple(read_answers(result, folders) for result in (first, second))
            known = {"cases": EXCHANGES, "draws": 500, "seed": seed}
            row = exchanged_alarms([pair], first.main_metric, first.task.kind, **known)
            yield {"what": f"{first.task.name}: {first.checkpoint.name}, {second.checkpoint.name}", **row}


def _rate(called: int, cases: int) -> dict[str, float]:
    share = called / cases
    return {
        "cases": cases,
        "percent": round(100 * share, 2),
        "error": round(100 * (share * (1 - share) / cases) ** 0.5, 2),
    }


def as_table(content: dict[str, Any]) -> str:
    """The JSON as Markdown."""
    lines = [ABOUT, "", "| simulated | metric | images | runs | cases | called different % | over seeds alone % |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for row in content["simulated"]:
        old = f"{row['over_seeds']:.1f}" if "over_seeds" in row else "-"
        shown = f"{row['percent']:.1f} ± {row['error']:.1f}"
        known = (row["what"], row["metric"], f"{row['images']:,}", row["runs"], f"{row['cases']:,}", shown, old)
        lines.append(f"| {' | '.join(map(str, known))} |")
    lines += ["", "| answers exchanged image by image | metric | images | cases | called different % |"]
    lines.append("|---|---|---:|---:|---:|")
    for row in content["exchanged"]:
        shown = f"{row['percent']:.1f} ± {row['error']:.1f}"
        known = (row["what"], row["metric"], f"{row['images']:,}", f"{row['cases']:,}", shown)
        lines.append(f"| {' | '.join(map(str, known))} |")
    return "\n".join(lines) + "\n"


def rows(
    kinds: Sequence[str], folders: list[Path], *, seed: int, known: set[tuple[Any, ...]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line of the report but the simulated ones in `known`, with its part, measured when it is asked for."""
    for kind in kinds:
        for images, cases, draws in SIZES[kind]:
            for runs in RUNS:
                if (kind, images, runs) not in known:
                    yield "simulated", false_alarms(kind, images, runs, cases=cases, draws=draws, seed=seed)
        images, cases, draws = SIZES[kind][0]
        if kind in ("probe", "segmentation", "detection") and (f"simulated {kind}", images, None) not in known:
            yield "exchanged", made_exchanges(kind, images, cases=cases, draws=draws, seed=seed)
    if folders:
        yield from (("exchanged", row) for row in real_exchanges(folders, seed=seed))


def main() -> None:
    """Measure line by line, and write after each; simulated lines that FILE has already are not repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--results", type=Path, nargs="*", default=[], metavar="DIR", help="real answers to exchange")
    parser.add_argument("--kind", nargs="*", default=list(MADE), choices=list(MADE), help="what to simulate [all]")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    content: dict[str, Any] = {"about": ABOUT, "seed": args.seed, "simulated": [], "exchanged": []}
    if args.out.exists():
        content |= {part: json.loads(args.out.read_text())[part] for part in ("simulated", "exchanged")}
    start = time.process_time()
    parts = [*content["simulated"], *content["exchanged"]]
    known = {(row["what"], row["images"], row.get("runs")) for row in parts}
    for part, row in rows(args.kind, args.results, seed=args.seed, known=known):
        seconds, start = time.process_time() - start, time.process_time()
        content[part].append(row | {"seconds": round(seconds, 1)})
        write_text(args.out, json.dumps(content, indent=1) + "\n")
        write_text(args.out.with_suffix(".md"), as_table(content))
        print(row, flush=True)  # noqa: T201 - what it was run for


if __name__ == "__main__":
    main()
