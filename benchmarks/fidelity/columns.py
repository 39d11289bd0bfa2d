"""Collect what `kdep fidelity` compares: the columns of the board, naive predictors, and which pairs differ."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from kdep_benchmarks.answers.resample import joined
from kdep_benchmarks.kinds import PAIRED
from kdep_benchmarks.result import Result
from kdep_benchmarks.verdicts.difference import difference
from kdep_benchmarks.verdicts.intervals import mean
from kdep_benchmarks.verdicts.resamples import Read
from kdep_benchmarks.verdicts.ways import labels, way_of


@dataclass(frozen=True)
class Column:
    """A value per checkpoint.

    Attributes:
        name: on the board, or of a naive predictor.
        values: by the checkpoint's sha256; higher is better.
        kind: of the task; "naive" for a predictor that needs no probe.
        results: the finished results behind the values, by sha256.
    """

    name: str
    values: Mapping[str, float]
    kind: str
    results: Mapping[str, Sequence[Result]] = field(default_factory=dict)


def measured_columns(results: Iterable[Result]) -> list[Column]:
    """Columns of the board, each with the mean score over seeds of every checkpoint, in the order of their names."""
    results = [result for result in results if result.status == "ok"]
    named = labels(map(way_of, results))
    protocols = {result.protocol for result in results}
    groups: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        name = named[way_of(result)] + (f" ({result.protocol})" if len(protocols) > 1 else "")
        groups[name][result.checkpoint.sha256].append(result)
    columns = []
    for name, own in sorted(groups.items()):
        kind = next(iter(own.values()))[0].task.kind
        values = {sha: mean([result.score for result in runs]) for sha, runs in own.items()}
        columns.append(Column(name, values, kind, {sha: tuple(runs) for sha, runs in own.items()}))
    return columns


def naive_columns(results: Iterable[Result], measured: Sequence[Column]) -> list[Column]:
    """Predictors that cost nothing beside a probe: images seen, pretraining loss, and LogME of each kNN task.

    A random initialisation has seen no images. The loss is negated, since a lower one is better, and losses of
    different methods are compared as they are: the predictor is naive. LogME is of the tap that kNN chose.
    """
    cards = {result.checkpoint.sha256: result.checkpoint for result in results}
    seen = {sha: card.summary.get("images_seen", 0 if card.role == "random" else None) for sha, card in cards.items()}
    loss = {sha: card.summary.get("pretrain_loss") for sha, card in cards.items()}
    found = {
        "images seen": {sha: float(value) for sha, value in seen.items() if value is not None},
        "pretraining loss": {sha: -value for sha, value in loss.items() if value is not None},
    }
    for column in measured:
        if column.kind == "knn":
            values = {sha: mean([_logme(run) for run in runs]) for sha, runs in column.results.items()}
            found[f"LogME of {column.name}"] = {sha: value for sha, value in values.items() if not np.isnan(value)}
    return [Column(name, values, "naive") for name, values in found.items() if values]


def _logme(result: Result) -> float:
    recorded = result.curves.get(result.chosen.get("tap"), {}).get("logme")
    return recorded[0] if recorded else float("nan")


def differing(column: Column, checkpoints: Sequence[str], read: Read) -> np.ndarray:
    """Whether each two checkpoints differ on a column by the verdict of `kdep compare`: (N, N) bool, symmetric.

    Raises:
        ValueError: answers per test image are missing, two checkpoints answered other images, or the column is
            few-shot, whose verdict needs the same draws of train images.
    """
    if column.kind in PAIRED:
        raise ValueError(f"--expensive {column.name}: a few-shot column is a cheap one; take finetune, segment, detect")
    sides = [joined([read(run) for run in column.results[sha]]) for sha in checkpoints]
    if len({side.images for side in sides}) > 1:
        raise ValueError(f"{column.name}: checkpoints answered other numbers of images; measure all on the same ones")
    found = np.zeros((len(checkpoints), len(checkpoints)), bool)
    for (at, one), (to, other) in combinations(enumerate(sides), 2):
        interval = difference(one, other, column.kind)
        found[at, to] = found[to, at] = interval.verdict != "no difference"
    return found
