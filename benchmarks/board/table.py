"""Results -> boards: what may stand side by side, averaged where averaging is honest, empty where it is not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kdep_benchmarks.board.intervals import (
    bootstrap_interval,
    half_width,
    mean,
    new_images_half_width,
    standard_deviation,
)
from kdep_benchmarks.board.names import board_names
from kdep_benchmarks.board.notes import Note, baselines, notes_on
from kdep_benchmarks.board.ways import Way, is_measured, labels, way_of, with_known_settings
from kdep_benchmarks.results import BUDGETS, ROLES, CheckpointCard, Protocol, Result, TaskCard


@dataclass(frozen=True)
class Column:
    """One task measured in one way; `label` as by `kdep_benchmarks.board.ways.labels`."""

    label: str
    task: TaskCard
    way: Way
    metric: str

    @property
    def data_fingerprint(self) -> str:
        """Of the version of its data."""
        return self.way.data_fingerprint


@dataclass(frozen=True)
class Cell:
    """One checkpoint's finished scores on one column, by seed, and how many of its runs failed.

    `images`: how many the scores are a share of; None where they are no shares (mIoU, AP), or it was not recorded.
    """

    scores: dict[int, float] = field(default_factory=dict)
    failed: int = 0
    images: int | None = None

    @property
    def n(self) -> int:
        """Number of finished runs."""
        return len(self.scores)

    @property
    def mean(self) -> float | None:
        """Mean score; None where nothing was measured."""
        return mean(list(self.scores.values())) if self.scores else None

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds; None below two runs."""
        return standard_deviation(list(self.scores.values()))

    @property
    def ci95(self) -> float | None:
        """Half the 95 % interval of the mean; None below two runs.

        Over runs and, where `images` is known, over the choice of the test images too.
        """
        values = list(self.scores.values())
        return half_width(values) if self.images is None else new_images_half_width(values, self.images)


@dataclass(frozen=True)
class Row:
    """One checkpoint under one protocol: a cell for each of the board's columns, in order."""

    checkpoint: CheckpointCard
    results: tuple[Result, ...]
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]

    @property
    def complete(self) -> bool:
        """Every task of the board is measured and none of its runs failed; only then may the row be averaged."""
        return all(cell.n and not cell.failed for cell in self.cells)

    @property
    def failed(self) -> int:
        """Number of failed runs."""
        return sum(cell.failed for cell in self.cells)

    def family_mean(self, family: str) -> float | None:
        """Mean over the family's tasks; None unless all of them are measured."""
        cells = [cell for cell, column in zip(self.cells, self.columns, strict=True) if column.task.family == family]
        return mean([cell.mean for cell in cells]) if all(cell.n and not cell.failed for cell in cells) else None

    @property
    def mean_over_families(self) -> float | None:
        """Mean over families of their means: ten classification tasks weigh as much as one detection task."""
        return mean([self.family_mean(name) for name in families(self.columns)]) if self.complete else None

    def mean_by_seed(self, family: str | None = None) -> dict[int, float]:
        """`mean_over_families`, or `family_mean`, of each seed that every cell in it has."""
        chosen = [i for i, column in enumerate(self.columns) if family in (None, column.task.family)]
        cells, weights = [self.cells[i] for i in chosen], family_weights([self.columns[i] for i in chosen])
        seeds = set.intersection(*(set(cell.scores) for cell in cells))
        return {s: float(weights @ [cell.scores[s] for cell in cells]) for s in sorted(seeds)}

    @property
    def overlap(self) -> "Overlap | None":
        """Score images that stand in the pretraining data, over the data sets looked at; None where none was."""
        sets = {(r.task.dataset, r.data_fingerprint): r.counts for r in self.results if r.status == "ok"}
        seen = {key: counts for key, counts in sets.items() if "overlap" in counts and counts.get("test")}
        if not seen:
            return None
        found: dict[str, tuple[int, int]] = {}
        for (dataset, _), counts in seen.items():
            shared, images = found.get(dataset, (0, 0))
            found[dataset] = (shared + counts["overlap"], images + counts["test"])
        total = (sum(counts[name] for counts in seen.values()) for name in ("overlap", "overlap_exact", "test"))
        return Overlap(*total, sets=len(seen), of_sets=len(sets), found=found)


@dataclass(frozen=True)
class Overlap:
    """How many score `images` stand in the pretraining data, `exact` with the same pixels, of `sets` of `of_sets`.

    `found`: by data set, (images that do, images scored).
    """

    shared: int
    exact: int
    images: int
    sets: int
    of_sets: int
    found: dict[str, tuple[int, int]]

    @property
    def percent(self) -> float:
        """Of the images of the data sets that were looked at."""
        return 100 * self.shared / self.images


@dataclass(frozen=True)
class Board:
    """All rows of one protocol, version and budget, best first."""

    protocol: Protocol
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[Note, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the whole board and of its rows."""
        return tuple(note.text for note in self.remarks)

    def notes_about(self, row: Row) -> tuple[str, ...]:
        """Those of the notes that are about a row."""
        return tuple(note.text for note in self.remarks if row.checkpoint.sha256 in note.about)

    def baseline(self, row: Row, role: str) -> Row | None:
        """The row of that role and of the same architecture; where there are several, the first of `baselines`."""
        return next(iter(baselines(self.rows, role, row.checkpoint.arch)), None)


def boards(results: Iterable[Result]) -> list[Board]:
    """One board for each protocol, version and budget; a task on two versions of its data gets two columns.

    So does a task measured by two settings; results that do not say theirs join the others' where those agree.
    A row has one name on all boards, see `kdep_benchmarks.board.names`; its results keep those they were measured by.
    """
    results = with_known_settings(results)
    named = labels(map(way_of, results))
    names = board_names((result.checkpoint.sha256, result.checkpoint.name) for result in results)
    protocols = sorted({r.protocol for r in results}, key=lambda p: (p.name, p.version, BUDGETS.index(p.budget)))
    return [_board(p, [r for r in results if r.protocol == p], named, names) for p in protocols]


def name_teachers(results: Iterable[Result]) -> list[Result]:
    """Give the role of teacher to checkpoints from which a student among the results was distilled."""
    results = list(results)
    taught_by = {result.checkpoint.summary.get("teacher") for result in results} - {None}

    def named(result: Result) -> Result:
        card = result.checkpoint
        if card.summary.get("source") not in taught_by:
            return result
        return replace(result, checkpoint=replace(card, summary={**card.summary, "role": "teacher"}))

    return [named(result) for result in results]


def is_on(result: Result, column: Column) -> bool:
    """Whether a result, one of a board's row, belongs to a column: it was measured in the same way."""
    return is_measured(result, column.way)


def families(columns: Iterable[Column]) -> list[str]:
    """Families in the order of the columns."""
    return list(dict.fromkeys(column.task.family for column in columns))


def family_weights(columns: Sequence[Column]) -> np.ndarray:
    """Weight of each column in the mean over families; they sum to one."""
    names = [column.task.family for column in columns]
    return np.array([1 / names.count(name) / len(set(names)) for name in names])


def supervised_gain(random: Cell, supervised: Cell) -> float | None:
    """How much better supervised weights are than random ones; None where that is within its noise.

    The noise is the 95 % interval of the difference, paired by seed, so that one run of each is never enough.
    """
    seeds = sorted(set(random.scores) & set(supervised.scores))
    if len(seeds) < 2:
        return None
    gain = supervised.mean - random.mean
    return gain if gain > half_width([supervised.scores[s] - random.scores[s] for s in seeds]) else None


def shares_of_gain(board: Board, row: Row) -> tuple[list[float | None], float | None]:
    """(score - random) / (supervised - random) in percent, for each column and for the mean over families.

    None without both baselines of the row's architecture, and where supervised is not clearly above random.
    """
    random, supervised = board.baseline(row, "random"), board.baseline(row, "supervised")
    if random is None or supervised is None:
        return [None] * len(row.cells), None
    shares = []
    for cell, low, high in zip(row.cells, random.cells, supervised.cells, strict=True):
        failed = cell.failed or low.failed or high.failed
        gain = None if failed else supervised_gain(low, high)
        shares.append(None if gain is None or not cell.n else 100 * (cell.mean - low.mean) / gain)
    if not (row.complete and random.complete and supervised.complete):
        return shares, None
    start = random.mean_over_families
    gain = supervised_gain(Cell(random.mean_by_seed()), Cell(supervised.mean_by_seed()))
    if gain is not None:  # clear on the seeds that all tasks share; its size is taken from all seeds, as on the board
        gain = supervised.mean_over_families - start
    return shares, None if not gain or gain < 0 else 100 * (row.mean_over_families - start) / gain


@dataclass(frozen=True)
class Rank:
    """Average rank over tasks, 1 is best; the interval is over seeds, and is absent where a cell has only one."""

    value: float
    low: float | None
    high: float | None


def average_ranks(board: Board) -> dict[str, Rank]:
    """Average rank of each complete row among the complete rows, by sha256; empty below two such rows."""
    rows = [row for row in board.rows if row.complete]
    if len(rows) < 2:
        return {}
    scores = [np.array(list(cell.scores.values())) for row in rows for cell in row.cells]
    shape = (len(rows), len(board.columns))

    def ranks(means: list[np.ndarray]) -> np.ndarray:
        table = np.stack(means, axis=-1).reshape(-1, *shape)
        above = (table[:, None] > table[:, :, None]).sum(axis=2)
        equal = (table[:, None] == table[:, :, None]).sum(axis=2)
        return (above + (equal + 1) / 2).mean(axis=-1)  # equal scores share the mean of their ranks

    values = ranks([np.atleast_1d(values.mean()) for values in scores])[0]
    low = high = [None] * len(rows)
    if all(len(values) > 1 for values in scores):
        low, high = (ends.tolist() for ends in bootstrap_interval(scores, ranks))
    return {row.checkpoint.sha256: Rank(float(v), *ends) for row, v, *ends in zip(rows, values, low, high, strict=True)}


def _board(protocol: Protocol, results: list[Result], named: dict[Way, str], names: dict[str, str]) -> Board:
    columns = _columns(results, named)
    rows = []
    for sha256 in sorted({result.checkpoint.sha256 for result in results}):
        own = tuple(result for result in results if result.checkpoint.sha256 == sha256)
        card = replace(min((result.checkpoint for result in own), key=lambda card: card.name), name=names[sha256])
        rows.append(Row(card, own, columns, tuple(_cell(own, column) for column in columns)))
    rows.sort(key=_order)
    return Board(protocol, columns, tuple(rows), tuple(notes_on(columns, rows)))


def _columns(results: list[Result], named: dict[Way, str]) -> tuple[Column, ...]:
    found: dict[Way, Column] = {}
    for result in sorted(results, key=lambda r: (r.status != "ok", r.task.name)):  # a failure knows no metric
        way, metric = way_of(result), result.main_metric if result.metrics else "-"
        label = named[way]
        column = found.setdefault(way, Column(label, result.task, way, metric))
        if result.status == "ok" and column.metric != metric:
            raise ValueError(f"{label}: main metric is {column.metric} in one result and {metric} in another")
    order = {"classification": 0, "segmentation": 1, "detection": 2}
    return tuple(sorted(found.values(), key=lambda c: (order.get(c.task.family, 3), c.task.family, c.label)))


def _cell(results: Iterable[Result], column: Column) -> Cell:
    own = [result for result in results if is_on(result, column)]
    finished = sorted((result for result in own if result.status == "ok"), key=lambda result: result.seed)
    scores, failed = {result.seed: result.score for result in finished}, len(own) - len(finished)
    images = {result.counts.get("test") for result in finished} if column.metric == "top1" else set()
    return Cell(scores, failed, images=images.pop() if len(images) == 1 else None)


def _order(row: Row) -> tuple[bool, float, int, str]:
    average = row.mean_over_families
    return average is None, -(average or 0), ROLES.index(row.checkpoint.role), row.checkpoint.name
