"""Notes below a board: what its numbers do not say by themselves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdep_benchmarks.board.compare import MIN_RUNS
from kdep_benchmarks.board.ways import describe_settings, is_measured
from kdep_benchmarks.results import Result

if TYPE_CHECKING:
    from kdep_benchmarks.board.table import Cell, Column, Row


@dataclass(frozen=True)
class Note:
    """A sentence, and the sha256 of the checkpoints whose rows it is about."""

    text: str
    about: tuple[str, ...]


def notes_on(columns: Sequence["Column"], rows: Sequence["Row"]) -> list[Note]:
    """All notes on a board of these columns and rows."""
    notes = [*_ways(columns, rows)]
    for row in rows:
        notes += [Note(text, _about([row])) for text in (*_holes(row), *_overlaps(row))]
    notes += [*_edges(columns, rows), *_fixed(columns, rows), *_few_runs(rows), *_unequal_runs(columns, rows)]
    return [*notes, *_missing_baselines(rows), *_chosen_baselines(rows), *_shared_names(rows)]


def baselines(rows: Iterable["Row"], role: str, arch: str) -> list["Row"]:
    """Rows of a role and an architecture, by name and then sha256: never by score, nor by the order of the rows."""
    found = [row for row in rows if (row.checkpoint.role, row.checkpoint.arch) == (role, arch)]
    return sorted(found, key=lambda row: (row.checkpoint.name, row.checkpoint.sha256))


def _ways(columns: Sequence["Column"], rows: Sequence["Row"]) -> Iterable[Note]:
    for name in dict.fromkeys(column.task.name for column in columns):
        own = [column for column in columns if column.task.name == name]
        if len(own) > 1:
            settings = [describe_settings(column.way, [other.way for other in own]) for column in own]
            said = [c.label + (f" ({how})" if how else "") for c, how in zip(own, settings, strict=True)]
            what = "by different settings" if any(settings) else f"on {len(own)} versions of its data"
            yield Note(f"{name} was measured {what}: {', '.join(said)}; never averaged.", _about(rows))


def _holes(row: "Row") -> Iterable[str]:
    cells = list(zip(row.columns, row.cells, strict=True))
    absent = [column.label for column, cell in cells if not cell.n and not cell.failed]
    failed = [f"{column.label} ({cell.failed})" for column, cell in cells if cell.failed]
    if failed:
        yield f"{row.checkpoint.name}: failed runs, so not averaged: {', '.join(failed)}."
    if absent:
        yield f"{row.checkpoint.name}: not measured, so not averaged: {', '.join(absent)}."


def _overlaps(row: "Row") -> Iterable[str]:
    for dataset, (shared, images) in (row.overlap.found if row.overlap else {}).items():
        if shared:
            yield (
                f"{row.checkpoint.name}: {shared:,} of the {images:,} images that {dataset} is scored on also stand in "
                "its pretraining data."
            )


def _edges(columns: Sequence["Column"], rows: Sequence["Row"]) -> Iterable[Note]:
    """Settings that were best at an end of their grid: beyond it the score may be higher."""
    found, about = [], set()
    for column, runs, flagged in _flagged(columns, rows, "_at_edge"):
        about |= {r.checkpoint.sha256 for _, r in flagged}
        names = [name for name, _ in flagged]
        found += [f"{column.label} {name} in {names.count(name)} of {runs} runs" for name in dict.fromkeys(names)]
    if found:
        text = f"Best at an end of its grid, so that a better value may lie beyond: {', '.join(found)}."
        yield Note(text, tuple(sorted(about)))


def _fixed(columns: Sequence["Column"], rows: Sequence["Row"]) -> Iterable[Note]:
    """Settings that the task names alone: none was chosen for the checkpoint, and another may suit it better."""
    found, about = [], set()
    for column, _, flagged in _flagged(columns, rows, "_fixed"):
        about |= {r.checkpoint.sha256 for _, r in flagged}
        found += [f"{column.label} {name}" for name in dict.fromkeys(name for name, _ in flagged)]
    if found:
        yield Note(f"Fixed by the task, not chosen on val: {', '.join(found)}.", tuple(sorted(about)))


def _flagged(
    columns: Sequence["Column"], rows: Sequence["Row"], flag: str
) -> Iterable[tuple["Column", int, list[tuple[str, Result]]]]:
    """Of each column its number of runs, and every setting with this flag together with its run."""
    for column in columns:
        runs = [r for row in rows for r in row.results if r.status == "ok" and is_measured(r, column.way)]
        chosen = ((name, on, r) for r in runs for name, on in r.chosen.items())
        yield column, len(runs), [(name.removesuffix(flag), r) for name, on, r in chosen if name.endswith(flag) and on]


def _few_runs(rows: Sequence["Row"]) -> Iterable[Note]:
    if all(cell.n < MIN_RUNS for row in rows for _, cell in _measured(row)):
        yield Note(f"Fewer than {MIN_RUNS} runs of everything on this board: too few to publish.", _about(rows))
        return
    for row in rows:
        if few := [f"{column.label} ({cell.n})" for column, cell in _measured(row) if cell.n < MIN_RUNS]:
            text = f"{row.checkpoint.name}: fewer than {MIN_RUNS} runs, too few to publish: {', '.join(few)}."
            yield Note(text, _about([row]))


def _unequal_runs(columns: Sequence["Column"], rows: Sequence["Row"]) -> Iterable[Note]:
    for index, column in enumerate(columns):
        names: dict[int, list[str]] = {}
        for row in rows:
            if row.cells[index].n:
                names.setdefault(row.cells[index].n, []).append(row.checkpoint.name)
        if len(names) > 1:
            said = "; ".join(f"{n} of {', '.join(names[n])}" for n in sorted(names, reverse=True))
            about = _about(row for row in rows if row.cells[index].n)
            yield Note(f"{column.label}: unequal numbers of runs: {said}.", about)


def _missing_baselines(rows: Sequence["Row"]) -> Iterable[Note]:
    there = {row.checkpoint.arch for row in rows if row.checkpoint.role == "random"}
    students = [row for row in rows if row.checkpoint.role == "student" and row.checkpoint.arch not in there]
    for arch in sorted({row.checkpoint.arch for row in students}):
        text = (
            f"No random baseline of {arch}, without which nobody can tell what the student had learnt before the task: "
        )
        about = _about(row for row in students if row.checkpoint.arch == arch)
        yield Note(f"{text}`kdep transfer random:{arch}` measures it.", about)


def _chosen_baselines(rows: Sequence["Row"]) -> Iterable[Note]:
    """Which of several baselines the gain share goes by."""
    for arch in sorted({row.checkpoint.arch for row in rows}):
        for role in ("random", "supervised"):
            if len(found := baselines(rows, role, arch)) > 1:
                card = found[0].checkpoint
                text = f"Gain shares of {arch} go by {card.name}, the first by name of the "
                about = _about(row for row in rows if row.checkpoint.arch == arch)
                yield Note(f"{text}{len(found)} {role} rows.", about)


def _shared_names(rows: Sequence["Row"]) -> Iterable[Note]:
    """Rows whose names had to be told apart."""
    apart = [row for row in rows if row.checkpoint.name not in {result.checkpoint.name for result in row.results}]
    if apart:
        names = ", ".join(sorted(row.checkpoint.name for row in apart))
        yield Note(f"{names}: checkpoints of one name; the digits are the first of their sha256.", _about(apart))


def _measured(row: "Row") -> list[tuple["Column", "Cell"]]:
    return [(column, cell) for column, cell in zip(row.columns, row.cells, strict=True) if cell.n]


def _about(rows: Iterable["Row"]) -> tuple[str, ...]:
    return tuple(row.checkpoint.sha256 for row in rows)
