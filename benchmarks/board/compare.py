"""Is the difference between two checkpoints real? Paired by task and seed, in one plain sentence each."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdep_benchmarks.board.intervals import half_width, mean, proportions_half_width, runs_needed, standard_deviation
from kdep_benchmarks.board.names import board_names
from kdep_benchmarks.board.ways import Way, describe_settings, labels, way_of
from kdep_benchmarks.results import Protocol, Result, read_results

MIN_RUNS = 3
ROUNDING = 1e-9  # differences that are equal but for this are equal
MAX_RUNS = 50  # above this many, more runs are no advice
OVER_RUNS = "± with n runs is over runs on the same test images; on other images the difference may be another."
VERDICTS = ("better", "worse", "no difference", "not enough", "same every run")


@dataclass(frozen=True)
class Difference:
    """Scores of A minus those of B.

    Attributes:
        of: the task's name, or None for the mean over data sets.
        protocol: by which both were measured.
        value: mean of the paired differences, in points; None where no seed is shared.
        half_width: half its 95 % interval; None where there is none.
        n: pairs: seeds of a task, or data sets of the mean.
        verdict: one of `VERDICTS`.
        sentence: the same for people.
        over: what the interval is over: runs, images or data sets.
    """

    of: str | None
    protocol: Protocol
    value: float | None
    half_width: float | None
    n: int
    verdict: str
    sentence: str
    over: str = "runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep compare`."""
    parser.add_argument(
        "a", help="a checkpoint's name on the board or in its results, or the first digits of its sha256"
    )
    parser.add_argument("b", help="the checkpoint to compare it with")
    parser.add_argument("--task", help="only this task")
    help_ = "folders of results [results]"
    parser.add_argument("--results", nargs="+", type=Path, default=[Path("results")], metavar="DIR", help=help_)


def run(args: argparse.Namespace) -> int:
    """Print a sentence per task and one over data sets, for each protocol that both have; then what is left out."""
    results = read_results(args.results)
    differences = compare(results, args.a, args.b, task=args.task)
    protocols = list(dict.fromkeys(difference.protocol for difference in differences))
    blocks = []
    for protocol in protocols:
        own = [difference for difference in differences if difference.protocol == protocol]
        blocks.append("\n".join([f"{protocol}:", *(f"  {difference.sentence}" for difference in own)]))
        tested = sum(difference.of is not None and difference.half_width is not None for difference in own)
        if any(difference.over == "runs" and difference.half_width is not None for difference in own):
            blocks.append(f"  {OVER_RUNS}")
        if tested > 5:
            blocks.append(
                f"  Each line is a 95 % statement of its own: of {tested}, about {0.05 * tested:.1f} err by chance."
            )
    missing = left_out(results, args.a, args.b, task=args.task)
    blocks += ["Left out:", *(f"  {sentence}" for sentence in missing)] if missing else []
    sys.stdout.write("\n".join(blocks) + "\n")
    return 0


def compare(results: Iterable[Result], a: str, b: str, *, task: str | None = None) -> list[Difference]:
    """Differences per task, then the one over data sets, for each protocol that both checkpoints have.

    Raises:
        ValueError: A or B is unknown or ambiguous, or the two share no task under one protocol, on the same data and
            by the same settings.
    """
    finished = [result for result in results if result.status == "ok"]
    first, second = _of_checkpoint(finished, a), _of_checkpoint(finished, b)
    if first[0].checkpoint.sha256 == second[0].checkpoint.sha256:
        raise ValueError(f"{a} and {b} are the same checkpoint ({first[0].checkpoint.sha256[:8]})")
    pairs = _shared(first, second, task)
    names = _names(finished, first[0], second[0])
    differences = []
    named = labels(pairs)
    for protocol in dict.fromkeys(way.protocol for way in pairs):
        tasks = {way: cells for way, cells in pairs.items() if way.protocol == protocol}
        differences += [_of_task(names, named[way], *cells) for way, cells in tasks.items()]
        if task is None:
            differences.append(_over_datasets(names, protocol, list(tasks.values())))
    return differences


def left_out(results: Iterable[Result], a: str, b: str, *, task: str | None = None) -> list[str]:
    """What `compare` does not use of the two checkpoints' results, and why, in sentences; empty where it uses all.

    Raises:
        ValueError: as `compare`.
    """
    results = list(results)
    finished = [result for result in results if result.status == "ok"]
    sides = [_of_checkpoint(finished, name) for name in (a, b)]
    names = _names(finished, sides[0][0], sides[1][0])
    ways = [_by_way(side, task) for side in sides]
    differing = _differing(*ways)
    said = [f"{name}: measured in different ways, {first} against {second}." for name, first, second in differing]
    apart = {name for name, _, _ in differing}
    named = labels([way for side in ways for way in side])
    for name, own, other in zip(names, ways, ways[::-1], strict=True):
        alone = [way for way in own if way not in other and way.task not in apart]
        if alone:
            tasks = ", ".join(f"{named[way]} ({way.protocol})" for way in alone)
            said.append(f"only {name} has {tasks}.")
    for way in (way for way in ways[0] if way in ways[1]):
        seeds = [{result.seed for result in side[way]} for side in ways]
        single = [
            _seeds(own - other, n) for n, own, other in zip(names, seeds, seeds[::-1], strict=True) if own - other
        ]
        if single:
            said.append(f"{named[way]} ({way.protocol}): {' and '.join(single)}, which the other does not have.")
    for name, side in zip(names, sides, strict=True):
        sha256 = side[0].checkpoint.sha256
        failed = [r for r in results if r.status == "failed" and r.checkpoint.sha256 == sha256]
        tasks = dict.fromkeys(r.task.name for r in failed if task in (None, r.task.name))
        if tasks:
            said.append(f"runs of {name} that failed: {', '.join(tasks)}.")
    return said


def judge(differences: Sequence[float], *, minimum: int = MIN_RUNS) -> tuple[str, float | None]:
    """The verdict on paired differences, and half the 95 % interval of their mean."""
    half = half_width(differences) if differences else None
    if half is not None and half < ROUNDING:
        return ("no difference" if abs(differences[0]) < ROUNDING else "same every run"), None
    if len(differences) < minimum or half is None:
        return "not enough", half
    if abs(mean(differences)) <= half:
        return "no difference", half
    return ("better" if mean(differences) > 0 else "worse"), half


def _of_task(names: tuple[str, str], task: str, first: list[Result], second: list[Result]) -> Difference:
    scores, others = ({result.seed: result.score for result in side} for side in (first, second))
    pairs = [scores[seed] - others[seed] for seed in sorted(set(scores) & set(others))]
    verdict, half = judge(pairs)
    value, n, protocol = mean(pairs) if pairs else None, f"n = {len(pairs)}", first[0].protocol
    over = "runs"
    if verdict == "same every run":
        verdict, half, n = _by_images(value, first[0], second[0], n)
        over = "runs" if half is None else "images"
    if verdict == "same every run":
        better, worse = names if value > 0 else names[::-1]
        text = (
            f"{better} scores {abs(value):.2f} higher than {worse} on {task} in every run ({n}), so without an interval"
        )
    elif verdict == "not enough":
        seen = f"{value:+.2f} so far, {n}" if pairs else "no seed of both"
        text = f"Not enough runs to tell {names[0]} from {names[1]} on {task} ({seen}); "
        text += f"{MIN_RUNS - len(pairs)} more would be the least"
    else:
        text = _sentence(names, f" on {task}", value, half or 0.0, n, verdict)
        text += _advice(pairs) if verdict == "no difference" else ""
    return Difference(task, protocol, value, half, len(pairs), verdict, text + ".", over)


def _by_images(value: float, first: Result, second: Result, n: str) -> tuple[str, float | None, str]:
    """Where seeds do not change the scores, as in kNN, chance is in the choice of images: judged by their number."""
    images = first.counts.get("test")
    if first.main_metric != "top1" or not images or second.counts.get("test") != images:
        return "same every run", None, n
    half = proportions_half_width(first.score, second.score, images)
    verdict = "no difference" if abs(value) <= half else "better" if value > 0 else "worse"
    return verdict, half, f"{images:,} images; seeds do not change it"


def _over_datasets(
    names: tuple[str, str], protocol: Protocol, tasks: list[tuple[list[Result], list[Result]]]
) -> Difference:
    """Each data set counts once: a probe and a fine-tune of the same images rise and fall together."""
    by_dataset: dict[str, list[float]] = {}
    for first, second in tasks:
        difference = _of_task(names, "", first, second).value
        if difference is not None:
            by_dataset.setdefault(first[0].task.dataset, []).append(difference)
    values = [mean(values) for values in by_dataset.values()]
    verdict, half = judge(values)
    value, over = mean(values) if values else None, f"{len(values)} data set" + "s" * (len(values) != 1)
    if verdict in ("not enough", "same every run"):
        seen = f"{value:+.2f} over {over}" if values else "no seed of both"
        text = f"Overall: not enough data sets to tell {names[0]} from {names[1]} ({seen}); "
        text += f"{max(MIN_RUNS - len(values), 1)} more would be the least"
        return Difference(None, protocol, value, half, len(values), "not enough", text + ".", "data sets")
    text = "Overall: " + _sentence(names, "", value, half or 0.0, over, verdict)
    return Difference(None, protocol, value, half, len(values), verdict, text + ".", "data sets")


def _sentence(names: tuple[str, str], where: str, value: float, half: float, n: str, verdict: str) -> str:
    a, b = names if verdict != "worse" else names[::-1]
    if verdict == "no difference":
        return f"No difference shown between {a} and {b}{where}: {value:+.2f} ± {half:.2f} ({n})"
    return f"{a} is better than {b}{where} by {abs(value):.2f} ± {half:.2f} ({n})"


def _advice(pairs: Sequence[float]) -> str:
    needed = runs_needed(mean(pairs), standard_deviation(pairs) or 0.0, limit=MAX_RUNS)
    if needed is None or needed <= len(pairs):
        return ""
    more = needed - len(pairs)
    return f"; were it real and of this size, about {more} more run{'s' * (more > 1)} would show it"


def _of_checkpoint(results: Sequence[Result], wanted: str) -> list[Result]:
    """Every finished result of the weights meant, whatever name a file with them had when it was measured."""
    names = _board_names(results)
    found = [result for result in results if wanted in (result.checkpoint.name, names[result.checkpoint.sha256])]
    if not found and len(wanted) >= 4:
        found = [result for result in results if result.checkpoint.sha256.startswith(wanted)]
    known = sorted({f"{r.checkpoint.name} ({r.checkpoint.sha256[:8]})" for r in found or results})
    if not found:
        raise ValueError(
            f"{wanted}: no finished result of such a checkpoint; there is {', '.join(known) or 'none at all'}"
        )
    if len({result.checkpoint.sha256 for result in found}) > 1:
        raise ValueError(f"{wanted}: several checkpoints have this name: {', '.join(known)}; give the sha256's digits")
    return [result for result in results if result.checkpoint.sha256 == found[0].checkpoint.sha256]


def _names(results: Iterable[Result], first: Result, second: Result) -> tuple[str, str]:
    names = _board_names(results)
    return names[first.checkpoint.sha256], names[second.checkpoint.sha256]


def _board_names(results: Iterable[Result]) -> dict[str, str]:
    return board_names((result.checkpoint.sha256, result.checkpoint.name) for result in results)


def _by_way(results: Iterable[Result], task: str | None) -> dict[Way, list[Result]]:
    ways: dict[Way, list[Result]] = {}
    for result in results:
        if task in (None, result.task.name):
            ways.setdefault(way_of(result), []).append(result)
    return dict(sorted(ways.items(), key=str))


def _shared(
    first: list[Result], second: list[Result], task: str | None
) -> dict[Way, tuple[list[Result], list[Result]]]:
    """Results of both that were measured in the same way; refused where there is nothing of the kind."""
    sides = [_by_way(side, task) for side in (first, second)]
    shared = {way: (found, sides[1][way]) for way, found in sides[0].items() if way in sides[1]}
    if shared:
        return shared
    for name, of_a, of_b in _differing(*sides):
        raise ValueError(
            f"{name}: measured under different protocols, data or settings ({of_a} against {of_b}); "
            "such scores are not comparable, measure both in the same way"
        )
    have = [", ".join(sorted({way.task for way in side})) or "nothing" for side in sides]
    raise ValueError(f"no task in common{f' named {task}' if task else ''}: {have[0]} against {have[1]}")


def _differing(first: Iterable[Way], second: Iterable[Way]) -> list[tuple[str, str, str]]:
    """Tasks that both have, but never in the same way: name, ways of the first, ways of the second."""
    sides = [set(first), set(second)]
    tasks = [{way.task for way in side} for side in sides]
    names = sorted(tasks[0] & tasks[1] - {way.task for way in sides[0] & sides[1]})
    every = sides[0] | sides[1]
    return [(name, *(_said([way for way in side if way.task == name], every) for side in sides)) for name in names]


def _said(ways: Iterable[Way], every: set[Way]) -> str:
    said = ((f"{way.protocol} on {way.data_fingerprint[:8]}", describe_settings(way, every)) for way in ways)
    return ", ".join(sorted(f"{how} with {settings}" if settings else how for how, settings in said))


def _seeds(seeds: set[int], name: str) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))} of {name}"
