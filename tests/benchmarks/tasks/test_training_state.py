"""Training goes on only from what the same cell has left."""

from dataclasses import replace

import pytest

from kdep_benchmarks.tasks.task import Task
from kdep_benchmarks.tasks.training_state import LAST, forget_others
from tests.helpers import toolbox_trees as trees

WHOSE = {"checkpoint": "c" * 64, "settings": {"iterations": 2}, "seed": 0}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"kind": "segment-frozen"}, False),
        ({"config_sha256": "b" * 64}, False),
        ({"version": 3}, False),
        ({"name": "other"}, False),
    ],
)
def test_training_goes_on_only_where_nothing_of_the_task_has_changed(tmp_path, change, kept):
    task = Task("d-segment", "segment", trees.ade20k(tmp_path / "data"), config_sha256="a" * 64)
    work = tmp_path / "work"
    work.mkdir()
    forget_others(work, task, WHOSE, left=[LAST])
    (work / LAST).touch()
    forget_others(work, replace(task, **change), WHOSE, left=[LAST])
    assert (work / LAST).exists() == kept
