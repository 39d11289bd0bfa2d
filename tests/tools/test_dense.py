"""A cell's mIoU and AP equal those of mmseg, mmdet, pycocotools and a plain confusion matrix."""

import json

import pytest

from tests.helpers import toolbox_trees as trees
from tools.checks.dense.agreement import largest_differences, measure

pytestmark = pytest.mark.openmmlab
NETWORK = {"checkpoint": "random:test_resnet", "iterations": 1}


def test_masks_are_scored_alike(tmp_path):
    dataset = trees.ade20k(tmp_path / "data")
    found = measure(trees.task("segment", dataset, "segment_fcn"), **NETWORK, folder=tmp_path)
    largest = largest_differences([found])
    assert largest["confusion_matrix"] < 1e-9 and largest["mmseg"] <= 0.005 + 1e-9
    assert 20 < found["disturbed"]["kdep"]["mIoU"] < 95


def test_boxes_are_scored_alike(tmp_path):
    dataset = trees.coco(tmp_path / "data")
    complete(dataset)
    task = trees.task("detect", dataset, "detect_retinanet")
    found = measure(task, **NETWORK, folder=tmp_path)
    largest = largest_differences([found])
    assert largest["mmdet"] <= 0.05 + 1e-9 and largest["pycocotools"] < 1e-9
    assert 5 < found["disturbed"]["kdep"]["AP"] < 95


def complete(dataset):
    """Add what pycocotools needs to the test split's JSON file."""
    path = dataset.root / dataset.files["test"]
    content = json.loads(path.read_text())
    content["annotations"] = [item for item in content["annotations"] if min(item["bbox"][2:]) > 0]
    for item in content["annotations"]:
        item |= {"area": item["bbox"][2] * item["bbox"][3], "iscrowd": 0}
    path.write_text(json.dumps(content))


def test_the_largest_difference_is_over_all_tasks_predictions_and_scores():
    one = {"network": {"kdep": {"a": 1.0, "b": 2.0}, "x": {"a": 1.0, "b": 2.5}}}
    other = {
        "network": {"kdep": {"a": 1.0}, "x": {"a": 1.25}, "y": {"a": 0.0}},
        "disturbed": {"kdep": {"a": 7.0}, "x": {"a": 8.0}},
    }
    assert largest_differences([one, other]) == {"x": 1.0, "y": 1.0}
