"""Time what kdep adds to mmengine's Runner in segmentation and detection: hooks and the loading of weights."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from kdep.models.weights import open_checkpoint
from kdep_benchmarks.tasks.task import load_task
from tools.speed.clock import in_child
from tools.speed.row import Row, Setting
from tools.speed.transfer.starts import scenes

TASKS = {"segment": "scenes-segment", "detect": "scenes-detect"}
ITERATIONS, SHARE = 25, 0.02


def segment(setting: Setting) -> list[Row]:
    """Time mmsegmentation's Runner with and without kdep's hooks."""
    return [overhead(setting, "segment")]


def detect(setting: Setting) -> list[Row]:
    """Time mmdetection's Runner with and without kdep's hooks."""
    return [overhead(setting, "detect")]


def overhead(setting: Setting, kind: str) -> Row:
    """Alternate equal runs of a task on the scenes: same configuration, seed and data, with our hooks and without."""
    name, what = f"{kind}-overhead", f"{TASKS[kind]}: an iteration with kdep's hooks"
    toolbox = {"segment": "mmseg", "detect": "mmdet"}[kind]
    if find_spec(toolbox) is None:
        return Row(name, what, "the bare mmengine Runner", skipped=f"{toolbox} is not installed")
    iterations = 6 if setting.quick else ITERATIONS
    changed = {"iterations": iterations}
    if setting.quick:
        changed |= {"batch_size": 2, **({"crop": 32} if kind == "segment" else {"scale": [48, 48]})}
    # In a child process: the toolboxes fill the output, and keep loggers and registries.
    found = in_child(
        "tools.speed.transfer.toolboxes:measure",
        task=TASKS[kind],
        data=str(scenes(setting)),
        changed=changed,
        student="random:test_resnet" if setting.quick else "random:resnet18",
        work=str(setting.work / kind),
        device=str(setting.device),
        repeats=setting.repeats,
    )
    batch = found["batch_size"]
    ours, theirs, once = found["ours"], found["bare"], found["once_seconds"]
    return Row(
        name,
        what,
        "the bare mmengine Runner, same configuration, seed and data",
        unit="ms/iteration",
        ours=1000 * ours,
        theirs=1000 * theirs,
        ratio=theirs / ours,
        target=1 / (1 + SHARE),
        batch=batch,
        images=iterations * batch,
        note=f"inside our hooks, measured directly: {100 * found['hook_share']:.2f} % of an iteration; once per cell "
        f"{once:.1f} s, for checking every weight and the backbone's maps before, and saving after",
        detail=found,
    )


def measure(
    task: str, data: str, changed: dict[str, Any], student: str, work: str, device: str, repeats: int
) -> dict[str, Any]:
    """In the child process: the alternating runs."""
    from tools.speed.transfer.overhead import alternate

    known = load_task(task, Path(data))
    known = dataclasses.replace(known, settings=known.settings | changed)
    found = alternate(open_checkpoint(student), known, Path(work), torch.device(device), repeats=repeats)
    return {**found, "batch_size": known.settings["batch_size"]}
