"""A question as a file: arms x values x seeds of pretraining runs, each scored on the same tasks, and the answer.

    name: ablation                                        # names the runs and the files of the answer
    question: Which alignment and which scaling?
    pretrain: lite0_r18_tiny                              # the recipe of every run, with `set` on top
    set: {data.limit: 8000, data.seed: 0, bank.path: banks/tiny8000, bank.axes: 1280}
    arms:                                                 # what is compared: overrides of the recipe,
      SVD: {scale: {name: unit}}                          # a part (scale.name: pts) or a whole section, as here,
      supervised: {loss.name: labels, bank: null}         # which also takes back what `set` says of its parts;
      random init: random:resnet18#{seed}                 # or a checkpoint that is scored as it is
    baseline: SVD                                         # the arm the others are held against
    seeds: [0, 1, 2]                                      # of pretraining; replace {seed} in overrides and checkpoints
    score: {suite: photographs, tasks: [flowers5-linear], seeds: [0]}   # also protocol, budget, data_root:
                                                          # as of kdep transfer
    pairs: [[SVD, random init]]                           # optional: further arms to hold against each other

Optional, beside or instead of `arms`, every combination of parts; names are joined, later overrides lie on top:

    grid:
    - {SVD: {}, PHI-S: {align.name: phi_s}}
    - {"": {scale: {name: none}}, " + PTS": {scale: {name: pts}}}

Optional, every arm at every value of a key. `with` sets what goes with a value, in an arm `at` does, for that arm only:

    axis: {key: data.limit, values: [1000, 8000], with: {1000: {optim.epochs: 24}, 8000: {optim.epochs: 3}}}
    arms: {supervised: {loss.name: labels, at: {1000: {optim.lr: 1e-3}}}}

Along optim.epochs and data.limit the answer also says with how many times fewer images one arm reaches the best score
of another; along optim.epochs it counts the images seen and the seconds of training, in sentences and as curves.

Banks of targets are made first, then run after run is trained and scored; what is there already is not done again, and
a run that fails stops no other. The answer is rewritten after every run: NAME.csv (a row per run and task), NAME.md
(means, intervals, and in sentences each arm against the baseline, the `pairs`, what the tasks' val splits choose
against the baseline, and each arm against the best other one; paired by seed) and NAME.png. What is chosen for a seed
is chosen by the other seeds: a student that had luck has it on val and on score.

With --known NAME.csv a study goes on from the rows of an unfinished one on another machine: a run whose rows are all
there is not done again. With --arm and --seed a part of a large study is done first; the rest stays to be done, and the
answer says how much that is. With --shared OTHER.csv, the answer of another study, runs that it has in common with this
one are not done again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from kdep.shipped import find
from kdep_benchmarks.results import Result, read_results
from kdep_benchmarks.studies.answer import answer
from kdep_benchmarks.studies.check import check, missing_data
from kdep_benchmarks.studies.file import Study, load_study
from kdep_benchmarks.studies.plan import DONE, TO_TRAIN, Item, describe, items, learn
from kdep_benchmarks.studies.rows import Row, collect, read_known, read_shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep study`."""
    parser.formatter_class, parser.description = argparse.RawDescriptionHelpFormatter, __doc__
    parser.add_argument("study", help="a shipped study such as bank_views (`kdep ls studies`), or a YAML file")
    parser.add_argument("--dry-run", action="store_true", help="show what is done, what is left and how long it takes")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; the cores are shared among them [1]")
    part = "now; may be given several times [all]"
    parser.add_argument("--arm", action="append", default=[], metavar="NAME", help=f"do only this arm {part}")
    parser.add_argument("--seed", action="append", default=[], type=int, metavar="N", help=f"do only this seed {part}")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs go [runs]")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where scores go [results/NAME]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the answer goes [results/NAME]")
    known = "go on from the rows of an earlier answer of this study; may be given several times"
    parser.add_argument("--known", type=Path, action="append", default=[], metavar="FILE.csv", help=known)
    shared = (
        "take over the rows of runs that another study's answer has in common with this; may be given several times"
    )
    parser.add_argument("--shared", type=Path, action="append", default=[], metavar="FILE.csv", help=shared)


def run(args: argparse.Namespace) -> int:
    """Do what is missing, and answer; 1 if some run or score failed."""
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: at least 1")
    study = load_study(find("studies", args.study))
    check_part(study, args.arm, args.seed)
    from kdep_benchmarks.studies.work import say, work  # with torch, which --help does without

    results, known = args.results or Path("results") / study.name, read_known(args.known, study)
    shared = read_shared(args.shared, study, known) if args.shared else []  # it looks at every run
    published = [*known, *shared]
    check(study, args.runs)

    def look() -> tuple[list[Row], list[Item]]:
        rows = collect(study, args.runs, read_scores(results), published)
        return rows, part_of(items(study, args.runs, rows), args.arm, args.seed)

    def write() -> None:
        rows, _ = look()
        if rows:
            answer(study, rows, args.out or results)

    if args.shared:
        say(f"{len({(row['arm'], row['value'], row['seed']) for row in shared})} runs are those of another study")
    rows, plan = look()
    say(describe_left(study, args.runs, results, rows, plan, jobs=args.jobs))
    to_train = [item.run for item in plan if item.state == TO_TRAIN]
    absent = missing_data(study, to_train) if any(item.state != DONE for item in plan) else []
    if args.dry_run:
        say("\n".join(absent) or "all images and data sets are there")
        return 0
    if absent:
        raise ValueError("\n".join(absent))
    work(study, plan, args.runs, results, jobs=args.jobs, after=write)
    rows, plan = look()
    say(answer(study, rows, args.out or results) if rows else "no score yet")
    left = [item.run.name for item in plan if item.state != DONE]
    if left:
        say(f"{len(left)} of {len(plan)} runs are not done: {', '.join(left)}")
    return int(bool(left))


def check_part(study: Study, arms: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse arms and seeds that a study does not have.

    Raises:
        ValueError: names them and those it has.
    """
    for option, asked, there in (("--arm", arms, list(study.arms)), ("--seed", seeds, study.seeds)):
        if unknown := [str(one) for one in asked if one not in there]:
            has = ", ".join(map(str, there))
            raise ValueError(f"{option} {', '.join(unknown)}: study {study.name} has none of that name; it has {has}")


def part_of(plan: Sequence[Item], arms: Sequence[str], seeds: Sequence[int]) -> list[Item]:
    """The items of some arms and seeds; of all where none are named."""
    return [item for item in plan if (not arms or item.run.arm in arms) and (not seeds or item.run.seed in seeds)]


def read_scores(results: Path) -> list[Result]:
    """Scores so far."""
    return read_results([results]) if results.is_dir() else []


def describe_left(study: Study, runs: Path, results: Path, rows: Sequence[Row], plan: list[Item], *, jobs: int) -> str:
    """The plan in words."""
    from kdep_benchmarks.studies.work import banks_left, threads_for

    times = learn(study, runs, rows, read_scores(results))
    banks = list(banks_left(study, plan))
    return describe(study, plan, times, jobs=jobs, threads=threads_for(jobs), banks=banks)
