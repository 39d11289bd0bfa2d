"""Race kdep against LightlyTrain's distillation: the same teacher, student, images and wall time, then one board.

    python -m venv lightly && lightly/bin/pip install 'lightly-train>=0.18,<0.19'
    python -m tools.speed.race.main --images FOLDER --lightly-python lightly/bin/python --minutes 15 --seeds 0,1,2

Every contender keeps its own defaults: batch, augmentations, optimizer. The time is that of the whole command: imports,
statistics of the teacher, training, export. Two short runs of the first seed measure what a start and a step cost; the
steps that then fit into the time are run, with a schedule of that length. kdep's teacher sees a view at twice the
student's side, its default; LightlyTrain shows both the same pixels. `kdep transfer` scores all students. Without
--lightly-python kdep's recipes race alone. Finished runs are kept: the same command goes on.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kdep.files import write_text
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.results import read_results
from kdep_benchmarks.studies.stats import paired_difference
from kdep_benchmarks.verdicts.intervals import mean
from tools.speed.race.contenders import CONTENDERS, RIVAL, Race, images_in, run
from tools.speed.row import describe_device

PILOTS = (8, 32)  # steps of the two short runs
TASKS = "flowers5-knn,flowers5-linear,cifar10s-linear,flowers5-finetune,facade-dense-linear,aquarium-box"


def steps_for(budget: float, pilots: Sequence[Mapping[str, Any]]) -> int:
    """Steps that fit into `budget` seconds, by the line through two short runs.

    Raises:
        ValueError: a start alone takes longer.
    """
    (few, many) = ((pilot["steps"], pilot["seconds"]) for pilot in pilots)
    step = (many[1] - few[1]) / (many[0] - few[0])
    start = few[1] - few[0] * step
    if step <= 0 or budget - start < step:
        raise ValueError(f"{budget:.0f} s are too few: the start takes {start:.0f} s, a step {step:.2f} s")
    return int((budget - start) / step)


def hold(race: Race, names: Sequence[str], seeds: Sequence[int], minutes: float, out: Path) -> dict[str, Any]:
    """Run what is missing, saving after every run; returns the document."""
    about = {"minutes": minutes, "teacher": race.teacher, "student": race.student, "pixels": race.size}
    about |= {"images": images_in(race.images)}
    document = json.loads(out.read_text()) if out.exists() else {"about": about, "pilots": {}, "runs": {}}
    if document["about"] != about:
        raise ValueError(f"{out} is of another race ({document['about']}, now {about}); choose another --out")
    document["device"] = describe_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    for seed in seeds:
        for name in names:
            pilots = document["pilots"].setdefault(name, [])
            for steps in PILOTS[len(pilots) :]:
                pilots.append(run(race, name, seed, steps, pilot=True))
                _save(document, out)
            done = document["runs"].setdefault(name, {})
            if str(seed) not in done:
                done[str(seed)] = run(race, name, seed, steps_for(60 * minutes, pilots))
                _save(document, out)
                say(f"{name}, seed {seed}: {done[str(seed)]['views']:,} views in {done[str(seed)]['seconds']:.0f} s")
    return document


def score(race: Race, document: Mapping[str, Any], suite: str, tasks: str) -> dict[str, dict[str, dict[str, float]]]:
    """Score every student; contender -> task -> score by seed."""
    students = {run["student"]: (name, seed) for name, runs in document["runs"].items() for seed, run in runs.items()}
    words = ["transfer", *students, "--suite", suite, "--tasks", tasks, "--results", str(race.work / "results")]
    subprocess.run([sys.executable, "-m", "kdep.cli", *words], check=True)
    places = {open_checkpoint(path).identity: place for path, place in students.items()}
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for result in read_results(race.work / "results"):
        if result.checkpoint.sha256 in places and result.status == "ok":
            name, seed = places[result.checkpoint.sha256]
            scores.setdefault(name, {}).setdefault(result.task.name, {})[seed] = result.score
    return scores


def markdown(document: Mapping[str, Any]) -> str:
    """A row per contender: views, seconds, scores; then each of kdep's recipes minus LightlyTrain, paired by seed."""
    scores, about = document["scores"], document["about"]
    tasks = sorted({task for by_task in scores.values() for task in by_task})
    lines = [
        f"{about['minutes']:g} minutes for each run, {about['teacher']} to {about['student']} at {about['pixels']} px, "
        f"{about['images']:,} images; {document['device']['cpu']}, {document['device']['threads']} threads.",
        "",
        f"| contender | runs | views | seconds | {' | '.join(tasks)} |",
        "|---" * (4 + len(tasks)) + "|",
    ]
    for name, runs in document["runs"].items():
        spent = [mean([run[key] for run in runs.values()]) for key in ("views", "seconds")]
        shown = [f"{mean(list(found.values())):.2f}" if (found := scores[name].get(task)) else "-" for task in tasks]
        lines.append(f"| {name} | {len(runs)} | {spent[0]:,.0f} | {spent[1]:.0f} | {' | '.join(shown)} |")
    rival = scores.get(RIVAL, {})
    for name in [name for name in scores if rival and name != RIVAL]:
        lines += ["", f"{name} minus {RIVAL}, mean over the seeds of both with its 95 % interval over seeds:", ""]
        lines += [f"- {task}: {_difference(scores[name].get(task, {}), rival.get(task, {}))}" for task in tasks]
    return "\n".join(lines) + "\n"


def _difference(own: Mapping[str, float], other: Mapping[str, float]) -> str:
    shared = sorted(set(own) & set(other))
    if not shared:
        return "not measured for both"
    interval = paired_difference(own, other, (None, None))
    known = f"{mean([own[seed] - other[seed] for seed in shared]):+.2f}"
    return f"{known} [{interval.low:+.2f}, {interval.high:+.2f}]" if interval else f"{known}, too few seeds to tell"


def _save(document: Mapping[str, Any], out: Path) -> None:
    write_text(out, json.dumps(document, indent=1) + "\n")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of images; with class folders for `supervised`")
    add("--lightly-python", type=Path, help="a Python that has lightly-train")
    add("--minutes", type=float, default=15, help="wall time of a run [15]")
    add("--seeds", default="0", help="joined by commas [0]; three for a verdict")
    add("--contenders", help=f"joined by semicolons, of {'; '.join(CONTENDERS)} [kdep; {RIVAL}]")
    add("--teacher", default="npm:resnet50", help="a ResNet-50 [npm:resnet50]")
    add("--tap", default="pre", help="where kdep takes the teacher's features [pre]")
    add("--student", default="resnet18", help="[resnet18]")
    add("--size", type=int, default=64, help="side of a view in pixels [64]")
    add("--suite", default="photographs", help="[photographs]")
    add("--tasks", default=TASKS, help=f"[{TASKS}]")
    add("--work", type=Path, default=Path("runs/race"), help="runs and results [runs/race]")
    add("--out", type=Path, default=Path("runs/race/race.json"), help="[runs/race/race.json]; .md beside it")
    args = parser.parse_args()
    asked = args.contenders or ("kdep" + (f";{RIVAL}" if args.lightly_python else ""))
    names = [name.strip() for name in asked.split(";")]
    if unknown := [name for name in names if name not in CONTENDERS]:
        parser.error(f"--contenders: no {', '.join(unknown)}; there are {'; '.join(CONTENDERS)}")
    if RIVAL in names and args.lightly_python is None:
        parser.error(f"{RIVAL} needs --lightly-python, a Python that has lightly-train")
    args.work.mkdir(parents=True, exist_ok=True)
    race = Race(args.images, args.teacher, args.tap, args.student, args.size, args.work, args.lightly_python)
    try:
        document = hold(race, names, [int(seed) for seed in args.seeds.split(",")], args.minutes, args.out)
    except ValueError as error:
        parser.error(str(error))
    document["scores"] = score(race, document, args.suite, args.tasks)
    _save(document, args.out)
    write_text(args.out.with_suffix(".md"), markdown(document))
    say(markdown(document))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
