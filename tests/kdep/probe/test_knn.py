"""Nearest neighbours against scikit-learn's brute force and hand-made votes."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.utils._python_dispatch import TorchDispatchMode

from kdep.probe import knn
from kdep.probe.knn import neighbours, vote


def clouds(count=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(3, 8)[labels] + 0.6 * torch.randn(count, 8, generator=generator), labels


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_majority_of_neighbours_is_scikit_learns(k):
    (bank, labels), (queries, _) = clouds(), clouds(seed=1)
    reference = KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(bank, labels)
    (ours,) = vote(queries, bank, labels, grid=[(k, 1e20)])
    assert np.array_equal(ours, reference.predict(queries))


def test_nearer_neighbours_have_the_larger_vote():
    bank, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    query = torch.tensor(
        [[1.0, 0.2]]
    )  # cosine 0.98 to class 0, 0.20 to the two of class 1: 2 exp(-0.78/T) < 1 if T < 1.13
    cold, warm = vote(query, bank, labels, grid=[(3, 1.0), (3, 1.3)])
    assert (cold.item(), warm.item()) == (0, 1)


def test_the_length_of_a_feature_does_not_matter():
    (bank, labels), (queries, _) = clouds(), clouds(seed=1)
    plain = vote(queries, bank, labels, grid=[(5, 0.1)])[0]
    assert torch.equal(vote(queries * 7, bank * torch.rand(120, 1).add(0.1), labels, grid=[(5, 0.1)])[0], plain)


def brute_force(queries, bank, labels, k, temperature):
    """Every comparison at once, one query after the other, in numpy."""
    a, b = ((x / x.norm(dim=1, keepdim=True)).double().numpy() for x in (queries, bank))
    answers = []
    for row in np.rint(a @ b.T * knn.STEPS) / knn.STEPS:
        nearest = np.argsort(-row, kind="stable")[:k]
        weights = np.exp((row[nearest] - row.max()) / temperature)
        answers.append(np.bincount(labels.numpy()[nearest], weights).argmax())
    return answers


@pytest.mark.parametrize(("rows", "step"), [(7, 11), (13, 50), (120, 1), (500, 500)])
def test_blocks_that_divide_neither_queries_nor_bank_answer_as_brute_force(monkeypatch, rows, step):
    monkeypatch.setattr(knn, "PAIRS", rows * step)
    (bank, labels), (queries, _) = clouds(), clouds(101, seed=1)
    grid = [(1, 0.1), (20, 0.1), (120, 1.0)]
    for at, answer in zip(grid, vote(queries, bank, labels * 1000, grid=grid, rows=rows), strict=True):
        assert answer.tolist() == brute_force(queries, bank, labels * 1000, *at)


class Largest(TorchDispatchMode):
    """The most values of any tensor that was computed."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [t for t in (found if isinstance(found, tuple | list) else [found]) if isinstance(t, torch.Tensor)]
        self.values = max(self.values, *(t.numel() for t in tensors), 0)
        return found


def test_a_large_bank_and_many_classes_are_compared_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(knn, "PAIRS", 2**14)
    draw = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(20_000, 4, generator=draw), torch.randn(300, 4, generator=draw)
    labels = torch.arange(20_000) * 50_000  # a billion classes
    with Largest() as largest:
        answers = vote(queries, bank, labels, grid=[(5, 0.1), (3, 1.0)])
    assert largest.values <= 2**14
    cosine = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T
    # Of neighbours that are all of different classes the nearest has the largest vote.
    assert all(torch.equal(answer, labels[cosine.argmax(1)]) for answer in answers)
    assert [len(similarity) for similarity, _ in neighbours(queries, bank, k=1)] == [256, 44]


def test_more_neighbours_than_the_bank_has_are_refused():
    with pytest.raises(ValueError, match="k 4: the bank has only 3 images"):
        vote(torch.ones(1, 2), torch.ones(3, 2), torch.arange(3), grid=[(4, 1.0)])


def test_every_member_of_a_grid_answers_as_it_would_alone():
    (bank, labels), (queries, _) = clouds(), clouds(seed=1)
    grid = [(1, 0.1), (40, 0.1), (5, 1.0)]
    together = vote(queries, bank, labels, grid=grid)
    for at, answer in zip(grid, together, strict=True):
        assert torch.equal(answer, vote(queries, bank, labels, grid=[at])[0])


def test_of_equally_near_images_the_first_is_the_neighbour():
    bank, labels = torch.ones(50, 5), torch.arange(49, -1, -1)
    (ours,) = vote(torch.ones(3, 5), bank, labels, grid=[(1, 0.1)])
    assert ours.tolist() == [49, 49, 49]
