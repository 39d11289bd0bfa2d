"""One cell of the scoreboard, checkpoint x task x seed, and `run_cell`, which does everything that a cell needs.

`run_cell` takes the cell's lock, measures in a child process (`kdep_benchmarks.jobs.measure`), retries once with half
the batch when memory ran out, and writes the result or the failure. It can be called from any process or machine that
sees the results folder and the data.
"""

import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdep.files import look_anew, write_bytes, write_text
from kdep_benchmarks.data.checks.contents import Contents
from kdep_benchmarks.jobs.engines.engine import Slot
from kdep_benchmarks.jobs.engines.process import Ended, last_lines, run_module
from kdep_benchmarks.jobs.locks import remove_parts, try_lock
from kdep_benchmarks.kinds import POOLED
from kdep_benchmarks.result import CellKey, CheckpointCard, Protocol, Result, TaskCard
from kdep_benchmarks.results import read_result, remove_other_answers, write_result
from kdep_benchmarks.tasks.progress import clear_progress, write_progress
from kdep_benchmarks.tasks.task import Task

MEASURE = "kdep_benchmarks.jobs.measure"
WEIGHTS_DO_NOT_LOAD, OUT_OF_MEMORY = 3, 4  # exit codes of the child
NO_OOM_EVENT = "killed by signal 9; the kernel counted no out-of-memory kill, so it was not tried with half the batch"


@dataclass(frozen=True)
class Cell:
    """What to measure.

    Attributes:
        spec, arch: open the checkpoint; see `kdep.models.weights.open_checkpoint`.
        checkpoint: its entry in the result; the weights that open must have its sha256.
        task: with the settings of the full budget.
        seed: of the task.
        device: auto, cpu, cuda or cuda:1.
        results: the results folder.
        data_fingerprint: of the data set when the run was planned.
        contents: what is known of its test images.
        force: measure again where a result is there.
        timeout: seconds that an attempt may take; None for no limit.
        halved: why this attempt uses half the batch; empty for the first attempt.
    """

    spec: str
    arch: str | None
    checkpoint: CheckpointCard
    task: Task
    seed: int
    device: str
    results: Path
    data_fingerprint: str = ""
    contents: Contents = Contents()
    force: bool = False
    timeout: float | None = None
    halved: str = ""

    @property
    def key(self) -> CellKey:
        """Identity of its result."""
        protocol = str(protocol_of(self.task))
        return CellKey(self.checkpoint.sha256, self.task.name, protocol, self.data_fingerprint, self.seed)

    @property
    def path(self) -> Path:
        """File of the result."""
        return self.key.path(self.results)

    @property
    def work(self) -> Path:
        """Folder of what the cell keeps until its result is written."""
        return self.path.with_suffix(".work")

    @property
    def log(self) -> Path:
        """File with the output of its attempts."""
        return self.path.with_suffix(".log")

    @property
    def features(self) -> tuple[str, str, Any, Any] | None:
        """Equal for cells that read the same features; None where no features are extracted."""
        if self.task.kind not in POOLED:
            return None
        size = self.task.settings.get("size", 224)
        return self.checkpoint.sha256, self.data_fingerprint, size, self.task.settings.get("resize") or size


@dataclass(frozen=True)
class Status:
    """How `run_cell` ended.

    Attributes:
        state: done, failed, stopped, or busy: another process holds the cell's lock.
        text: scores of a finished cell, reason of a failed one.
        code: exit code of the child process, 0 when done.
        seconds: that it took.
    """

    state: str
    text: str = ""
    code: int = 0
    seconds: float = 0.0


def protocol_of(task: Task) -> Protocol:
    """The protocol under which a task's results are stored."""
    return Protocol(task.protocol, task.version, task.budget)


def run_cell(cell: Cell, slot: Slot) -> Status:
    """Measure one cell and write its result or its failure, unless another process does or did.

    Args:
        cell: what to measure.
        slot: threads and device for it, and the event that stops it.
    """
    began = time.monotonic()
    with try_lock(cell.work / "lock") as held:
        if not held:
            return Status("busy")
        look_anew(cell.path.parent)  # the suite that held the lock may be on another machine
        if cell.path.exists() and not cell.force:
            return already_done(cell, "  (by another suite)")
        remove_parts(cell.work)
        remove_parts(cell.path.parent, f".seed{cell.seed}.*.part")
        cell.log.unlink(missing_ok=True)
        try:
            cell, ended = attempts(cell, slot)
        finally:
            clear_progress(cell.work)
        seconds = time.monotonic() - began
        if slot.stop.is_set():
            return Status("stopped", code=ended.code, seconds=seconds)
        if ended.code == 0:
            return Status("done", scores(cell), seconds=seconds)
        text = "\n".join(filter(None, [last_lines(cell.log), f"    {ended.reason}" if ended.reason else ""]))
        write_result(failure(cell, ended.code, text, seconds), cell.results)
        return Status("failed", f"FAILED with exit code {ended.code}, see {cell.log}\n{text}", ended.code, seconds)


def seen_from_here(cell: Cell) -> Status | None:
    """Look at a cell that was busy: it still is, or another process has written its result; None where it is free."""
    with try_lock(cell.work / "lock") as held:
        if not held:
            return Status("busy")
        look_anew(cell.path.parent)
        if cell.path.exists() and not cell.force:
            return already_done(cell, "  (by another suite)")
    return None


def already_done(cell: Cell, said: str = "") -> Status:
    """How a cell ended whose result is there, with what to say of it: failed where it is of another measurement."""
    try:
        check_same_measurement(cell, read_result(cell.path))
    except ValueError as error:
        return Status("failed", f"FAILED: {error}", 1)
    return Status("done", scores(cell) + said)


def check_same_measurement(cell: Cell, known: Result) -> None:
    """Raise a ValueError where a finished result at the cell's place is of something else than the cell.

    It is of other weights whose sha256 begins alike, of other data, another network, another kind or other settings.
    """
    if known.checkpoint.sha256 != cell.checkpoint.sha256:
        raise ValueError(
            f"{cell.path}: the result of other weights ({known.checkpoint.sha256[:16]}), whose sha256 begins with the "
            f"same 8 digits as that of {cell.spec} ({cell.checkpoint.sha256[:16]}); use another --results folder"
        )
    if known.data_fingerprint != cell.data_fingerprint:
        raise ValueError(
            f"{cell.path}: measured on other data than now lies in {cell.task.dataset.root}; "
            "use another --results folder, or measure every checkpoint again with --force"
        )
    if known.checkpoint.arch != cell.checkpoint.arch:
        raise ValueError(f"{cell.path}: these weights were measured as {known.checkpoint.arch}, not {cell.spec}")
    remedy = (
        "rename the task or raise its version, use another --results folder, or measure everything again with --force"
    )
    if known.task.kind != cell.task.kind:
        raise ValueError(f"{cell.path}: measured as {known.task.kind}, and the task is now {cell.task.kind}; {remedy}")
    before, now = known.settings, cell.task.plain_settings
    if before != now:
        name = min(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        raise ValueError(
            f"{cell.path}: measured with other settings than the task has now ({name}: {before.get(name)}, now "
            f"{now.get(name)}); {remedy}"
        )


def run_and_return_files(cell: Cell, slot: Slot) -> tuple[Status, dict[str, bytes]]:
    """`run_cell` for a machine that does not share the results folder; returns the files for `keep_files` as well.

    A result that an earlier command left there, of another measurement, is measured again, and not returned.
    """
    try:
        if cell.path.exists():
            check_same_measurement(cell, read_result(cell.path))
        stale = False
    except ValueError:
        cell, stale = replace(cell, force=True), True
    status = run_cell(cell, slot)
    if status.state == "busy":
        return status, {}
    files = [cell.log, cell.key.path(cell.results, "failed")]
    if not stale or status.state == "done":  # the result last: none is without its answers
        beside = (f"seed{cell.seed}.answers-*.npz", f"seed{cell.seed}.sheet.*")
        files += [path for pattern in beside for path in cell.path.parent.glob(pattern)] + [cell.path]
    files = [path for path in files if path.is_file()]
    return status, {str(path.relative_to(cell.results)): path.read_bytes() for path in files}


def keep_files(cell: Cell, files: Mapping[str, bytes]) -> None:
    """Write what `run_and_return_files` returned; a result that another suite has finished here meanwhile stays."""
    if not files or (cell.path.is_file() and not cell.force):
        return
    for name, content in files.items():
        path = cell.results / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)
    if cell.path.is_file():
        remove_other_answers(cell.path)
    failed = cell.key.path(cell.results, "failed")
    if str(failed.relative_to(cell.results)) not in files:
        failed.unlink(missing_ok=True)


def lost(cell: Cell, reason: str) -> Status:
    """How a cell ended whose engine lost it: as its result says, else it failed."""
    with try_lock(cell.work / "lock") as held:
        if not held:
            return Status("busy")
        clear_progress(cell.work)
        look_anew(cell.path.parent)  # a node may have written the result before the job was lost
        if cell.path.exists() and not cell.force:
            return already_done(cell)
        write_result(failure(cell, 1, reason, 0.0), cell.results)
        return Status("failed", f"FAILED: {reason}", 1)


def attempts(cell: Cell, slot: Slot) -> tuple[Cell, Ended]:
    """Run the child once, and once more with half the batch if memory ran out; return the last attempt and its end."""
    from kdep_benchmarks.jobs.memory import oom_kills

    kills = oom_kills()
    ended = attempt(cell, slot)
    why = out_of_memory(ended, oom_kills() > kills)
    if why and not slot.stop.is_set():
        cell = replace(cell, halved=why)
        ended = attempt(cell, slot)
    if ended.code == -signal.SIGKILL and not ended.reason and oom_kills() == kills:
        ended = ended._replace(reason=NO_OOM_EVENT)
    return cell, ended


def attempt(cell: Cell, slot: Slot) -> Ended:
    """Measure in a child process."""
    write_text(cell.work / "cell.in.json", TypeAdapter(Cell).dump_json(cell, indent=1).decode())
    write_progress(cell.work, "half the batch" if cell.halved else "starting", began=time.time())
    return run_module(MEASURE, [str(cell.work / "cell.in.json")], cell.log, slot, timeout=cell.timeout)


def out_of_memory(ended: Ended, oom_kill: bool) -> str:
    """How memory ran out; empty where it did not. A SIGKILL counts only together with the kernel's own count."""
    if ended.reason:
        return ""
    if ended.code == OUT_OF_MEMORY:
        return "out of memory"
    return "killed by the kernel, out of memory" if ended.code == -signal.SIGKILL and oom_kill else ""


def read_cell(path: Path) -> Cell:
    """Read the file that `attempt` wrote."""
    return TypeAdapter(Cell).validate_json(path.read_text())


def scores(cell: Cell) -> str:
    """The first scores of a finished cell."""
    result = read_result(cell.path)
    halved = result.chosen.get("out_of_memory")
    said = f"  (half the batch: {halved['because']})" if halved else ""
    return "  ".join(f"{name} {value:.2f}" for name, value in list(result.metrics.items())[:3]) + said


def failure(cell: Cell, code: int, text: str, seconds: float) -> Result:
    """The result of a failed cell, a row on the board that says so."""
    task = cell.task
    began = datetime.fromtimestamp(time.time() - seconds, timezone.utc)
    return Result(
        checkpoint=cell.checkpoint,
        task=TaskCard(task.name, task.kind, task.family, task.dataset.name),
        protocol=protocol_of(task),
        data_fingerprint=cell.data_fingerprint,
        seed=cell.seed,
        status="failed",
        started=began.isoformat(timespec="seconds"),
        error={"exit_code": code, "log": text} | ({"halved": cell.halved} if cell.halved else {}),
        settings=task.plain_settings,
    )
