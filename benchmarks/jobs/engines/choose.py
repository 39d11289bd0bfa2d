"""Choose an engine by name: this machine, Slurm or Ray."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from kdep_benchmarks.jobs.engines.engine import Engine
from kdep_benchmarks.jobs.engines.local import Local, threads_for, visible_devices

ENGINES = ("local", "slurm", "ray")
PACKAGES = {"slurm": "submitit", "ray": "ray"}
# What cells and runs import, several seconds of CPU time. On a GPU each process starts anew: CUDA does not bear a fork.
IMPORTED = ("kdep.pretrain", "kdep_benchmarks.tasks.finetune", "kdep_benchmarks.tasks.dense.box")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """--engine and --engine-option."""
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="where jobs run: local, slurm or ray [local]"
    )
    parser.add_argument(
        "--engine-option",
        action="append",
        default=[],
        dest="engine_options",
        metavar="KEY=VALUE",
        help="slurm: an option of sbatch, such as partition=gpu, gpus_per_node=1, time=240 (minutes); ray: "
        "address=ray://HOST:10001, or an option of a task, such as num_gpus=1; may be given several times",
    )


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """['partition=gpu', 'time=240'] -> {'partition': 'gpu', 'time': 240}.

    Raises:
        ValueError: no KEY=VALUE.
    """
    options = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not (name and mark and value):
            raise ValueError(f"--engine-option {text}: expected KEY=VALUE, such as partition=gpu")
        # Numbers and booleans only: a partition may be called `on`, a time 4:00:00, an account 0123.
        read = yaml.safe_load(value) if value.replace(".", "", 1).isdigit() or value in ("true", "false") else value
        same = isinstance(read, bool) or str(read) == value
        options[name if name.startswith("sbatch.") else name.replace("-", "_")] = read if same else value
    return options


def choose_engine(name: str, options: Mapping[str, Any], *, jobs: int | None, device: str, folder: Path) -> Engine:
    """Make an engine.

    Args:
        name: local, slurm or ray.
        options: of the engine.
        jobs: at once; None for one per GPU of this machine, or for what a cluster's scheduler allows.
        device: on which the jobs run.
        folder: where an engine keeps its own files.

    Raises:
        ValueError: an unknown engine or option, a missing package, or a device that is not there.
    """
    if name not in ENGINES:
        raise ValueError(f"--engine {name}: there are {', '.join(ENGINES)}")
    if name == "local":
        if options:
            raise ValueError(
                f"--engine-option {next(iter(options))}: local has no options; --engine slurm and ray have"
            )
        return local_engine(jobs, device)
    if find_spec(PACKAGES[name]) is None:
        raise ValueError(f"--engine {name} needs the package {PACKAGES[name]}: pip install '.[{name}]'")
    if ":" in device:
        raise ValueError(f"--device {device}: with --engine {name} the scheduler chooses the GPU; say --device cuda")
    if name == "slurm":
        from kdep_benchmarks.jobs.engines.slurm import Slurm

        gpus = {"gpus_per_node": 1} if device == "cuda" else {}
        return Slurm(folder / ".slurm", jobs, {**gpus, **options})
    from kdep_benchmarks.jobs.engines.ray import Ray

    return Ray(jobs, device != "cpu", options)


def local_engine(jobs: int | None, device: str) -> Local:
    """Slots on this machine: their number, their share of the cores, their GPUs.

    Raises:
        ValueError: the device is not there.
    """
    from kdep.run.device import find_device  # torch, which the help does without

    forked = find_device(device) == "cpu" and sys.platform == "linux"
    devices = visible_devices(device)
    jobs = max(1, len(devices)) if jobs is None else jobs
    return Local(jobs, threads_for(jobs) if jobs > 1 else None, devices, IMPORTED if forked else ())
