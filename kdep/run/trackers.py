"""Where a run's numbers go beside log.jsonl: TensorBoard, Weights & Biases, MLflow.

The latter two are extras, and find their servers by their own environment variables. A resumed run goes on in the same
run of theirs, whose id is kept in wandb.id or mlflow.id of the run folder; the steps since its last checkpoint, which
it takes again, are told once.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from kdep.config import Config, flatten
from kdep.files import write_atomically

logger = logging.getLogger("kdep")


class Tracker(Protocol):
    """What a journal asks of each."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Take the numbers of one step; steps ascend."""

    def close(self, *, failed: bool) -> None:
        """End, and say how the run ended."""


class TensorBoard:
    """Event files in tensorboard/."""

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandB:
    """A run of project WANDB_PROJECT, or kdep; with WANDB_MODE=offline only files, in wandb/.

    Raises:
        ValueError: not logged in, or the server does not take it.
    """

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        import wandb

        own = folder / "wandb.id"
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "kdep"),
                job_type="pretrain",
                id=_kept(own, lambda: uuid.uuid4().hex[:8]),
                resume="allow",
                name=config.name,
                dir=folder,
                config=config.model_dump(mode="json"),
                allow_val_change=True,  # keys that do not matter for the result may differ after a stop
            )
        except wandb.Error as error:
            raise ValueError(f"log.trackers: wandb: {error}. `wandb login`, WANDB_MODE=offline, or rm {own}") from error

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        if step >= self._run.starting_step:
            self._run.log(values, step=step)

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of experiment MLFLOW_EXPERIMENT_NAME, or kdep, at MLFLOW_TRACKING_URI, or in mlflow.db.

    Raises:
        ValueError: the server does not answer, or no longer has the run.
    """

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        import mlflow

        own = folder / "mlflow.id"
        known = own.exists()
        try:
            self._client = mlflow.MlflowClient()
            self._run = _kept(own, lambda: self._start(config))
            if known:
                self._client.update_run(self._run, status="RUNNING")
            told = self._client.get_metric_history(self._run, "loss")
        except mlflow.MlflowException as error:
            where = f"log.trackers: mlflow: {error}"
            raise ValueError(f"{where}. MLFLOW_TRACKING_URI names the server; rm {own} for a new run of it") from error
        self._told: float = max((metric.step for metric in told), default=0)

    def _start(self, config: Config) -> str:
        import mlflow

        experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "kdep"))
        run = self._client.create_run(experiment.experiment_id, run_name=config.name).info.run_id
        settings = flatten(config.model_dump(mode="json"))
        self._client.log_batch(run, params=[mlflow.entities.Param(key, str(value)) for key, value in settings.items()])
        return run

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        if step > self._told:
            now = int(1000 * time.time())
            metrics = [Metric(name, value, now, step) for name, value in values.items()]
            self._tell(lambda: self._client.log_batch(self._run, metrics))

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        if self._told < float("inf"):
            self._tell(lambda: self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED"))

    def _tell(self, say: Callable[[], object]) -> None:
        """Say it; a server that goes away in the middle of a run costs its charts, not the run."""
        import mlflow

        try:
            say()
        except mlflow.MlflowException as error:
            logger.warning("mlflow hears no more of this run (%s); log.jsonl goes on", error)
            self._told = float("inf")


TRACKERS: dict[str, Callable[[Config, Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def open_trackers(config: Config, folder: Path, step: int) -> list[Tracker]:
    """Open those of log.trackers for a run that goes on after `step`.

    Raises:
        ValueError: one does not let the run in.
    """
    return [TRACKERS[name](config, folder, step) for name in dict.fromkeys(config.log.trackers)]


def check_installed(package: str) -> None:
    """Raise the ValueError of an optional package that is not there; without importing it, which takes seconds."""
    found = find_spec(package)
    if found is None or found.origin is None:  # without: any folder of that name, such as W&B leaves behind
        raise ValueError(f"{package} is not installed: pip install '.[{package}]'")


def _kept(file: Path, make: Callable[[], str]) -> str:
    """The text of a file, which is made where it is not there."""
    if not file.exists():
        text = make()
        write_atomically(file, lambda part: part.write_text(text))
    return file.read_text()
