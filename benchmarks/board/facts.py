"""What stands behind a row of the board: its origin, the overlap of its pretraining data with test sets, its cost.

Each function takes the board's runs and returns one row per checkpoint. Columns have their names in leaderboard.csv.
"""

from typing import Any

import pandas as pd

from kdep_benchmarks.kinds import SCHEDULED

ORIGIN = ("images_seen", "method", "teacher", "pretrain_data", "pretrain_epochs", "pretrain_seed", "pretrain_commit")
COST = (
    *("params_m", "gmacs", "load_coverage", "runs", "seconds", "peak_memory_mb"),
    *("images_per_second", "training_images_per_second", "device"),
)


def origins_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Where a checkpoint and its scores come from, NaN where no result says so; `commit` is of the measuring code."""
    summaries = pd.DataFrame([result.checkpoint.summary for result in runs["result"]], index=runs.checkpoint)
    origin = summaries.reindex(columns=ORIGIN).astype(object).groupby(level=0).first()  # object: 3 stays 3
    commits = {sha: {r.commit for r in own["result"]} - {""} for sha, own in runs[runs.ok].groupby("checkpoint")}
    return origin.assign(commit=pd.Series({sha: ", ".join(sorted(found)) or None for sha, found in commits.items()}))


def overlaps_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Test images that also stand in the pretraining data, over the data sets that `kdep data overlap` looked at.

    overlap_images are all of them, overlap_exact those with equal bytes or pixels, overlap_percent their share,
    overlap_sets and overlap_of_sets the data sets looked at and measured, overlap_found {data set: (shared, images)}.
    """
    counts = pd.DataFrame([result.counts for result in runs["result"]], index=runs.index)
    counts = counts.reindex(columns=["test", "overlap", "overlap_exact"]).fillna({"test": 0})
    counts = counts.assign(
        checkpoint=runs.checkpoint,
        dataset=[result.task.dataset for result in runs["result"]],
        data=[result.data_fingerprint for result in runs["result"]],
    )[runs.ok].drop_duplicates(["checkpoint", "dataset", "data"], keep="last")  # tasks share data sets
    seen = counts[counts.overlap.notna() & (counts.test > 0)]
    total = seen.groupby("checkpoint")[["test", "overlap", "overlap_exact"]].sum()
    found = seen.groupby(["checkpoint", "dataset"])[["overlap", "test"]].sum().astype(int)
    of = {sha: {d: (o, n) for (_, d), o, n in own.itertuples()} for sha, own in found.groupby(level=0)}
    return pd.DataFrame(
        {
            "overlap_percent": 100 * total.overlap / total.test,
            "overlap_images": total.overlap.astype("Int64"),
            "overlap_exact": total.overlap_exact.astype("Int64"),
            "overlap_sets": seen.groupby("checkpoint").size(),
            "overlap_of_sets": counts.groupby("checkpoint").size().loc[total.index],
            "overlap_found": pd.Series(of, dtype=object),
        }
    )


def costs_of(runs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """What the finished runs cost, and what the backbone costs to run; NaN where nothing is known.

    gmacs are billions of multiply-adds at 224 px; load_coverage is the lowest share of tensors loaded, in percent;
    seconds are added up, peak_memory_mb is the highest. Images per second are medians, of feature extraction and of
    training apart, and NaN where the runs were on several kinds of device.
    """
    ok = runs[runs.ok]
    costs = pd.DataFrame([result.cost for result in ok["result"]], index=ok.index)
    costs = costs.reindex(columns=["gmacs", "seconds", "peak_memory_mb", "images_per_second", "device"])
    kind = pd.Series([result.task.kind for result in ok["result"]], index=ok.index, dtype=object)
    costs = costs.assign(
        load_coverage=[result.load.get("coverage") for result in ok["result"]],
        training_images_per_second=costs.images_per_second.where(kind == "finetune"),
        images_per_second=costs.images_per_second.where(~kind.isin(SCHEDULED)),  # of extraction
    )
    by = costs.groupby(ok.checkpoint)
    found = pd.DataFrame(
        {
            "gmacs": by.gmacs.agg(_agreed),
            "load_coverage": by.load_coverage.min(),
            "runs": by.size(),
            "seconds": by.seconds.sum(min_count=1),
            "peak_memory_mb": by.peak_memory_mb.max(),
            "images_per_second": by.images_per_second.median(),
            "training_images_per_second": by.training_images_per_second.median(),
            "device": by.device.agg(_agreed),
        }
    ).reindex(rows.index)
    found.loc[found.device.isna(), ["images_per_second", "training_images_per_second"]] = None
    return found.assign(runs=found.runs.fillna(0).astype(int))


def _agreed(values: pd.Series) -> Any:
    known = values.dropna().unique()
    return known[0] if len(known) == 1 else None
