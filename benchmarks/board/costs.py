"""What a row of the board has cost to measure, and what its backbone costs to run."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kdep_benchmarks.board.table import Row
from kdep_benchmarks.tasks.task import SCHEDULED


@dataclass(frozen=True)
class Cost:
    """None where nothing is known; fields are columns of leaderboard.csv, in this order.

    Attributes:
        params_m: parameters of the backbone, millions.
        gmacs: multiply-adds at 224 px, billions.
        load_coverage: the least share of tensors loaded, percent; below 100 there would be no row.
        runs: finished runs; rows of unequal numbers of runs have unequal wall time.
        seconds: wall time of those runs, added up.
        peak_memory_mb: the most that any of them used, MiB.
        images_per_second: of the frozen backbone, median over the probes that extracted features; None where the runs
            were on several kinds of device.
        training_images_per_second: likewise of fine-tuning.
        device: the kind of all runs; None where there are several.
    """

    params_m: float
    gmacs: float | None
    load_coverage: float | None
    runs: int
    seconds: float | None
    peak_memory_mb: float | None
    images_per_second: float | None
    training_images_per_second: float | None
    device: str | None


def cost_of(row: Row) -> Cost:
    """Add up a row's finished runs."""
    finished = [result for result in row.results if result.status == "ok"]
    costs = [result.cost for result in finished]
    coverage = [result.load["coverage"] for result in finished if "coverage" in result.load]
    device = _agreed(cost.get("device") for cost in costs)
    trained = [result.cost for result in finished if result.task.kind == "finetune"]
    probed = [result.cost for result in finished if result.task.kind not in SCHEDULED]
    seconds, memory = _known(costs, "seconds"), _known(costs, "peak_memory_mb")
    return Cost(
        params_m=row.checkpoint.params / 1e6,
        gmacs=_agreed(cost.get("gmacs") for cost in costs),
        load_coverage=min(coverage, default=None),
        runs=len(finished),
        seconds=sum(seconds) if seconds else None,
        peak_memory_mb=max(memory, default=None),
        images_per_second=_median(probed, "images_per_second") if device else None,
        training_images_per_second=_median(trained, "images_per_second") if device else None,
        device=device,
    )


def _median(costs: Iterable[dict[str, Any]], name: str) -> float | None:
    known = _known(costs, name)
    return statistics.median(known) if known else None


def _known(costs: Iterable[dict[str, Any]], name: str) -> list[float]:
    return [cost[name] for cost in costs if cost.get(name) is not None]


def _agreed(values: Iterable[Any]) -> Any:
    known = {value for value in values if value is not None}
    return known.pop() if len(known) == 1 else None
