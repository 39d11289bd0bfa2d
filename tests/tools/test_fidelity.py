"""The data of `kdep fidelity`: a cell is measured once, and records what the report reads."""

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.fidelity.columns import measured_columns, naive_columns
from kdep_benchmarks.jobs.plan import look_up
from kdep_benchmarks.results import read_results
from kdep_benchmarks.tasks.task import Task, load_suite
from tools.checks.verdicts.fidelity import score


def test_a_cell_is_measured_once_with_logme_and_the_images_seen(photos, tmp_path):
    dataset = Dataset("photos", "imagefolder", photos, {"train": ".:train", "test": ".:test"})
    task = Task("photos-knn", "knn", dataset, settings={"size": 32, "workers": 0})
    said = [score("random:test_resnet", task, look_up(task), tmp_path) for _ in range(2)]
    assert "CPU s" in said[0] and "done" in said[1]
    results = read_results(tmp_path)
    assert [column.name for column in naive_columns(results, measured_columns(results))] == [
        "images seen",
        "LogME of photos-knn",
    ]


def test_the_suite_has_two_cheap_and_two_expensive_columns_of_each_family(tmp_path):
    families = [
        (task.family, task.kind in ("finetune", "segment", "detect")) for task in load_suite("fidelity", tmp_path)
    ]
    assert all(
        families.count((family, cheap)) >= 2
        for family in ("classification", "segmentation", "detection")
        for cheap in (True, False)
    )
