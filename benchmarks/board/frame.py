"""Turn results into pandas DataFrames, and DataFrames into CSV files that are safe to open in a spreadsheet."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from itertools import chain, count
from typing import Any

import numpy as np
import pandas as pd

from kdep.guard import printable
from kdep_benchmarks.result import Result
from kdep_benchmarks.verdicts.names import board_names
from kdep_benchmarks.verdicts.ways import labels, ways_of

ABSENT = "-"  # in tables for people; CSV files have an empty cell, which pandas reads as a missing number
IMAGES = ("train", "val", "test", "leaked", "repeated", "overlap", "overlap_exact")
FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001 - spreadsheets read full-width signs too
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)


def results_frame(results: Iterable[Result], names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return one row per result and metric, with everything known about the run: the content of results.csv.

    A failed run has one row without a metric. `column` is the result's column on the leaderboard: only scores of one
    `protocol`, `version`, `budget` and `column` may be averaged. `main` marks the metric on the leaderboard:

        frame = results_frame(read_results("results"))
        frame[frame.main == True].groupby(["name", "column"]).value.agg(["mean", "std", "count"])

    Versions have the names of their libraries; one that is called like another column gets `_2`.

    Args:
        results: of any checkpoints.
        names: sha256 -> name of the checkpoint's row [those of a board of these results].
    """
    results = list(results)
    ways = ways_of(results)
    named = labels(ways)
    if names is None:
        names = board_names((result.checkpoint.sha256, result.checkpoint.name) for result in results)
    facts = [
        {"name": names[result.checkpoint.sha256]} | _before_metric(result) | {"column": named[way]}
        for result, way in zip(results, ways, strict=True)
    ]
    more = pd.DataFrame([_after_metric(result) for result in results], dtype=object)
    scores = pd.DataFrame(
        [
            (at, metric, value, None if metric is None else metric == result.main_metric)
            for at, result in enumerate(results)
            for metric, value in (result.metrics or {None: None}).items()
        ],
        columns=["at", "metric", "value", "main"],
    ).set_index("at")
    known = pd.DataFrame(facts, dtype=object).join(scores).join(more)
    libraries = pd.DataFrame([result.versions for result in results], dtype=object)
    libraries.columns = free_names(libraries.columns, taken={*known.columns, "started"})
    started = pd.DataFrame({"started": [result.started for result in results]}, dtype=object)
    return typed(known.join(libraries).join(started).reset_index(drop=True))


def free_names(wanted: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return each name, or with `_2`, `_3` and so on where it is taken or stands before."""
    taken, found = set(taken), []
    for name in wanted:
        free = next(one for one in chain([name], (f"{name}_{number}" for number in count(2))) if one not in taken)
        taken.add(free)
        found.append(free)
    return found


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give columns of whole numbers and of truth values a type that knows missing values, so that 3 stays 3."""
    types = {"integer": "Int64", "boolean": "boolean", "floating": "float", "mixed-integer-float": "float"}
    kinds = {name: pd.api.types.infer_dtype(frame[name].astype(object), skipna=True) for name in frame}
    kinds |= {
        name: "text"
        for name, kind in kinds.items()
        if kind == "integer" and any(abs(value) >= 2**63 for value in frame[name].dropna())
    }
    return frame.astype({name: types.get(kind, frame[name].dtype) for name, kind in kinds.items()}).infer_objects()


def csv_text(frame: pd.DataFrame) -> str:
    """Write a frame as CSV: nothing for a missing value, ten decimals, no cell that a spreadsheet runs as a formula."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(csv_cell(name) for name in frame)
    writer.writerows(zip(*(_csv_column(values) for _, values in frame.items()), strict=True))
    return file.getvalue()


def _csv_column(values: pd.Series) -> list[Any]:
    if pd.api.types.is_float_dtype(values.dtype):
        values = values.round(10)  # 62.3, not 62.300000000000004
    elif not pd.api.types.is_integer_dtype(values.dtype):
        texts = {value: csv_cell(value) for value in values.dropna().unique()}
        return [texts.get(value, "") for value in values.tolist()]
    return values.astype(object).where(values.notna(), "").tolist()


def csv_cell(value: Any) -> str:
    """Return the text of one cell. A leading apostrophe stops a spreadsheet from running `=HYPERLINK(...)`."""
    text = str(value).lower() if isinstance(value, bool | np.bool_) else printable(value)
    return "'" + text if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def _before_metric(result: Result) -> dict[str, Any]:
    card, task, protocol = result.checkpoint, result.task, result.protocol
    facts = {
        name: v
        for name, v in card.summary.items()
        if isinstance(v, str | int | float) and name not in ("role", "baseline")
    }
    return {
        "sha256": card.sha256,
        "role": card.role,
        "arch": card.arch,
        **{name if name.startswith("pretrain_") else f"pretrain_{name}": value for name, value in facts.items()},
        "task": task.name,
        "kind": task.kind,
        "family": task.family,
        "dataset": task.dataset,
        "protocol": protocol.name,
        "version": protocol.version,
        "budget": protocol.budget,
        "data_fingerprint": result.data_fingerprint,
        "seed": result.seed,
        "status": result.status,
    }


def _after_metric(result: Result) -> dict[str, Any]:
    cost, edges = result.cost, [value for name, value in result.chosen.items() if name.endswith("at_edge")]
    return {
        **{f"images_{role}": result.counts.get(role) for role in IMAGES},
        "chosen": json.dumps(result.chosen, ensure_ascii=False) if result.chosen else None,
        "halved": (result.chosen.get("out_of_memory") or {}).get("because"),
        "at_edge": any(edges) if edges else None,
        "load_coverage": result.load.get("coverage"),
        "params_m": result.checkpoint.params / 1e6,
        **{name: cost.get(name) for name in ("gmacs", "images_per_second", "seconds", "peak_memory_mb", "device")},
        "error": next(reversed(result.error.get("log", "").strip().splitlines()), None),
        "exit_code": result.error.get("exit_code"),
        "commit": result.commit,
    }
