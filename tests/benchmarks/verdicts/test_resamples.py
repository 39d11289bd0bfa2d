"""Resamples that took long are kept, and are made again where what they follow from has changed."""

import numpy as np
import pytest

from kdep_benchmarks.results import read_results
from kdep_benchmarks.verdicts import resamples
from kdep_benchmarks.verdicts.resamples import read_resamples, reader
from tests.helpers.made_results import Answered


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(resamples, "WORTH", 0)
    Answered().add("A", "x-fewshot", np.arange(60).reshape(2, 30) % 3 > 0).write(tmp_path / "results")
    return tmp_path / "results"


def equal(one, other):
    same = [getattr(one, name) == getattr(other, name) for name in ("metric", "images", "truth")]
    return all(same) and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("scores", "samples"))


def test_kept_resamples_are_those_of_the_answers_and_need_them_no_more(folder, tmp_path):
    (one,) = read_results(folder)
    first = read_resamples(one, folder)
    assert first.samples.shape == (2, 2000) and first.scores.tolist() == pytest.approx([200 / 3] * 2)
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    content = kept.read_bytes()
    kept.write_bytes(content[:100])  # damaged: made again
    assert equal(read_resamples(one, folder), first) and kept.read_bytes() == content
    next(folder.rglob("*.npz")).unlink()
    assert equal(read_resamples(one, folder), first)


def test_resamples_that_other_code_made_are_not_read(folder, monkeypatch):
    (one,) = read_results(folder)
    read_resamples(one, folder)
    next(folder.rglob("*.npz")).unlink()
    monkeypatch.setattr(resamples, "_code", lambda: "another")
    with pytest.raises(ValueError, match="are missing"):
        read_resamples(one, folder)


def test_quick_ones_are_not_kept_and_a_reader_reads_each_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(resamples, "WORTH", 60)
    (one,) = read_results(folder)
    read = reader(folder)
    first = read(one)
    assert not list((tmp_path / "cache").rglob("*.npz"))
    next(folder.rglob("*.npz")).unlink()
    assert read(one) is first


def test_of_two_results_with_the_same_answers_each_keeps_what_it_says_itself(folder):
    counts = {"test": 30, "effective": 10}
    Answered().add("B", "x-fewshot", np.arange(60).reshape(2, 30) % 3 > 0, counts=counts).write(folder)
    results = read_results(folder)
    assert len({one.answers for one in results}) == 1
    for order in (results, results[::-1]):
        read = reader(folder)
        assert {one.checkpoint.name: read(one).effective for one in order} == {"A": None, "B": 10}
    (path,) = folder.rglob("42*/**/seed0.json")
    path.write_text(path.read_text().replace("66.66", "67.66"))
    read = reader(folder)
    for one in read_results(folder)[:1]:
        read(one)
    with pytest.raises(ValueError, match="seed 0 of B: its score is 67.67, but its answers give 66.67"):
        read(read_results(folder)[1])


def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (one,) = read_results(folder)
    assert read_resamples(one, folder).images == 30


def test_a_score_that_its_answers_do_not_give_is_no_part_of_a_comparison(folder):
    (path,) = folder.rglob("seed0.json")
    read_resamples(read_results(folder)[0], folder)  # kept: the check does not need the answers
    path.write_text(path.read_text().replace("66.66", "67.66"))
    (one,) = read_results(folder)
    with pytest.raises(
        ValueError, match=r"seed 0 of A: its score is 67.67, but its answers give 66.67; one of the two"
    ):
        read_resamples(one, folder)
