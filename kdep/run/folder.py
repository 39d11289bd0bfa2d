"""Read and write the files of a run folder.

config.yaml    the resolved configuration; a run is only resumed with the same one
statistics.pt  statistics of the teacher's features, with the axes that the run reads
log.jsonl      one line per logging step
run.pt         the run checkpoint, for a bit-exact resume: student, optimizer, position, random states, processes
unreadable.txt images that could not be decoded, with the reason
loss.png       loss, learning rate and scores of a probe over images seen
student.pth    the result; if it exists, the run is done

Of several processes the first alone reads and writes these files. The others are told what they hold.
"""

import functools
import json
import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from filelock import FileLock, Timeout
from pydantic import Field

from kdep.config import Config, as_yaml, differences
from kdep.data.loading.training import source_of
from kdep.data.loading.views import Batch
from kdep.data.sources.root import located
from kdep.files import read, save, write_text
from kdep.guard import printable
from kdep.method.statistics import Statistics, parse_statistics
from kdep.models.checkpoints.checkpoint import Checkpoint, parse_student
from kdep.run.distributed.processes import Process, computed_by, refuse_other_processes
from kdep.run.log import read_log
from kdep.run.trackers import check_installed
from kdep.settings import Stored, validate
from kdep.yaml_file import read_mapping

logger = logging.getLogger("kdep")

T = TypeVar("T")

PATIENCE = 8.0  # seconds: longer than a process lives on when the one that started it was killed


class RunCheckpoint(Stored):
    """The content of run.pt; the states are checked where they are loaded."""

    step: Annotated[int, Field(ge=0, lt=2**63)]
    images_seen: Annotated[int, Field(ge=0, lt=2**63)]
    sources: dict[str, str]
    student: dict[str, Any]
    head: dict[str, Any] = {}
    criterion: dict[str, Any] = {}
    average: dict[str, Any] = {}
    optimizer: dict[str, Any]
    gradients: dict[str, Any]
    random: list[Any]
    processes: dict[str, Any]
    watch: dict[str, Any]


def by_the_first(method: Callable[..., T]) -> Callable[..., T]:
    """Run a method of a `RunFolder` in the first process, and tell the others what it returned."""

    @functools.wraps(method)
    def told(self: "RunFolder", *given: Any) -> T:
        return self.process.told(lambda: method(self, *given))

    return told


class DivergedError(FloatingPointError):
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
    for place in (folder, *folder.glob("view[0-9]*"), folder / "raw"):  # not below: other runs may lie there
        for part in place.glob(".*.part"):
            part.unlink()
    return lock


class RunFolder:
    """The files of one run, locked by its first process. Every process makes this object and calls its methods.

    Raises:
        ValueError: the run has another configuration or other processes, a tracker is not installed, another process
            holds the lock, or the run was begun in the folder of another machine.
    """

    def __init__(self, config: Config, process: Process | None = None) -> None:
        self.process = process or Process(torch.device("cpu"))
        self.path = config.runs / config.name
        self._bound = self.path / "config.yaml"
        self.student, self.checkpoint = self.path / "student.pth", self.path / "run.pt"
        self.log, self.unreadable_list = self.path / "log.jsonl", self.path / "unreadable.txt"
        self._lock: FileLock | None = None
        self._text, self.processes = as_yaml(config), computed_by(config, self.process)
        self._refuse_a_run_elsewhere()
        self.unreadable = self._open(config)
        self._unshared: list[tuple[str, str]] = []
        self._limit = config.data.max_unreadable

    @by_the_first
    def _open(self, config: Config) -> set[str]:
        """Lock and check the folder; return the images known to be unreadable."""
        for name in config.log.trackers:  # not in Config, which also reads runs of other machines
            check_installed(name)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self.path, "choose another name (name=...)")
        if changed := self._changed(config.model_dump(mode="json")):
            raise ValueError(
                f"{self.path} was started with another configuration and cannot be resumed with this one:\n  "
                + "\n  ".join(changed)
                + f"\nChoose another name (name=...), or remove {self.path} to start again"
            )
        if not self._has_begun:
            self.unreadable_list.unlink(missing_ok=True)  # images may have been repaired, and are tried again
        return self._known_unreadable()

    @property
    def _has_begun(self) -> bool:
        """Whether the folder takes no other configuration any more, or training has left a checkpoint."""
        return self._bound.exists() or self.checkpoint.exists()

    def _changed(self, resolved: dict[str, Any]) -> list[str]:
        """What config.yaml says otherwise; where somebody removed it, what the student says that was trained here."""
        if self._bound.exists():
            return differences(read_mapping(self._bound, "configuration", "the keys of a recipe"), resolved)
        student = self._opened()
        given = None if student is None else student.provenance.get("config")
        changed = differences(given, resolved) if isinstance(given, dict) else []
        return [line for line in changed if "precision: 'auto' in the run" not in line]  # resolved when it started

    def _refuse_a_run_elsewhere(self) -> None:
        """Without a shared folder, another machine may be the first one now."""
        begun = self.process.gather((socket.gethostname(), self.student.exists() or self.checkpoint.exists()))
        for host, there in begun:
            if there and not begun[0][1]:
                raise ValueError(
                    f"{self.path} on {host} holds this run, and rank 0 is on {begun[0][0]}, where it does not: copy "
                    f"the folder there, or start so that {host} has rank 0 (the order of the machines' names)"
                )

    @by_the_first
    def is_done(self) -> bool:
        """Whether the student is there and opens. A damaged one is written again from the last run checkpoint.

        Raises:
            ValueError: it is not, and other processes made the last run checkpoint.
        """
        done = self._opened() is not None
        if not done and self.checkpoint.exists():
            refuse_other_processes(self._read_checkpoint()["processes"], self.processes, self.path)
        return done

    def _opened(self) -> Checkpoint | None:
        if not self.student.exists():
            return None
        try:
            return parse_student(read(self.student), str(self.student))
        except ValueError as error:
            again = self.checkpoint if self.checkpoint.exists() else "the beginning"
            logger.warning("%s; the student is made again, from %s", error, again)
            return None

    def warn_of_other_images(self, config: Config) -> None:
        """Say where a folder or list of images is not as long as it was for the finished student. No image is read."""
        data, student = config.data, self._opened()
        path = located(Path(data.source))
        if (
            student is None
            or data.limit is not None
            or not (path.is_dir() or (path.suffix == ".txt" and path.exists()))
        ):
            return
        before = student.provenance.get("data", {}).get("images")
        try:
            now = len(source_of(config).names)
        except ValueError as error:  # such as a stale manifest, or a folder that is empty now
            now = str(error)
        if now != before:
            logger.warning(
                "%s was trained on %s images of %s; now: %s. To train on these, choose another name (name=...)",
                *(self.student, before, data.source, now),
            )

    @by_the_first
    def bind(self) -> None:
        """Write config.yaml: from now on the folder accepts no other configuration. Call it after all checks."""
        if not self._bound.exists():
            write_text(self._bound, self._text)

    def diverged(self, what: str) -> DivergedError:
        """Make the error: what happened, which checkpoint is left, and what to change."""
        kept = f"{self.checkpoint} holds the last good state" if self.checkpoint.exists() else "nothing saved yet"
        return DivergedError(
            f"{what}; {kept}. Try a lower optim.lr, optim.warmup_epochs=1, optim.clip=1.0, precision=float32, "
            "teacher.precision=float32, or smaller targets (a smaller scale.factor; with scale.name=pts a larger "
            "scale.temperature), under another name (name=...)"
        )

    @by_the_first
    def refuse_other_sources(self, sources: Mapping[str, str]) -> None:
        """Refuse to resume a training with another teacher or other images than it began with.

        Args:
            sources: hashes of what the run is made from: teacher and images.

        Raises:
            ValueError: run.pt is of others; names them.
        """
        if self.checkpoint.exists():
            self._refuse_others(self.checkpoint, self._read_checkpoint()["sources"], sources)

    @by_the_first
    def load_statistics(self, sources: Mapping[str, str]) -> Statistics | None:
        """Read the statistics of an earlier start of this run; None if there are none.

        Those of another teacher or of other images are ignored where nothing was trained with them yet, as are those of
        a start that failed before it wrote its configuration: the next may count other images.

        Raises:
            ValueError: the run was trained with statistics of another teacher or of other images.
        """
        path = self.path / "statistics.pt"
        if not path.exists() or not self._has_begun:
            return None
        statistics = parse_statistics(read(path), str(path), remedy="remove it; it is computed again")
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

    @by_the_first
    def refuse_other_axes(self, bank: Path) -> None:
        """Raise a ValueError if training has begun, with other axes than those of a bank."""
        if self.checkpoint.exists():
            raise ValueError(
                f"{bank}: has other axes than {self.path / 'statistics.pt'}, with which the run began: another bank of "
                f"the same teacher and images. Put the first one back, choose another name (name=...), or remove "
                f"{self.path} to start again"
            )

    @by_the_first
    def save_statistics(self, statistics: Statistics) -> None:
        """Write statistics.pt."""
        save(statistics.as_dict(), self.path / "statistics.pt")

    @by_the_first
    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read run.pt and remove later lines from the log; None if there is no checkpoint."""
        if not self.checkpoint.exists():
            self._cut_log(0)
            return None
        state = self._read_checkpoint()
        self._cut_log(state["step"])
        return state

    def _read_checkpoint(self) -> dict[str, Any]:
        known = validate(RunCheckpoint, read(self.checkpoint), str(self.checkpoint), remedy=self.begin_again)
        return dict(known)

    @property
    def begin_again(self) -> str:
        """What to do where run.pt is damaged."""
        return f"remove {self.checkpoint} to train this run from the beginning"

    def _cut_log(self, step: int) -> None:
        if not self.log.exists():
            return
        kept = [record for record in read_log(self.log) if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(self.log, text)

    def last_loss(self) -> float | None:
        """Mean loss between the last two lines of the log; None without a log."""
        records = read_log(self.log)
        return records[-1]["loss"] if records else None

    def append_log(self, record: dict[str, Any]) -> None:
        """Add a line to log.jsonl."""
        with self.log.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _known_unreadable(self) -> set[str]:
        if not self.unreadable_list.exists():
            return set()
        lines = self.unreadable_list.read_text(encoding="utf-8", errors="replace").splitlines()
        return {line.partition("\t")[0] for line in lines}

    def note_unreadable(self, batch: Batch, step: int | None, *, images: int) -> None:
        """Record and log the images of this process's batch that could not be decoded.

        Raises:
            ValueError: more than `data.max_unreadable` of all `images` are, or a training step has no image.
        """
        for raw, reason in batch.unreadable:
            name = printable(raw)  # one line of the list
            if name not in self.unreadable:
                self.unreadable.add(name)
                self._unshared.append((name, printable(reason)))
                logger.warning("unreadable image skipped: %s (%s)", name, reason)
        if self.process.world == 1:
            self.share_unreadable(images=images)
        if batch.images is None and step is not None:
            raise ValueError(f"step {step}: no image of the batch is readable; see {self.unreadable_list}")

    def share_unreadable(self, *, images: int) -> None:
        """Collect the unreadable images of all processes, and write them down.

        Raises:
            ValueError: more than `data.max_unreadable` of all `images` are.
        """
        found = dict(entry for own in self.process.gather(self._unshared) for entry in own)
        self._unshared = []
        self.unreadable |= found.keys()
        if found and self.process.is_first:
            with self.unreadable_list.open("a") as file:
                file.writelines(f"{name}\t{reason}\n" for name, reason in found.items())
        if len(self.unreadable) > self._limit * images:
            raise ValueError(
                f"{len(self.unreadable)} of {images} images are unreadable, more than "
                f"data.max_unreadable={self._limit} allows; see {self.unreadable_list}. Repair or remove them, or "
                "raise data.max_unreadable"
            )
