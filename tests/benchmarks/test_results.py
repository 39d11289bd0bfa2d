"""One result = one immutable file."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kdep_benchmarks import results
from kdep_benchmarks.answers.store import class_answers
from kdep_benchmarks.board.table import name_teachers
from kdep_benchmarks.result import CheckpointCard, Protocol
from kdep_benchmarks.results import (
    find_results,
    read_answers,
    read_result,
    read_results,
    with_those_below,
    write_result,
)
from kdep_benchmarks.verdicts.resamples import reader
from tests.helpers.made_results import failure, result


def test_a_result_comes_back_as_it_was_written(tmp_path):
    full = result(
        metrics={"top1": 81.25, "macro_top1": 79.0},
        counts={"train": 10, "test": 16},
        chosen={"C": 0.1, "C_at_edge": True},
        curves={"C": [0.1, 1.0], "val_top1": [70.0, 69.5]},
        load={"tensors": 120, "expected": 120, "coverage": 100.0},
        cost={"seconds": 3.5, "device": "cpu"},
        versions={"torch": "2.13.0"},
        commit="abc",
    )
    write_result(full, tmp_path)
    assert read_results(tmp_path) == [full]
    assert read_results(tmp_path)[0].main_metric == "top1"  # the first written, not the first of the alphabet


def test_the_path_says_whose_what_and_how(tmp_path):
    one = result(sha256="0123456789abcdef", task="voc-segment", seed=4, version=2, budget="smoke")
    assert write_result(one, tmp_path) == tmp_path / "01234567" / "voc-segment" / "fair-v2-smoke" / "seed4.json"


def test_a_cell_that_succeeds_while_the_results_are_read_is_neither_damaged_nor_absent(tmp_path, monkeypatch):
    write_result(failure(), tmp_path)
    write_result(result(task="other-knn"), tmp_path)
    listed = results._paths

    def then_succeed(folders):
        found = list(listed(folders))
        write_result(result(), tmp_path)
        return found

    monkeypatch.setattr(results, "_paths", then_succeed)
    found = find_results(tmp_path)
    assert [one.status for one in found.results] == ["ok", "ok"] and found.damaged == []


def test_a_finished_result_is_never_overwritten_unless_forced(tmp_path):
    path = write_result(result(score=50.0), tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"seed0\.json: finished already"):
        write_result(result(score=51.0), tmp_path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]  # nor is anything left lying about
    write_result(result(score=51.0), tmp_path, force=True)
    assert read_results(tmp_path)[0].score == 51.0


def test_answers_that_do_not_give_the_metric_of_their_result_are_named(tmp_path):
    write_result(result(task="v-segment"), tmp_path, answers=class_answers(np.arange(4), np.arange(4)))
    (one,) = read_results(tmp_path)
    with pytest.raises(ValueError, match=r"npz: answers that give top1, top1_macro, and not the mIoU of v-segment"):
        read_answers(one, tmp_path)


@pytest.mark.parametrize(
    ("field", "content"),
    [("curves", {"logme": "high"}), ("curves", {"post": {"logme": [None]}}), ("summary", {"pretrain_loss": "low"})],
)
def test_what_fidelity_reads_is_checked_at_the_door(tmp_path, field, content):
    path = write_result(result(), tmp_path)
    text = json.loads(path.read_text())
    (text["checkpoint"] if field == "summary" else text)[field] = content
    path.write_text(json.dumps(text))
    assert f"{path}: " in find_results(tmp_path).damaged[0]


@pytest.mark.parametrize("odd", ["pipe", "terabyte"])
def test_files_of_others_that_would_never_be_read_to_their_end_are_named(tmp_path, odd):
    def replace_with(path):
        path.unlink()
        if odd == "pipe":
            os.mkfifo(path)
        else:
            with path.open("wb") as file:
                file.truncate(10**12)

    answers = class_answers(np.arange(4), np.arange(4))
    path = write_result(result(), tmp_path, answers=answers)
    write_result(result(seed=1), tmp_path, answers=answers)
    replace_with(path)
    found = find_results(tmp_path)
    assert [one.seed for one in found.results] == [1]
    reason = "not a regular file" if odd == "pipe" else "1,000,000,000,000 bytes; KDEP_MAX_EXPANDED allows"
    assert len(found.damaged) == 1 and found.damaged[0].startswith(f"{path}: ") and reason in found.damaged[0]
    (npz,) = path.parent.glob("seed1.answers-*.npz")
    replace_with(npz)
    with pytest.raises(ValueError, match=f"{npz}: not a file of answers .*{reason}"):
        read_answers(found.results[0], tmp_path)


def race(folder, who, start):
    start.wait()
    for seed in range(60):
        try:
            write_result(result(seed=seed, score=float(who)), folder)
        except FileExistsError:
            write_result(result(seed=1000 + 60 * who + seed, score=float(who)), folder)  # who lost says so


def test_of_two_processes_that_race_each_cell_has_one_winner_and_nothing_is_lost(tmp_path):
    context = multiprocessing.get_context("fork")  # writing results starts no thread
    start = context.Barrier(2)
    processes = [context.Process(target=race, args=(tmp_path, who, start)) for who in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    found = read_results(tmp_path)
    assert [one.seed for one in found if one.seed < 60] == list(range(60))
    assert len(found) == 120  # 60 won, 60 lost
    for loser in (one for one in found if one.seed >= 1000):
        winner = next(one for one in found if one.seed == (loser.seed - 1000) % 60)
        assert winner.score != loser.score


def test_a_failure_is_overwritten_by_a_failure_and_goes_away_with_success(tmp_path):
    path = write_result(failure(), tmp_path)
    assert path.name == "seed0.failed.json"
    write_result(replace(failure(), error={"exit_code": 137, "log": ""}), tmp_path)
    assert [one.error["exit_code"] for one in read_results(tmp_path)] == [137]
    write_result(result(), tmp_path)
    assert not path.exists()
    assert [one.status for one in read_results(tmp_path)] == ["ok"]


def test_a_failure_that_comes_late_does_not_hide_a_success(tmp_path):
    write_result(result(), tmp_path)
    write_result(failure(), tmp_path)
    assert [one.status for one in read_results(tmp_path)] == ["ok"]


ANSWERS = class_answers(np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]))


def test_answers_lie_beside_their_result_and_give_its_standard_errors(tmp_path):
    path = write_result(result("a", score=75.0), tmp_path / "deep" / "er", answers=ANSWERS)
    (read,) = read_results(tmp_path)
    assert read.answers == ANSWERS.sha256 and read.errors["top1"] == pytest.approx(
        100 * (0.75 * 0.25 / 3) ** 0.5, rel=0.05
    )
    back = read_answers(read, [tmp_path / "deep" / "er"])
    assert back.sha256 == ANSWERS.sha256 and back.arrays["predicted"].tolist() == [[0, 1, 1, 1]]
    assert reader(tmp_path)(read).scores.tolist() == [75.0]  # results may lie anywhere below a folder
    assert sorted(file.name for file in path.parent.iterdir()) == [
        f"seed0.answers-{ANSWERS.sha256[:8]}.npz",
        "seed0.json",
    ]


def test_of_two_sets_of_answers_those_of_the_result_that_stands_are_kept(tmp_path):
    others = class_answers(np.array([0, 1, 0, 1]), np.array([0, 1, 0, 1]))
    write_result(result(), tmp_path, answers=ANSWERS)
    with pytest.raises(FileExistsError):
        write_result(result(), tmp_path, answers=others)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    assert read_answers(read_results(tmp_path)[0], tmp_path).sha256 == ANSWERS.sha256
    path = write_result(result(), tmp_path, answers=others, force=True)
    assert read_answers(read_results(tmp_path)[0], tmp_path).sha256 == others.sha256
    assert len(list(path.parent.iterdir())) == 2


def test_a_folder_behind_a_link_is_read_and_each_folder_once(tmp_path):
    write_result(result(), tmp_path / "disk", answers=ANSWERS)
    (tmp_path / "results").mkdir()
    for name in ("linked", "again"):
        (tmp_path / "results" / name).symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "up").symlink_to(tmp_path / "results")
    (one,) = read_results(tmp_path / "results")
    assert read_answers(one, with_those_below([tmp_path / "results"])).sha256 == ANSWERS.sha256


def test_answers_are_found_below_a_folder_in_which_a_suite_removes_another(tmp_path, monkeypatch):
    path = write_result(result(score=100.0), tmp_path / "study", answers=class_answers(np.arange(2), np.arange(2)))
    other, scan = tmp_path / "features", os.scandir

    def removed_before(folder):
        if str(folder) == str(other):  # it may be a descriptor
            other.rmdir()
        return scan(folder)

    other.mkdir()
    monkeypatch.setattr(os, "scandir", removed_before)
    assert reader(tmp_path)(read_result(path)).images == 2
    assert not other.exists()


def test_answers_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(ValueError, match="cifar-linear, seed 0 of a: the result has no answers per test image"):
        read_answers(result(), tmp_path)
    path = write_result(result(), tmp_path, answers=ANSWERS)
    (read,), (file,) = read_results(tmp_path), path.parent.glob("*.npz")
    content = file.read_bytes()
    others = class_answers(np.array([1, 1, 1, 1]), np.array([0, 1, 0, 1])).to_bytes()
    for damaged, said in ((content[:-40], "not a file of answers"), (b"", "not a file"), (others, "or damaged")):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{file.name}: .*{said}.*; remove {path}, and kdep transfer measures"):
            read_answers(read, tmp_path)
    file.unlink()
    for folders in (tmp_path, [tmp_path / "other", tmp_path]):  # the file that is there, of a result below several
        with pytest.raises(ValueError, match=rf"{file.name} are missing; remove {path}, and kdep transfer measures"):
            read_answers(read, folders)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": 2, "seed"', "delimiter"),
        ("", "Expecting value"),
        ("[]", "list; this version reads format 2"),
        ('{"format": 99}', "format 99; this version reads format 2"),
        ('{"format": 2}', "checkpoint is missing"),
        ("[" * 100_000, "nested too deeply"),
        ('{"format": 2, "seed": ' + "9" * 5000 + "}", "the number 99999"),
        ('{"format": 2, "seed": NaN}', "the number NaN"),
        ('{"format": 2, "commit": "\\ud800"}', "surrogates"),
        ("\udcff", "utf-8"),
    ],
)
def test_a_damaged_file_is_named_and_left_out(tmp_path, caplog, text, reason):
    write_result(result(), tmp_path)
    path = write_result(result(seed=3), tmp_path)
    path.write_bytes(text.encode(errors="surrogateescape"))
    found = find_results(tmp_path)
    assert [one.seed for one in found.results] == [0]
    assert re.match(rf"(?s){path}: .*{reason}", "\n".join(found.damaged))
    assert len(read_results(tmp_path)) == 1 and f"left out: {path}" in caplog.text


def test_a_result_in_the_place_of_another_is_left_out(tmp_path):
    path = write_result(result(), tmp_path)
    moved = path.with_name("seed7.json")
    moved.write_bytes(path.read_bytes())
    assert len(find_results(tmp_path).results) == 1
    assert find_results(tmp_path).damaged[0].startswith(f"{moved}: holds the result of ")


def test_a_result_with_another_main_metric_than_its_like_is_left_out(tmp_path):
    for seed in (0, 1):
        write_result(result(seed=seed), tmp_path)
    path = write_result(result(seed=2, metrics={"top5": 90.0}), tmp_path)
    found = find_results(tmp_path)
    assert [one.seed for one in found.results] == [0, 1]
    assert found.damaged == [f"{path}: its main metric is top5, in others top1; move it away"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "0"),
        ("seed", 2**63),
        ("metrics", {"top1": "high"}),
        ("metrics", {"top1": 101}),
        ("test", 1),
        ("cost", []),
        ("cost", {"seconds": "long"}),
        ("error", {"log": []}),
        ("chosen", {"tap": 5}),
        ("curves", {"post": {"val_top1": [None, "a"]}}),
        ("answers", "../../../x"),
        ("started", "2026\x1b[2J"),
    ],
)
def test_a_file_with_a_wrong_field_is_named(tmp_path, field, value):
    path = write_result(result(), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=rf"seed0\.json: .*{field}.*not a result of this scoreboard; move it away"):
        read_result(path)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), True])
def test_a_score_that_is_no_number_is_no_result(score):
    with pytest.raises(ValueError, match=r"metrics\.top1"):
        result(score=score)


def test_several_folders_are_read_and_what_they_share_counts_once(tmp_path):
    write_result(result(seed=0), tmp_path / "one")
    write_result(result(seed=0), tmp_path / "two")
    write_result(result(seed=1), tmp_path / "two")
    assert [one.seed for one in read_results([tmp_path / "one", tmp_path / "two", tmp_path])] == [0, 1]


@pytest.mark.parametrize("below", [True, False], ids=["folders below one", "named folders"])
def test_of_files_with_the_same_scores_the_same_one_counts_in_any_order_of_folders(tmp_path, below):
    others = [
        ("old", {}, "2026-01-01"),
        ("late", {"effective": 5}, "2026-01-03"),
        ("new", {"effective": 4}, "2026-01-02"),
    ]
    for order in (others, others[::-1]):
        root = tmp_path / order[0][0]
        for place, (_, counts, day) in enumerate(order):
            write_result(result(counts={"test": 9} | counts, started=f"{day}T00:00:00Z"), root / str(place))
        (one,) = read_results(root if below else [root / str(place) for place in range(3)])
        assert one.counts == {"test": 9, "effective": 4}


def test_what_a_cell_leaves_in_its_work_folder_is_no_result(tmp_path):
    path = write_result(result(), tmp_path)
    work = path.with_suffix(".work")
    work.mkdir()
    (work / "seed1.json").write_text("{}")
    assert [one.seed for one in read_results(tmp_path)] == [0]


def test_conflicting_duplicates_name_both_files(tmp_path):
    write_result(result(score=50.0), tmp_path / "one")
    write_result(result(score=50.1), tmp_path / "two")
    with pytest.raises(ValueError, match=r"one/.*seed0\.json and .*two/.*seed0\.json: the same cell with different"):
        read_results([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize("study", ["0", "study", "deep/er"])  # sorted before and behind the folder's own cells
def test_of_several_scores_of_a_cell_below_one_folder_the_nearest_counts(tmp_path, study):
    write_result(result(score=50.0), tmp_path, answers=ANSWERS)
    far = write_result(result(score=50.3), tmp_path / study)
    farther = write_result(result(score=50.4), tmp_path / study / "again")
    as_far = write_result(result(score=50.2), tmp_path / study / "twice")
    write_result(result(score=50.0), tmp_path / "same")
    write_result(result(score=60.0, settings={"size": 40}), tmp_path / study / "other settings")
    write_result(result(seed=1, score=70.0), tmp_path / study)
    write_result(failure(seed=1), tmp_path)
    found = find_results(tmp_path)
    assert [one.score for one in found.results] == [50.0, 60.0, 70.0]
    assert read_answers(found.results[0], tmp_path).sha256 == ANSWERS.sha256
    near = result().key.path(tmp_path)
    said = f"{near} has other scores of the same cell; it counts, since it is nearer to {tmp_path}"
    assert sorted(found.damaged) == sorted(f"{path}: {said}" for path in (far, farther, as_far))
    assert [one.score for one in find_results(tmp_path / study).results][0] == 50.3


@pytest.mark.parametrize(
    ("places", "named"),
    [
        (("a", "b"), ["."]),
        (("a/deep", "b/er"), ["."]),
        (("a", "b/deep"), ["a", "b"]),  # both were named, so neither is nearer
        (("", "study"), [".", "study"]),
        (("", "study"), ["study", "."]),
        (("a", "a/study", "b/study"), ["a", "b"]),
    ],
)
def test_of_scores_that_are_equally_near_or_below_two_named_folders_none_counts(tmp_path, places, named):
    paths = [write_result(result(score=50.0 + number), tmp_path / place) for number, place in enumerate(places)]
    with pytest.raises(ValueError, match=r"and .*: the same cell with different scores; keep one of them, or name a"):
        find_results([tmp_path / folder for folder in named])
    paths[-1].unlink()
    assert [one.score for one in find_results([tmp_path / folder for folder in named]).results] == [50.0]


def test_one_cell_of_two_kinds_is_two_results(tmp_path):
    write_result(result(score=50.0), tmp_path / "a")
    write_result(result(score=60.0, kind="segment"), tmp_path / "b")
    found = find_results([tmp_path / "a", tmp_path / "b"])
    assert [(one.task.kind, one.score) for one in found.results] == [("linear", 50.0), ("segment", 60.0)]
    assert found.damaged == []  # main metrics are compared within a kind


def test_one_cell_with_two_settings_is_two_results(tmp_path):
    for folder, score, settings in (
        ("one", 50.0, {"size": 32}),
        ("two", 50.1, {"size": 40}),
        ("same", 50.1, {"size": 40}),
    ):
        write_result(result(score=score, settings=settings), tmp_path / folder)
    found = read_results([tmp_path / "one", tmp_path / "two", tmp_path / "same"])
    assert [(one.score, one.settings) for one in found] == [(50.0, {"size": 32}), (50.1, {"size": 40})]
    write_result(failure(settings={"size": 64}), tmp_path / "failed")
    assert len(read_results([tmp_path / "failed", tmp_path / "one"])) == 1  # a success hides a failure as ever
    write_result(result(score=50.2, settings={"size": 32}), tmp_path / "wrong")
    with pytest.raises(ValueError, match=r"the same cell with different scores"):
        read_results([tmp_path / "one", tmp_path / "wrong"])


def test_a_measurement_that_fails_after_a_success_is_named_and_an_earlier_failure_is_not(tmp_path):
    done = write_result(result(started="2026-01-02T03:04:05+00:00"), tmp_path)
    for second, named in (("04", False), ("06", True)):
        write_result(failure(started=f"2026-01-02T03:04:{second}+00:00"), tmp_path)
        found = find_results(tmp_path)
        assert [one.status for one in found.results] == ["ok"]
        said = (
            f"{done.with_name('seed0.failed.json')}: a later measurement of this cell failed; the earlier score counts"
        )
        assert found.damaged == ([said] if named else [])


def test_other_data_is_another_cell_not_a_conflict(tmp_path):
    write_result(result(score=50.0, data="a" * 64), tmp_path / "one")
    write_result(result(score=50.1, data="b" * 64), tmp_path / "two")
    assert len(read_results([tmp_path / "one", tmp_path / "two"])) == 2


def test_a_folder_that_is_not_there_is_an_error_and_an_empty_one_is_not(tmp_path):
    assert read_results(tmp_path) == []
    with pytest.raises(ValueError, match="absent: no such folder of results; name the one that `kdep transfer` wrote"):
        read_results(tmp_path / "absent")


def test_cards_refuse_what_no_board_can_place():
    with pytest.raises(ValueError, match="role must be 'student', 'random', .*got 'pupil'"):
        CheckpointCard("a", "a" * 64, "resnet18", 1, {"role": "pupil"})
    with pytest.raises(ValueError, match="at least 8 characters"):
        CheckpointCard("a", "XYZ", "resnet18", 1)
    with pytest.raises(ValueError, match="'full', 'short' or 'smoke'"):
        Protocol("fair", 1, "tiny")


def test_reading_results_needs_no_torch():
    code = "import sys, kdep_benchmarks.page.report, kdep_benchmarks.verdicts.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_checkpoint_from_which_a_student_was_distilled_is_its_teacher():
    def card(name, **summary):
        return CheckpointCard(name, name.encode().hex().ljust(64, "0"), "resnet18", 1, summary)

    cards = [card("s", role="student", teacher="pypi:x"), card("t", role="supervised", source="pypi:x"), card("o")]
    named = name_teachers([replace(result(), checkpoint=each) for each in cards])
    assert [r.checkpoint.role for r in named] == ["student", "teacher", "other"]
