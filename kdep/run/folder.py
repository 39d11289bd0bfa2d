"""Read and write the files of a run folder.

config.yaml    the resolved configuration; a run is only resumed with the same one
statistics.pt  statistics of the teacher's features, with the axes that the run reads
log.jsonl      one line per logging step
run.pt         the run checkpoint, for a bit-exact resume: student, optimizer, position, random state
unreadable.txt images that could not be decoded, with the reason
loss.png       loss, learning rate and scores of a probe over images seen
student.pth    the result; if it exists, the run is done
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from kdep.config import Config, as_yaml, differences
from kdep.data.views import Batch
from kdep.files import read, save, write_atomically
from kdep.guard import printable
from kdep.method.statistics import Statistics
from kdep.models.checkpoint import parse_student
from kdep.run.trackers import check_installed
from kdep.yaml_file import parse

logger = logging.getLogger("kdep")
PROBES = {"probe_knn": "kNN top-1", "probe_dense_knn": "dense-knn mIoU"}  # keys of the log, and what they are

PATIENCE = 8.0  # seconds: longer than a process lives on when the one that started it was killed


class DivergedError(RuntimeError):
    """The loss became NaN or infinite."""


def take_lock(folder: Path, advice: str) -> FileLock:
    """Lock a folder for this process, and remove the partial files of a killed one.

    A process below a killed study takes a few seconds to end; a study that is started again at once waits for it.
    The lock is released by `release`, when it is garbage-collected, and when the process ends or is killed.

    Raises:
        ValueError: another process holds the lock.
    """
    # A singleton: a run that failed in a notebook can be repeated while its traceback still holds the lock.
    lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        logger.info("%s is in use by another process; waiting up to %.0f s for its end", folder, PATIENCE)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise ValueError(f"{folder} is in use by another process; {advice}") from error
    for part in folder.rglob(".*.part"):
        part.unlink()
    return lock


class RunFolder:
    """The files of one run, locked for this process.

    Raises:
        ValueError: the run has another configuration, a tracker is not installed, or another process holds the lock.
    """

    def __init__(self, config: Config, *, is_first: bool = True) -> None:
        for name in config.log.trackers:  # not in Config, which also reads runs of other machines
            check_installed(name)
        self.path = config.runs / config.name
        self.path.mkdir(parents=True, exist_ok=True)
        self._bound = self.path / "config.yaml"
        self.student, self.checkpoint = self.path / "student.pth", self.path / "run.pt"
        self.log, self.unreadable_list = self.path / "log.jsonl", self.path / "unreadable.txt"
        self._lock = take_lock(self.path, "choose another name (name=...)") if is_first else None
        resolved = config.model_dump(mode="json")
        if self._bound.exists():
            changed = differences(parse(self._bound.read_text(encoding="utf-8")), resolved)
            if changed:
                raise ValueError(
                    f"{self.path} was started with another configuration and cannot be resumed with this one:\n  "
                    + "\n  ".join(changed)
                    + f"\nChoose another name (name=...), or remove {self.path} to start again"
                )
        self._text = as_yaml(config)
        self.unreadable = self._known_unreadable()

    def is_done(self) -> bool:
        """Whether the student is there and opens. A damaged one is written again from the last run checkpoint."""
        if not self.student.exists():
            return False
        try:
            parse_student(read(self.student), str(self.student))
        except ValueError as error:
            again = self.checkpoint if self.checkpoint.exists() else "the beginning"
            logger.warning("%s; the student is made again, from %s", error, again)
            return False
        return True

    def bind(self) -> None:
        """Write config.yaml: from now on the folder accepts no other configuration. Call it after all checks."""
        if self._lock is not None and not self._bound.exists():
            write_atomically(self._bound, lambda part: part.write_text(self._text))

    def diverged(self, what: str) -> DivergedError:
        """Make the error: what happened, which checkpoint is left, and what to change."""
        kept = f"{self.checkpoint} holds the last good state" if self.checkpoint.exists() else "nothing saved yet"
        return DivergedError(
            f"{what}; {kept}. Try a lower optim.lr, optim.warmup_epochs=1, optim.clip=1.0, precision=float32, "
            "teacher.precision=float32, or a larger scale.temperature, under another name (name=...)"
        )

    def refuse_other_sources(self, sources: Mapping[str, str]) -> None:
        """Refuse to resume a training with another teacher or other images than it began with.

        Args:
            sources: hashes of what the run is made from: teacher and images.

        Raises:
            ValueError: run.pt is of others; names them.
        """
        if self.checkpoint.exists():
            self._refuse_others(self.checkpoint, read(self.checkpoint).get("sources", {}), sources)

    def load_statistics(self, sources: Mapping[str, str]) -> Statistics | None:
        """Read the statistics of an earlier start of this run; None if there are none.

        Those of another teacher or of other images are ignored where nothing was trained with them yet.

        Raises:
            ValueError: the run was trained with statistics of another teacher or of other images.
        """
        path = self.path / "statistics.pt"
        if not path.exists():
            return None
        statistics = Statistics(**read(path))
        found = {"teacher": statistics.teacher, "images": statistics.data}
        if found != sources and not self.checkpoint.exists():
            return None
        self._refuse_others(path, found, sources)
        return statistics

    def _refuse_others(self, file: Path, found: Mapping[str, str], now: Mapping[str, str]) -> None:
        other = [what for what in now if found.get(what) != now[what]]
        if other:
            hashes = (f"{what} {found.get(what, 'unknown')[:8]}, now {now[what][:8]}" for what in other)
            raise ValueError(
                f"{file}: the run began with other {' and '.join(other)} ({'; '.join(hashes)}). Put the first ones "
                f"back, choose another name (name=...), or remove {self.path} to start again"
            )

    def save_statistics(self, statistics: Statistics) -> None:
        """Write statistics.pt."""
        save(statistics.as_dict(), self.path / "statistics.pt")

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read run.pt and remove later lines from the log; None if there is no checkpoint."""
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
        """Read the records of the log, without a last line that is incomplete after a kill."""
        records = []
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def last_loss(self) -> float | None:
        """Mean loss between the last two lines of the log; None without a log."""
        records = self.read_log()
        return records[-1]["loss"] if records else None

    def append_log(self, record: dict[str, Any]) -> None:
        """Add a line to log.jsonl."""
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _known_unreadable(self) -> set[str]:
        if not self.unreadable_list.exists():
            return set()
        return {line.partition("\t")[0] for line in self.unreadable_list.read_text().splitlines()}

    def note_unreadable(self, batch: Batch, step: int | None, *, limit: float, images: int) -> None:
        """Record and log the images of a batch that could not be decoded.

        Raises:
            ValueError: more than `limit` (a share) of all `images` are unreadable, or a training step has no image.
        """
        for raw, reason in batch.unreadable:
            name = printable(raw)  # one line of the list
            if name in self.unreadable:
                continue
            self.unreadable.add(name)
            logger.warning("unreadable image skipped: %s (%s)", name, reason)
            with self.unreadable_list.open("a") as file:
                file.write(f"{name}\t{printable(reason)}\n")
        if len(self.unreadable) > limit * images:
            raise ValueError(
                f"{len(self.unreadable)} of {images} images are unreadable, more than data.max_unreadable={limit} "
                f"allows; see {self.unreadable_list}"
            )
        if batch.images is None and step is not None:
            raise ValueError(f"step {step}: no image of the batch is readable; see {self.unreadable_list}")

    def draw_loss(self) -> None:
        """Write loss.png."""
        records = self.read_log()
        if not records:
            return
        from matplotlib.figure import Figure

        images = [record["images"] for record in records]
        looks = {name: [record for record in records if name in record] for name in PROBES}
        looks = {name: found for name, found in looks.items() if found}
        figure = Figure(figsize=(7, 6 if looks else 4), layout="constrained")
        axes, *below = figure.subplots(1 + bool(looks), sharex=True, squeeze=False)[:, 0]
        axes.plot(images, [record["loss"] for record in records], color="#2563eb", label="loss")
        axes.set(ylabel="loss", title=self.path.name)
        axes.grid(alpha=0.3)
        rate = axes.twinx()
        rate.plot(images, [record["lr"] for record in records], color="#9ca3af", linestyle="--", label="learning rate")
        rate.set_ylabel("learning rate")
        for (name, found), colour in zip(looks.items(), ("#059669", "#d97706"), strict=False):
            line = ([record["images"] for record in found], [record[name] for record in found])
            below[0].plot(*line, color=colour, marker="o", markersize=3, label=PROBES[name])
            below[0].set_ylabel("%")
            below[0].grid(alpha=0.3)
        (below or [axes])[0].set_xlabel("images seen")
        figure.legend(loc="outside upper right")
        write_atomically(self.path / "loss.png", lambda part: figure.savefig(part, dpi=120, format="png"))


def provenance_of_code() -> dict[str, str]:
    """Return the git commit and the versions of kdep, torch, timm and Python; `unknown` if not available."""
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
        "torch": str(torch.__version__),  # TorchVersion, a subclass of str, cannot be read with weights_only=True
        "timm": version("timm"),
        "python": platform.python_version(),
    }
