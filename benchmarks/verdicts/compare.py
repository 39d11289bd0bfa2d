"""Compare checkpoints task by task: which is better, by how much, and within what interval."""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdep_benchmarks.answers.resample import Resamples, joined
from kdep_benchmarks.counts import counted
from kdep_benchmarks.kinds import AVERAGED, PAIRED
from kdep_benchmarks.result import Protocol, Result
from kdep_benchmarks.results import read_results
from kdep_benchmarks.verdicts.datasets import datasets_of
from kdep_benchmarks.verdicts.difference import difference, holm, student
from kdep_benchmarks.verdicts.intervals import mean, standard_deviation
from kdep_benchmarks.verdicts.pairs import left_out, names_of_two, of_checkpoint, shared_ways
from kdep_benchmarks.verdicts.resamples import Read, reader
from kdep_benchmarks.verdicts.ways import Way, labels
from kdep_benchmarks.verdicts.wording import WHAT_IT_COVERS, Difference, as_table

if TYPE_CHECKING:
    import pandas as pd

MIN_DATASETS = 3  # that a mean over data sets needs for an interval


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep compare`."""
    a = "a checkpoint's name on the board or in its results, its file, or the first digits of its sha256"
    parser.add_argument("a", help=a)
    parser.add_argument("b", nargs="+", help="one or more checkpoints to compare it with")
    parser.add_argument("--task", help="only this task")
    help_ = "folders of results [results]"
    parser.add_argument("--results", nargs="+", type=Path, default=[Path("results")], metavar="DIR", help=help_)


def run(args: argparse.Namespace) -> int:
    """Print what `verdicts` says."""
    results = read_results(args.results)
    sys.stdout.write(verdicts(results, args.results, args.a, *args.b, task=args.task) + "\n")
    return 0


def verdicts(results: Sequence[Result], folders: Sequence[Path], a: str, *others: str, task: str | None = None) -> str:
    """What is said for each protocol that A and others share, and what is left out.

    Against one other, a sentence per task and one over data sets; against several, a table of the tasks, and the
    sentences over data sets and on tasks without an interval.

    Args:
        results: of all checkpoints.
        folders: where their answers are.
        a: the first checkpoint.
        others: those that it is compared with.
        task: only this one.

    Raises:
        ValueError: as `differences`.
    """
    found = differences(results, a, *others, task=task, read=reader(folders))
    blocks = []
    for protocol in dict.fromkeys(one.protocol for one in found):
        own = [one for one in found if one.protocol == protocol]
        head, table = f"{protocol}:", []
        if len(others) > 1:
            head, table = f"{protocol}: {own[0].names[0]} minus the others, in points", as_table(own)
            own = [one for one in own if one.of is None or one.interval is None]
        blocks.append("\n".join([head, *(f"  {line}" for line in [*table, *(one.sentence for one in own)])]))
    blocks.append(WHAT_IT_COVERS)
    missing = [said for b in others for said in left_out(results, a, b, task=task)]
    blocks += ["Left out:", *(f"  {sentence}" for sentence in dict.fromkeys(missing))] if missing else []
    return "\n".join(blocks)


def compare(
    a: str | Path,
    *others: str | Path,
    results: str | Path | Iterable[str | Path] = "results",
    task: str | None = None,
) -> "pd.DataFrame":
    """Compare checkpoints from Python: `compare("runs/mine/student.pth", "random:resnet18")`.

    Args:
        a: the first checkpoint: its name on the board, first digits of its sha256, or what `kdep transfer` took. A file
            is known by the weights that it holds now.
        others: those that it is compared with.
        results: a folder of results, or several.
        task: only this one.

    Returns:
        A row for each other checkpoint, shared protocol and task, and for the mean over data sets, whose task is empty.
        difference is a minus b in points, low and high are its 95 % interval; p_holm and verdict_holm are after Holm's
        correction; over is what the interval is over, or why there is none, where all these are empty.

    Raises:
        ValueError: no other checkpoint, no such folder, or as `differences`.
    """
    import pandas as pd

    if not others:
        raise ValueError(f"compare({str(a)!r}): name one or more other checkpoints to compare it with")
    folders = [Path(folder) for folder in ([results] if isinstance(results, str | Path) else results)]
    found = differences(read_results(folders), str(a), *map(str, others), read=reader(folders), task=task)
    return pd.DataFrame([one.row for one in found])


def differences(
    results: Iterable[Result], a: str, *others: str, read: Read, task: str | None = None
) -> list[Difference]:
    """A against each other checkpoint: differences per task, then the one over data sets, for each shared protocol.

    Args:
        results: of all checkpoints.
        a: the first checkpoint.
        others: those that it is compared with.
        read: gives the resamples of a result, see `read_resamples`.
        task: only this one.

    Raises:
        ValueError: a checkpoint is unknown, ambiguous or named twice, or two share no task under one protocol, on the
            same data and by the same settings; or answers are missing, or of other test images.
    """
    results = list(results)
    sides = _sides(results, (a, *others))
    found = []
    for b in others:
        pairs = shared_ways(sides[a], sides[b], task)
        names = names_of_two(results, sides[a][0], sides[b][0])
        found += of_two(names, pairs, labels(pairs), read, means=task is None)
    return corrected(found)


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """The same with Holm's correction, over all on tasks and over all means: these follow from the tasks."""
    adjusted: dict[int, tuple[float, int]] = {}
    for means in (False, True):
        tested = [one for one in found if one.interval is not None and (one.of is None) == means]
        by_holm = holm([one.interval.p for one in tested])
        adjusted |= {id(one): (p, len(tested)) for one, p in zip(tested, by_holm, strict=True)}
    told = [adjusted.get(id(one), (None, 1)) for one in found]
    return [replace(one, adjusted=p, tests=tests) for one, (p, tests) in zip(found, told, strict=True)]


def _sides(results: Sequence[Result], names: Sequence[str]) -> dict[str, list[Result]]:
    """Finished results of each name; weights named twice are no comparison, or count twice in Holm's correction."""
    sides: dict[str, list[Result]] = {}
    seen: dict[str, str] = {}
    for name in names:
        side = of_checkpoint(results, name)
        sha256 = side[0].checkpoint.sha256
        if sha256 in seen:
            raise ValueError(f"{seen[sha256]} and {name} are the same checkpoint ({sha256[:8]}); name it once")
        seen[sha256], sides[name] = name, side
    return sides


def of_two(
    names: tuple[str, str],
    pairs: Mapping[Way, tuple[list[Result], list[Result]]],
    named: Mapping[Way, str],
    read: Read,
    *,
    means: bool = True,
) -> list[Difference]:
    """Differences of two checkpoints per task, then over data sets, for each shared protocol.

    Args:
        names: of the two.
        pairs: their finished results by the way they were measured, as `shared_ways` finds them.
        named: names of the tasks, by the way.
        read: gives the resamples of a result.
        means: also over data sets.

    Raises:
        ValueError: two results of one way are of other test images, or `read` says so.
    """
    usable = {way: _comparable(*sides) for way, sides in pairs.items()}
    found = []
    for protocol in dict.fromkeys(way.protocol for way in usable):
        tasks = {way: sides for way, sides in usable.items() if way.protocol == protocol}
        found += [_of_task(names, protocol, named[way], *sides, read) for way, sides in tasks.items()]
        comparable = [sides for sides in tasks.values() if sides[0]]
        if means and comparable:
            found.append(_over_datasets(names, protocol, comparable))
    return found


def _comparable(first: list[Result], second: list[Result]) -> tuple[list[Result], list[Result]]:
    """The results of each side that a comparison may use: of draws of train images those that both have, in order."""
    if first[0].task.kind not in PAIRED:
        return first, second
    shared = {result.seed for result in first} & {result.seed for result in second}
    one, other = (sorted((r for r in side if r.seed in shared), key=lambda r: r.seed) for side in (first, second))
    return one, other


def _of_task(
    names: tuple[str, str], protocol: Protocol, task: str, first: list[Result], second: list[Result], read: Read
) -> Difference:
    if not first:
        said = "the same draws of train images are needed, and no seed is both's"
        return Difference(task, names, protocol, None, said)
    kind = first[0].task.kind
    sides = [[read(result) for result in side] for side in (first, second)]
    _check_same_images(task, [one for side in sides for one in side])
    interval = difference(*map(joined, sides), kind)
    return Difference(task, names, protocol, interval, _over(kind, *sides))


def _check_same_images(task: str, read: Sequence[Resamples]) -> None:
    counts = {one.images for one in read}
    if len(counts) > 1:
        raise ValueError(
            f"{task}: answers on {' and '.join(map(str, sorted(counts)))} images; measure both on the same ones"
        )
    if len({one.truth for one in read}) > 1:
        raise ValueError(f"{task}: the test images have other labels in one result than in another; measure them again")


def _over(kind: str, first: Sequence[Resamples], second: Sequence[Resamples]) -> str:
    """What an interval is over."""
    images, counts = counted(first[0].images, "image"), (len(first), len(second))
    if (effective := min(run.effective_images for run in (*first, *second))) < first[0].images:
        images += f", as certain as {effective} different ones"
    if kind in AVERAGED:
        return images if counts[0] == counts[1] else f"{images}, {counts[0]} seeds against {counts[1]}"
    if kind in PAIRED:
        return f"{images} and {counted(sum(len(run.scores) for run in first), 'draw')} of train images"
    if min(counts) == 1:
        return f"{images}, {'one run each' if max(counts) == 1 else 'one run of one of them'}; another run may differ"
    return f"{images} and {counts[0]} runs" + (f" against {counts[1]}" if counts[0] != counts[1] else " each")


def _over_datasets(
    names: tuple[str, str], protocol: Protocol, tasks: list[tuple[list[Result], list[Result]]]
) -> Difference:
    """Each data set counts once: a probe and a fine-tune of the same images rise and fall together."""
    by_dataset: dict[str, list[float]] = {}
    datasets = datasets_of([[*first, *second] for first, second in tasks])
    for dataset, sides in zip(datasets, tasks, strict=True):
        scores = [mean([result.score for result in side]) for side in sides]
        by_dataset.setdefault(dataset, []).append(scores[0] - scores[1])
    values = [mean(values) for values in by_dataset.values()]
    over = counted(len(values), "data set") + _counted_once(datasets, [first[0].task.dataset for first, _ in tasks])
    higher, lower = names if mean(values) >= 0 else names[::-1]
    ahead = f"{higher} is {abs(mean(values)):.2f} above {lower}"
    if len(values) < MIN_DATASETS:
        said = f"{ahead} {'on' if len(values) == 1 else 'in the mean of'} {over}, and a verdict needs {MIN_DATASETS}"
        return Difference(None, names, protocol, None, said)
    if max(values) - min(values) < 1e-9:  # as in `paired_difference` of a study
        said = f"{ahead} on each of {over}, and equal differences give no interval"
        return Difference(None, names, protocol, None, said)
    error = standard_deviation(values) / math.sqrt(len(values))
    return Difference(None, names, protocol, student(mean(values), error**2, len(values) - 1), over)


def _counted_once(datasets: Sequence[str], named: Sequence[str]) -> str:
    """Which data sets of different names are one, as they share test images; empty where none are."""
    parts = []
    for dataset in dict.fromkeys(datasets):
        own = dict.fromkeys(name for name, known in zip(named, datasets, strict=True) if known == dataset)
        if len(own) > 1:
            parts.append(f", as {' and '.join(own)} share test images")
    return "".join(parts)
