"""Compare a whole pretraining with LightlyTrain's distillation: same images, same number of views, R50 to R18.

Like the other rows one computes in float32, and one that ends in -auto in the precision that a user gets.

LightlyTrain is no dependency of ours: its licence is AGPL, it brings some forty packages of its own,
and nothing but this row needs it.
The row runs it under another Python:

    python -m venv lightly && lightly/bin/pip install lightly-train
    python -m tools.speed.measure --rows lightly --lightly-python lightly/bin/python
"""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.speed.clock import answer
from tools.speed.pretraining.ceilings import CASES
from tools.speed.pretraining.runs import Case, Run, configure, folder_of, growth, on_device, run
from tools.speed.row import Row, Setting

SIDE = Path(__file__).with_name("lightly_side.py")
EPOCHS, LONG = 3, 90
WHAT = "whole pretraining from a bank that is made first, R50 -> R18"
AGAINST = "LightlyTrain distillation, its own defaults for the loader"


def lightly(setting: Setting) -> list[Row]:
    """Time both from the start: our start-up, statistics and bank count, and their start-up."""
    if setting.lightly is None:
        reason = "not installed: pip install lightly-train in another environment and give --lightly-python PATH"
        return [Row("lightly", WHAT, AGAINST, unit="images/s, all included", target=2.0, skipped=reason)]
    exact = on_device(replace(CASES[224], epochs=EPOCHS), setting)
    folder = folder_of(exact, setting)
    theirs = their_run(setting, exact, folder, exact.epochs)
    start = their_run(setting, replace(exact, images=4 * exact.batch), first(folder, setting, 4 * exact.batch), 1)
    cases = {"lightly": exact}
    if setting.device.type != "cuda":  # where auto is what is measured anyway
        cases["lightly-auto"] = replace(exact, precision="auto")
    return [against_theirs(name, case, our_run(setting, case), theirs, start) for name, case in cases.items()]


def against_theirs(name: str, case: Case, ours: Run, theirs: dict[str, Any], start: dict[str, Any]) -> Row:
    """Time our run and theirs, each with its fixed cost and its cost per epoch."""
    seen, at = case.images * case.epochs, {}
    # Fixed cost: our start and bank; their start, from a run of four steps.
    per_epoch = {"ours": ours.cumulated[-1] / case.epochs}
    per_image = (theirs["seconds"] - start["seconds"]) / (seen - 4 * case.batch)
    fixed = {"ours": ours.whole - ours.cumulated[-1], "theirs": max(0.0, theirs["seconds"] - seen * per_image)}
    for epochs in (1, EPOCHS, LONG):
        at[str(epochs)] = (fixed["theirs"] + epochs * case.images * per_image) / (
            fixed["ours"] + epochs * per_epoch["ours"]
        )
    return Row(
        name,
        WHAT + (", precision auto" if name.endswith("-auto") else ""),
        AGAINST,
        unit="images/s, all included",
        ours=seen / ours.whole,
        theirs=seen / theirs["seconds"],
        ratio=theirs["seconds"] / ours.whole,
        target=2.0,
        batch=case.batch,
        resolution=case.size,
        images=seen,
        growth={"images": growth(ours), "epochs": {"unit": "ratio, computed from the measured parts", **at}},
        note=f"{case.epochs} epochs of {case.images} images measured; our fixed part (start, statistics, bank) "
        f"{fixed['ours']:.0f} s, theirs {fixed['theirs']:.0f} s; at {LONG} epochs these parts give a ratio of "
        f"{at[str(LONG)]:.2f}. Random teachers on both sides, one "
        "run of each; ours shows its one stored view in every epoch, theirs draws anew",
        detail={"theirs": theirs, "their_start": start, "fixed_seconds": fixed, "epoch_seconds": per_epoch},
    )


def our_run(setting: Setting, case: Case) -> Run:
    """Make the bank and train from it, as one run."""
    config = configure(case, setting, name="lightly", bank=True)
    bank = config.bank
    assert bank is not None
    fresh = bank.model_copy(update={"path": setting.work / "banks" / "lightly"})
    shutil.rmtree(fresh.path, ignore_errors=True)
    return run(config.model_copy(update={"bank": fresh}))


def first(folder: Path, setting: Setting, count: int) -> Path:
    """A folder of the first images, for their start-up alone."""
    chosen = setting.work / f"lightly-first-{count}"
    for number, path in enumerate(sorted(folder.rglob("*.*"))[:count]):
        link = chosen / f"{number:04d}{path.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())
    return chosen


def their_run(setting: Setting, case: Case, folder: Path, epochs: int) -> dict[str, Any]:
    """LightlyTrain in its own Python; seconds of its call, which leave out the import of its libraries."""
    arguments = {
        "data": str(folder.resolve()),
        "out": str((setting.work / "lightly").resolve()),
        "size": case.size,
        "batch": case.batch,
        "epochs": epochs,
        "device": setting.device.type,
    }
    found, seconds = run_isolated(setting.lightly, SIDE, arguments)
    return {**found, "with_imports": seconds}


def run_isolated(python: Path, script: Path, arguments: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Run a script in LightlyTrain's Python; return its answer and the seconds from its start to its end."""
    # By default it reports runs to its makers.
    quiet = {**os.environ, "LIGHTLY_TRAIN_EVENTS_DISABLED": "1"}
    began = time.perf_counter()
    # Isolated: a script's own folder comes first on the path of modules, and ours holds one called `lightly`.
    command = [str(python), "-I", str(script), json.dumps(arguments)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    seconds = time.perf_counter() - began
    return answer(child, "LightlyTrain"), seconds
