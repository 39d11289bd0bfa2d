"""One cell of the scoreboard in a process of its own: checkpoint x task x seed -> one result file.

Started by `kdep_benchmarks.jobs.local` with a JSON description; whatever it prints goes to the cell's log.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdep.models.checkpoint import Checkpoint, LoadError
from kdep.models.outline import gmacs, parameters
from kdep.models.weights import open_checkpoint
from kdep.run.device import join
from kdep.run.folder import provenance_of_code
from kdep_benchmarks.data.cards import Dataset, fingerprint, paths
from kdep_benchmarks.jobs.memory import halve, is_out_of_memory
from kdep_benchmarks.results import CheckpointCard, Outcome, Protocol, Result, TaskCard, write_result
from kdep_benchmarks.tasks.task import Task
from kdep_benchmarks.tasks.training_state import tidy

OUT_OF_MEMORY = 4  # exit code
GRACE = 5.0  # seconds between the end of the suite's process and that of a cell which has not ended by itself


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one process measures.

    Attributes:
        name: under which the results in the folder know these weights, where it is not the checkpoint's own.
        data_fingerprint, data_stamp: of the data set, as the suite found it; see `data_stamp`.
        halved: why half the batch is tried, of a cell that did not fit into memory.
    """

    spec: str
    arch: str | None
    task: Task
    seed: int
    device: str
    results: Path
    force: bool = False
    name: str | None = None
    data_fingerprint: str | None = None
    data_stamp: str | None = None
    halved: str = ""

    def to_json(self) -> str:
        """A description that `from_json` reads in another process."""
        return json.dumps(dataclasses.asdict(self), default=str, indent=1)

    @staticmethod
    def from_json(text: str) -> "Cell":
        """Read what `to_json` wrote."""
        content = json.loads(text)
        task = content.pop("task")
        dataset = task.pop("dataset")
        dataset = Dataset(**{**dataset, "root": Path(dataset["root"]), "classes": tuple(dataset["classes"])})
        return Cell(**{**content, "results": Path(content["results"]), "task": Task(dataset=dataset, **task)})


def run_kind(kind: str) -> Callable[..., Outcome]:
    """The function that measures a kind of task; OpenMMLab is imported only for the kinds that need it."""
    if kind == "segment":
        from kdep_benchmarks.openmmlab.segment import run_segment

        return run_segment
    if kind == "detect":
        from kdep_benchmarks.openmmlab.detect import run_detect

        return run_detect
    if kind == "fewshot":
        from kdep_benchmarks.tasks.fewshot import run_fewshot

        return run_fewshot
    if kind in ("dense-linear", "dense-knn"):
        from kdep_benchmarks.tasks.dense.segment import run_dense_knn, run_dense_linear

        return {"dense-linear": run_dense_linear, "dense-knn": run_dense_knn}[kind]
    if kind == "box":
        from kdep_benchmarks.tasks.dense.box import run_box

        return run_box
    from kdep_benchmarks.tasks import classify

    return {"knn": classify.run_knn, "linear": classify.run_linear, "finetune": classify.run_finetune}[kind]


def measure(cell: Cell) -> Result:
    """Run the task and put the result together."""
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    checkpoint = open_checkpoint(cell.spec, arch=cell.arch)
    checkpoint = dataclasses.replace(checkpoint, name=cell.name or checkpoint.name)
    device = join(cell.device).device
    protocol = protocol_of(cell.task)
    work_dir = work_folder(cell, checkpoint.identity)
    work_dir.mkdir(parents=True, exist_ok=True)
    task, said = halve(cell.task) if cell.halved else (cell.task, {})
    outcome = run_kind(task.kind)(checkpoint, task, seed=cell.seed, work_dir=work_dir, device=device)
    memory = {"out_of_memory": {"because": cell.halved, **said}} if cell.halved else {}
    own = provenance_of_code()
    return Result(
        checkpoint=describe(checkpoint),
        settings=cell.task.plain_settings,
        task=TaskCard(cell.task.name, cell.task.kind, cell.task.family, cell.task.dataset.name),
        protocol=protocol,
        data_fingerprint=fingerprint_now(cell),
        seed=cell.seed,
        status="ok",
        started=started.isoformat(timespec="seconds"),
        metrics=outcome.metrics,
        counts=outcome.counts,
        chosen=outcome.chosen | memory,
        curves=outcome.curves,
        load=outcome.load,
        cost=cost(checkpoint, device, time.perf_counter() - clock) | outcome.cost,
        versions={key: value for key, value in own.items() if key != "commit"} | toolbox_versions(),
        commit=own["commit"],
    )


def work_folder(cell: Cell, identity: str) -> Path:
    """Where a cell keeps what it needs before its result is written."""
    return cell.results / identity[:8] / cell.task.name / str(protocol_of(cell.task)) / f"seed{cell.seed}.work"


def fingerprint_now(cell: Cell) -> str:
    """The suite's fingerprint, as long as the data set's stamp is what it was then; else it is computed anew."""
    dataset = cell.task.dataset
    if cell.data_fingerprint is not None and data_stamp(dataset) == cell.data_stamp:
        return cell.data_fingerprint
    return fingerprint(dataset)


def data_stamp(dataset: Dataset) -> str:
    """Times and sizes of the set's lists and packs, and times of all its folders, for a fraction of a fingerprint.

    Another stamp is no other data, but other data has another stamp: adding, removing or renaming a file changes its
    folder's time. An image overwritten in place does not; the next suite's fingerprint finds it by its size.
    """
    found = []
    for path in sorted(set(paths(dataset))):
        found += [path, *(Path(folder) for folder, _, _ in os.walk(path, followlinks=True))]
    marks = ((path.stat(), path) for path in found)
    lines = [f"{path}|{mark.st_size}|{mark.st_mtime_ns}|{mark.st_ctime_ns}" for mark, path in marks]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def protocol_of(task: Task) -> Protocol:
    """The rules of a task."""
    return Protocol(task.protocol, task.version, task.budget)


def describe(checkpoint: Checkpoint) -> CheckpointCard:
    """What the board says of a checkpoint."""
    source = checkpoint.provenance
    kind = source.get("kind", "other")
    teacher = source.get("teacher", {})
    summary = {
        "role": kind if kind in ("student", "random", "supervised", "teacher") else "other",
        "tap": checkpoint.tap,
        "source": source.get("source"),
        "method": source.get("method"),
        "teacher": teacher_name(teacher.get("source") if isinstance(teacher, dict) else teacher),
        "pretrain_data": source.get("data", {}).get("source"),
        "pretrain_fingerprint": source.get("data", {}).get("fingerprint"),
        "images_seen": source.get("images_seen"),
        "pretrain_epochs": source.get("config", {}).get("optim", {}).get("epochs"),
        "pretrain_seed": source.get("config", {}).get("seed"),
        "pretrain_commit": source.get("commit"),
    }
    if checkpoint.identity != checkpoint.sha256:
        summary["weights_sha256"] = checkpoint.sha256
    known = {key: value for key, value in summary.items() if value is not None}
    return CheckpointCard(checkpoint.name, checkpoint.identity, checkpoint.arch, parameters(checkpoint.arch), known)


def teacher_name(source: str | list[str] | None) -> str | None:
    """One text for one teacher or several."""
    return " + ".join(source) if isinstance(source, list) else source


def cost(checkpoint: Checkpoint, device: torch.device, seconds: float) -> dict[str, Any]:
    """What a cell has cost, and what the backbone costs (parameters, multiply-adds at 224 px)."""
    if device.type == "cuda":
        peak, name = torch.cuda.max_memory_allocated(device) / 2**20, torch.cuda.get_device_name(device)
    else:
        peak, name = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, f"cpu x{torch.get_num_threads()}"
    return {
        "seconds": round(seconds, 2),
        "peak_memory_mb": round(peak),
        "device": name,
        "params_m": round(parameters(checkpoint.arch) / 1e6, 2),
        "gmacs": round(gmacs(checkpoint.arch), 3),
    }


def toolbox_versions() -> dict[str, str]:
    """Versions of the OpenMMLab packages that this process has imported."""
    names = ("mmengine", "mmcv", "mmseg", "mmdet")
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def leave_when_told() -> None:
    """Let SIGTERM unwind the stack, so that half-written files are removed."""

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def end_with_suite() -> None:
    """Leave when the suite's process is gone, however it went: it alone holds the other end of standard input."""

    def watch() -> None:
        os.read(0, 1)  # returns at the end of the pipe; nothing is ever written to it
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(path: str, *, of_suite: bool = False) -> int:
    """Measure the cell described in a file; exit code 3 where weights did not load, 4 out of memory, 1 otherwise.

    Args:
        path: cell.in.json of the cell's folder.
        of_suite: end when standard input does; the process leads a group of its own.
    """
    leave_when_told()
    if of_suite:
        end_with_suite()
    cell = Cell.from_json(Path(path).read_text())
    try:
        result = measure(cell)
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log of the cell is this process's stderr
        return 3
    except Exception as error:
        if is_out_of_memory(error):
            traceback.print_exc()
            return OUT_OF_MEMORY
        if not isinstance(error, ValueError):
            raise
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - likewise
        return 1
    with contextlib.suppress(FileExistsError):  # another suite in the same folder was first; its result stands
        write_result(result, cell.results, force=cell.force)
    tidy(work_folder(cell, result.checkpoint.sha256))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], of_suite="--of-suite" in sys.argv[2:]))
