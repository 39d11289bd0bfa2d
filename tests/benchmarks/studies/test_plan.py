import json

import pytest
import yaml

from kdep_benchmarks.studies.file import load_study
from kdep_benchmarks.studies.plan import DONE, TO_SCORE, TO_TRAIN, Item, describe, estimate, images_of, learn
from tests.helpers.made_results import result
from tests.helpers.made_studies import write_study


@pytest.fixture
def study(photos, tmp_path):
    path = write_study(photos, tmp_path)
    path.write_text(path.read_text().replace("data.seed: 5", "data.limit: 100, data.seed: 5"))
    return load_study(path)


def finish(study, run, runs, *, seconds, threads=None, **changes):
    """Leave a run as if it had been trained; `changes` to its configuration by key of a section."""
    folder = runs / run.name
    folder.mkdir(parents=True)
    content = study.config(run).model_dump(mode="json")
    for key, value in changes.items():
        section, _, last = key.partition("_")
        content[section][last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    (folder / "student.pth").touch()
    (folder / "log.jsonl").write_text(
        json.dumps({"step": 6, "loss": 1.0, "lr": 0.1, "images": 96, "images_per_second": 96 / seconds}) + "\n"
    )
    if threads:
        folder.with_name(f"{run.name}.log").write_text(f"OMP_NUM_THREADS={threads} kdep pretrain x\n")


def test_time_comes_from_the_run_most_like_it(study, tmp_path):
    live, bank, random = study.runs
    runs = tmp_path / "runs"
    finish(study, live, runs, seconds=9.6, threads=1)
    times = learn(study, runs, [], [result(task="photos-knn", cost={"seconds": 5.0})])
    # 100 images in batches of 16 are 96 an epoch; 0.1 s each. What a bank costs nobody knows yet.
    assert images_of(study.config(live), times) == 96
    assert estimate(study, Item(live, TO_TRAIN, ("photos-knn",)), times, threads=1) == (pytest.approx(9.6 + 5), 0)
    assert estimate(study, Item(bank, TO_TRAIN, ("photos-knn",)), times, threads=1) == (5, 1)
    assert estimate(study, Item(random, TO_SCORE, ("photos-knn",)), times, threads=1) == (5, 0)
    assert estimate(study, Item(random, TO_SCORE, ("photos-linear",)), times, threads=1) == (0, 1)
    twice = study.model_copy(update={"score": study.score.model_copy(update={"seeds": [0, 1]})})
    assert estimate(twice, Item(random, TO_SCORE, ("photos-knn",)), times, threads=1) == (10, 0)


def test_a_run_with_as_many_threads_is_the_better_measure(photos, tmp_path):
    path = write_study(photos, tmp_path)
    path.write_text(path.read_text().replace("live: {}", "live: {}\n  one: {}\n  two: {}"))
    study = load_study(path)
    live, one, two, *_ = study.runs
    finish(study, one, tmp_path / "runs", seconds=9.6, threads=1)
    finish(study, two, tmp_path / "runs", seconds=4.8, threads=2)
    times = learn(study, tmp_path / "runs", [], [])
    found = [estimate(study, Item(live, TO_TRAIN, ()), times, threads=threads)[0] for threads in (1, 2, 3)]
    assert found == pytest.approx([9.6, 4.8, 7.2])  # their median for another number


def test_runs_of_another_version_are_no_measure(study, tmp_path):
    finish(study, study.runs[0], tmp_path / "runs", seconds=9.6, optim_gone=3)
    (tmp_path / "runs" / "alone").mkdir()
    (tmp_path / "runs" / "alone" / "student.pth").touch()
    assert learn(study, tmp_path / "runs", [], []) == {}


def test_published_rows_are_a_measure_too(study, tmp_path):
    live = study.runs[0]
    row = {**live.place, "task": "photos-knn", "images_seen": 96, "pretrain_seconds": 9.6}
    times = learn(study, tmp_path / "runs", [row], [])
    assert estimate(study, Item(live, TO_TRAIN, ()), times, threads=2)[0] == pytest.approx(9.6)


def test_the_size_of_a_whole_source_is_known_from_a_run_on_it(photos, tmp_path):
    study = load_study(write_study(photos, tmp_path))
    live = study.runs[0]
    assert images_of(study.config(live), {}) is None
    finish(study, live, tmp_path / "runs", seconds=9.6, optim_epochs=2)  # 96 images in two epochs
    assert images_of(study.config(live), learn(study, tmp_path / "runs", [], [])) == 48


def test_the_plan_says_what_is_left_and_how_long_it_takes(study, tmp_path):
    live, bank, _ = study.runs
    runs = tmp_path / "runs"
    finish(study, live, runs, seconds=7200)
    times = learn(study, runs, [], [result(task="photos-knn", cost={"seconds": 1800.0})])
    plan = [Item(live, TO_TRAIN, ("photos-knn",)), Item(bank, DONE, ()), Item(study.runs[2], TO_SCORE, ("photos-knn",))]
    told = describe(study, plan, times, jobs=1, threads=1, banks=[tmp_path / "bank"]).splitlines()
    assert told[1] == "2 runs: 1 done, 0 to score, 1 to train; 3 arms, seeds [0]"
    assert told[2] == f"  bank to make or complete  {tmp_path}/bank"
    assert told[3].startswith("  to train  tiny_study-live-s0  about 2.5 h  optim.epochs=1 ")
    assert told[-1] == "time: about 3.0 h for 3 runs and scores, by those done, and besides 1 bank of targets"
    # Two at once take no less than the longest of them.
    two = describe(study, plan, times, jobs=2, threads=1, banks=[]).splitlines()[-1]
    assert two == "time: about 2.5 h for 3 runs and scores, 2 at once, by those done"
    nothing = describe(study, plan, {}, jobs=1, threads=1, banks=[]).splitlines()[-1]
    assert nothing == "time: unknown, no run or score like these is done here"
