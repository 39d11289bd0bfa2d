"""What is measured in another way has a column and a verdict of its own, and is named apart."""

from dataclasses import replace

import numpy as np
import pytest

from kdep_benchmarks.board.build import boards
from kdep_benchmarks.verdicts.compare import differences
from kdep_benchmarks.verdicts.pairs import left_out
from kdep_benchmarks.verdicts.ways import describe_settings, labels, way_of
from tests.helpers.made_results import Answered, failure, result


def test_a_task_of_two_kinds_has_two_columns_named_after_them():
    before, now = (result(task="colours-probe", kind=kind) for kind in ("knn", "linear"))
    other = result(task="other-probe", kind="knn")
    ways = [way_of(one) for one in (before, now, other)]
    assert [labels(ways)[way] for way in ways] == ["colours-probe@knn", "colours-probe@linear", "other-probe"]
    assert [describe_settings(way, ways) for way in ways] == ["kind knn", "kind linear", ""]
    # Settings differ within a kind only: those of two kinds have nothing in common.
    wide = replace(now, settings={"size": 64})
    ways = [way_of(one) for one in (before, now, wide)]
    assert labels(ways)[ways[0]] == "colours-probe@knn" and len(set(labels(ways).values())) == 3
    assert [describe_settings(way, ways) for way in ways] == [
        "kind knn",
        "kind linear, size not set",
        "kind linear, size 64",
    ]


def test_scores_of_two_kinds_are_never_averaged_on_the_board():
    scored = [result("a", "colours-probe", score=90.0, kind="knn"), result("a", "colours-probe", 1, kind="linear")]
    broken = failure("b", "colours-probe", kind="linear")
    (board,) = boards([*scored, broken])
    assert list(board.columns.index) == ["colours-probe@knn", "colours-probe@linear"]
    assert board.cells["mean"].loc[scored[0].checkpoint.sha256].tolist() == [90.0, 50.0]
    assert board.cells["failed"].loc[broken.checkpoint.sha256].tolist() == [0, 1]
    assert any("colours-probe@knn (kind knn), colours-probe@linear (kind linear)" in note.text for note in board.notes)


def test_scores_of_two_kinds_are_never_compared():
    right = np.ones(9, int)
    made = Answered().add("A", "colours-probe", right, kind="knn").add("B", "colours-probe", right, kind="linear")
    said = "fair-v1 on dddddddd with kind knn against fair-v1 on dddddddd with kind linear"
    with pytest.raises(ValueError, match=said):
        differences(made.results, "A", "B", read=made.read)
    assert left_out(made.results, "A", "B") == [f"colours-probe: measured in different ways, {said}."]
