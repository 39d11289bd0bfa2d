"""Send a run's metrics to TensorBoard, Weights & Biases or MLflow.

W&B and MLflow are extras and find their servers by their own environment variables. The run folder keeps the id of the
tracker's run in wandb.id or mlflow.id, so that a resumed run continues it. Steps that are repeated after a resume are
sent once.
"""

import io
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from kdep.config import Config, flatten
from kdep.files import write_text

logger = logging.getLogger("kdep")


class Tracker(Protocol):
    """The interface of a tracker."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Log the metrics of one step. Steps ascend."""

    def close(self, *, failed: bool) -> None:
        """Finish the tracker's run as done or failed."""


class TensorBoard:
    """Write event files to tensorboard/ in the run folder.

    Each step is written at once: torch's SummaryWriter has a thread, which prints a traceback if it cannot write.

    Raises:
        OSError: the disk is full, or the folder may not be written; names the file.
    """

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"  # read in this order
        self._path = folder / "tensorboard" / name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("xb", buffering=0)  # nothing is left that closing would have to write
        self._write(Event(file_version="brain.Event:2", step=step + 1))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=step + 1))  # later steps are not shown

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(summary=Summary(value=scalars), step=step))

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._file.close()

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()
        RecordWriter(record := io.BytesIO()).write(event.SerializeToString())
        left = record.getvalue()
        try:
            while left:  # a disk that is nearly full takes a part
                left = left[self._file.write(left) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error


class WandB:
    """Log to a W&B run in project WANDB_PROJECT (default kdep); with WANDB_MODE=offline to files in wandb/ only.

    Raises:
        ValueError: W&B is not logged in, or its server refuses the run.
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
                allow_val_change=True,  # a resume may change keys without effect on the result
            )
        except wandb.Error as error:
            raise ValueError(
                f"log.trackers: wandb: {error}. Use `wandb login` or WANDB_MODE=offline, or rm {own}"
            ) from error

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        if step >= self._run.starting_step:
            self._run.log(values, step=step)

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))


class MLflow:
    """Log to experiment MLFLOW_EXPERIMENT_NAME (default kdep) at MLFLOW_TRACKING_URI (default mlflow.db).

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
            raise ValueError(f"{where}. MLFLOW_TRACKING_URI names the server; rm {own} for a new MLflow run") from error
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
        """Call the client; if the server fails, stop logging to it and let the run continue."""
        import mlflow

        try:
            say()
        except mlflow.MlflowException as error:
            logger.warning("mlflow: logging stopped (%s); the run continues, see log.jsonl", error)
            self._told = float("inf")


TRACKERS: dict[str, Callable[[Config, Path, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def open_trackers(config: Config, folder: Path, step: int) -> list[Tracker]:
    """Open the trackers in log.trackers for a run that continues after `step`.

    Raises:
        ValueError: a tracker refuses the run.
    """
    return [TRACKERS[name](config, folder, step) for name in dict.fromkeys(config.log.trackers)]


def check_installed(package: str) -> None:
    """Raise a ValueError if an optional package is not installed. Does not import it, which takes seconds."""
    found = find_spec(package)
    if found is None or found.origin is None:  # no origin: a folder of that name, such as W&B's wandb/
        raise ValueError(f"{package} is not installed: pip install '.[{package}]'")


def _kept(file: Path, make: Callable[[], str]) -> str:
    """Read a text file; make it first if it is missing."""
    if not file.exists():
        text = make()
        write_text(file, text)
    return file.read_text()
