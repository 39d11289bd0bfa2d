"""Few-shot probes: what is drawn, what is chosen and fitted on it, and that the score is the mean over the draws."""

import dataclasses

import numpy as np
import pytest
import torch

from kdep.models.weights import open_checkpoint
from kdep.shipped import names
from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.images import Labelled, Splits
from kdep_benchmarks.tasks import fewshot
from kdep_benchmarks.tasks.fewshot import draw, folds_of, probe_draw, run_fewshot
from kdep_benchmarks.tasks.linear import fit_path
from kdep_benchmarks.tasks.settings import Fewshot, read_settings
from kdep_benchmarks.tasks.task import Task, load_suite, load_task
from tests.benchmarks.tasks.test_classify import colours, measure, planted  # noqa: F401 - a fixture
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


def test_a_draw_takes_the_share_of_every_class_of_train_and_val_and_at_least_two_images_of_it():
    splits = splits_of([205, 60, 7, 1], held_out=200)
    chosen = draw(splits, share=0.1, seed=0, number=0)
    assert np.bincount(splits.pool.labels[chosen]).tolist() == [20, 6, 2, 1]
    assert len(set(chosen)) == len(chosen) and (chosen < 200).any() and (chosen >= 200).any()


def test_seed_and_number_make_a_draw_and_a_smaller_one_is_part_of_a_larger():
    splits = splits_of([105, 100])
    first, again = (draw(splits, share=0.1, seed=3, number=1) for _ in range(2))
    assert (first == again).all()
    assert len(set(first) & set(draw(splits, share=0.1, seed=3, number=2))) < 10
    assert len(set(first) & set(draw(splits, share=0.1, seed=4, number=1))) < 10
    assert set(draw(splits, share=0.02, seed=3, number=1)) < set(first)


def test_every_image_is_held_out_once_but_the_only_one_of_a_class():
    positions = np.array([9, 2, 4, 7, 1, 0, 3])  # of the classes 0, 0, 0, 1, 1, 2, 3
    labels = torch.zeros(10, dtype=torch.int64)
    labels[[7, 1]], labels[0], labels[3] = 1, 2, 3
    parts = folds_of(labels, positions, 5)
    held = np.concatenate([held for _, held in parts])
    assert sorted(held.tolist()) == [1, 2, 4, 7, 9]
    for fit, out in parts:
        assert sorted([*fit, *out]) == sorted(positions) and set(labels[fit].tolist()) == {0, 1, 2, 3}


def test_nothing_but_the_draw_and_the_penalty_chosen_in_it_decides_the_predictions():
    positions, truth = np.arange(40, 70), clouds(30, seed=3)[1]
    data, path = planted(), (1e-6, 1e-2, 1e2)
    result = probe_draw(data, positions, truth, path=path, folds=5)
    labels = data.labels.clone()
    labels[np.setdiff1d(np.arange(150), positions)] = 0  # other labels are not seen
    other = probe_draw(dataclasses.replace(data, labels=labels), positions, truth, path=path, folds=5)
    assert torch.equal(result.predicted, other.predicted) and result.val_loss == other.val_loss
    blind = probe_draw(dataclasses.replace(data, test=torch.zeros(30, 8)), positions, 2 - truth, path=path, folds=5)
    assert (blind.penalty, blind.val_top1, blind.val_loss) == (result.penalty, result.val_top1, result.val_loss)
    rows = torch.from_numpy(positions)
    (whole,) = fit_path(data.pool, data.labels, rows=rows, penalties=[result.penalty], classes=3)
    assert torch.equal(result.predicted, whole.predict(data.test))


def test_the_penalty_is_the_best_on_held_out_images_of_the_draw_and_an_end_of_the_path_is_flagged():
    data, positions, path = planted(), np.arange(150)[::5], (1e2, 1e-6, 1e-2)
    by_class = positions[np.argsort(data.labels[positions], stable=True)]
    found = {}
    for penalty in path:  # slowly: a fit for each fold, and every held-out image by itself
        right, losses = [], []
        for fold in range(5):
            out = by_class[fold::5]
            rows = torch.from_numpy(np.setdiff1d(positions, out))
            (fitted,) = fit_path(data.pool, data.labels, rows=rows, penalties=[penalty], classes=3)
            for image in out:
                logs = fitted.scores(data.pool[[image]]).double().log_softmax(1)[0]
                right.append(int(logs.argmax()) == int(data.labels[image]))
                losses.append(-float(logs[data.labels[image]]))
        found[penalty] = (100 * np.mean(right), -np.mean(losses))
    chosen = probe_draw(data, positions, clouds(30, seed=3)[1], path=path, folds=5)
    best = max(path, key=lambda penalty: found[penalty])
    assert chosen.penalty == best and (chosen.val_top1, -chosen.val_loss) == pytest.approx(found[best], rel=1e-4)
    assert chosen.penalty_at_edge == (best != 1e-2)


def test_the_score_is_the_mean_over_draws_which_are_kept(checkpoint, colours, tmp_path):  # noqa: F811 - the fixture
    outcome = measure(run_fewshot, checkpoint, colours, tmp_path, share=0.13, draws=6)
    assert list(outcome.metrics) == ["top1", "top1_macro", "top1_pre", "top1_post"]
    assert outcome.counts == {"train": 6, "val": 0, "test": 15} and outcome.cost["images_per_second"] > 0
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

    def probe(data, positions, truth, **_):  # five draws before the activation, then five after it
        return fewshot.Drawn(next(val), 0.0, truth, {"top1": next(score), "top1_macro": 50.0}, 1.0, False)

    monkeypatch.setattr(fewshot, "probe_draw", probe)
    outcome = measure(run_fewshot, checkpoint, colours, tmp_path, share=0.5)
    assert outcome.chosen["tap"] == "post"
    assert outcome.metrics == {"top1": 20.0, "top1_macro": 50.0, "top1_pre": 90.0, "top1_post": 20.0}


def test_of_equally_good_taps_the_one_with_the_lower_cross_entropy_in_the_mean_is_chosen(
    checkpoint,  # noqa: F811
    colours,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    loss = iter([2.0] * 5 + [1.0] * 5)  # five draws before the activation, then five after it

    def probe(data, positions, truth, **_):
        return fewshot.Drawn(70.0, next(loss), truth, {"top1": 50.0, "top1_macro": 50.0}, 1.0, False)

    monkeypatch.setattr(fewshot, "probe_draw", probe)
    assert measure(run_fewshot, checkpoint, colours, tmp_path, share=0.5).chosen["tap"] == "post"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "share is missing"),
        ({"share": 1.0}, "share must be less than 1, got 1.0"),
        ({"share": 0.1, "folds": 1}, "folds must be greater than or equal to 2, got 1"),
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
            assert {k: v for k, v in task.settings.items() if k not in ("share", "folds")} == plain.settings
    assert {task.name for task in load_suite("probe", tmp_path)} >= {"dtd-fewshot1", "cub200-fewshot10"}
