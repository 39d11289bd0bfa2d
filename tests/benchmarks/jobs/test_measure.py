"""What a measured cell records."""

from dataclasses import replace

import numpy as np

from kdep.models.weights import open_checkpoint
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.measure import measure
from kdep_benchmarks.jobs.plan import checkpoint_card, look_up, plan_cell
from kdep_benchmarks.tasks.task import Task


def test_a_measured_cell_says_its_leaks_its_floor_and_the_settings_of_its_task(photos, tmp_path):
    dataset = Dataset("photos", "imagefolder", photos, {"train": ".:train", "test": ".:test"})
    task = Task("photos-knn", "knn", dataset, settings={"size": 32, "workers": 0})
    card = checkpoint_card(open_checkpoint("random:test_resnet"))
    planned = plan_cell(Cell("random:test_resnet", None, card, task, 0, "cpu", tmp_path), look_up(task))
    cell = replace(planned.cell, leaked=3, halved="out of memory")
    cell.work.mkdir(parents=True)
    result, answers = measure(cell)
    assert result.counts["leaked"] == 3
    assert result.settings == task.plain_settings  # not those of half the batch
    assert result.chosen["floor"] == 100 * max(np.bincount(answers.truth)) / len(answers.truth)
