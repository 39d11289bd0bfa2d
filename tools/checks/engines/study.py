"""A study of two arms, one of them from a bank, for the checks of engines; the answer must be the local engine's."""

import csv
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdep.files import write_text
from tools.checks.engines import suite

RECIPE = """
name: tiny
seed: 1
teacher: {{source: "random:test_efficientnet", tap: post, precision: float32}}
student: {{arch: test_resnet}}
data: {{source: scenes/images, size: 32, workers: 0}}
scale: {{name: pts}}
optim: {{name: adamw, epochs: 2, batch_size: 16, lr: 2e-3, weight_decay: 0.02, schedule: cosine}}
log: {{every: 4, checkpoint_every: 4}}
device: cpu
precision: float32
"""
STUDY = """
name: {name}
question: Does a bank change anything?
pretrain: recipe.yaml
set: {{optim.epochs: 1, data.seed: 5}}
baseline: live
arms:
  live: {{}}
  from a bank: {{bank.path: "bank-{name}", bank.views: 1}}
seeds: [0]
score: {{suite: suite.yaml, tasks: [scenes-knn, scenes-linear], data_root: "."}}
"""
OWN = ("seconds", "pretrain_seconds", "run")  # columns that differ between runs


def study_on(folder: Path, options: Sequence[str], idle: Callable[[], bool]) -> dict[str, Any]:
    """Run a study here and on an engine, whose driver is killed once everything is submitted."""
    write_text(folder / "recipe.yaml", RECIPE.format())
    for name in ("here", "there"):
        write_text(folder / f"{name}.yaml", STUDY.format(name=name))
    suite.start_verb(folder, "study-here", *arguments("here")).wait()
    began, driver = time.monotonic(), suite.start_verb(folder, "study-there", *arguments("there"), *options)
    log = folder / "runs-there" / "there-from_a_bank-s0.bank.log"
    suite.wait_for(log.exists, "the bank to begin")
    time.sleep(5)  # all jobs are submitted before the first one runs
    os.kill(driver.pid, signal.SIGKILL)
    suite.wait_for(idle, "the queue to be empty")
    code = suite.start_verb(folder, "study-again", *arguments("there")).wait()
    again = (folder / "study-again.log").read_text()
    equal = rows(folder, "here") == rows(folder, "there")
    found = {"exit_code": code, "nothing_left_to_do": "2 runs: 2 done" in again, "answer_equals_local": equal}
    tried = "a study whose bank, runs and scores wait for each other in the queue; the driver is killed with SIGKILL"
    return suite.row(tried, equal and code == 0 and found["nothing_left_to_do"], began, **found)


def arguments(name: str) -> list[str]:
    """A study's command."""
    return ["study", f"{name}.yaml", "--runs", f"runs-{name}", "--results", f"scores-{name}"]


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    """The answer without the columns `OWN`."""
    with (folder / f"scores-{name}" / f"{name}.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in OWN} for row in csv.DictReader(file)]
