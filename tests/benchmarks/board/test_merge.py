"""Results of several machines come together whole, or not at all."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.board.merge import merge
from kdep_benchmarks.results import read_answers, read_results, write_result
from kdep_benchmarks.verbs import leaderboard
from tests.helpers.made_results import failure, result


def folder(root, name, *results):
    for one in results:
        write_result(one, root / name)
    return root / name


def test_two_machines_make_one_folder_and_one_board(tmp_path, capsys):
    one = folder(tmp_path, "one", result("a", seed=0, score=60.0), result("a", seed=1, score=62.0))
    two = folder(tmp_path, "two", result("b", seed=0, score=50.0))
    parser = argparse.ArgumentParser()
    leaderboard.add_arguments(parser)
    assert leaderboard.run(parser.parse_args(["merge", str(one), str(two), "--results", str(tmp_path / "all")])) == 0
    assert "3 new files" in capsys.readouterr().out
    assert [(r.checkpoint.name, r.score) for r in read_results(tmp_path / "all")] == [
        ("a", 60.0),
        ("a", 62.0),
        ("b", 50.0),
    ]
    assert "61.00" in (tmp_path / "all" / "leaderboard.md").read_text()


def test_files_are_copied_byte_for_byte_and_a_second_merge_writes_nothing(tmp_path):
    one = folder(tmp_path, "one", result("a"))
    (written,) = merge([one], tmp_path / "all")
    assert written.read_bytes() == (one / written.relative_to(tmp_path / "all")).read_bytes()
    assert merge([one, tmp_path / "all"], tmp_path / "all") == []


def test_the_same_cell_twice_is_fine_and_the_earlier_is_kept(tmp_path):
    late, early = "2026-03-01T00:00:00Z", "2026-02-01T00:00:00Z"
    one = folder(tmp_path, "one", result("a", started=late, cost={"seconds": 9.0}))
    two = folder(tmp_path, "two", result("a", started=early, cost={"seconds": 7.0}))
    merge([one, two], tmp_path / "all")
    assert [r.cost for r in read_results(tmp_path / "all")] == [{"seconds": 7.0}]


def test_answers_come_along_and_those_of_the_result_that_is_kept_stay(tmp_path):
    truth = np.zeros(4, int)
    late, early = (class_answers(np.array(given), truth) for given in ([0, 0, 1, 1], [1, 1, 0, 0]))
    write_result(result("a", started="2026-03-01T00:00:00Z"), tmp_path / "one", answers=late)
    assert len(merge([tmp_path / "one"], tmp_path / "all")) == 2
    write_result(result("a", started="2026-02-01T00:00:00Z"), tmp_path / "two", answers=early)
    merge([tmp_path / "two"], tmp_path / "all")
    (kept,) = read_results(tmp_path / "all")
    assert read_answers(kept, tmp_path / "all").sha256 == early.sha256
    assert len(list((tmp_path / "all").rglob("*.npz"))) == 1
    next((tmp_path / "two").rglob("*.npz")).unlink()
    with pytest.raises(
        ValueError, match=r"two/.*seed0.json: its answers seed0.answers-\w{8}.npz are missing; nothing was"
    ):
        merge([tmp_path / "two"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"score": 50.001}, "metrics"),
        ({"data": "e" * 64}, "data fingerprint"),
        ({"counts": {"test": 99}}, "counts"),
        ({"chosen": {"k": 5}}, "chosen"),
        ({"settings": {"size": 128}}, "settings"),
        ({"kind": "knn"}, r"different kind \(linear and knn\)"),
        ({"sha256": "61".ljust(63, "0") + "1"}, "two checkpoints"),
    ],
)
def test_a_conflict_names_both_files_and_writes_nothing(tmp_path, other, what):
    one = folder(tmp_path, "one", result("a", settings={"size": 64}), result("z"))
    two = folder(tmp_path, "two", result("a", **{"settings": {"size": 64}} | other))
    places = [next(path.glob("61000000/**/seed0.json")) for path in (one, two)]
    with pytest.raises(ValueError, match=what) as error:
        merge([one, two], tmp_path / "all")
    assert all(str(path) in str(error.value) for path in places)
    assert not (tmp_path / "all").exists()


def test_a_conflict_with_what_is_there_already_changes_nothing(tmp_path):
    everything = folder(tmp_path, "all", result("a", score=1.0))
    before = {path: path.read_bytes() for path in everything.rglob("*.json")}
    with pytest.raises(ValueError, match="different metrics"):
        merge([folder(tmp_path, "one", result("a", score=2.0), result("b"))], everything)
    assert {path: path.read_bytes() for path in everything.rglob("*.json")} == before


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
def test_a_success_replaces_a_failure_in_either_order(tmp_path, order):
    folder(tmp_path, "one", failure("a"))
    folder(tmp_path, "two", result("a"))
    merge([tmp_path / name for name in order], tmp_path / "all")
    assert [path.name for path in (tmp_path / "all").rglob("seed*")] == ["seed0.json"]


def test_a_success_takes_away_the_failure_that_was_merged_before(tmp_path):
    merge([folder(tmp_path, "one", failure("a"))], tmp_path / "all")
    merge([folder(tmp_path, "two", result("a"))], tmp_path / "all")
    assert [path.name for path in (tmp_path / "all").rglob("seed*")] == ["seed0.json"]


def test_of_two_failures_the_later_is_kept(tmp_path):
    late = failure("a", started="2026-03-01T00:00:00Z", cost={"seconds": 3.0})
    merge([folder(tmp_path, "one", late), folder(tmp_path, "two", failure("a"))], tmp_path / "all")
    assert [r.cost for r in read_results(tmp_path / "all")] == [{"seconds": 3.0}]


@pytest.mark.parametrize("what", ["answers", "sheet"])
def test_damaged_answers_and_sheets_are_named_and_nothing_is_merged(tmp_path, what):
    one = tmp_path / "one"
    path = write_result(result("a", "v-knn"), one, answers=class_answers(np.arange(4), np.arange(4)))
    damaged = path.with_name("seed0.sheet.png") if what == "sheet" else next(path.parent.glob("*.npz"))
    damaged.write_bytes(class_answers(np.arange(4), np.zeros(4, int)).to_bytes())
    with pytest.raises(ValueError, match=f"{damaged}: not "):
        merge([one], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_sheets_and_overlap_files_come_along(tmp_path):
    one = folder(tmp_path, "one", result("a", "v-segment"))
    sheet = next(one.rglob("seed0.json")).with_name("seed0.sheet.png")
    Image.new("RGB", (8, 4)).save(sheet)
    (one / "overlap").mkdir()
    (one / "overlap" / "tiny.json").write_text("{}")
    merge([one], tmp_path / "all")
    kept = tmp_path / "all" / sheet.relative_to(one)
    assert kept.read_bytes() == sheet.read_bytes()
    assert (tmp_path / "all" / "overlap" / "tiny.json").read_text() == "{}"
    (one / "overlap" / "tiny.json").write_text("[]")
    with pytest.raises(ValueError, match="overlap files that differ"):
        merge([one], tmp_path / "all")


def test_overlap_files_of_a_study_below_a_folder_come_along(tmp_path):
    one = folder(tmp_path, "one", result("a"))
    folder(one, "study", result("b"))
    for place in (one, one / "study"):
        (place / "overlap").mkdir()
        (place / "overlap" / f"of {place.name}.json").write_text("{}")
    merge([one], tmp_path / "all")
    assert sorted(path.name for path in (tmp_path / "all" / "overlap").iterdir()) == ["of one.json", "of study.json"]


def test_what_cannot_be_merged_is_said(tmp_path):
    with pytest.raises(ValueError, match="absent: no such folder of results"):
        merge([tmp_path / "absent"], tmp_path / "all")
    parser = argparse.ArgumentParser()
    leaderboard.add_arguments(parser)
    with pytest.raises(ValueError, match="merge needs folders and --results"):
        leaderboard.run(parser.parse_args(["merge", str(tmp_path)]))
    with pytest.raises(ValueError, match="merge needs folders and --results"):
        leaderboard.run(parser.parse_args(["merge", "--results", str(tmp_path)]))
    with pytest.raises(ValueError, match="--results is for merge; "):
        leaderboard.run(parser.parse_args([str(tmp_path), "--results", str(Path("x"))]))


def test_a_folder_without_results_is_named(tmp_path):
    (tmp_path / "runs").mkdir()
    assert f"no results yet in {tmp_path / 'runs'};" in leaderboard.rebuild([tmp_path / "runs"], tmp_path)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("task", "/absolute/x"),
        ("task", "../../../x"),
        ("protocol", "../x"),
        ("checkpoint", "a\n  b  99.00"),
        ("task", ".."),
    ],
)
def test_a_foreign_name_writes_nothing_outside_the_folder_and_no_row_of_its_own(tmp_path, part, name):
    path = next(folder(tmp_path, "one", result("a")).rglob("seed0.json"))
    content = json.loads(path.read_text())
    content[part]["name"] = name if name != "/absolute/x" else str(tmp_path / "absolute")
    path.write_text(json.dumps(content))
    kept = tmp_path / "absolute" / "fair-v1" / "seed0.failed.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=rf"(?s)seed0\.json: {part}\.name: expected .*nothing was merged"):
        merge([tmp_path / "one"], tmp_path / "all")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_board_stands_beside_damaged_files_and_says_so(tmp_path, capsys, caplog):
    one = folder(tmp_path, "one", *(result("a", seed=seed, score=60.0) for seed in range(3)))
    path = next(one.rglob("seed1.json"))
    path.write_text(path.read_text()[:40])
    (one / "overlap").mkdir()
    (one / "overlap" / "x.json").write_text("[]")
    parser = argparse.ArgumentParser()
    leaderboard.add_arguments(parser)
    assert leaderboard.run(parser.parse_args([str(one)])) == 0
    assert "Left out: 2 files." in caplog.text
    for text in (capsys.readouterr().out, (one / "leaderboard.md").read_text(), (one / "leaderboard.html").read_text()):
        assert (
            "60.00" in text
            and "Left out: 2 files." in text
            and "seed1.json: not JSON" in text
            and "x.json: not a file" in text
        )
