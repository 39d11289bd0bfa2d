"""A model card says what was measured, reads back as the hub reads it, and never writes over another text."""

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from kdep.models.weights import open_checkpoint
from kdep_benchmarks.data.checks.overlap import Match, Overlap, SetOverlap, write_overlap
from kdep_benchmarks.page import model_card
from kdep_benchmarks.page.model_card import data_name, write_card
from kdep_benchmarks.results import write_result
from kdep_benchmarks.verbs import export
from tests.helpers.made_results import failure, result, runs

ARCH = "test_resnet"


@pytest.fixture(scope="module")
def checkpoint():
    """A student as a run leaves it, its weights those of the initialisation."""
    found = open_checkpoint(f"random:{ARCH}")
    provenance = {
        "kind": "student",
        "method": "kdep svd pts",
        "teacher": {"source": "/home/me/teachers/lite0.pth"},
        "data": {"source": "/home/me/tiny_imagenet.npz:train", "images": 20000},
        "images_seen": 119808,
        "config": {"seed": 3},
        "commit": "de24e5f",
    }
    return type(found)(**{**vars(found), "name": "lite0_r18", "provenance": provenance})


def card(checkpoint, results, tmp_path, **others):
    write_card(checkpoint, results, tmp_path / "README.md", snippet="import timm", **others)
    return ModelCard.load(tmp_path / "README.md")


def scored(checkpoint, task, scores, **others):
    return runs(checkpoint.name, task, scores, sha256=checkpoint.identity, arch=ARCH, **others)


def test_the_scores_are_a_model_index_that_the_hub_reads(checkpoint, tmp_path):
    results = scored(checkpoint, "cifar10-linear", [60.0, 62.0, 64.0]) + scored(checkpoint, "voc-segment", [30.0])
    results += scored(checkpoint, "cifar10-linear", [50.0], version=2) + runs("b", "cifar10-linear", [99.0])
    data = card(checkpoint, results, tmp_path, licence="apache-2.0").data
    assert (data.license, data.library_name, data.model_name) == ("apache-2.0", "timm", "lite0_r18")
    assert data.datasets == ["tiny_imagenet"] and "kdep" in data.tags and ARCH in data.tags
    found = {(e.task_type, e.dataset_name, e.metric_type, e.metric_value) for e in data.eval_results}
    assert found == {
        ("image-classification", "cifar10", "accuracy", 62.0),
        ("image-classification", "cifar10", "accuracy", 50.0),
        ("image-segmentation", "voc", "mean_iou", 30.0),
    }
    (three,) = [e for e in data.eval_results if e.metric_value == 62.0]
    assert three.metric_name == "top1, linear probe, cifar10-linear, fair-v1"
    # t(0.975, 2) * 2 / sqrt(3)
    assert three.metric_args == {"protocol": "fair-v1", "runs": 3, "std": 2.0, "interval95": pytest.approx(4.9683)}


def test_a_task_with_a_failed_run_is_no_score_of_the_card(checkpoint, tmp_path):
    results = [result(checkpoint.name, "c-linear", 0, sha256=checkpoint.identity)]
    results += [failure(checkpoint.name, "c-linear", 1, sha256=checkpoint.identity)]
    assert card(checkpoint, results, tmp_path).data.eval_results is None


def test_two_versions_of_the_data_are_two_entries(checkpoint, tmp_path):
    results = scored(checkpoint, "c-linear", [60.0]) + scored(checkpoint, "c-linear", [40.0], data="e" * 64)
    entries = card(checkpoint, results, tmp_path).data.eval_results
    assert {(e.metric_value, e.dataset_revision) for e in entries} == {(60.0, "d" * 16), (40.0, "e" * 16)}


def test_the_text_says_where_the_weights_come_from_and_no_folder_of_the_machine(checkpoint, tmp_path):
    results = scored(checkpoint, "cifar10-linear", [60.0, 62.0]) + runs(
        "random:x", "cifar10-linear", [40.0, 41.0], role="random", arch=ARCH
    )
    text = card(checkpoint, results, tmp_path).text
    assert "distilled without labels from `lite0.pth` on 20,000 images of tiny_imagenet, 119.8 k seen in all" in text
    assert "| cifar10-linear | top1 | 61.00 ± 12.71 (2) | 40.50 ± 6.35 (2) |" in text
    assert "No licence was named" in text and checkpoint.sha256 in text and "seed: 3" in text
    assert "/home/me" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (
            {"source": ["pypi:lite0", "/home/me/b.pth"]},
            "distilled without labels from `pypi:lite0` and `b.pth` on 20,000",
        ),
        (None, "at 160 px: trained with labels on 20,000 images of tiny_imagenet"),  # loss.name labels
    ],
)
def test_the_text_names_every_teacher_and_none_where_there_was_none(checkpoint, tmp_path, teacher, said):
    provenance = {**checkpoint.provenance, "teacher": teacher}
    provenance = {key: value for key, value in provenance.items() if value is not None}
    assert said in card(replace(checkpoint, provenance=provenance), [], tmp_path).text


def test_only_of_a_student_it_says_at_which_size_it_was_trained(checkpoint, tmp_path):
    assert ", trained at 288 px: distilled" in card(replace(checkpoint, size=288), [], tmp_path).text
    other = replace(checkpoint, size=288, provenance={"kind": "other", "source": "a.pth"})
    assert "without a classifier, for images of 288 px. Input" in card(other, [], tmp_path).text


def test_without_results_it_says_that_nothing_was_measured(checkpoint, tmp_path):
    read = card(checkpoint, [], tmp_path)
    assert "Not measured yet" in read.text and read.data.eval_results is None
    assert read.data.license == "unknown"


@pytest.mark.parametrize("name", ["yes", "a: b # c", "- x", "'quoted\"", "null", "ünï"])
def test_any_name_survives_the_metadata(checkpoint, tmp_path, name):
    named = type(checkpoint)(**{**vars(checkpoint), "name": name})
    assert card(named, scored(named, "c-linear", [50.0]), tmp_path).data.model_name == name


def test_a_card_is_written_over_and_another_text_is_not(checkpoint, tmp_path):
    card(checkpoint, [], tmp_path)
    card(checkpoint, [], tmp_path)
    (tmp_path / "README.md").write_text("# My notes about kdep\n- kdep\n")
    with pytest.raises(ValueError, match=r"README.md: there is a README.md already"):
        card(checkpoint, [], tmp_path)
    assert (tmp_path / "README.md").read_text().startswith("# My notes")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("torchvision:CIFAR10", "cifar10"),
        ("/data/tiny imagenet.npz:train", "tiny-imagenet"),
        ("lists/tenth.txt", "tenth"),
        ("/data/imagenet/train", "imagenet"),
        ("photos", "photos"),
    ],
)
def test_a_source_gets_a_short_name(source, name):
    assert data_name(source) == name


def arguments(*words):
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return parser.parse_args([*words])


def test_the_command_writes_the_card_beside_the_export(tmp_path, capsys):
    found = open_checkpoint("random:resnet18")
    one = result("random:resnet18", "tiny-knn", 0, 12.5, sha256=found.identity, role="random", counts={"test": 1000})
    write_result(one, tmp_path / "results")
    matches = (Match("a", "b", "bytes"), Match("c", "d", "look"))
    of = Overlap(
        "x", "f" * 64, 9, 0, (SetOverlap("tiny", one.data_fingerprint, 1000, matches),), {}, ("random:resnet18",)
    )
    write_overlap(of, tmp_path / "results" / "overlap" / "x.json")
    out, results = str(tmp_path / "m"), str(tmp_path / "results")
    assert export.run(arguments("random:resnet18", "--to", "timm", "--out", out, "--card", "--results", results)) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'm' / 'README.md'}\n")
    read = ModelCard.load(tmp_path / "m" / "README.md")
    assert [e.metric_value for e in read.data.eval_results] == [12.5]
    assert '"local-dir:m"' in read.text and str(tmp_path) not in read.text
    assert "2 of the 1,000 test images (0.20 %)" in read.text


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--to", "mmseg", "--card"], "--card describes an export for timm, not mmseg"),
        (["--to", "timm", "--license", "mit"], "are for --card"),
        (["--to", "timm", "--card", "--license", "MIT License"], "the hub's names are like"),
        (["--to", "timm", "--card", "--results", "absent"], "absent: no such folder"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path, words, what):
    with pytest.raises(ValueError, match=what):
        export.run(arguments(f"random:{ARCH}", "--out", str(tmp_path / "m.pth"), *words))
    assert list(tmp_path.iterdir()) == []


def test_only_metadata_of_ours_marks_a_card():
    assert not model_card._is_ours(Path(__file__).read_text())
