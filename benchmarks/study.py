"""A question as a file: arms x values x seeds of pretraining runs, each scored on the same tasks, and the answer.

    name: bank_views                                      # names the runs and the files of the answer
    question: How many views of an image does a bank need?
    pretrain: configs/pretrain/lite0_r18_tiny.yaml        # the recipe of every run, with `set` on top
    set: {data.limit: 3000, data.seed: 0}
    arms:                                                 # what is compared: overrides of the recipe,
      online: {}
      one view: {bank.path: banks/views, bank.views: 1}
      random: random:resnet18                             # or a checkpoint that is scored as it is
    baseline: online                                      # the arm the others are held against
    axis: {key: data.limit, values: [1000, 3000]}         # optional: every arm at every value; `with: {1000: {...}}`
                                                          # sets what goes with a value
    seeds: [0, 1, 2]                                      # of pretraining; {seed} in a value of an override is replaced
    score: {suite: photographs, tasks: [flowers5-linear], data_root: ../shared/data, seeds: [0]}

Banks are made first, then runs, then scores; whatever is there already is not done again. The answer is NAME.csv (a row
per run and task), NAME.md (means, intervals, differences to the baseline paired by seed) and NAME.png.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KEYS = {"name", "question", "pretrain", "set", "arms", "baseline", "axis", "seeds", "score"}


@dataclass(frozen=True)
class Run:
    """One pretraining run of a study, or a checkpoint that is scored as it is."""

    arm: str
    value: Any
    seed: int
    name: str
    overrides: tuple[str, ...] = ()
    checkpoint: str | None = None

    def student(self, runs: Path) -> str:
        """What `kdep transfer` opens."""
        return self.checkpoint or str(runs / self.name / "student.pth")


@dataclass(frozen=True)
class Study:
    """A study file, checked."""

    name: str
    question: str
    pretrain: Path
    arms: dict[str, Any]
    score: dict[str, Any]
    baseline: str
    seeds: list[int]
    set: dict[str, Any] = field(default_factory=dict)
    axis: dict[str, Any] | None = None

    @property
    def runs(self) -> list[Run]:
        """Every run, in the order of the file; seed by seed, so that a half-done study has whole comparisons."""
        values = self.axis["values"] if self.axis else [None]
        return [self._run(arm, value, seed) for seed in self.seeds for value in values for arm in self.arms]

    def _run(self, arm: str, value: Any, seed: int) -> Run:
        given = self.arms[arm]
        if isinstance(given, str):
            return Run(arm, value, seed, given, checkpoint=given)
        at = {self.axis["key"]: value, **self.axis.get("with", {}).get(value, {})} if self.axis else {}
        keys = {**self.set, **at, **(given or {}), "seed": seed}
        # An arm without a bank, or with another whole section, takes back what `set` says of its parts.
        keys = {
            key: content for key, content in keys.items() if key.partition(".")[0] not in (given or {}) or key in given
        }
        parts = [self.name, arm, *([] if value is None else [str(value)]), f"s{seed}"]
        name = "-".join(re.sub(r"[^\w.+]+", "_", part) for part in parts)
        overrides = [f"{key}={_as_text(content, seed)}" for key, content in keys.items()]
        return Run(arm, value, seed, name, (f"name={name}", *overrides))


def _as_text(value: Any, seed: int) -> str:
    text = (
        value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...")
    )
    return text.strip().replace("{seed}", str(seed))


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        ValueError: a key is missing or unknown, or the baseline is none of the arms.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ValueError(f"{path}: no such study; beside it: {', '.join(near) or 'none'}")
    content = yaml.safe_load(path.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected the keys {', '.join(sorted(KEYS))}")
    required = KEYS - {"set", "axis"}
    missing, unknown = sorted(required - set(content)), sorted(set(content) - KEYS)
    if missing or unknown:
        raise ValueError(
            f"{path}: missing {', '.join(missing) or 'nothing'}; unknown {', '.join(unknown) or 'nothing'}"
        )
    study = Study(**{**content, "pretrain": Path(content["pretrain"])})
    if study.baseline not in study.arms:
        raise ValueError(f"{path}: baseline {study.baseline!r}; the arms are {', '.join(study.arms)}")
    if study.axis is not None and not {"key", "values"} <= set(study.axis) <= {"key", "values", "with"}:
        raise ValueError(f"{path}: axis has {sorted(study.axis)}; expected key and values")
    return study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep study`."""
    parser.formatter_class, parser.description = argparse.RawDescriptionHelpFormatter, __doc__
    parser.add_argument("study", type=Path, help="a YAML file such as configs/studies/bank_views.yaml")
    parser.add_argument("--dry-run", action="store_true", help="show the runs and which are done, and stop")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; the cores are shared among them [1]")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs go [runs]")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where scores go [results/NAME]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the answer goes [results/NAME]")


def run(args: argparse.Namespace) -> int:
    """Do what is missing, and answer; 1 if some run or score failed."""
    study = load_study(args.study)
    results = args.results or Path("results") / study.name
    check(study)
    show(study, args.runs)
    if args.dry_run:
        return 0
    failed = pretrain_all(study, args.runs, jobs=args.jobs)
    failed += score_all(study, args.runs, results, jobs=args.jobs)
    from benchmarks.study_answer import answer

    say(answer(study, args.runs, results, args.out or results))
    return int(failed > 0)


def check(study: Study) -> None:
    """Raise the ValueError of a run whose configuration cannot be, before the first one starts."""
    from kdep.config import load_config

    for planned in study.runs:
        if planned.checkpoint is None:
            load_config(study.pretrain, planned.overrides)


def show(study: Study, runs: Path) -> None:
    """Print the plan."""
    own = [planned for planned in study.runs if planned.checkpoint is None]
    done = sum((runs / planned.name / "student.pth").exists() for planned in own)
    say(f"{study.question}\n{len(own)} runs, {done} done: {len(study.arms)} arms, seeds {study.seeds}")
    for planned in own:
        state = "done" if (runs / planned.name / "student.pth").exists() else "to run"
        say(f"  {state:7s} {planned.name}  {' '.join(planned.overrides[1:])}")


def pretrain_all(study: Study, runs: Path, *, jobs: int) -> int:
    """Make the banks, then the runs that are missing; returns how many failed."""
    todo = [r for r in study.runs if r.checkpoint is None and not (runs / r.name / "student.pth").exists()]
    failed = 0
    for planned in banks_first(todo, study):
        failed += child(["targets", str(study.pretrain), *planned.overrides], runs / f"{planned.name}.bank.log", jobs=1)
    with ThreadPoolExecutor(jobs) as pool:
        commands = [["pretrain", str(study.pretrain), *planned.overrides, f"runs={runs}"] for planned in todo]
        logs = [runs / f"{planned.name}.log" for planned in todo]
        failed += sum(pool.map(lambda command, log: child(command, log, jobs=jobs), commands, logs))
    return failed


def banks_first(todo: Sequence[Run], study: Study) -> list[Run]:
    """The run with the most views and axes for every bank: two runs cannot make one bank at once."""
    from kdep.config import load_config

    largest: dict[Path, tuple[tuple[int, int], Run]] = {}
    for planned in todo:
        config = load_config(study.pretrain, planned.overrides)
        if config.bank is not None:
            size = (config.bank.axes or 0, config.bank.views or config.optim.epochs)
            known = largest.get(config.bank.path)
            if known is None or size > known[0]:
                largest[config.bank.path] = (size, planned)
    return [planned for _, planned in largest.values()]


def score_all(study: Study, runs: Path, results: Path, *, jobs: int) -> int:
    """Measure every finished student on the study's tasks; returns the number of failures."""
    students = list(dict.fromkeys(planned.student(runs) for planned in study.runs))
    students = [student for student in students if not student.endswith("student.pth") or Path(student).exists()]
    score = study.score
    command = ["transfer", *students, "--suite", score["suite"], "--tasks", ",".join(score["tasks"])]
    command += ["--seeds", ",".join(str(seed) for seed in score.get("seeds", [0]))]
    command += ["--data-root", str(score["data_root"]), "--results", str(results)]
    command += ["--jobs", str(jobs)]
    return child(command, results / "transfer.log", jobs=1)


def child(arguments: list[str], log: Path, *, jobs: int) -> int:
    """Run a kdep command in a process of its own; 0, or 1 if it failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    with log.open("a") as output:
        command = [sys.executable, "-m", "benchmarks.cli", *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    say(f"{'done' if code == 0 else f'FAILED ({code}), see {log}'}: {' '.join(arguments[:2])} {log.stem}")
    return int(code != 0)


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a CSV in one go."""
    from kdep.checkpoint import write_atomically

    def into(part: Path) -> None:
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, into)


def say(text: str) -> None:
    """Print to the person who started the study."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
