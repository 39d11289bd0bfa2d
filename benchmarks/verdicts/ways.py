"""Decide which scores share a column: of one protocol, task, kind, data set version, settings, batch and precision."""

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
        kind: of the task; another kind may have had the task's name before.
        settings: the task's settings as JSON.
        variant: what the machine changed: `half-batch` after an out-of-memory retry, a precision below float32.
    """

    protocol: Protocol
    task: str
    kind: str
    data_fingerprint: str
    settings: str = "{}"
    variant: str = ""


def way_of(result: Result) -> Way:
    """Return how a finished result was measured; of failed ones see `ways_of`."""
    task, settings = result.task, result.settings_text
    return Way(result.protocol, task.name, task.kind, result.data_fingerprint, settings, _variant(result))


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
    """Name columns after their task, plus `@kind`, `@fingerprint`, `@s-digest` or `@half-batch` where they are needed.

    Kind, fingerprint of the data and digest of the settings are added only where they differ: kind and settings within
    one protocol, the data anywhere. The variant is always added.
    """
    ways = set(ways)
    named = {}
    for way in ways:
        label = way.task
        if len(_kinds_beside(way, ways)) > 1:
            label += f"@{way.kind}"
        if len({other.data_fingerprint for other in ways if other.task == way.task}) > 1:
            label += f"@{way.data_fingerprint[:6]}"
        if len(_settings_beside(way, ways)) > 1:
            label += f"@s-{hashlib.sha256(way.settings.encode()).hexdigest()[:6]}"
        named[way] = label + (f"@{way.variant}" if way.variant else "")
    return named


def describe_settings(way: Way, ways: Iterable[Way]) -> str:
    """Say how a way's kind and settings differ from the others of its protocol and task; empty if there is one only.

    Settings are compared within one kind and one version of the data.
    """
    ways = set(ways)
    others = [json.loads(text) for text in _settings_beside(way, ways)]
    own = json.loads(way.settings)
    names = sorted({name for settings in others for name in settings})
    differing = [name for name in names if any(s.get(name) != own.get(name) for s in others)]
    said = [f"kind {way.kind}"] * (len(_kinds_beside(way, ways)) > 1)
    return ", ".join(said + [f"{name} {_short(own.get(name, 'not set'))}" for name in differing])


def _variant(result: Result) -> str:
    # Half the batch changes a score only where BatchNorm sees it: training, which then accumulates twice as often.
    halved = "accumulate" in (result.chosen.get("out_of_memory") or {})
    precision = result.chosen.get("precision", "float32")
    return "@".join(["half-batch"] * halved + [precision] * (precision != "float32"))


def _kinds_beside(way: Way, ways: Iterable[Way]) -> set[str]:
    return {other.kind for other in ways if (other.protocol, other.task) == (way.protocol, way.task)}


def _settings_beside(way: Way, ways: Iterable[Way]) -> set[str]:
    key = replace(way, settings="", variant="")
    return {other.settings for other in ways if replace(other, settings="", variant="") == key}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
