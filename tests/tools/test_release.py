"""A release folder: students that timm opens, with cards, scores and checksums; all of it or nothing."""

import csv
import hashlib
from pathlib import Path

import pytest
import timm
import torch

from kdep.models.checkpoints.checkpoint import write_student
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.results import write_result
from tests.helpers.made_results import failure, result
from tools.release import main, release

ARCH = "resnet18"


@pytest.fixture
def student(tmp_path):
    found = open_checkpoint(f"random:{ARCH}")
    path = tmp_path / "runs" / "small" / "student.pth"
    path.parent.mkdir(parents=True)
    write_student(type(found)(**{**vars(found), "name": "small", "provenance": {"kind": "student"}}), path)
    return path


def test_a_release_has_what_timm_opens_with_its_scores_and_checksums(student, tmp_path, monkeypatch):
    identity, results, out = open_checkpoint(str(student)).identity, tmp_path / "results", tmp_path / "release"
    for one in (
        result("small", "flowers-linear", 0, 61.25, sha256=identity),
        failure("small", "cifar-linear", sha256=identity),
        result("other", "flowers-linear", 0, 99.0),
    ):
        write_result(one, results)
    words = [str(student), "--results", str(results), "--license", "apache-2.0", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["release", *words])
    assert main() == 0
    assert sorted(path.name for path in (out / "small").iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "scores.csv", "student.pth")
    ]
    network = timm.create_model(f"local-dir:{out / 'small'}", pretrained=True, num_classes=0)
    weights = open_checkpoint(str(student)).weights
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items() if name in weights)
    assert open_checkpoint(str(out / "small" / "student.pth")).identity == identity
    rows = list(csv.DictReader((out / "small" / "scores.csv").open()))
    assert [(row["task"], float(row["value"])) for row in rows] == [("flowers-linear", 61.25)]
    assert "61.25" in (out / "small" / "README.md").read_text()
    sums = [line.split("  ") for line in (out / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in sums} == {f"small/{path.name}" for path in (out / "small").iterdir()}
    assert all(hashlib.sha256((out / name).read_bytes()).hexdigest() == digest for digest, name in sums)
    with pytest.raises(ValueError, match="release is there already"):
        release([student], [results], out, licence="apache-2.0")


def test_a_student_without_scores_leaves_no_folder(student, tmp_path):
    write_result(result("other", "flowers-linear", 0, 99.0), tmp_path / "results")
    with pytest.raises(ValueError, match=r"student.pth: no finished result in .*run kdep transfer"):
        release([student], [tmp_path / "results"], tmp_path / "release", licence="apache-2.0")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "results"}


def test_a_folder_of_timms_and_a_name_are_no_student(student, tmp_path):
    identity, out = open_checkpoint("random:test_resnet").identity, tmp_path / "release"
    write_result(result("random:test_resnet", "flowers-linear", 0, 61.25, sha256=identity), tmp_path / "results")
    for other in (Path("random:test_resnet"), student.parent):
        with pytest.raises(ValueError, match=f"{other}: no such file, expected the student.pth of a run"):
            release([other], [tmp_path / "results"], out, licence="apache-2.0")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "results"}
