"""Compare arms: arms x values x seeds of pretraining runs, each scored on the same tasks, in one study file.

    name: ablation                                        # names the runs and the files of the answer
    question: Which alignment and which scaling?
    pretrain: lite0_r18_tiny                              # the recipe of every run, with `set` on top
    set: {data.limit: 8000, data.seed: 0, bank.path: banks/tiny8000, bank.axes: 1280}
    arms:                                                 # what is compared: overrides of the recipe,
      SVD: {scale: {name: unit}}                          # a part (scale.name: pts) or a whole section, as here,
      supervised: {loss.name: labels, bank: null}         # which also takes back what `set` says of its parts;
      random init: random:resnet18#{seed}                 # or a checkpoint that is scored as it is
    baseline: SVD                                         # the arm that the others are compared with
    seeds: [0, 1, 2]                                      # of pretraining; replace {seed} in overrides and checkpoints
    score: {suite: photographs, tasks: [flowers5-linear], seeds: [0]}   # or images of your own in class folders:
                                                          # {data: photos, size: 64, tasks: [linear], seeds: [0]};
                                                          # also protocol, budget, data_root, arch, as of kdep transfer
    pairs: [[SVD, random init]]                           # optional: further arms to compare

A seed draws the weights, the order of the images, the crops and the images of data.limit. `set: {student.seed: 0}`
fixes the first for all runs, optim.seed the second, data.seed the others. The val splits of the probes are those of
score.seeds, the same for all runs; `seeds: null` there draws them by the run's seed too. The answer says which were
drawn and which were fixed.
A checkpoint without {seed} is one network at every seed: two such arms get no verdict, and one has an interval over
the seeds of the other arm.

Optional: run every arm at every value of a key. `with` adds overrides for single values:

    axis: {key: data.limit, values: [1000, 8000], with: {1000: {optim.epochs: 24}, 8000: {optim.epochs: 3}}}

Optional: the comparisons that the study is for. Write them before the runs start. A claim has no verdict before all of
its seeds are scored; comparisons that are not named are called exploratory:

    claims: [{arms: [SVD, supervised], metric: mean, seeds: [0, 1, 2]}]    # metric: mean over tasks, or a task

Along optim.epochs and data.limit, the answer says with how many times fewer images one arm reaches the best score of
another. Along optim.epochs, it also counts images seen and seconds of training. Along any other key, the answer ends
with what every arm reaches on val at every value, and with each arm at its own value, chosen there, so that all arms
have the same chances.

The study makes banks of targets first, then trains and scores each run. Finished parts are not repeated. A failed run
stops no other, nor does a checkpoint that is missing or damaged: the command names it and ends with exit code 1.

The answer is rewritten after every run: NAME.csv (a row per run and task), NAME.png, and NAME.md with means, intervals
and comparisons paired by seed: each arm with the baseline, the `pairs`, and the arm chosen on val with the baseline.
The choice for a seed uses the other seeds only, because a lucky student is lucky on val and test alike.

An arm that was trained with labels of a task's val images has learned the answers there. It is left out of all that is
chosen on val; the plan and the answer name it, also where it has learned test images. kdep compares where images are:
their folder, pack or torchvision data set. It does not notice copies in another place, nor tar shards.

--known NAME.csv resumes an unfinished study from another machine: runs whose rows are all in the file are not repeated.
It may also be the answer of another study: the rows of runs that both have count, the others are left out.
--arm, --value and --seed do a part of a study first; the answer says how much is left.

Two studies can share a bank of targets, but each trains its own runs. To score students that another study has trained,
make them an arm: runs/OTHER-ARM-s{seed}/student.pth.

Networks that were trained elsewhere, several of each method, are arms in the same way. A study of nothing else needs no
`pretrain`, and score.arch names the network in plain state dicts:

    arms: {MoCo: "moco-{seed}.pth", labels: "labels-{seed}.pth"}
    score: {suite: photographs, tasks: [flowers5-linear], seeds: null, arch: resnet50}
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdep.shipped import find
from kdep_benchmarks.jobs.engines.choose import add_engine_arguments, parse_options
from kdep_benchmarks.result import Result
from kdep_benchmarks.results import read_results
from kdep_benchmarks.studies.answer import answer
from kdep_benchmarks.studies.check import check, missing_checkpoints, missing_data
from kdep_benchmarks.studies.file import Study, load_study
from kdep_benchmarks.studies.learned import learned, sentences
from kdep_benchmarks.studies.plan import DONE, TO_TRAIN, Item, describe, items
from kdep_benchmarks.studies.rows import AnswerRow, collect, read_known, refuse_to_replace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep study`."""
    parser.formatter_class, parser.description = argparse.RawDescriptionHelpFormatter, __doc__
    parser.add_argument("study", help="a shipped study such as bank_views (`kdep ls studies`), or a YAML file")
    parser.add_argument("--dry-run", action="store_true", help="show what is done and what is left")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at once; on this machine they share its cores [1, or what a cluster's scheduler allows]",
    )
    add_engine_arguments(parser)
    now = "now; may be given several times [all]"
    parser.add_argument("--arm", action="append", default=[], metavar="NAME", help=f"do only this arm {now}")
    parser.add_argument(
        "--value", action="append", default=[], metavar="V", help=f"do only this value of the axis {now}"
    )
    parser.add_argument("--seed", action="append", default=[], type=int, metavar="N", help=f"do only this seed {now}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs go [runs]")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where scores go [results/NAME]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the answer goes [results/NAME]")
    known = (
        "go on from the rows of an earlier answer, of this study or one with the same runs; may be given several times"
    )
    parser.add_argument("--known", type=Path, action="append", default=[], metavar="FILE.csv", help=known)


def run(args: argparse.Namespace) -> int:
    """Do the missing runs and write the answer; 1 if a run or score is missing at the end."""
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: at least 1")
    study = load_study(find("studies", args.study))
    part = Part(args.arm, args.value, args.seed)
    part.check(study)
    from kdep_benchmarks.studies.work import banks_left, engine_for, say, work  # with torch, which --help does without

    results, runs = args.results or Path("results") / study.name, args.runs
    engine = engine_for(args.engine, parse_options(args.engine_options), jobs=args.jobs, folder=runs.absolute())
    if args.engine != "local":
        results, runs = results.absolute(), runs.absolute()  # a node may have another folder open
    published, out = read_known(args.known, study), args.out or results
    refuse_to_replace(out / f"{study.name}.csv", study)
    check(study, runs)

    def look() -> tuple[list[AnswerRow], list[Item]]:
        rows = collect(study, runs, read_scores(results), published)
        return rows, part.of(items(study, runs, rows))

    def write() -> None:
        rows, _ = look()
        if rows:
            answer(study, rows, out)

    rows, plan = look()
    say("\n".join([describe(study, plan, list(banks_left(study, plan))), *sentences(study, learned(study))]))
    to_train = [item.run for item in plan if item.state == TO_TRAIN]
    missing = missing_checkpoints(study, plan)
    absent = missing_data(study, to_train) if any(item.state != DONE for item in plan) else []
    if args.dry_run:
        say("\n".join([*missing, *absent]) or "all checkpoints, images and data sets are there")
        return 0
    if absent:
        raise ValueError("\n".join([*missing, *absent]))
    if missing:
        say("\n".join(missing))
    work(study, plan, runs, results, engine=engine, after=write)
    rows, plan = look()
    say(answer(study, rows, out) if rows else "no score yet")
    left = [item.run.name for item in plan if item.state != DONE]
    if left:
        reasons = missing_checkpoints(study, plan)
        say("\n".join([f"{len(left)} of {len(plan)} runs are not done: {', '.join(left)}", *reasons]))
    return int(bool(left))


@dataclass(frozen=True)
class Part:
    """Arms, values of the axis and seeds of a study; all where none are named."""

    arms: Sequence[str]
    values: Sequence[str]
    seeds: Sequence[int]

    def check(self, study: Study) -> None:
        """Check that a study has them.

        Raises:
            ValueError: names those that it has not, and those it has.
        """
        values = list(map(str, study.values)) if study.axis else []
        asked = (
            ("--arm", self.arms, list(study.arms)),
            ("--value", self.values, values),
            ("--seed", self.seeds, study.seeds),
        )
        for option, named, there in asked:
            if unknown := [str(one) for one in named if one not in there]:
                has = f"it has {', '.join(map(str, there))}" if there else "it has no axis"
                raise ValueError(f"{option} {', '.join(unknown)}: study {study.name} has none of that name; {has}")

    def of(self, plan: Sequence[Item]) -> list[Item]:
        """Their items of a plan."""
        return [
            item
            for item in plan
            if (not self.arms or item.run.arm in self.arms)
            and (not self.values or str(item.run.value) in self.values)
            and (not self.seeds or item.run.seed in self.seeds)
        ]


def read_scores(results: Path) -> list[Result]:
    """Scores so far."""
    return read_results([results]) if results.is_dir() else []
