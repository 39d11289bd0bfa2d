"""The run folder: resolved config, statistics, log, run checkpoint, loss curve.

config.yaml    the resolved configuration; a run is only resumed under the same one
statistics.pt  moments of the teacher's features, with the axes that the run reads
log.jsonl      one line per logging step
run.pt         everything needed to go on bit for bit: student, optimizer, position, random state
unreadable.txt images that could not be decoded, with the reason
student.pth    the result; its presence means that the run is done
"""

import fcntl
import json
import logging
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from kdep.config import Config, as_yaml, differences
from kdep.data.views import Batch
from kdep.files import read, save, write_atomically
from kdep.method.statistics import Statistics
from kdep.run.trackers import check_installed

logger = logging.getLogger("kdep")


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


def take_lock(folder: Path, advice: str) -> IO[str]:
    """Hold a folder until the returned handle closes, and clear away what a killed process was writing into it.

    Raises:
        ValueError: another process holds it.
    """
    handle = (folder / ".lock").open("w")
    try:
        # Not flock: a killed run's loading processes, which live on for some seconds, would inherit and hold it.
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"{folder}: another process is at work in it; {advice}") from error
    for part in folder.rglob(".*.part"):
        part.unlink()
    return handle


class RunFolder:
    """Files of one run; refuses another configuration, a missing tracker and a second process at the same time."""

    def __init__(self, config: Config, *, is_first: bool = True) -> None:
        for name in config.log.trackers:  # here, not in Config: that of a run made elsewhere is read here too
            check_installed(name)
        self.path = config.runs / config.name
        self.path.mkdir(parents=True, exist_ok=True)
        self._bound = self.path / "config.yaml"
        self.student, self.checkpoint = self.path / "student.pth", self.path / "run.pt"
        self.log, self.unreadable_list = self.path / "log.jsonl", self.path / "unreadable.txt"
        self._lock = take_lock(self.path, "take another name (name=...)") if is_first else None
        resolved = config.model_dump(mode="json")
        if self._bound.exists():
            changed = differences(yaml.safe_load(self._bound.read_text()), resolved)
            if changed:
                raise ValueError(
                    f"{self.path} was started with another configuration and cannot go on with this one:\n  "
                    + "\n  ".join(changed)
                    + f"\nTake another name (name=...), or remove {self.path} to start anew"
                )
        self._text = as_yaml(config)
        self.unreadable = self._known_unreadable()

    def bind(self) -> None:
        """Keep the configuration, from now on the only one of this run: not before it is known to be possible."""
        if self._lock is not None and not self._bound.exists():
            write_atomically(self._bound, lambda part: part.write_text(self._text))

    def diverged(self, what: str) -> DivergedError:
        """Say what happened, what is left, and what to try."""
        kept = f"{self.checkpoint} holds the last good state" if self.checkpoint.exists() else "nothing saved yet"
        return DivergedError(
            f"{what}; {kept}. Try a lower optim.lr, optim.warmup_epochs=1, optim.clip=1.0, precision=float32, "
            "teacher.precision=float32, or a larger scale.temperature, under another name (name=...)"
        )

    def load_statistics(self, *, teacher: str, data: str) -> Statistics | None:
        """Statistics of an earlier start of this run, None where there are none.

        Those of a start that came to nothing, before `bind`, may be another configuration's: then None too.

        Raises:
            ValueError: they belong to another teacher or other images.
        """
        path = self.path / "statistics.pt"
        if not path.exists():
            return None
        statistics = Statistics(**read(path))
        for what, own, now in (("teacher", statistics.teacher, teacher), ("images", statistics.data, data)):
            if own != now:
                if not self._bound.exists():
                    return None
                raise ValueError(f"{path}: made with other {what} ({own[:8]}, now {now[:8]}); remove it, or the run")
        return statistics

    def save_statistics(self, statistics: Statistics) -> None:
        """Keep them for a resumed run and for whoever wants to look."""
        save(statistics.as_dict(), self.path / "statistics.pt")

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last good state, None at the start; the log is cut back to it."""
        if not self.checkpoint.exists():
            self._cut_log(0)
            return None
        state = read(self.checkpoint)
        self._cut_log(state["step"])
        return state

    def _cut_log(self, step: int) -> None:
        if self._lock is None or not self.log.exists():
            return
        kept = [record for record in self.read_log() if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.log, lambda part: part.write_text(text))

    def read_log(self) -> list[dict[str, Any]]:
        """Records so far; a last line that a kill cut short is left out."""
        records = []
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def append_log(self, record: dict[str, Any]) -> None:
        """Add a line to log.jsonl."""
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _known_unreadable(self) -> set[str]:
        if not self.unreadable_list.exists():
            return set()
        return {line.partition("\t")[0] for line in self.unreadable_list.read_text().splitlines()}

    def note_unreadable(self, batch: Batch, step: int | None, *, limit: float, images: int) -> None:
        """Count and log the images of a batch that could not be decoded.

        Raises:
            ValueError: more than `limit` (a share) of all `images`, or no image of a training step's batch is readable.
        """
        for name, reason in batch.unreadable:
            if name in self.unreadable:
                continue
            self.unreadable.add(name)
            logger.warning("unreadable image skipped: %s (%s)", name, reason)
            with self.unreadable_list.open("a") as file:
                file.write(f"{name}\t{reason}\n")
        if len(self.unreadable) > limit * images:
            raise ValueError(
                f"{len(self.unreadable)} of {images} images are unreadable, more than data.max_unreadable={limit} "
                f"allows; they are listed in {self.unreadable_list}"
            )
        if batch.images is None and step is not None:
            raise ValueError(f"step {step}: no image of the batch is readable; see {self.unreadable_list}")

    def draw_loss(self) -> None:
        """Write loss.png: loss and learning rate over images seen."""
        records = self.read_log()
        if not records:
            return
        from matplotlib.figure import Figure

        images = [record["images"] for record in records]
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(images, [record["loss"] for record in records], color="#2563eb", label="loss")
        axes.set(xlabel="images seen", ylabel="loss", title=self.path.name)
        axes.grid(alpha=0.3)
        rate = axes.twinx()
        rate.plot(images, [record["lr"] for record in records], color="#9ca3af", linestyle="--", label="learning rate")
        rate.set_ylabel("learning rate")
        figure.legend(loc="outside upper right")
        write_atomically(self.path / "loss.png", lambda part: figure.savefig(part, dpi=120, format="png"))


def provenance_of_code() -> dict[str, str]:
    """Commit and versions, as far as they can be known."""
    import platform
    import subprocess
    from importlib.metadata import PackageNotFoundError, version

    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = "unknown"
    try:
        own = version("kdep")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "commit": commit,
        "kdep": own,
        "torch": str(torch.__version__),  # its own class, a subclass of str, would make the file unsafe to open
        "timm": version("timm"),
        "python": platform.python_version(),
    }
