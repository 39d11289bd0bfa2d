"""The table of the schedules: what it says of a column is what the board and `kdep compare` say."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from kdep_benchmarks.answers.resample import standard_errors
from kdep_benchmarks.answers.store import area_answers
from kdep_benchmarks.kinds import KINDS, TOOLBOXES
from kdep_benchmarks.result import TaskCard
from kdep_benchmarks.results import write_result
from kdep_benchmarks.tasks.task import load_suite
from tests.helpers.made_results import answered, result
from tools.checks.dense.schedules import table

TASK = TaskCard("street-segment-frozen", "segment-frozen", "segmentation", "street")
COST = {"seconds": 90.0, "device": "cpu x1"}


def written(name, right, folder, **others):
    """A cell over images of two classes with 100 pixels each, of which so many are right."""
    areas = np.array([[[count, count], [100, 100], [100, 100]] for count in right], float)
    answers = area_answers(areas)
    one = result(name, "street-segment", metrics=answered(answers), counts={"test": len(right)}, cost=COST, **others)
    write_result(replace(one, task=TASK), folder, answers=answers)
    return answers


def test_a_column_is_judged_by_standard_errors_over_images_and_by_the_paired_verdict(tmp_path):
    rng = np.random.default_rng(0)
    reference = written("net", rng.integers(70, 90, 40), tmp_path, role="supervised")
    untrained = written("random:net", rng.integers(40, 70, 40), tmp_path, role="random")
    (tmp_path / "processor.json").write_text(json.dumps({"net street-segment-frozen": 61}))
    (column,) = table(tmp_path, "net", "random:net")["columns"].values()
    sides = (reference, untrained)
    gain = answered(reference)["mIoU"] - answered(untrained)["mIoU"]
    error = math.hypot(*(standard_errors(side)["mIoU"] for side in sides))
    assert column["standard_errors"] == pytest.approx(gain / error, abs=0.01) and gain / error > 5
    assert (column["kind"], column["informative"]) == ("segment-frozen", "yes")
    found = column["compare"]
    assert found["verdict"] == "better" and found["low"] < found["value"] < found["high"]
    assert found["value"] == pytest.approx(gain, abs=0.01)
    assert [cell["processor_seconds"] for cell in column["cells"].values()] == [61, None]


def test_the_photographs_have_two_sets_of_each_trained_dense_kind_by_one_schedule_for_full_and_frozen(tmp_path):
    tasks = {task.name: task for task in load_suite("photographs", tmp_path) if task.kind in TOOLBOXES}
    for sets, kind in ((("facade", "aerial"), "segment"), (("aquarium", "bccd"), "detect")):
        pairs = [[tasks[f"{name}-{kind}{suffix}"] for suffix in ("", "-frozen")] for name in sets]
        assert all(full.settings == frozen.settings for full, frozen in pairs)
        assert [KINDS[task.kind].frozen for pair in pairs for task in pair] == [False, True, False, True]
        assert len({full.settings["config"] for full, _ in pairs}) == 1
