"""Decide which columns can tell a trained network from an untrained one; the others stay out of means and ranks."""

import math
from collections.abc import Sequence

import pandas as pd

from kdep_benchmarks.result import Result
from kdep_benchmarks.verdicts.uncertainty import uncertainty

STANDARD_ERRORS = 5  # by which the reference must be above random initialisation
REFERENCES = ("supervised", "teacher")


def judge_columns(runs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Compare the reference with random initialisation on each column.

    The reference is the best supervised network or teacher, the other side is the best random initialisation, both by
    their mean on the column. Failed runs are ignored.

    Returns:
        By column: reference and random (sha256), reference_score and random_score, errors (their difference in
        standard errors), floor (the score of the best constant answer, where results say it), and informative: yes,
        no, or unknown where one side is missing or has no standard error.
    """
    roles = runs.checkpoint.map(rows.role)
    found = {}
    for column, own in runs[runs.ok].groupby("column", sort=False):
        pair = [_best(own[roles.loc[own.index].isin(names)]) for names in (REFERENCES, ("random",))]
        floors = (result.chosen.get("floor") for result in own["result"])
        found[column] = _judged(*pair) | {"floor": next((floor for floor in floors if floor is not None), None)}
    names = ["reference", "reference_score", "random", "random_score", "errors", "informative", "floor"]
    frame = pd.DataFrame.from_dict(found, orient="index", columns=names)
    return frame.reindex(pd.Index(runs.column.unique(), name="column")).fillna({"informative": "unknown"})


def _best(runs: pd.DataFrame) -> tuple[str, Sequence[Result]] | None:
    if runs.empty:
        return None
    best = runs.groupby("checkpoint")["score"].mean().idxmax()
    return best, runs[runs.checkpoint == best]["result"].tolist()


def _judged(
    reference: tuple[str, Sequence[Result]] | None, random: tuple[str, Sequence[Result]] | None
) -> dict[str, object]:
    said: dict[str, object] = {"informative": "unknown"}
    for name, side in (("reference", reference), ("random", random)):
        if side is not None:
            said |= {name: side[0], f"{name}_score": sum(result.score for result in side[1]) / len(side[1])}
    if reference is None or random is None:
        return said
    found = [uncertainty(side[1]) for side in (reference, random)]
    if None not in found:
        errors = [one.standard_error for one in found]
        gain = said["reference_score"] - said["random_score"]
        said["errors"] = gain / max(math.hypot(*errors), 1e-9)
        said["informative"] = "yes" if said["errors"] > STANDARD_ERRORS else "no"
    return said
