"""The way a score was measured: protocol, task, data, settings. Scores of different ways never stand in one column."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from kdep_benchmarks.results import Protocol, Result

SHOWN = 40  # letters of a setting's value in a note


@dataclass(frozen=True)
class Way:
    """What must be equal for scores to be averaged or compared. `settings`: as JSON; None where nobody wrote them."""

    protocol: Protocol
    task: str
    data_fingerprint: str
    settings: str | None = None


def way_of(result: Result) -> Way:
    """How a result was measured."""
    return Way(result.protocol, result.task.name, result.data_fingerprint, settings_text(result.settings))


def is_measured(result: Result, way: Way) -> bool:
    """Whether a result was measured in this way; its settings are put into words only where the task agrees."""
    return result.task.name == way.task and way_of(result) == way


def settings_text(settings: dict[str, Any] | None) -> str | None:
    """Settings as one text, equal for equal settings."""
    return None if settings is None else json.dumps(settings, sort_keys=True)


def with_known_settings(results: Iterable[Result]) -> list[Result]:
    """Give results of older versions, which hold no settings, those of their task where others agree on them.

    Where no other result, or several that differ, say the settings, they stay unknown: a way of its own.
    """
    results = list(results)
    known: dict[Way, dict[str, dict[str, Any]]] = {}
    for result in results:
        if result.settings is not None:
            known.setdefault(_without_settings(result), {})[settings_text(result.settings)] = result.settings
    joined = []
    for result in results:
        candidates = list(known.get(_without_settings(result), {}).values())
        alone = result.settings is None and len(candidates) == 1
        joined.append(replace(result, settings=candidates[0]) if alone else result)
    return joined


def labels(ways: Iterable[Way]) -> dict[Way, str]:
    """Names for columns: the task's, with `@fingerprint` where its data differ and `@s-digest` where settings do.

    Settings count as different within one protocol: each protocol has its own.
    """
    ways = set(ways)
    named = {}
    for way in ways:
        label = way.task
        if len({other.data_fingerprint for other in ways if other.task == way.task}) > 1:
            label += f"@{way.data_fingerprint[:6]}"
        if len(_siblings(way, ways)) > 1:
            label += f"@s-{_digest(way.settings)}"
        named[way] = label
    return named


def describe_settings(way: Way, ways: Iterable[Way]) -> str:
    """In what the settings of a way differ from those of others of its protocol, task and data; else empty."""
    others = [other.settings for other in _siblings(way, ways)]
    if len(others) < 2:
        return ""
    if way.settings is None:
        return "settings not recorded"
    known = [json.loads(text) for text in others if text is not None]
    own = json.loads(way.settings)
    names = sorted({name for settings in known for name in settings})
    differing = [name for name in names if any(s.get(name) != own.get(name) for s in known)]
    return ", ".join(f"{name} {_short(own.get(name, 'not set'))}" for name in differing) or "settings recorded"


def _siblings(way: Way, ways: Iterable[Way]) -> set[Way]:
    return {other for other in ways if replace(other, settings=None) == replace(way, settings=None)}


def _without_settings(result: Result) -> Way:
    return replace(way_of(result), settings=None)


def _digest(settings: str | None) -> str:
    return "unknown" if settings is None else hashlib.sha256(settings.encode()).hexdigest()[:6]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
