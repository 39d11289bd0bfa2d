"""The board says of each two rows what `kdep compare` says: in its tables, its marks and verdicts.csv."""

import re

import numpy as np
import pandas as pd
import pytest

from kdep_benchmarks.board import against
from kdep_benchmarks.board.build import boards
from kdep_benchmarks.page.leaderboard import family_table
from kdep_benchmarks.page.markdown import markdown
from kdep_benchmarks.page.page import html
from kdep_benchmarks.page.report import write_leaderboard
from kdep_benchmarks.page.verdicts import against_tables, verdicts_frame
from kdep_benchmarks.results import find_results, write_result
from kdep_benchmarks.verdicts.compare import compare
from tests.helpers.made_results import Answered, result


def made():
    """Three rows on three data sets; the third has one task less, and fine-tuning ran twice."""
    base, random = np.random.default_rng(0).random(200), np.random.default_rng(1)
    found = Answered()
    for place, name in enumerate("ABC"):
        for task in ("x-linear", "y-linear", "z-linear", "x-finetune")[: 3 if name == "C" else 4]:
            runs = 2 if task == "x-finetune" else 1
            more = [base + random.normal(0, 0.05, 200) < 0.7 - 0.06 * place for _ in range(runs)]
            found.add(name, task, *more)
    return found


def test_the_file_of_verdicts_says_what_compare_says(tmp_path):
    made().write(tmp_path)
    write_leaderboard(lambda: find_results(tmp_path), tmp_path, folders=[tmp_path])
    every = pd.read_csv(tmp_path / "verdicts.csv", dtype={"sha8_a": str})
    assert every.groupby("a").size().to_dict() == {"A": 9, "B": 9, "C": 8}  # tasks, and a mean for each other
    assert set(every.protocol) == {"fair"} and every.sha8_a.tolist() == [f"{ord(a):x}000000" for a in every.a]
    same = ["difference", "low", "high", "p", "p_holm", "verdict", "verdict_holm", "over"]
    for a, *others in ("ABC", "BAC", "CAB"):
        said = compare(a, *others, results=tmp_path).set_index(["b", "task"])[same].sort_index()
        own = every[every.a == a].set_index(["b", "column"])[same].sort_index().rename_axis(["b", "task"])
        pd.testing.assert_frame_equal(own, said, rtol=1e-6, check_dtype=False)
    assert {(one.a, one.tests) for one in every[every.column.notna()].itertuples()} == {("A", 7), ("B", 7), ("C", 6)}


def test_each_row_minus_the_one_that_is_chosen_is_turned_about():
    (board,) = boards(made().results, read=made().read)
    first, second, third = against_tables(board)
    known = verdicts_frame([board]).set_index(["a", "b", "column"])
    labels = ("x-finetune", "x-linear", "y-linear", "z-linear", "mean over data sets")
    assert first.table.title == "minus A" and first.table.header == ("checkpoint", *labels)
    a, b, c = first.table.rows
    assert {cell.text for cell in a[1:]} == {""} and c[1].text == "-" and c[1].value is None
    one = known.loc[("A", "B", "y-linear")]
    assert one.difference > 0 and b[3].value == -one.difference
    assert b[3].text.startswith(f"{-one.difference:+.2f} [{-one.high:+.2f}, {-one.low:+.2f}]")
    assert one.verdict == "better" and b[3].tone == "worse" and second.table.rows[0][3].tone == "better"
    holds = known.loc[("A", "B", "y-linear")].verdict_holm != "no difference"
    assert b[3].text.endswith("**" if holds else "*") and "after Holm's correction" in b[3].detail
    assert "among all 7 comparisons (Holm; of means 2)" in first.marks and "all 6 comparisons" in third.marks


def test_a_mark_goes_by_the_pair_and_not_by_intervals_that_overlap():
    # Of 400 images B misses 8 of the 200 that A has right, and no other: 2 points, told apart by the pair alone.
    right = np.arange(400) < 200
    answers, counts = Answered(), {"test": 400}
    for name, own in (("A", right), ("B", right & (np.arange(400) >= 8))):
        answers.add(name, "x-linear", own, counts=counts)
    marks = {}
    for name, read in (("alone", None), ("pair", answers.read)):
        (board,) = boards(answers.results, read=read)
        marks[name] = [row[1].best for row in family_table(board, "classification").rows]
    assert marks == {"alone": [False, False], "pair": [True, False]}  # where none is told apart, none is marked


def test_of_many_equal_rows_the_lowest_is_not_said_to_be_below_the_best():
    # Without a correction for the choice of the best, a score is left unmarked in five of these eight columns.
    random, answers, columns = np.random.default_rng(0), Answered(), 8
    for task in range(columns):
        shared = random.standard_normal(300)
        for row in range(10):
            answers.add(f"row {row}", f"x{task}-linear", 0.8 * shared + 0.6 * random.standard_normal(300) < 0.5)
    (board,) = boards(answers.results, read=answers.read)
    marked = [[row[1 + at].best for row in family_table(board, "classification").rows] for at in range(columns)]
    assert sum(any(column) for column in marked) <= 1
    alone = board.verdicts.dropna(subset="column").groupby("column").verdict.agg(lambda said: (said == "better").any())
    assert alone.sum() >= 5


def test_the_pages_have_the_tables_and_a_choice_among_them():
    (board,) = boards(made().results, read=made().read)
    page = html([board])
    assert re.findall(r'<option value="(\w+)">(\w)</option>', page) == [
        (one.sha256, name) for one, name in zip(against_tables(board), "ABC", strict=True)
    ]
    assert [bool(hidden) for hidden in re.findall(r'<div data-against="\w+"( hidden)?>', page)] == [False, True, True]
    text = markdown([board])
    assert text.count("### verdicts") == 1 and "### verdicts: minus A" in text and r"\*\* different, also" in text
    bare = boards(made().results)
    assert "Verdicts" not in html(bare).split("<footer>")[0] and "### verdicts" not in markdown(bare)
    assert len(verdicts_frame(bare)) == 0


def test_what_cannot_be_read_has_no_verdict_and_the_rest_has(tmp_path, caplog):
    made().write(tmp_path)
    write_result(result("D", "x-linear", score=10.0), tmp_path)  # no answers
    next(tmp_path.glob("42*/y-linear/**/*.npz")).unlink()
    write_leaderboard(lambda: find_results(tmp_path), tmp_path, folders=[tmp_path])
    every = pd.read_csv(tmp_path / "verdicts.csv")
    assert set(every[(every.a == "A") & (every.b == "B")].column.dropna()) == {"x-finetune", "x-linear", "z-linear"}
    assert set(every.a) == {"A", "B", "C"}
    (said,) = {record.getMessage() for record in caplog.records}  # nothing of D, which has no answers
    assert said.startswith("not in the verdicts: y-linear, seed 0 of B: its answers")
    noted = "Not in the verdicts: y-linear, seed 0 of B: its answers"
    assert all(noted in (tmp_path / f"leaderboard.{kind}").read_text() for kind in ("md", "html", "csv"))


def test_answers_on_other_images_have_no_verdict_and_the_board_is_built():
    answers = Answered().add("A", "x-linear", np.ones(9, int)).add("B", "x-linear", np.ones(8, int))
    (board,) = boards(answers.results, read=answers.read)
    assert board.verdicts.empty and len(board.rows) == 2


def test_of_many_rows_the_first_are_compared(monkeypatch):
    monkeypatch.setattr(against, "ROWS", 2)
    (board,) = boards(made().results, read=made().read)
    assert set(board.verdicts.a) == set(board.rows.index[:2])
    cells = [row[2] for row in next(against_tables(board)).table.rows]
    assert [cell.value is None for cell in cells] == [True, False, True]


@pytest.mark.parametrize("runs", [0, 1])
def test_a_board_of_one_row_or_none_has_no_verdicts(runs, tmp_path):
    Answered().add("A", "x-linear", *[np.ones(9, int)] * runs).write(tmp_path)
    write_leaderboard(lambda: find_results(tmp_path), tmp_path, folders=[tmp_path])
    assert len((tmp_path / "verdicts.csv").read_text().splitlines()) == 1
