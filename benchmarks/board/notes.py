"""Write the notes below a board: what its numbers do not say by themselves."""

from collections.abc import Iterator

import pandas as pd

from kdep_benchmarks.board.informative import STANDARD_ERRORS
from kdep_benchmarks.board.table import Board, Note, baselines
from kdep_benchmarks.kinds import AVERAGED, PAIRED
from kdep_benchmarks.verdicts.ways import describe_settings

MOSTLY = 50  # percent of the pixels of test masks; of our sets at most 10 are ignored
NAMED = 5  # tasks of a suite that nobody was measured on; more are counted
CONSTANT = {
    "classification": "Always answering the most frequent class",
    "segmentation": "Labelling every pixel with the most frequent class",
    "detection": "Finding no box",
}


def notes_on(board: Board) -> list[Note]:
    """Return all notes on a board."""
    kinds = (
        _suite,
        _informative,
        _references,
        _unknown,
        _floors,
        _ways,
        _holes,
        _halved,
        _copies,
        _masks,
        _boxes,
        _overlaps,
        _edges,
        _fixed,
        _single_runs,
    )
    return [note for kind in (*kinds, _missing_baselines, _chosen_baselines) for note in kind(board)]


def _suite(board: Board) -> Iterator[Note]:
    if board.suite is None:
        return
    beside = board.columns.index[~board.columns.in_suite]
    absent = sorted(board.suite.tasks - set(board.columns.task))
    tasks, suite = len(board.suite.tasks), f"{board.suite.kind} {board.suite.name}"
    text = f"Means and ranks are over the tasks of {suite}"
    if len(absent) > NAMED:
        text = f"Means and ranks are over {tasks - len(absent)} of the {tasks} tasks that count in {suite}"
        text += "; no checkpoint here was measured on the others"
    elif absent:
        text += f", without {', '.join(absent)}, which no checkpoint here was measured on"
    yield Note(text + (f". Not counted: {', '.join(beside)}." if len(beside) else "."), ())


def _references(board: Board) -> Iterator[Note]:
    known = board.columns.dropna(subset="errors")
    if len(known):
        gains = ", ".join(f"{label} {errors:.1f}" for label, errors in known.errors.items())
        yield Note(f"The reference above random initialisation, in standard errors: {gains}.", ())


def _informative(board: Board) -> Iterator[Note]:
    names = board.rows.name
    for label, column in board.columns[board.columns.informative == "no"].iterrows():
        yield Note(
            f"{label}: not informative at this budget. {names[column.reference]} ({column.reference_score:.2f}) is not "
            f"above {names[column.random]} ({column.random_score:.2f}) by {STANDARD_ERRORS} standard errors, so the "
            "column stays out of means and ranks.",
            (),
        )


def _unknown(board: Board) -> Iterator[Note]:
    found = board.columns.index[board.columns.in_suite & (board.columns.informative == "unknown")]
    if len(found):
        yield Note(
            f"Not known to be informative, but in means and ranks: {', '.join(found)}. To find out, measure a "
            "supervised network or teacher and a random initialisation (such as random:resnet18) on them; each score "
            "needs a standard error.",
            (),
        )


def _floors(board: Board) -> Iterator[Note]:
    for family, own in board.columns.dropna(subset="floor").groupby("family", sort=False):
        scores = ", ".join(f"{label} {floor:.2f}" for label, floor in own.floor.items())
        yield Note(f"{CONSTANT.get(family, 'The best constant answer')} scores: {scores}.", ())


def _ways(board: Board) -> Iterator[Note]:
    for task, own in board.columns.groupby("task", sort=False):
        if len(own) > 1:
            settings = {label: describe_settings(way, own.way) for label, way in own.way.items()}
            said = [label + (f" ({how})" if how else "") for label, how in settings.items()]
            data = own.data_fingerprint.nunique()
            what = "with different settings" if any(settings.values()) else f"on {data} versions of its data"
            if data == 1 and not any(settings.values()):
                what = "with different batches or precisions"
            yield Note(f"{task} was measured {what}: {', '.join(said)}; never averaged.", tuple(board.rows.index))


def _holes(board: Board) -> Iterator[Note]:
    n, failures = board.cells["n"].to_numpy(), board.cells["failed"].to_numpy()
    for sha256, name, finished, failing in zip(board.rows.index, board.rows.name, n, failures, strict=True):
        labels = list(zip(board.columns.index, finished, failing, strict=True))
        failed = [f"{label} ({count})" for label, _, count in labels if count]
        absent = [label for label, done, count in labels if not done and not count]
        if failed:
            yield Note(f"{name}: failed runs, so not averaged: {', '.join(failed)}.", (sha256,))
        if absent:
            yield Note(f"{name}: not measured, so not averaged: {', '.join(absent)}.", (sha256,))


def _halved(board: Board) -> Iterator[Note]:
    """Name the runs that had half the batch."""
    own, halved = board.runs[board.runs.ok], {}
    for sha256, column, result in zip(own.checkpoint, own.column, own.result, strict=True):
        if memory := result.chosen.get("out_of_memory"):
            found = halved.setdefault(sha256, {}).setdefault(column, [])
            found.append(memory.get("because", "out of memory"))
    for sha256 in own.checkpoint.unique():
        if found := halved.get(sha256):
            said = [f"{column} ({len(why)}, {', '.join(sorted(set(why)))})" for column, why in found.items()]
            yield Note(f"{board.rows.name[sha256]}: runs with half the batch: {', '.join(said)}.", (sha256,))


def _copies(board: Board) -> Iterator[Note]:
    """Name the columns whose test images are partly in train or val, or repeat others."""
    for name, what in (("leaked", "are also in train or val"), ("repeated", "repeat others")):
        for label in board.columns.index:
            results = board.results_of(label)
            every = [found.counts for own in results for found in own if found.counts.get(name)]
            for count, images in sorted({(counts[name], counts.get("test", 0)) for counts in every}):
                whole = f"{images:,} test" if images else "test"  # a file of others may lack the count
                text = f"{label}: {count:,} of its {whole} images {what}, byte for byte."
                yield Note(text, tuple(results.index))


def _masks(board: Board) -> Iterator[Note]:
    """Name the columns whose test masks do not look as if their layout and classes were meant for them."""
    for label in board.columns.index:
        results = board.results_of(label)
        every = [found.chosen for own in results for found in own]
        ignored = max(chosen.get("ignored_percent") or 0 for chosen in every) if every else 0
        last = max(chosen.get("last_classes_not_in_test") or 0 for chosen in every) if every else 0
        said = []
        if ignored > MOSTLY:
            said.append(f"{ignored:.0f} % of the pixels of its test masks have no class and are not scored")
        if last:
            which = "the last class" if last == 1 else f"any of the last {last:,} classes"
            said.append(f"no test mask has a pixel of {which}")
        if said:
            text = f"{label}: {', and '.join(said)}. See whether its layout and its list of classes fit the masks."
            yield Note(text, tuple(results.index))


def _boxes(board: Board) -> Iterator[Note]:
    """Name the columns that leave out boxes of test images, since their class is not among the task's."""
    for label in board.columns.index:
        results = board.results_of(label)
        every = [found.chosen.get("boxes_of_other_classes") or 0 for own in results for found in own]
        if others := max(every, default=0):
            which = "a class that train does not have or the suite does not name"
            text = f"{label}: {others:,} boxes of its test images are of {which}, and are not scored."
            yield Note(text, tuple(results.index))


def _overlaps(board: Board) -> Iterator[Note]:
    for sha256, found in board.rows.overlap_found.dropna().items():
        for dataset, (shared, images) in found.items():
            if shared:
                text = f"{shared:,} of the {images:,} test images of {dataset} are also in its pretraining data."
                yield Note(f"{board.rows.name[sha256]}: {text}", (sha256,))


def _edges(board: Board) -> Iterator[Note]:
    flags = _flags(board, "_at_edge")
    if len(flags):
        counts, runs = flags.groupby(["column", "name"], sort=False).size(), board.runs[board.runs.ok].groupby("column")
        found = [
            f"{column} {name} in {count} of {len(runs.get_group(column))} runs"
            for (column, name), count in counts.items()
        ]
        text = f"Chosen at the end of its grid; a wider grid may score higher: {', '.join(found)}."
        yield Note(text, tuple(sorted(set(flags.checkpoint))))


def _fixed(board: Board) -> Iterator[Note]:
    flags = _flags(board, "_fixed")
    if len(flags):
        found = [f"{column} {name}" for column, name in flags[["column", "name"]].drop_duplicates().values]
        text = f"Fixed by the task, not chosen on val: {', '.join(found)}."
        yield Note(text, tuple(sorted(set(flags.checkpoint))))


def _flags(board: Board, suffix: str) -> pd.DataFrame:
    """Every chosen setting with this flag: checkpoint, column and name, in the order of the columns."""
    own = board.runs[board.runs.ok]
    found = [
        (checkpoint, column, name.removesuffix(suffix))
        for checkpoint, column, result in zip(own.checkpoint, own.column, own.result, strict=True)
        for name, on in result.chosen.items()
        if name.endswith(suffix) and on
    ]
    frame = pd.DataFrame(found, columns=["checkpoint", "column", "name"])
    place = {name: place for place, name in enumerate(board.rows.index)}
    frame = frame.sort_values("checkpoint", key=lambda c: c.map(place), kind="stable")
    order = {label: place for place, label in enumerate(board.columns.index)}
    return frame.sort_values("column", key=lambda c: c.map(order), kind="stable")


def _single_runs(board: Board) -> Iterator[Note]:
    """Name trainings that ran once: their verdicts are about these weights, not about what another run would give."""
    trained = board.columns.index[~board.columns.kind.isin((*AVERAGED, *PAIRED))]
    for sha256, n in board.cells["n"][trained].iterrows():
        if (n == 1).any():
            found = ", ".join(n.index[n == 1])
            text = (
                f"{board.rows.name[sha256]}: a single run of {found}, so its interval does not cover how runs differ."
            )
            yield Note(text, (sha256,))


def _missing_baselines(board: Board) -> Iterator[Note]:
    there = set(board.rows.arch[board.rows.role == "random"])
    for arch, own in board.rows[board.rows.role == "student"].groupby("arch"):
        if arch not in there:
            text = (
                f"No random baseline of {arch}, so the board cannot say what the student learned before the task: "
                f"`kdep transfer random:{arch}` measures it."
            )
            yield Note(text, tuple(own.index))


def _chosen_baselines(board: Board) -> Iterator[Note]:
    """Say which of several baselines the gain share uses."""
    for arch, own in board.rows.groupby("arch"):
        for role in ("random", "supervised"):
            if len(found := baselines(board.rows, role, arch)) > 1:
                name = board.rows.name[found[0]]
                text = f"Gain shares of {arch} use {name}, the first by name of the {len(found)} {role} rows."
                yield Note(text, tuple(own.index))
