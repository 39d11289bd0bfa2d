"""The comparison of the probes with scikit-learn compares the same things, and sees it where they differ."""

import numpy as np
import torch

from kdep_benchmarks.tasks.classify import Data
from kdep_benchmarks.tasks.settings import Knn
from tools.checks import probes as check_probes
from tools.checks.probes import compare_knn, compare_linear

PATH = (0.01, 0.1, 1.0)


def made(count=240, dim=12, classes=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    features = 2 * torch.randn(count, dim, generator=generator) + torch.eye(classes, dim)[labels] * 3 + 5
    train = torch.arange(0, 160)
    return Data(features[:200], labels[:200], train, torch.arange(160, 200), features[200:], classes), labels[
        200:
    ].numpy()


def test_both_reach_the_same_optimum_and_the_chosen_penalty_is_one_of_the_path():
    found = compare_linear(*made(), PATH)
    assert [row["penalty"] for row in found["path"]] == list(PATH)
    assert found["largest_difference_of_top1"] == 0 and found["chosen_on_val"] in found["path"]
    for row in found["path"]:
        assert row["same_predictions"] == 100
        assert abs(row["objective"] / row["sklearn_objective"] - 1) < 1e-4


def test_another_penalty_for_scikit_learn_would_be_seen(monkeypatch):
    right = check_probes.objective
    monkeypatch.setattr(check_probes, "objective", lambda model, x, y, penalty: right(model, x, y, 3 * penalty))
    rows = compare_linear(*made(), PATH)["path"]
    assert all(abs(row["objective"] / row["sklearn_objective"] - 1) > 1e-3 for row in rows)


def test_neighbours_vote_alike_and_a_wrong_truth_is_no_difference():
    data, truth = made()
    found = compare_knn(data, truth, Knn(k=(1, 5), temperature=(0.05, 0.1)))
    assert (found["grid"], found["least_same_predictions"], found["largest_difference_of_top1"]) == (4, 100.0, 0.0)
    assert compare_knn(data, np.full_like(truth, 9), Knn(k=(1,)))["largest_difference_of_top1"] == 0.0
