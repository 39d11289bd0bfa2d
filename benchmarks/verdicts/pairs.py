"""Find what two checkpoints have in common: the results that may be compared, and those that are left out and why."""

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
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
        wanted: a file or folder of weights, which is known by what it holds now; else name of a row, another name such
            as `pypi:NAME` that `kdep transfer` took, or first digits of the sha256.

    Raises:
        ValueError: no finished result, or results of several checkpoints, or a file that holds other weights now.
    """
    finished = [result for result in results if result.status == "ok"]
    found = _of_file(results, wanted) or _named(finished, wanted, _board_names(results))
    known = sorted({_with_digits(result) for result in found or finished})
    if len({result.checkpoint.sha256 for result in found}) > 1:
        raise ValueError(f"{wanted}: several checkpoints have this name: {', '.join(known)}; give the sha256's digits")
    own = [result for result in finished if found and result.checkpoint.sha256 == found[0].checkpoint.sha256]
    if own:
        return own
    failed = found or _named(results, wanted, _board_names(results))
    if failed:
        tasks = ", ".join(dict.fromkeys(result.task.name for result in failed))
        raise ValueError(f"{wanted}: no finished result; these failed, and their .log files say why: {tasks}")
    raise ValueError(f"{wanted}: no finished result of such a checkpoint; there is {', '.join(known) or 'none at all'}")


def _named(results: Iterable[Result], wanted: str, names: Mapping[str, str]) -> list[Result]:
    """Those whose checkpoint has a name, else those that were opened by it, else those of such a sha256."""
    cards = [(result, result.checkpoint) for result in results]
    return (
        [r for r, card in cards if wanted in (names[card.sha256], card.name, _with_digits(r))]
        or [r for r, card in cards if card.is_from(wanted)]
        or [r for r, card in cards if len(wanted) >= 4 and card.sha256.startswith(wanted)]
    )


def _of_file(results: Sequence[Result], wanted: str) -> list[Result]:
    """Those of the weights that a file or folder holds now; empty where there is none, or one of something else."""
    file = _file(wanted)
    if file is None:
        return []
    from kdep.models.backbones.own import PREFIX

    cards = {result.checkpoint.sha256: result.checkpoint for result in results}
    earlier = [card for card in cards.values() if card.is_from(wanted)]
    archs = dict.fromkeys(card.arch for card in (*earlier, *cards.values()))
    plain = tuple(arch for arch in archs if not arch.startswith(PREFIX))  # no result decides which code runs here
    files = (file, *(file / name for name in ("config.json", "model.safetensors", "pytorch_model.bin")))
    changed = max(path.stat().st_mtime_ns for path in files if path.exists())
    identity, problem = _opened(wanted, plain, frozenset(cards), changed)
    if identity in cards:
        return [result for result in results if result.checkpoint.sha256 == identity]
    rows = ", ".join(sorted(with_digits(card.sha256, card.name) for card in earlier))
    if identity is None and earlier:
        own = any(card.arch.startswith(PREFIX) for card in earlier)
        why = f"{wanted}: a plain file of a network of your own, which is not opened here" if own else problem
        raise ValueError(f"{why}; to compare what was measured from it before, name the row: {rows}")
    if identity is not None:
        before = f"; measured from it before: {rows}" if rows else ""
        raise ValueError(f"{wanted}: no result of the weights that it holds now{before}. Measure it with kdep transfer")
    return []


def _file(wanted: str) -> Path | None:
    from kdep.models.weights import file_of

    with contextlib.suppress(OSError, ValueError):  # such as a name too long for a file
        return path if (path := file_of(wanted)).exists() else None
    return None


@functools.lru_cache(maxsize=256)
def _opened(wanted: str, archs: tuple[str, ...], known: frozenset[str], changed: int) -> tuple[str | None, str]:
    """Identity of the weights in a file, or None and why it does not open.

    A plain state dict may fit several networks; one that was measured counts first.

    Args:
        wanted: the file, with `#prefix` and `@size`.
        archs: of the networks to try, the likely ones first.
        known: identities that have results.
        changed: time of the last change, so that a file is opened again when it has changed.
    """
    from kdep.models.weights import open_checkpoint

    found, problem = None, ""
    for arch in (None, *archs):
        try:
            identity = open_checkpoint(wanted, arch=arch).identity
        except (OSError, ValueError) as error:
            if arch in (None, *archs[:1]):  # why the likeliest network does not fit
                problem = str(error)
            continue
        found = found or identity
        if arch is None or identity in known:
            return identity, ""
    return found, problem


def _with_digits(result: Result) -> str:
    return with_digits(result.checkpoint.sha256, result.checkpoint.name)


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
