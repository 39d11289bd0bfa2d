"""Suites and tasks of the user's own, and each mistake in their files."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from kdep_benchmarks.kinds import KINDS
from kdep_benchmarks.tasks.task import SuiteFile, TaskFile, load_suite, open_suite, suite_tasks
from tools.keys import reference

ZOO = {"name": "zoo", "layout": "imagefolder", "root": "zoo", "files": {"train": "a", "test": "b"}}
TASK = {"name": "zoo-knn", "kind": "knn", "dataset": ZOO, "settings": {"size": 64}}


@pytest.fixture
def suite(tmp_path):
    """Read a suite file of this content."""

    def load(content):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
        return load_suite(str(tmp_path / "mine.yaml"), tmp_path / "data")

    return load


def test_a_suite_lists_shipped_tasks_and_tasks_written_out(suite, tmp_path):
    shipped, own, bare = suite({"tasks": ["dtd-knn", TASK, {**TASK, "name": "b", "version": 7, "settings": None}]})
    assert shipped.dataset.name == "dtd" and own.settings == {"size": 64} and bare.settings == {}
    assert own.dataset.root == tmp_path / "data" / "zoo" and (own.protocol, own.version, bare.version) == ("fair", 2, 7)
    assert {task.family for task in suite({"family": "detection"})} == {"detection"}


def test_tasks_beside_a_suite_are_measured_and_count_in_no_mean():
    every, counted = open_suite("demo", Path())
    names = {task.name for task in every}
    assert names - counted == {"scenes-segment", "scenes-detect"} and counted < names
    assert suite_tasks("demo") == counted
    for suite in ("all", "segmentation", "detection"):
        short = {task.name for task in load_suite(suite, Path())} - suite_tasks(suite)
        assert short and all(re.match("scenes-(segment|detect)", name) for name in short)
    assert suite_tasks("probe") == {task.name for task in load_suite("probe", Path())}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": ["dtd-knn"]}, "unknown key task (did you mean tasks?); there are tasks, family, beside"),
        ({}, "a suite has either tasks (a list) or family"),
        ({"tasks": []}, "tasks must have at least 1 item"),
        ({"family": "audio"}, "family must be 'any', 'classification', 'segmentation' or 'detection', got 'audio'"),
        ({"tasks": [TASK, TASK]}, "task zoo-knn is listed twice"),
        (
            {"tasks": [TASK], "beside": ["zoo-linear"]},
            "beside: 'zoo-linear'; expected some of the suite's tasks zoo-knn",
        ),
        ({"tasks": [TASK], "beside": ["zoo-knn"]}, "beside: every task of the suite; one at least has to count"),
        ({"tasks": [{"kind": "knn", "dataset": "dtd"}]}, "name is missing: Name of the task"),
        ({"tasks": [{**TASK, "kind": "svm"}]}, "task zoo-knn: kind must be 'knn', 'linear', "),
        ({"tasks": [{**TASK, "kind": "detect"}]}, "task zoo-knn: detect reads voc, coco, not imagefolder"),
        (
            {"tasks": [{**TASK, "dataset": {**ZOO, "path": "x"}}]},
            "task zoo-knn: unknown key dataset.path; there are name",
        ),
        ({"tasks": [{**TASK, "dataset": {"name": "zoo"}}]}, "task zoo-knn: dataset.layout is missing"),
        ({"tasks": [{**TASK, "dataset": 3}]}, "task zoo-knn: dataset must be text or a mapping of keys, got 3"),
        ({"tasks": [{**TASK, "name": "../../x"}]}, "task ../../x: name: expected a name of one part, without slashes"),
        ({"tasks": [{**TASK, "protocol": "/x"}]}, "task zoo-knn: protocol: expected a name of one part"),
        ({"tasks": [{**TASK, "dataset": {**ZOO, "name": "a\nb"}}]}, "task zoo-knn: dataset.name: expected printable"),
        ({"tasks": [{**TASK, "dataset": {**ZOO, "root": 5}}]}, "task zoo-knn: dataset.root must be text, got 5"),
        ({"tasks": ["../suites/demo"]}, "task '../suites/demo': there are"),
        ({"tasks": [{**TASK, "version": "2"}]}, "task zoo-knn: version must be a whole number, got '2'"),
    ],
)
def test_a_mistake_is_named_with_the_file_the_task_and_the_key(suite, content, message):
    with pytest.raises(ValueError, match="mine.yaml: " + re.escape(message)):
        suite(content)


def test_every_key_of_a_task_and_a_suite_has_a_description():
    assert get_args(TaskFile.model_fields["kind"].annotation) == tuple(KINDS)
    for model in (TaskFile, SuiteFile):
        assert [key.name for key in reference(model) if len(key.description) < 5] == []
