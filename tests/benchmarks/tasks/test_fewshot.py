"""Few-shot probes: what is drawn, what is fitted on it, and that the score is the mean over the draws."""

import dataclasses

import numpy as np
import pytest
import torch

from kdep.models.weights import open_checkpoint
from kdep.shipped import names
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.images import Labelled, Splits
from kdep_benchmarks.tasks import fewshot
from kdep_benchmarks.tasks.classify import Data
from kdep_benchmarks.tasks.fewshot import draw, probe_draw, run_fewshot
from kdep_benchmarks.tasks.settings import Fewshot, read_settings
from kdep_benchmarks.tasks.task import Task, load_suite, load_task
from tests.benchmarks.tasks.test_classify import CPU, colours, measure  # noqa: F401 - a fixture
from tests.helpers.made_results import answered
from tests.kdep.probe.test_knn import clouds


@pytest.fixture
def checkpoint():
    return open_checkpoint("random:test_resnet")


class Nameless:
    def __init__(self, count):
        self.names = [str(number) for number in range(count)]


def splits_of(per_class, held_out=5):
    labels = np.repeat(np.arange(len(per_class)), per_class)
    pool = Labelled(Nameless(len(labels)), labels, [str(n) for n in range(len(per_class))], "made")
    return Splits(pool, np.arange(held_out, len(labels)), np.arange(held_out), pool)


def test_a_draw_takes_the_share_of_every_class_and_at_least_one_image_of_it():
    splits = splits_of([205, 60, 7, 1])
    chosen = draw(splits, share=0.1, seed=0, number=0)
    assert np.bincount(splits.pool.labels[chosen]).tolist() == [20, 6, 1, 1]
    assert (np.diff(chosen) > 0).all() and chosen.min() >= 5  # none of val, none twice


def test_seed_and_number_make_a_draw_and_a_smaller_one_is_part_of_a_larger():
    splits = splits_of([105, 100])
    first, again = (draw(splits, share=0.1, seed=3, number=1) for _ in range(2))
    assert (first == again).all()
    assert len(set(first) & set(draw(splits, share=0.1, seed=3, number=2))) < 10
    assert len(set(first) & set(draw(splits, share=0.1, seed=4, number=1))) < 10
    assert set(draw(splits, share=0.01, seed=3, number=1)) < set(first)


def planted(train):
    pool, labels = clouds(150)
    return Data(pool, labels, train, torch.arange(120, 150), clouds(30, seed=3)[0], 3)


def test_select_and_score_images_are_never_fitted(monkeypatch):
    seen, plain = [], fewshot.fit_path
    monkeypatch.setattr(fewshot, "fit_path", lambda *a, **k: seen.append(k["rows"].tolist()) or plain(*a, **k))
    result = probe_draw(planted(torch.arange(6)), clouds(30, seed=3)[1], path=(1e-3, 1.0))
    blind = probe_draw(
        dataclasses.replace(planted(torch.arange(6)), test=torch.zeros(30, 8)), clouds(30)[1], path=(1e-3, 1.0)
    )
    assert seen == [list(range(6))] * 2
    assert (blind.penalty, blind.val_top1) == (result.penalty, result.val_top1)


def test_the_penalty_is_the_best_on_select_and_an_end_of_the_path_is_flagged():
    data, truth = planted(torch.arange(30)), clouds(30, seed=3)[1]
    alone = {p: probe_draw(data, truth, path=(p,)) for p in (1e-6, 1e-2, 1e2)}
    chosen = probe_draw(data, truth, path=(1e2, 1e-6, 1e-2))
    best = max(alone, key=lambda p: (alone[p].val_top1, -alone[p].val_loss))
    assert chosen.penalty == best and chosen.score == alone[best].score
    assert chosen.penalty_at_edge == (best != 1e-2) and not alone[best].penalty_at_edge


def test_the_score_is_the_mean_over_draws_which_are_kept(checkpoint, colours, tmp_path):  # noqa: F811 - the fixture
    outcome = measure(run_fewshot, checkpoint, colours, tmp_path, share=0.13, draws=6)
    assert list(outcome.metrics) == ["top1", "top1_macro", "top1_pre", "top1_post"]
    assert outcome.counts == {"train": 3, "val": 6, "test": 15} and outcome.cost["images_per_second"] > 0
    kept = outcome.curves[outcome.chosen["tap"]]
    assert len(kept["test_top1"]) == len(kept["lambda"]) == 6
    assert outcome.metrics["top1"] == pytest.approx(np.mean(kept["test_top1"]))
    assert outcome.metrics["top1_macro"] == pytest.approx(np.mean(kept["test_top1_macro"]))
    again = answered(outcome.answers)
    assert again == pytest.approx({name: outcome.metrics[name] for name in ("top1", "top1_macro")})
    assert [answered(draw)["top1"] for draw in outcome.answers.draws] == pytest.approx(kept["test_top1"])
    for tap in ("pre", "post"):
        assert outcome.metrics[f"top1_{tap}"] == pytest.approx(np.mean(outcome.curves[tap]["test_top1"]))


def test_the_tap_is_the_better_one_on_select_in_the_mean(checkpoint, colours, tmp_path, monkeypatch):  # noqa: F811
    val, score = iter([70, 70, 70, 70, 40] + [60, 60, 60, 60, 95]), iter([90.0] * 5 + [10.0, 20.0, 30.0, 40.0, 0.0])

    def probe(data, truth, **_):  # five draws before the activation, then five after it
        return fewshot.Drawn(next(val), 0.0, truth, {"top1": next(score), "top1_macro": 50.0}, 1.0, False)

    monkeypatch.setattr(fewshot, "probe_draw", probe)
    outcome = measure(run_fewshot, checkpoint, colours, tmp_path, share=0.5)
    assert outcome.chosen["tap"] == "post"
    assert outcome.metrics == {"top1": 20.0, "top1_macro": 50.0, "top1_pre": 90.0, "top1_post": 20.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "share is missing"),
        ({"share": 1.0}, "share must be less than 1, got 1.0"),
        ({"share": 0.1, "draws": 4}, "draws must be greater than or equal to 5, got 4"),
    ],
)
def test_settings_that_make_no_few_shot_are_refused(settings, message, tmp_path):
    dataset = Dataset("zoo", "imagefolder", tmp_path, {"train": "a", "test": "b"})
    with pytest.raises(ValueError, match=message):
        read_settings(Fewshot, Task("zoo-fewshot1", "fewshot", dataset, settings=settings))


def test_every_linear_task_has_few_shot_tasks_on_the_same_pixels(tmp_path):
    linear = [name for name in names("transfer") if name.endswith("-linear") and not name.endswith("-dense-linear")]
    for name in linear:
        plain = load_task(name, tmp_path)
        for percent in (1, 10):
            task = load_task(name.replace("linear", f"fewshot{percent}"), tmp_path)
            settings = read_settings(Fewshot, task)
            assert settings.share == pytest.approx(percent / 100) and task.dataset == plain.dataset
            assert {k: v for k, v in task.settings.items() if k != "share"} == plain.settings
    assert {task.name for task in load_suite("probe", tmp_path)} >= {"dtd-fewshot1", "cub200-fewshot10"}
