"""Build one board per protocol from results: columns, cells, means, ranks and shares of the supervised gain.

A board is a set of DataFrames. Rows are checkpoints, by their sha256; columns are tasks, by their label.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from kdep_benchmarks.board.facts import costs_of, origins_of, overlaps_of
from kdep_benchmarks.board.informative import judge_columns
from kdep_benchmarks.kinds import FAMILIES
from kdep_benchmarks.result import BUDGETS, ROLES, CheckpointCard, Protocol, Result
from kdep_benchmarks.verdicts.datasets import datasets_of
from kdep_benchmarks.verdicts.intervals import rank_intervals
from kdep_benchmarks.verdicts.names import board_names
from kdep_benchmarks.verdicts.uncertainty import uncertainty
from kdep_benchmarks.verdicts.ways import labels, way_of, ways_of

VERDICTS = ("a", "b", "column", "difference", "low", "high", "p", "p_holm", "tests", "verdict", "verdict_holm", "over")


@dataclass(frozen=True)
class Note:
    """A sentence, and the sha256 of the checkpoints that it is about."""

    text: str
    about: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """What means and ranks are over.

    Attributes:
        name: as the user gave it.
        tasks: names of its tasks.
        kind: what the name is of, for people: a suite, or the folder of `--data`.
    """

    name: str
    tasks: frozenset[str]
    kind: str = "suite"


@dataclass(frozen=True)
class Board:
    """All checkpoints measured by one protocol, version and budget.

    Attributes:
        runs: one row per result: checkpoint, column, seed, ok, score, metric, result.
        columns: one row per column: task, kind, family, dataset, images (one name for the data sets with the same test
            images), data_fingerprint, metric, way, in_suite, and what `judge_columns` finds.
        cells: the columns (statistic, column) of each checkpoint: mean, std, n, failed, ci95 (half the 95 % interval),
            images (test images that the interval covers), share_of_gain.
        metrics: mean and n of the metrics beside the main one, by (checkpoint, column, metric).
        family_means: one column per family; NaN unless all its counted columns are measured without failures.
        rows: what is known of each checkpoint, best first; the columns of leaderboard.csv that are not of a task.
        notes: what the numbers do not say by themselves.
        suite: the suite that means and ranks are over; None: all columns.
        verdicts: of each two rows on each column, see `with_verdicts`; empty where no answers were read.
    """

    protocol: Protocol
    runs: pd.DataFrame
    columns: pd.DataFrame
    cells: pd.DataFrame
    metrics: pd.DataFrame
    family_means: pd.DataFrame
    rows: pd.DataFrame
    notes: tuple[Note, ...] = ()
    suite: Suite | None = None
    verdicts: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(VERDICTS)))

    @property
    def counted(self) -> pd.DataFrame:
        """The columns that count in means and ranks."""
        return _counted(self.columns)

    def families(self) -> list[str]:
        """Families in the order of the columns."""
        return list(dict.fromkeys(self.columns.family))

    def results_of(self, column: str) -> pd.Series:
        """Finished results of a column: a list by checkpoint, in the order of the seeds."""
        own = self.runs[self.runs.ok & (self.runs.column == column)].sort_values("seed", kind="stable")
        return own.groupby("checkpoint")["result"].agg(list)


def _counted(columns: pd.DataFrame) -> pd.DataFrame:
    return columns[columns.in_suite & (columns.informative != "no")]


def boards_without_notes(results: Iterable[Result], suite: Suite | None = None) -> list[Board]:
    """Build a board for each protocol, version and budget, see `kdep_benchmarks.board.build.boards`."""
    results = name_teachers(results)
    ways = ways_of(results)
    named = labels(ways)
    names = board_names((result.checkpoint.sha256, result.checkpoint.name) for result in results)
    protocols = sorted({r.protocol for r in results}, key=lambda p: (p.name, p.version, BUDGETS.index(p.budget)))
    every = _runs(results, [named[way] for way in ways])
    return [_board(p, every[[r.protocol == p for r in results]], names, suite) for p in protocols]


def name_teachers(results: Iterable[Result]) -> list[Result]:
    """Give the role of teacher to the trained checkpoints that a student among the results was distilled from.

    Such a card keeps its own role as `baseline`: a supervised network stays one also where a student learned from it.
    """
    results = list(results)
    taught_by = {result.checkpoint.summary.get("teacher") for result in results} - {None}

    def named(result: Result) -> Result:
        card = result.checkpoint
        if card.summary.get("source") not in taught_by or card.role == "random":
            return result
        summary = {**card.summary, "role": "teacher", "baseline": card.role}
        return replace(result, checkpoint=replace(card, summary=summary))

    return [named(result) for result in results]


def baselines(rows: pd.DataFrame, role: str, arch: str) -> list[str]:
    """Checkpoints of a role and an architecture, by name and sha256: never by score."""
    found = rows[(rows.baseline == role) & (rows.arch == arch)]
    return [sha256 for _, sha256 in sorted(zip(found.name, found.index, strict=True))]


def half_widths_of_means(board: Board, family: str | None = None) -> pd.Series:
    """Half the 95 % interval of the mean over families, or over one family's columns, by checkpoint.

    It is over test images and runs, as those of the columns are. The errors of columns with the same test images count
    as equal; those of others are independent. NaN where a column has no interval.
    """
    columns = board.counted if family is None else board.counted[board.counted.family == family]
    parts = board.cells["ci95"][columns.index] * family_weights(columns.family)
    squares = parts.T.groupby(columns.images).sum() ** 2
    return np.sqrt(squares.sum()).where(parts.notna().all(axis=1))


def family_weights(families: pd.Series) -> pd.Series:
    """Weight of each column in the mean over families. The weights sum to one."""
    return 1 / families.map(families.value_counts()).astype(float) / families.nunique()


def _runs(results: list[Result], columns: list[str]) -> pd.DataFrame:
    ok = [result.status == "ok" for result in results]
    return pd.DataFrame(
        {
            "checkpoint": [result.checkpoint.sha256 for result in results],
            "column": columns,
            "seed": [result.seed for result in results],
            "ok": np.array(ok, dtype=bool),
            "score": [result.score if fine else np.nan for result, fine in zip(results, ok, strict=True)],
            "metric": [result.main_metric if result.metrics else None for result in results],
            "result": results,
        }
    )


def _board(protocol: Protocol, runs: pd.DataFrame, names: dict[str, str], suite: Suite | None) -> Board:
    columns, cards = _columns(runs), _cards(runs, names)
    scores = runs[runs.ok].drop_duplicates(["checkpoint", "column", "seed"], keep="last")
    scores = scores.set_index(["checkpoint", "seed", "column"])["score"].unstack("column")
    scores = scores.reindex(columns=columns.index).sort_index()
    cells = _cells(runs, scores, index=cards.index, columns=columns.index)
    columns = columns.join(judge_columns(runs, cards)).assign(in_suite=_in_suite(columns, suite))
    counted = _counted(columns)
    measured = cells["mean"].where((cells["n"] > 0) & (cells["failed"] == 0))[counted.index]
    families = counted.groupby("family", sort=False)
    family_means = pd.DataFrame({name: measured[own.index].mean(axis=1, skipna=False) for name, own in families})
    family_means = family_means.reindex(index=cards.index)
    rows = cards.assign(
        complete=measured.notna().all(axis=1) & bool(len(counted)),
        failed=cells["failed"].sum(axis=1).astype(int),
        mean_over_families=family_means.mean(axis=1, skipna=False),
    )
    # Best first; rows without a mean last, by role and name.
    rows = rows.assign(place=rows.role.map(ROLES.index)).sort_values("name", kind="stable")
    rows = rows.sort_values(["mean_over_families", "place"], ascending=[False, True], na_position="last", kind="stable")
    order = rows.index
    bare = Board(
        protocol,
        runs,
        columns,
        cells.loc[order],
        _metrics(runs),
        family_means.loc[order],
        rows.drop(columns="place"),
        suite=suite,
    )
    return _with_comparisons(bare)


def _with_comparisons(board: Board) -> Board:
    """Add what a row is worth beside the others: ranks, shares of the gain; then where it comes from and its cost."""
    shares, share = _shares_of_gain(board)
    cells = pd.concat([board.cells, pd.concat({"share_of_gain": shares}, axis=1)], axis=1)
    rows = board.rows.join(average_ranks(board)).assign(share_of_gain=share)
    for more in (origins_of(board.runs), overlaps_of(board.runs), costs_of(board.runs, board.rows)):
        rows = rows.join(more)
    return replace(board, cells=cells, rows=rows)


def _columns(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per column, from its first finished result; a failed one knows no metric."""
    first = runs.sort_values("ok", ascending=False, kind="stable").drop_duplicates("column")
    tasks, every = [result.task for result in first["result"]], runs.groupby("column")["result"].agg(list)
    frame = pd.DataFrame(
        {
            "task": [task.name for task in tasks],
            "kind": [task.kind for task in tasks],
            "family": [task.family for task in tasks],
            "dataset": [task.dataset for task in tasks],
            "images": datasets_of([every[column] for column in first["column"]]),
            "data_fingerprint": [result.data_fingerprint for result in first["result"]],
            "metric": first["metric"].fillna("-").tolist(),
            "way": [way_of(result) for result in first["result"]],
        },
        index=pd.Index(first["column"], name="column"),
    )
    known = {name: place for place, name in enumerate(FAMILIES)}
    order = sorted(frame.index, key=lambda c: (known.get(frame.family[c], 3), frame.family[c], c))
    return frame.loc[order]


def _in_suite(columns: pd.DataFrame, suite: Suite | None) -> pd.Series:
    return pd.Series(True, columns.index) if suite is None else columns.task.isin(suite.tasks)


def _cards(runs: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    cards: dict[str, CheckpointCard] = {}
    for result in runs["result"]:
        card = result.checkpoint
        if card.sha256 not in cards or card.name < cards[card.sha256].name:
            cards[card.sha256] = card
    known = [
        (names[sha], sha[:8], card.role, card.summary.get("baseline", card.role), card.arch, card.params / 1e6)
        for sha, card in sorted(cards.items())
    ]
    index = pd.Index(sorted(cards), name="checkpoint")
    return pd.DataFrame(known, columns=["name", "sha8", "role", "baseline", "arch", "params_m"], index=index)


def _cells(runs: pd.DataFrame, scores: pd.DataFrame, *, index: pd.Index, columns: pd.Index) -> pd.DataFrame:
    by, keys, ok = scores.groupby(level="checkpoint"), ["checkpoint", "column"], runs[runs.ok]
    found = [(*key, uncertainty(own.tolist())) for key, own in ok.groupby(keys)["result"]]
    known = [(*key, one.half_width, one.images) for *key, one in found if one is not None]
    intervals = pd.DataFrame(known, columns=[*keys, "ci95", "images"]).set_index(keys)
    statistics = {
        "mean": by.mean(),
        "std": by.std(),
        "n": by.count(),
        "failed": runs[~runs.ok].groupby(keys).size().unstack("column"),
        "ci95": intervals["ci95"].unstack("column"),
        "images": intervals["images"].unstack("column"),
    }
    frames = {name: frame.reindex(index=index, columns=columns).astype(float) for name, frame in statistics.items()}
    frames |= {name: frames[name].fillna(0).astype(int) for name in ("n", "failed")}
    return pd.concat(frames, axis=1)


def _metrics(runs: pd.DataFrame) -> pd.DataFrame:
    keys = ["checkpoint", "column", "metric"]
    own = runs[runs.ok].sort_values("seed", kind="stable")
    values = [
        (checkpoint, column, metric, value)
        for checkpoint, column, main, result in zip(own.checkpoint, own.column, own.metric, own.result, strict=True)
        for metric, value in result.metrics.items()
        if metric != main
    ]
    by = pd.DataFrame(values, columns=[*keys, "value"]).groupby(keys, sort=False)["value"]
    return by.agg(["mean", "count"]).rename(columns={"count": "n"})


def average_ranks(board: Board) -> pd.DataFrame:
    """Average rank of complete rows over the counted columns, 1 is best, with its interval over images and runs.

    Empty below two complete rows. The interval is missing where a cell has none.
    """
    rows, columns = board.rows.index[board.rows.complete], board.counted
    names = ["average_rank", "average_rank_low", "average_rank_high"]
    if len(rows) < 2:
        return pd.DataFrame(columns=names, dtype=float)
    scores, halves = (board.cells[name].loc[rows, columns.index] for name in ("mean", "ci95"))
    found = {names[0]: scores.rank(ascending=False).mean(axis=1).to_numpy()}
    if halves.notna().all(axis=None):
        sets = pd.factorize(columns.images)[0]
        ends = rank_intervals(found[names[0]], scores.to_numpy(), halves.to_numpy(), sets)
        found |= dict(zip(names[1:], ends, strict=True))
    return pd.DataFrame(found, index=rows).reindex(columns=names)


def _shares_of_gain(board: Board) -> tuple[pd.DataFrame, pd.Series]:
    """(score - random) / (supervised - random) in percent, by column and of the mean over families.

    NaN without both baselines of the row's architecture, and where supervised is not above random by more than the 95 %
    interval of their difference, with the two as independent.
    """
    mean, average = board.cells["mean"].where(board.cells["failed"] == 0), board.rows.mean_over_families
    half, half_of_average = board.cells["ci95"], half_widths_of_means(board)
    shares = pd.DataFrame(np.nan, index=mean.index, columns=mean.columns)
    share = pd.Series(np.nan, index=mean.index)
    for arch, own in board.rows.groupby("arch"):
        pair = [baselines(board.rows, role, arch)[:1] for role in ("random", "supervised")]
        if not all(pair):
            continue
        (random,), (supervised,) = pair
        gain = mean.loc[supervised] - mean.loc[random]
        clear = gain > np.hypot(half.loc[supervised], half.loc[random])
        shares.loc[own.index] = 100 * (mean.loc[own.index] - mean.loc[random]) / gain.where(clear)
        whole = average[supervised] - average[random]
        if whole > np.hypot(half_of_average[supervised], half_of_average[random]):
            share[own.index] = 100 * (average[own.index] - average[random]) / whole
    return shares, share
