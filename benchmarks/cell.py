"""One cell of the scoreboard in a process of its own: checkpoint x task x seed -> one result file.

Started by `benchmarks.transfer` with a JSON description; whatever it prints goes to the cell's log.
"""

import contextlib
import dataclasses
import datetime
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.datasets import Dataset, fingerprint
from benchmarks.outline import gmacs, parameters
from benchmarks.results import CheckpointCard, Outcome, Protocol, Result, TaskCard, write_result
from benchmarks.tasks import Task
from kdep.checkpoint import Checkpoint, LoadError
from kdep.device import join
from kdep.run import provenance_of_code
from kdep.weights import open_checkpoint


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one process measures."""

    spec: str
    arch: str | None
    task: Task
    seed: int
    device: str
    results: Path
    force: bool = False

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
        from benchmarks.openmmlab.segment import run_segment

        return run_segment
    if kind == "detect":
        from benchmarks.openmmlab.detect import run_detect

        return run_detect
    if kind == "fewshot":
        from benchmarks.fewshot import run_fewshot

        return run_fewshot
    from benchmarks import classify

    return {"knn": classify.run_knn, "linear": classify.run_linear, "finetune": classify.run_finetune}[kind]


def measure(cell: Cell) -> Result:
    """Run the task and put the result together."""
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    checkpoint = open_checkpoint(cell.spec, arch=cell.arch)
    device = join(cell.device).device
    protocol = protocol_of(cell.task)
    work_dir = cell.results / checkpoint.sha256[:8] / cell.task.name / str(protocol) / f"seed{cell.seed}.work"
    work_dir.mkdir(parents=True, exist_ok=True)
    outcome = run_kind(cell.task.kind)(checkpoint, cell.task, seed=cell.seed, work_dir=work_dir, device=device)
    own = provenance_of_code()
    return Result(
        checkpoint=describe(checkpoint),
        task=TaskCard(cell.task.name, cell.task.kind, cell.task.family, cell.task.dataset.name),
        protocol=protocol,
        data_fingerprint=fingerprint(cell.task.dataset),
        seed=cell.seed,
        status="ok",
        started=started.isoformat(timespec="seconds"),
        metrics=outcome.metrics,
        counts=outcome.counts,
        chosen=outcome.chosen,
        curves=outcome.curves,
        load=outcome.load,
        cost=cost(checkpoint, device, time.perf_counter() - clock),
        versions={key: value for key, value in own.items() if key != "commit"} | toolbox_versions(),
        commit=own["commit"],
    )


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
        "teacher": teacher.get("source") if isinstance(teacher, dict) else teacher,
        "pretrain_data": source.get("data", {}).get("source"),
        "images_seen": source.get("images_seen"),
        "pretrain_seed": source.get("config", {}).get("seed"),
        "pretrain_commit": source.get("commit"),
    }
    known = {key: value for key, value in summary.items() if value is not None}
    return CheckpointCard(checkpoint.name, checkpoint.sha256, checkpoint.arch, parameters(checkpoint.arch), known)


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


def main(path: str) -> int:
    """Measure the cell described in a file; exit code 3 where weights did not load, 1 for what else can go wrong."""
    cell = Cell.from_json(Path(path).read_text())
    try:
        result = measure(cell)
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the log of the cell is this process's stderr
        return 3
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - likewise
        return 1
    with contextlib.suppress(FileExistsError):  # another suite in the same folder was first; its result stands
        write_result(result, cell.results, force=cell.force)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
