"""The rows of a board as runs of Weights & Biases or MLflow, for those who keep all their numbers there.

One run per checkpoint and protocol: what leaderboard.csv says in numbers as its summary metrics, where the weights and
the data come from as its configuration. Told again, a row replaces what it was.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdep.run.trackers import check_installed
from kdep_benchmarks.board.leaderboard import leaderboard_rows
from kdep_benchmarks.board.table import Board, Row, boards
from kdep_benchmarks.results import Result

TAG = "kdep.row"  # of an MLflow run: which row it is


@dataclass(frozen=True)
class Entry:
    """One row. `key` stays the same for the same weights under the same protocol."""

    key: str
    name: str
    protocol: str
    facts: dict[str, Any]
    scores: dict[str, float]


def publish(results: Iterable[Result], to: str, folder: Path) -> list[Entry]:
    """Tell every row; `folder` is where W&B keeps its files.

    Raises:
        ValueError: an unknown `to`, a package that is not installed, or a server that refuses.
    """
    if to not in SERVICES:
        raise ValueError(f"--to {to}: there are {', '.join(SERVICES)}")
    check_installed(to)
    found = entries(results)
    SERVICES[to](found, folder)
    return found


def entries(results: Iterable[Result]) -> list[Entry]:
    """The rows of all boards, in their order; what was not measured is left out."""
    results = list(results)
    rows = [(board, row) for board in boards(results) for row in board.rows]
    return [_entry(board, row, line) for (board, row), line in zip(rows, leaderboard_rows(results)[1], strict=True)]


def _entry(board: Board, row: Row, line: dict[str, Any]) -> Entry:
    card, protocol = row.checkpoint, str(board.protocol)
    texts = ("role", "arch", "protocol", "version", "budget", "complete", "device")
    facts = {**card.summary, "sha256": card.sha256, **{name: line[name] for name in texts}}
    facts |= {f"metric.{c.label}": c.metric for c in board.columns}
    facts |= {f"data.{c.label}": c.data_fingerprint for c in board.columns}
    facts["measured_by"] = ", ".join(sorted({result.commit for result in row.results} - {""}))
    scores = {name: float(v) for name, v in line.items() if isinstance(v, int | float) and name not in facts}
    key = hashlib.sha256(f"{card.sha256}|{protocol}".encode()).hexdigest()[:16]
    return Entry(key, card.name, protocol, {name: v for name, v in facts.items() if v is not None}, scores)


def to_wandb(found: list[Entry], folder: Path) -> None:
    """Runs of project WANDB_PROJECT, or kdep-board."""
    import wandb

    for entry in found:
        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "kdep-board"),
                job_type="board",
                group=entry.protocol,
                id=entry.key,
                resume="allow",
                name=entry.name,
                dir=folder,
                config=entry.facts,
                allow_val_change=True,
            )
        except wandb.Error as error:
            raise ValueError(f"--to wandb: {error}; `wandb login` first, or WANDB_MODE=offline") from error
        for name in set(run.summary.keys()) - set(entry.scores):
            if not name.startswith("_"):  # W&B's own
                del run.summary[name]
        run.summary.update(entry.scores)
        run.finish()


def to_mlflow(found: list[Entry], folder: Path) -> None:
    """Runs of experiment MLFLOW_EXPERIMENT_NAME, or kdep-board, at MLFLOW_TRACKING_URI."""
    import mlflow

    try:
        client = mlflow.MlflowClient()
        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "kdep-board")).experiment_id
        for entry in found:
            before = client.search_runs([experiment], f"tags.`{TAG}` = '{entry.key}'")
            run = client.create_run(experiment, tags={TAG: entry.key}, run_name=f"{entry.name} ({entry.protocol})")
            for name, value in entry.facts.items():
                client.log_param(run.info.run_id, mlflow_name(name), str(value))
            for name, value in entry.scores.items():
                client.log_metric(run.info.run_id, mlflow_name(name), value)
            client.set_terminated(run.info.run_id)
            for old in before:  # last, so that a row is there at any moment; its parameters could not be changed
                client.delete_run(old.info.run_id)
    except mlflow.MlflowException as error:
        raise ValueError(f"--to mlflow: {error}; MLFLOW_TRACKING_URI names the server") from error


def mlflow_name(name: str) -> str:
    """A name that MLflow takes: `cifar10-knn@3f2a` -> `cifar10-knn/3f2a`."""
    return re.sub(r"[^\w.\- /]", "-", name.replace("@", "/"))


SERVICES: dict[str, Callable[[list[Entry], Path], None]] = {"wandb": to_wandb, "mlflow": to_mlflow}
