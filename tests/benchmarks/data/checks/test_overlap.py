"""Pretraining images that are scored on are found, counted once, and shown on the board."""

import argparse
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdep_benchmarks.board.build import boards
from kdep_benchmarks.board.frame import results_frame
from kdep_benchmarks.data.checks.overlap import (
    Match,
    Overlap,
    SetOverlap,
    find_overlap,
    read_overlap,
    read_with_overlap,
    with_overlap,
    write_overlap,
)
from kdep_benchmarks.page.leaderboard import leaderboard_frame, overview
from kdep_benchmarks.results import write_result
from kdep_benchmarks.tasks.task import load_suite
from kdep_benchmarks.verbs import data
from tests.conftest import draw
from tests.helpers.made_results import failure, result, runs

SUITE = """
tasks:
  - name: made-knn
    kind: knn
    dataset: {name: made, layout: imagefolder, root: made, files: {train: train, test: test}}
  - name: made-linear
    kind: linear
    dataset: {name: made, layout: imagefolder, root: made, files: {train: train, test: test}}
  - name: gone-knn
    kind: knn
    dataset: {name: gone, layout: imagefolder, root: gone, files: {train: train, test: test}}
"""


@pytest.fixture
def world(tmp_path):
    """Pretraining photos 0 to 9; test images: 3 copied, 4 saved anew as PNG, 5 compressed again, 20 and 21 new."""
    for number in range(10):
        place = tmp_path / "photos" / "any" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        draw(place, number)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    photos = tmp_path / "photos" / "any"
    for role, numbers in (("train", (6, 7)), ("test", (20, 21))):
        for number, label in zip(numbers, "ab", strict=True):
            (tmp_path / "made" / role / label).mkdir(parents=True)
            draw(tmp_path / "made" / role / label / f"{number}.jpg", number)
    test = tmp_path / "made" / "test" / "a"
    shutil.copy(photos / "3.jpg", test / "copied.jpg")
    Image.open(photos / "4.jpg").save(test / "saved.png")
    Image.open(photos / "5.jpg").resize((96, 80), Image.Resampling.BICUBIC).save(test / "again.jpg", quality=70)
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


def test_copies_equal_pixels_and_pictures_compressed_again_are_found_and_others_are_not(world):
    found = find_overlap(str(world / "photos"), load_suite(str(world / "suite.yaml"), world))
    (one,) = found.sets
    matches = {(match.test.rpartition("/")[2], match.pretraining, match.how) for match in one.matches}
    assert matches == {
        ("copied.jpg", "any/3.jpg", "bytes"),
        ("saved.png", "any/4.jpg", "pixels"),
        ("again.jpg", "any/5.jpg", "look"),
    }
    assert (one.dataset, one.images, one.exact, found.images, found.unreadable) == ("made", 5, 2, 11, 1)
    assert list(found.absent) == ["gone"]


def test_a_file_about_names_that_are_not_utf8_reads_back(world):
    odd = os.fsdecode(b"fot\xf3s")
    (world / "photos").rename(world / odd)
    copied = world / "made" / "test" / "a" / "copied.jpg"
    copied.rename(copied.with_name(f"{odd}.jpg"))
    tasks = load_suite(str(world / "suite.yaml"), world)
    found = find_overlap(str(world / odd), tasks)
    write_overlap(found, world / "file.json")
    assert read_overlap(world / "file.json") == found
    (exact, *_) = found.sets[0].matches
    assert exact.test.endswith(r"fot\udcf3s.jpg") and found.source.endswith(r"fot\udcf3s")


def test_a_list_and_a_pack_are_sources_too(world):
    names = [f"photos/any/{number}.jpg" for number in (3, 8)]
    (world / "list.txt").write_text("\n".join(names))
    tasks = load_suite(str(world / "suite.yaml"), world)
    assert [match.how for match in find_overlap(str(world / "list.txt"), tasks).sets[0].matches] == ["bytes"]
    encoded = [(world / name).read_bytes() for name in names]
    blob = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, encoded)])
    np.savez(world / "pack.npz", train_blob=blob, train_offsets=offsets)
    found = find_overlap(f"{world / 'pack.npz'}:train", tasks)
    assert [(match.how, match.pretraining) for match in found.sets[0].matches] == [("pixels", "pack.npz:train:0")]


def test_the_command_writes_a_file_that_puts_the_overlap_on_the_board(world, capsys):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    file, source = world / "results" / "overlap" / "photos.json", str(world / "photos")
    words = ["overlap", source, "--suite", str(world / "suite.yaml"), "--data-root", str(world), "--json", str(file)]
    assert data.run(parser.parse_args(words)) == 0
    said = capsys.readouterr().out
    assert "11 images, 1 of them unreadable" in said and "made: 2 exact and 1 by look, of 5 test images" in said
    assert "gone: not compared" in said
    words = ["overlap", source, "--data", str(world / "made"), "--json", str(world / "own.json")]
    assert data.run(parser.parse_args(words)) == 0
    assert "made: 2 exact and 1 by look, of 5 test images" in capsys.readouterr().out
    assert read_overlap(world / "own.json").sets == read_overlap(file).sets
    known = read_overlap(file).sets[0].data_fingerprint
    student = result("s", "made-knn", data=known, counts={"test": 5})
    student.checkpoint.summary["pretrain_data"] = source
    write_result(student, world / "results")
    (board,) = boards(read_with_overlap([world / "results"]).results)
    assert "s: 3 of the 5 test images of made are also in its pretraining data." in [note.text for note in board.notes]


def overlap(*matches, source="photos", fingerprint="f" * 64, data="d" * 64, checkpoints=(), images=1000):
    sets = (SetOverlap("cifar", data, images, tuple(Match(*match) for match in matches)),)
    return Overlap(source, fingerprint, 10, 0, sets, {}, tuple(checkpoints))


def student(name="s", task="cifar-linear", images=1000, seed=0, **summary):
    one = result(name, task, seed, counts={"test": images}, data=summary.pop("data", "d" * 64))
    one.checkpoint.summary.update(summary)
    return one


BOTH = (("x.jpg", "1.jpg", "bytes"), ("y.jpg", "2.jpg", "look"))


@pytest.mark.parametrize(
    ("of", "counted"),
    [
        ({"pretrain_data": "photos"}, True),
        ({"pretrain_fingerprint": "f" * 64, "pretrain_data": "elsewhere/photos"}, True),
        ({"name": "named"}, True),
        ({"pretrain_data": "other"}, False),
        ({}, False),
        ({"pretrain_data": "photos", "data": "e" * 64}, False),  # another version of the data
    ],
)
def test_a_file_counts_for_its_own_checkpoints_and_data_only(of, counted):
    (found,) = with_overlap([student(**of)], [overlap(*BOTH, checkpoints=["named"])])
    assert found.counts == {"test": 1000} | ({"overlap": 2, "overlap_exact": 1} if counted else {})


def test_a_row_that_the_board_tells_apart_by_digits_is_named_by_them():
    one = student(name="last")
    other = replace(one, checkpoint=replace(one.checkpoint, sha256="beef" * 16))
    for named, counted in ((["last (6c617374)"], [True, False]), (["last"], [True, True])):
        found = with_overlap([one, other], [overlap(*BOTH, checkpoints=named)])
        assert ["overlap" in result.counts for result in found] == counted


def test_an_image_that_two_sources_hold_counts_once():
    second = overlap(("y.jpg", "9.jpg", "pixels"), source="more", checkpoints=["s"])
    (found,) = with_overlap([student(pretrain_data="photos")], [overlap(*BOTH), second])
    assert found.counts == {"test": 1000, "overlap": 2, "overlap_exact": 2}


def test_the_board_counts_a_data_set_once_and_says_how_many_were_looked_at():
    results = [
        student(task=task, seed=seed, pretrain_data="photos")
        for task in ("cifar-linear", "cifar-knn")
        for seed in (0, 1)
    ]
    results += [
        student(task="dtd-knn", images=500, data="e" * 64, pretrain_data="photos"),
        *runs("b", "dtd-knn", [1.0]),
    ]
    results = with_overlap(results, [overlap(*BOTH)])
    rows = leaderboard_frame(boards(results)).set_index("name")
    assert [rows[f"overlap_{name}"]["s"] for name in ("percent", "images", "exact")] == [0.2, 2, 1]
    assert pd.isna(rows.overlap_percent["b"])  # nobody looked: no zero
    assert results_frame(results).images_overlap[0] == 2
    table = overview(boards(results)[0])
    column = table.header.index("overlap")
    assert {line[0].text: line[column].text for line in table.rows} == {"s": "0.20 % (1 of 2 sets)", "b": "-"}


def test_where_somebody_looked_and_found_nothing_it_is_zero():
    (found,) = with_overlap([student(pretrain_data="photos")], [overlap()])
    (board,) = boards([found])
    assert board.rows.overlap_percent.tolist() == [0.0]
    assert not [note for note in board.notes if "pretraining" in note.text]


def test_a_failed_run_has_no_overlap():
    (board,) = boards(with_overlap([failure("s")], [overlap(checkpoints=["s"])]))
    assert board.rows.overlap_percent.isna().all()


def test_a_file_reads_back_and_another_is_refused_by_name(tmp_path):
    written = overlap(*BOTH, checkpoints=["a"])
    write_overlap(written, tmp_path / "overlap" / "one.json")
    assert read_overlap(tmp_path / "overlap" / "one.json") == written
    (tmp_path / "overlap" / "two.json").write_text('{"format": 1, "sets": 3}')
    with pytest.raises(ValueError, match=r"two.json: sets must be a list") as error:
        read_overlap(tmp_path / "overlap" / "two.json")
    assert str(error.value) in read_with_overlap([tmp_path]).damaged  # the board stands without it


def test_files_beside_the_results_of_a_study_below_the_folder_count(tmp_path):
    write_result(student("top"), tmp_path)
    write_result(student("s", pretrain_data="photos"), tmp_path / "study")
    write_overlap(overlap(*BOTH, checkpoints=["top"]), tmp_path / "study" / "overlap" / "one.json")
    for folders in ([tmp_path], [tmp_path, tmp_path / "study"]):
        found = read_with_overlap(folders)
        assert {one.checkpoint.name: one.counts.get("overlap") for one in found.results} == {"top": 2, "s": 2}
    (tmp_path / "study" / "overlap" / "two.json").write_text("[]")
    assert len(read_with_overlap([tmp_path, tmp_path / "study"]).damaged) == 1  # named once
    (board,) = boards(read_with_overlap([tmp_path]).results)
    assert board.rows.set_index("name").overlap_percent.to_dict() == {"s": 0.2, "top": 0.2}
