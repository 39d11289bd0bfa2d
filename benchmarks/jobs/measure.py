"""Measure one cell: open the checkpoint, run the task, write the result. The child process of `run_cell`.

python -m kdep_benchmarks.jobs.measure CELL.JSON; what it prints goes to the cell's log. Exit code 3: the weights do not
load; 4: out of memory; 1: any other failure.
"""

import contextlib
import dataclasses
import datetime
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from kdep.cli import sentence
from kdep.guard import printable
from kdep.models.backbones.outline import gmacs, parameters
from kdep.models.checkpoints.checkpoint import Checkpoint, LoadError
from kdep.models.weights import open_checkpoint
from kdep.run.device import without_tf32
from kdep.run.distributed.processes import join
from kdep.run.provenance import provenance_of_code
from kdep_benchmarks.answers.metrics import constant_score
from kdep_benchmarks.answers.store import Answers
from kdep_benchmarks.data.cards import Dataset, fingerprint
from kdep_benchmarks.data.checks.masks import unscored
from kdep_benchmarks.data.checks.readable import refuse_unreadable
from kdep_benchmarks.jobs.cell import OUT_OF_MEMORY, WEIGHTS_DO_NOT_LOAD, Cell, protocol_of, read_cell
from kdep_benchmarks.jobs.memory import halve, is_out_of_memory, oom_kills
from kdep_benchmarks.kinds import POOLED, PROBES
from kdep_benchmarks.result import Outcome, Result, TaskCard
from kdep_benchmarks.results import write_result
from kdep_benchmarks.tasks.task import config_sha256
from kdep_benchmarks.tasks.training_state import tidy


def run_kind(kind: str) -> Callable[..., Outcome]:
    """The function that measures a kind of task; OpenMMLab is imported only for the kinds that need it."""
    if kind in ("segment", "segment-frozen"):
        from kdep_benchmarks.openmmlab.tasks.segment import run_segment

        return run_segment
    if kind in ("detect", "detect-frozen"):
        from kdep_benchmarks.openmmlab.tasks.detect import run_detect

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


def measure_cell(cell: Cell) -> tuple[Result, Answers]:
    """Run the task; return its result and the answers per test image.

    Raises:
        ValueError: the checkpoint, the user's own config or the data are not those that were planned, or the task or
            its data have a mistake.
        LoadError: weights that do not load completely.
    """
    started, clock = datetime.datetime.now(datetime.timezone.utc), time.perf_counter()
    checkpoint = open_checkpoint(cell.spec, arch=cell.arch)
    if checkpoint.identity != cell.checkpoint.sha256:
        raise ValueError(f"{cell.spec} has changed since the run was planned; start the same command again")
    if (config := config_sha256(cell.task.settings)) and config != cell.task.config_sha256:
        raise ValueError(
            f"{cell.task.settings['config']} has changed since the run was planned; start the same command again"
        )
    checkpoint = dataclasses.replace(checkpoint, name=cell.checkpoint.name)
    device = join(cell.device).device
    if cell.task.kind not in POOLED:  # those extract the features of test before anything is fitted
        refuse_unreadable(cell.task, cell.results / ".opened")
    task, said = halve(cell.task) if cell.halved else (cell.task, {})
    # Frozen features and what is fitted to them are compared to more digits than TF32 has.
    with without_tf32() if task.kind in PROBES else contextlib.nullcontext():
        outcome = run_kind(task.kind)(checkpoint, task, seed=cell.seed, work_dir=cell.work, device=device)
    if (data := fingerprint(task.dataset)) != cell.data_fingerprint:
        raise ValueError(f"data set {task.dataset.name} has changed since the run was planned; start the command again")
    facts = facts_of(outcome.answers, task.dataset)
    prefix = checkpoint.provenance.get("prefix")  # of a file of other tools
    memory = {"out_of_memory": {"because": cell.halved, **said}} if cell.halved else {}
    own = provenance_of_code()
    result = Result(
        checkpoint=cell.checkpoint,
        settings=cell.task.plain_settings,
        task=TaskCard(cell.task.name, cell.task.kind, cell.task.family, cell.task.dataset.name),
        protocol=protocol_of(cell.task),
        data_fingerprint=data,
        seed=cell.seed,
        status="ok",
        started=started.isoformat(timespec="seconds"),
        metrics=outcome.metrics,
        counts=outcome.counts | {name: getattr(cell.contents, name) for name in ("leaked", "repeated", "effective")},
        chosen=outcome.chosen | facts | memory,
        curves=outcome.curves,
        load=outcome.load | ({"prefix": printable(prefix)} if prefix else {}),
        cost=cost(checkpoint, device, time.perf_counter() - clock) | outcome.cost,
        versions={key: value for key, value in own.items() if key != "commit"} | toolbox_versions(),
        commit=own["commit"],
        test_images=cell.contents.sketch,
    )
    return result, outcome.answers


def facts_of(answers: Answers, dataset: Dataset) -> dict[str, Any]:
    """What the test split gives a score without any network, and what of it no score is about."""
    facts: dict[str, Any] = {"floor": constant_score(answers)}
    if answers.form == "areas":
        facts |= unscored(dataset, answers.truth.sum(axis=0, dtype=np.int64))
    return facts


def cost(checkpoint: Checkpoint, device: torch.device, seconds: float) -> dict[str, Any]:
    """Cost of the cell, and of the backbone (parameters, multiply-adds)."""
    if device.type == "cuda":
        peak, name = torch.cuda.max_memory_allocated(device) / 2**20, torch.cuda.get_device_name(device)
    else:
        peak, name = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, f"cpu x{torch.get_num_threads()}"
    return {
        "seconds": round(seconds, 2),
        "peak_memory_mb": round(peak),
        "device": name,
        "params_m": round(parameters(checkpoint.arch) / 1e6, 2),
        "gmacs": None if (counted := gmacs(checkpoint.arch)) is None else round(counted, 3),
    }


def toolbox_versions() -> dict[str, str]:
    """Versions of the OpenMMLab packages that this process has imported."""
    names = ("mmengine", "mmcv", "mmseg", "mmdet")
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def main(path: str) -> int:
    """Measure the cell in a file, write its result, and return the exit code."""
    cell, kills = read_cell(Path(path)), oom_kills()
    try:
        # `run_cell` holds the cell's own lock. This one also covers the moment in which a child outlives its parent.
        with FileLock(cell.work / "measure.lock"):
            result, answers = measure_cell(cell)
            with contextlib.suppress(FileExistsError):  # a result that is there stays
                write_result(result, cell.results, answers=answers, force=cell.force)
            tidy(cell.work)
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - standard error is the cell's log
        return WEIGHTS_DO_NOT_LOAD
    except Exception as error:
        if is_out_of_memory(error, kills_before=kills):
            traceback.print_exc()
            return OUT_OF_MEMORY
        said = sentence(error)
        if not said:
            raise
        print(f"error: {said}", file=sys.stderr)  # noqa: T201 - standard error is the cell's log
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
