"""Decide which scores share a column: those of one protocol, task, data set version, settings, batch and precision."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from kdep_benchmarks.result import Protocol, Result

SHOWN = 40  # letters of a setting's value in a note


@dataclass(frozen=True)
class Way:
    """What must be equal before two scores are averaged or compared.

    Attributes:
        settings: the task's settings as JSON.
        variant: what the machine changed: `half-batch` after an out-of-memory retry, a precision below float32.
    """

    protocol: Protocol
    task: str
    data_fingerprint: str
    settings: str = "{}"
    variant: str = ""


def way_of(result: Result) -> Way:
    """Return how a finished result was measured; of failed ones see `ways_of`."""
    return Way(result.protocol, result.task.name, result.data_fingerprint, result.settings_text, _variant(result))


def ways_of(results: Iterable[Result]) -> list[Way]:
    """Return the way of each result.

    A failed result does not record its batch and precision. It takes those of the finished results that are measured
    alike in all else: of the same checkpoint, or of any where that has none.
    """
    results = list(results)
    ways = [way_of(result) for result in results]
    known: dict[tuple[Way, str], set[str]] = {}  # variants by the rest of the way and the checkpoint, "" for any
    for result, way in zip(results, ways, strict=True):
        if result.status == "ok":
            rest = replace(way, variant="")
            known.setdefault((rest, result.checkpoint.sha256), set()).add(way.variant)
            known.setdefault((rest, ""), set()).add(way.variant)
    for place, (result, way) in enumerate(zip(results, ways, strict=True)):
        rest = replace(way, variant="")
        found = known.get((rest, result.checkpoint.sha256)) or known.get((rest, ""), set())
        if found and way.variant not in found:
            ways[place] = replace(way, variant=min(found))
    return ways


def labels(ways: Iterable[Way]) -> dict[Way, str]:
    """Name columns after their task, plus `@fingerprint`, `@s-digest` or `@half-batch` where they are needed.

    The fingerprint of the data and the digest of the settings are added only where they differ: the settings within
    one protocol, the data anywhere. The variant is always added.
    """
    ways = set(ways)
    named = {}
    for way in ways:
        label = way.task
        if len({other.data_fingerprint for other in ways if other.task == way.task}) > 1:
            label += f"@{way.data_fingerprint[:6]}"
        if len(_settings_beside(way, ways)) > 1:
            label += f"@s-{hashlib.sha256(way.settings.encode()).hexdigest()[:6]}"
        named[way] = label + (f"@{way.variant}" if way.variant else "")
    return named


def describe_settings(way: Way, ways: Iterable[Way]) -> str:
    """Say how a way's settings differ from the others of its protocol, task and data; empty if there is one only."""
    others = [json.loads(text) for text in _settings_beside(way, ways)]
    own = json.loads(way.settings)
    names = sorted({name for settings in others for name in settings})
    differing = [name for name in names if any(s.get(name) != own.get(name) for s in others)]
    return ", ".join(f"{name} {_short(own.get(name, 'not set'))}" for name in differing)


def _variant(result: Result) -> str:
    # Half the batch changes a score only where BatchNorm sees it: training, which then accumulates twice as often.
    halved = "accumulate" in (result.chosen.get("out_of_memory") or {})
    precision = result.chosen.get("precision", "float32")
    return "@".join(["half-batch"] * halved + [precision] * (precision != "float32"))


def _settings_beside(way: Way, ways: Iterable[Way]) -> set[str]:
    key = replace(way, settings="", variant="")
    return {other.settings for other in ways if replace(other, settings="", variant="") == key}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
