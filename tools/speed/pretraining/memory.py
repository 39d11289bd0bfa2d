"""Measure host memory of pretraining from a bank of 1.28 million images: its peak, and whether it grows.

A real run of kdep in a child process, on a list of 1.28 million names and a bank of the right size. The names point to
a few photographs, and the bank's files are sparse: reading them costs what reading full ones costs, but they take no
disk. What is summed over the run's processes is the proportional set size, in which a page shared by n processes counts
1/n to each: the memory that the run needs, and it grows as copies on write do.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from kdep.bank.hashes import note_hash, seal
from kdep.bank.prepare import describe, open_bank
from kdep.bank.read import Bank, shard_path
from kdep.config import Config, parse_config
from kdep.data.loading.training import open_views
from kdep.files import save, write_atomically, write_text
from kdep.models.student import open_student
from kdep.models.teacher import open_teacher
from kdep.pretrain import pretrain
from kdep.run.distributed.processes import join
from tools.speed.clock import environment
from tools.speed.photographs import photographs
from tools.speed.row import Row, Setting

IMAGES, SECONDS, LIMIT_MB = 1_281_167, 45, 2048
QUICK = (2_000, 3)
FILES = 576
FLAT = 0.03  # largest growth between the first and the last third, as a share
EVERY = 0.25  # seconds between samples


def memory(setting: Setting) -> list[Row]:
    """Run for a while and sample."""
    images, length = QUICK if setting.quick else (IMAGES, SECONDS)
    config = prepare(setting, images)
    samples = sample(config, length)
    third = max(1, len(samples) // 3)
    peak = max(entry["pss_mb"] for entry in samples)
    first, last = (median(entry["pss_mb"] for entry in part) for part in (samples[:third], samples[-third:]))
    seen = samples[-1]["images"] - samples[0]["images"]
    flat = last <= first * (1 + FLAT)
    quarters = {f"{share}x": samples[len(samples) * share // 4 - 1]["pss_mb"] for share in (1, 2, 4)}
    return [
        Row(
            "memory",
            f"pretraining from a bank of {images:,} images, {config.student.arch} at {config.data.size} px",
            f"a limit of {LIMIT_MB} MB, flat over time",
            unit="MB",
            ours=peak,
            theirs=float(LIMIT_MB),
            ratio=LIMIT_MB / peak if flat else 0.0,
            target=1.0,
            batch=config.optim.batch_size,
            resolution=config.data.size,
            images=seen,
            growth={"images": {"unit": "MB after a quarter, a half, all of the time", **quarters}},
            note=f"{'flat' if flat else 'NOT flat'}: {first:.0f} MB in the first third, {last:.0f} MB in the last, "
            f"over {seen:,} images; larger images add the student's own activations",
            detail={"limit_mb": LIMIT_MB, "samples": samples, "resident_sum_mb": max(e["rss_mb"] for e in samples)},
        )
    ]


def prepare(setting: Setting, images: int) -> Config:
    """The list, and a bank of that many images whose file of targets is sparse."""
    folder, few = setting.work / "million", FILES
    real = photographs(setting.work, few, sides=(160, 120))
    names = [str(path.relative_to(real)) for path in sorted(real.rglob("*.jpg"))]
    folder.mkdir(parents=True, exist_ok=True)
    lines = {"few": names, "all": [names[number % few] for number in range(images)]}
    for which, entries in lines.items():
        text = "\n".join(entries) + "\n"
        write_atomically(folder / f"{which}-{len(entries)}.txt", lambda part, text=text: part.write_text(text))
    small = configure(setting, real, folder / f"few-{few}.txt", folder / f"bank-{few}")
    statistics, peaks = small_bank(small)
    config = configure(setting, real, folder / f"all-{images}.txt", folder / f"bank-{images}")
    write_sparse(config, statistics, peaks)
    return config


def configure(setting: Setting, root: Path, source: Path, bank: Path) -> Config:
    """Configure a student as wide as a R18 on small views, so that many images pass in little time."""
    content = {
        "name": "memory",
        "teacher": {"source": "random:efficientnet_lite0"},
        "student": {"arch": "resnet18"},
        "data": {"source": str(source), "root": str(root), "size": 32, "jitter": 0.1, "lighting": 0.05},
        "optim": {"epochs": 1, "batch_size": 64, "lr": 1e-3},
        "log": {"every": 2, "checkpoint_every": 10**6},
        "bank": {"path": str(bank), "views": 1, "check": 0},
        "device": str(setting.device),
        "runs": str(setting.work / "runs"),
    }
    return parse_config(content, "tools.speed.measure")


def small_bank(config: Config) -> tuple[dict[str, Any], Any]:
    """Statistics and peaks of a real bank of the few photographs."""
    process = join(config.device)
    views, student = open_views(config), open_student(config)
    bank: Bank = open_bank(config, student, views, process)
    return bank.statistics.as_dict(), bank.peaks


def write_sparse(config: Config, statistics: dict[str, Any], peaks: Any) -> None:
    """Write a complete bank in kdep's format whose targets are sparse files: zeros that use no disk space."""
    assert config.bank is not None
    path = config.bank.path
    views, student, teacher = open_views(config), open_student(config), open_teacher(config)
    about = describe(config, teacher, views, dim=student.dim, grid=0)
    for shard in range(about.shards):
        file = Path(shard_path(path, 0, shard))
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (len(about.images_of(shard)), *about.row)
        np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)  # seeks to its end: a sparse file
        note_hash(file, file)
    text = json.dumps(dataclasses.asdict(about), indent=1) + "\n"
    write_text(path / "bank.json", text)
    save({"statistics": statistics, "peaks": peaks}, path / "bank.pt")
    seal(path)


def train_child(content: dict[str, Any]) -> None:
    """In the child process: pretrain until killed."""
    pretrain(parse_config(content, "tools.speed.measure"))


def sample(config: Config, length: float) -> list[dict[str, float]]:
    """Start the run, wait for its first record, then sample the memory of all its processes for some seconds.

    Raises:
        RuntimeError: the run ended by itself.
    """
    folder = config.runs / config.name
    shutil.rmtree(folder, ignore_errors=True)
    arguments = json.dumps({"content": config.model_dump(mode="json")})
    command = [sys.executable, "-m", "tools.speed.child", "tools.speed.pretraining.memory:train_child"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / "memory.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*command, arguments], stdout=output, stderr=output, env=environment(), start_new_session=True
        )
    try:
        samples: list[dict[str, float]] = []
        began = None
        while began is None or time.monotonic() - began < length:
            if child.poll() is not None:
                raise RuntimeError(f"the run of the memory row ended:\n{log.read_text()[-2000:]}")
            if records := complete_lines(folder / "log.jsonl"):
                began = began or time.monotonic()
                usage = memory_of(child.pid)
                samples.append(
                    {"seconds": time.monotonic() - began, "images": json.loads(records[-1])["images"], **usage}
                )
            time.sleep(EVERY)
        return samples
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # its own session: itself and its loading processes
        child.wait()


def complete_lines(path: Path) -> list[str]:
    """Read the complete lines of a file that is being written."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def memory_of(process: int) -> dict[str, float]:
    """Proportional and resident set size in MB, summed over a process and its descendants."""
    total = {"pss_mb": 0.0, "rss_mb": 0.0}
    waiting = [process]
    while waiting:
        at = Path("/proc") / str(waiting.pop())
        # A process may end between being listed and being read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in (at / "smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss:", "Rss:")):
                    total[f"{line[:3].lower()}_mb"] += int(line.split()[1]) / 1024
            for task in (at / "task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return total
