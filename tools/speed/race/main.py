"""Race kdep against LightlyTrain's distillation: the same teacher, student, images and wall time, then one board.

    python -m venv lightly && lightly/bin/pip install 'lightly-train>=0.18,<0.19'
    python -m tools.speed.race.main --images FOLDER --lightly-python lightly/bin/python --minutes 15 --seeds 0,1,2

`kdep` and `LightlyTrain` keep their own defaults: batch, augmentations, optimizer, and the warm-up's share of the run
(kdep's that of the recipe, LightlyTrain's a tenth, at most ten epochs). The other contenders change what their names
say. The time is that of the whole command: imports, statistics of the teacher, training, export. After an untimed run,
which brings files into memory, two short runs of the first seed measure what a start and a step cost; the steps that
then fit into the time are run, with a schedule of that length.
kdep's teacher sees a view at twice the student's side, its default. LightlyTrain shows both the same pixels; so does
the contender `kdep, same pixels`. `LightlyTrain, kdep's rate` has the learning rate of the recipe `default`.

OMP_NUM_THREADS in the environment sets the threads of all contenders alike. How many processes load images is each
tool's default, one for each core but one: kdep counts the cores that it may use, LightlyTrain those of the machine, so
that with `taskset` the two differ.

`kdep transfer` scores all students; where a score is missing, the board has "-" and the exit code is 1. Without
--lightly-python kdep's recipes race alone. Finished runs are kept: the same command goes on. Contenders can race side
by side, one command each with the same --work, each on a part of the cores; the last to end has all on its board.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from kdep.files import write_atomically, write_text
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.results import read_results
from kdep_benchmarks.studies.stats import paired_difference
from kdep_benchmarks.verdicts.intervals import mean
from tools.speed.race.contenders import CONTENDERS, LIGHTLY, RIVAL, Race, images_in, run
from tools.speed.race.picture import draw
from tools.speed.row import describe_device, machine

PILOTS = (8, 32)  # steps of the two short runs
OFF = 0.1  # share of its minutes by which a run that is marked is longer or shorter
DIFFERENCES = (
    "Differences: means over the seeds of both, with the 95 % interval over seeds where there are three or more. No "
    "interval covers other test images."
)
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
    """Run what is missing, saving after every run; returns the document, with what other processes have added.

    Raises:
        ValueError: `out` is of another race, or a start alone takes longer than the minutes.
    """
    about, warm = describe(race, minutes), set()
    for seed in seeds:
        for name in names:
            with document_of(out, about) as document:
                pilots = document["pilots"].setdefault(name, [])
                done = str(seed) in document["runs"].get(name, {})
            if done:
                continue
            if name not in warm:
                # Not recorded: the first run reads from the disk and compiles what later ones find. As long as the
                # longest pilot, so that both pilots find all of their images.
                run(race, name, seed, PILOTS[-1], pilot=True)
                warm.add(name)
            for steps in PILOTS[len(pilots) :]:
                pilots.append(run(race, name, seed, steps, pilot=True))
                with document_of(out, about) as document:
                    document["pilots"][name] = pilots
            found = run(race, name, seed, steps_for(60 * minutes, pilots))
            with document_of(out, about) as document:
                document["runs"].setdefault(name, {})[str(seed)] = found
            say(f"{name}, seed {seed}: {found['views']:,} views in {found['seconds']:.0f} s")
    with document_of(out, about) as document:
        return document


@contextlib.contextmanager
def document_of(out: Path, about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Read the document of a race, or begin it, and save it at the end; other processes wait meanwhile.

    Raises:
        ValueError: it is of another race.
    """
    with FileLock(out.with_suffix(".lock")):
        document = json.loads(out.read_text()) if out.exists() else {"about": dict(about), "pilots": {}, "runs": {}}
        before = document["about"]
        if changed := [f"{key} {before.get(key)}, now {about[key]}" for key in about if before.get(key) != about[key]]:
            raise ValueError(f"{out} is of another race ({'; '.join(changed)}); choose another --work")
        yield document
        write_text(out, json.dumps(document, indent=1) + "\n")


def describe(race: Race, minutes: float) -> dict[str, Any]:
    """What the runs of one race have in common; plain values."""
    about = {"minutes": minutes, "teacher": race.teacher, "tap": race.tap, "student": race.student, "pixels": race.size}
    # As it was given, since documents are published. A relative folder is that of the working directory.
    about |= {"folder": str(race.images), "images": images_in(race.images)}
    return about | {"device": describe_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))}


def score(race: Race, document: Mapping[str, Any], suite: str, tasks: str) -> dict[str, dict[str, dict[str, float]]]:
    """Score every student; contender -> task -> score by seed, without those that could not be measured."""
    students = {run["student"]: (name, seed) for name, runs in document["runs"].items() for seed, run in runs.items()}
    results = race.work / "results"
    results.mkdir(parents=True, exist_ok=True)  # also where not one cell is measured
    words = ["transfer", *students, "--suite", suite, "--tasks", tasks, "--results", str(results)]
    # The exit code tells of one failed cell; the others have their results.
    subprocess.run([sys.executable, "-m", "kdep.cli", *words], check=False)
    places = {open_checkpoint(path).identity: place for path, place in students.items()}
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for result in read_results(results):
        if result.checkpoint.sha256 in places and result.status == "ok":
            name, seed = places[result.checkpoint.sha256]
            scores.setdefault(name, {}).setdefault(result.task.name, {})[seed] = result.score
    return scores


def missing(document: Mapping[str, Any]) -> list[str]:
    """A sentence for each student that lacks a score of `tasks`."""
    found = []
    for name, runs in document["runs"].items():
        scores = document["scores"].get(name, {})
        for seed in runs:
            if absent := [task for task in document["tasks"] if seed not in scores.get(task, {})]:
                found.append(f"{name}, seed {seed}, has no score of {', '.join(absent)}.")
    return found


def off_time(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """The runs of a contender that took more than 10 % longer or shorter than their minutes, as text."""
    planned = 60 * document["about"]["minutes"]
    return {
        name: [
            f"seed {seed} {run['seconds']:.0f} s"
            for seed, run in runs.items()
            if abs(run["seconds"] - planned) > OFF * planned
        ]
        for name, runs in document["runs"].items()
    }


def markdown(document: Mapping[str, Any]) -> str:
    """A row per contender: views, seconds, scores; then each of kdep's minus each of LightlyTrain's, paired by seed."""
    scores, about, tasks = document["scores"], document["about"], document["tasks"]
    off = off_time(document)
    lines = [
        f"{about['minutes']:g} minutes for each run, {about['teacher']} to {about['student']} at {about['pixels']} px, "
        f"{about['images']:,} images; {machine(about['device'])}.",
        "",
        f"| contender | runs | views | seconds | {' | '.join(tasks)} |",
        "|---" * (4 + len(tasks)) + "|",
    ]
    for name, runs in document["runs"].items():
        spent = [mean([run[key] for run in runs.values()]) for key in ("views", "seconds")]
        own = [scores.get(name, {}).get(task) for task in tasks]
        shown = [f"{mean(list(found.values())):.2f}" if found else "-" for found in own]
        took = f"{spent[1]:.0f}" + (f" (off: {', '.join(off[name])})" if off[name] else "")
        lines.append(f"| {name} | {len(runs)} | {spent[0]:,.0f} | {took} | {' | '.join(shown)} |")
    if any(off.values()):
        said = "Off: more than 10 % longer or shorter than the minutes of a run; something disturbed it or its pilots."
        lines += ["", said]
    if absent := missing(document):
        lines += ["", *(f"- {sentence}" for sentence in absent)]
    if seeds := document.get("claim"):
        lines += ["", _claimed(scores, tasks, seeds)]
    pairs = [(own, rival) for rival in scores if rival in LIGHTLY for own in scores if own not in LIGHTLY]
    if pairs:
        lines += ["", DIFFERENCES, "", f"| | {' | '.join(tasks)} | mean |", "|---" * (2 + len(tasks)) + "|"]
    for own, rival in pairs:
        found = [_difference(*(scores[name].get(task, {}) for name in (own, rival))) for task in tasks]
        found.append(_difference(*(_means(scores[name], tasks) for name in (own, rival))))
        lines.append(f"| {own} minus {rival} | {' | '.join(found)} |")
    return "\n".join(lines) + "\n"


def _claimed(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], tasks: Sequence[str], seeds: Sequence[str]
) -> str:
    """Say what became of the claim; nothing before all of its seeds are scored."""
    means = [_means(scores.get(name, {}), tasks) for name in ("kdep", RIVAL)]
    own, other = ({seed: found[seed] for seed in seeds if seed in found} for found in means)
    what = f"Claim, named before seeds {', '.join(seeds)} were scored: kdep minus {RIVAL} by the mean of the tasks"
    if not set(seeds) == set(own) == set(other):
        return f"{what}, no verdict before all are scored."
    interval = paired_difference(own, other)
    if interval is None:
        return f"{what} {_difference(own, other)}: no verdict."
    return f"{what} {interval.text}: {interval.verdict}{' shown' if interval.verdict == 'no difference' else ''}."


def _means(scores: Mapping[str, Mapping[str, float]], tasks: Sequence[str]) -> dict[str, float]:
    """Mean over the tasks of each seed that has them all."""
    by_task = [scores.get(task, {}) for task in tasks]
    return {seed: mean([found[seed] for found in by_task]) for seed in set.intersection(*map(set, by_task))}


def _difference(own: Mapping[str, float], other: Mapping[str, float]) -> str:
    shared = set(own) & set(other)
    if not shared:
        return "-"
    interval = paired_difference(own, other)
    return interval.text if interval else f"{mean([own[seed] - other[seed] for seed in shared]):+.2f}"


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
    add(
        "--claim",
        help=f"seeds at which kdep minus {RIVAL}, by the mean of the tasks, is claimed; name them before they run",
    )
    add("--contenders", help=f"joined by semicolons, of {'; '.join(CONTENDERS)} [kdep; {RIVAL}]")
    add("--teacher", default="npm:resnet50", help="a ResNet-50 [npm:resnet50]")
    add("--tap", default="pre", help="where kdep takes the teacher's features [pre]")
    add("--student", default="resnet18", help="[resnet18]")
    add("--size", type=int, default=64, help="side of a view in pixels [64]")
    add("--suite", default="photographs", help="[photographs]")
    add("--tasks", default=TASKS, help=f"[{TASKS}]")
    add("--work", type=Path, default=Path("runs/race"), help="runs and results of one race [runs/race]")
    add("--out", type=Path, help="[race.json in --work]; .md and .png beside it")
    args = parser.parse_args()
    asked = args.contenders or ("kdep" + (f";{RIVAL}" if args.lightly_python else ""))
    names = [name.strip() for name in asked.split(";")]
    if unknown := [name for name in names if name not in CONTENDERS]:
        parser.error(f"--contenders: no {', '.join(unknown)}; there are {'; '.join(CONTENDERS)}")
    if set(names) & set(LIGHTLY) and args.lightly_python is None:
        parser.error(f"{RIVAL} needs --lightly-python, a Python that has lightly-train")
    args.work.mkdir(parents=True, exist_ok=True)
    race = Race(args.images, args.teacher, args.tap, args.student, args.size, args.work, args.lightly_python)
    out = args.out or args.work / "race.json"
    try:
        document = hold(race, names, [int(seed) for seed in args.seeds.split(",")], args.minutes, out)
    except ValueError as error:
        parser.error(str(error))
    document["tasks"] = [task.strip() for task in args.tasks.split(",")]
    document["claim"] = [seed.strip() for seed in args.claim.split(",")] if args.claim else document.get("claim", [])
    document["scores"] = score(race, document, args.suite, ",".join(document["tasks"]))
    with document_of(out, document["about"]) as saved:
        saved |= {key: document[key] for key in ("tasks", "scores", "claim")}
    write_text(out.with_suffix(".md"), markdown(document))
    write_atomically(out.with_suffix(".png"), lambda part: draw(document, part))
    say(markdown(document))
    return int(bool(missing(document)))


if __name__ == "__main__":
    raise SystemExit(main())
