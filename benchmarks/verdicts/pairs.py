"""Find what two checkpoints have in common: the results that may be compared, and those that are left out and why."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdep_benchmarks.kinds import PAIRED
from kdep_benchmarks.result import Result, with_digits
from kdep_benchmarks.verdicts.names import board_names
from kdep_benchmarks.verdicts.ways import Way, describe_settings, labels, way_of


def left_out(results: Iterable[Result], a: str, b: str, *, task: str | None = None) -> list[str]:
    """What `differences` does not use of the two checkpoints' results, and why, in sentences; empty where it uses all.

    Raises:
        ValueError: as `differences`.
    """
    results = list(results)
    sides = [of_checkpoint(results, name) for name in (a, b)]
    names = names_of_two(results, sides[0][0], sides[1][0])
    ways = [_by_way(side, task) for side in sides]
    differing = _differing(*ways)
    said = [f"{name}: measured in different ways, {first} against {second}." for name, first, second in differing]
    apart = {name for name, _, _ in differing}
    named = labels([way for side in ways for way in side])
    for name, missing, own, other in zip(names, names[::-1], ways, ways[::-1], strict=True):
        alone = [way for way in own if way not in other and way.task not in apart]
        if alone:
            tasks = ", ".join(f"{named[way]} ({way.protocol})" for way in alone)
            said.append(f"{missing} lacks what {name} has: {tasks}.")
    for way in (way for way in ways[0] if way in ways[1] and ways[0][way][0].task.kind in PAIRED):
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


def of_checkpoint(results: Sequence[Result], wanted: str) -> list[Result]:
    """Every finished result of the weights meant, whatever name a file with them had when it was measured.

    Args:
        results: of all checkpoints, also failed ones: the board tells those of one name apart.
        wanted: name of a row, first digits of the sha256, or what `kdep transfer` took: `pypi:NAME` or a student.pth.
    """
    names = _board_names(results)
    finished = [result for result in results if result.status == "ok"]
    found = [r for r in finished if wanted in (names[r.checkpoint.sha256], r.checkpoint.name, _with_digits(r))]
    if not found:
        own = _student(wanted)
        found = [r for r in finished if r.checkpoint.sha256 == own or r.checkpoint.is_from(wanted)]
    if not found and len(wanted) >= 4:
        found = [result for result in finished if result.checkpoint.sha256.startswith(wanted)]
    known = sorted({_with_digits(r) for r in found or finished})
    if not found:
        raise ValueError(
            f"{wanted}: no finished result of such a checkpoint; there is {', '.join(known) or 'none at all'}"
        )
    if len({result.checkpoint.sha256 for result in found}) > 1:
        raise ValueError(f"{wanted}: several checkpoints have this name: {', '.join(known)}; give the sha256's digits")
    return [result for result in finished if result.checkpoint.sha256 == found[0].checkpoint.sha256]


def _with_digits(result: Result) -> str:
    return with_digits(result.checkpoint.sha256, result.checkpoint.name)


def _student(wanted: str) -> str | None:
    """Identity of a student.pth; None where there is no such file, or another one."""
    with contextlib.suppress(OSError, ValueError):  # such as a name too long for a file
        if Path(wanted).is_file():
            from kdep.files import read
            from kdep.models.checkpoints.checkpoint import parse_student

            return parse_student(read(Path(wanted)), wanted).identity
    return None


def names_of_two(results: Iterable[Result], first: Result, second: Result) -> tuple[str, str]:
    """Their names on the board of these results, failed ones among them."""
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


def shared_ways(
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
    if task is not None:
        both = sorted({r.task.name for r in first} & {r.task.name for r in second})
        raise ValueError(f"no task in common named {task}; there is {', '.join(both) or 'none'}")
    have = [", ".join(sorted({way.task for way in side})) for side in sides]
    raise ValueError(f"no task in common: {have[0]} against {have[1]}")


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
