"""Nearest neighbours against scikit-learn's brute force and hand-made votes."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.knn import vote


def clouds(count=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(3, 8)[labels] + 0.6 * torch.randn(count, 8, generator=generator), labels


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_majority_of_neighbours_is_scikit_learns(k):
    (bank, labels), (queries, _) = clouds(), clouds(seed=1)
    reference = KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(bank, labels)
    (ours,) = vote(queries, bank, labels, classes=3, grid=[(k, 1e20)])
    assert np.array_equal(ours, reference.predict(queries))


def test_nearer_neighbours_have_the_larger_vote():
    bank, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    query = torch.tensor(
        [[1.0, 0.2]]
    )  # cosine 0.98 to class 0, 0.20 to the two of class 1: 2 exp(-0.78/T) < 1 if T < 1.13
    cold, warm = vote(query, bank, labels, classes=2, grid=[(3, 1.0), (3, 1.3)])
    assert (cold.item(), warm.item()) == (0, 1)


def test_the_length_of_a_feature_does_not_matter():
    (bank, labels), (queries, _) = clouds(), clouds(seed=1)
    plain = vote(queries, bank, labels, classes=3, grid=[(5, 0.1)])[0]
    assert torch.equal(
        vote(queries * 7, bank * torch.rand(120, 1).add(0.1), labels, classes=3, grid=[(5, 0.1)])[0], plain
    )


def test_votes_do_not_depend_on_how_many_are_compared_at_once():
    (bank, labels), (queries, _) = clouds(), clouds(seed=1)
    whole, parts = (vote(queries, bank, labels, classes=3, grid=[(5, 0.1)], rows=rows)[0] for rows in (120, 7))
    assert torch.equal(whole, parts)


def test_every_member_of_a_grid_answers_as_it_would_alone():
    (bank, labels), (queries, _) = clouds(), clouds(seed=1)
    grid = [(1, 0.1), (40, 0.1), (5, 1.0)]
    together = vote(queries, bank, labels, classes=3, grid=grid)
    for at, answer in zip(grid, together, strict=True):
        assert torch.equal(answer, vote(queries, bank, labels, classes=3, grid=[at])[0])


def test_of_equally_near_images_the_first_is_the_neighbour():
    bank, labels = torch.ones(50, 5), torch.arange(49, -1, -1)
    (ours,) = vote(torch.ones(3, 5), bank, labels, classes=50, grid=[(1, 0.1)])
    assert ours.tolist() == [49, 49, 49]
