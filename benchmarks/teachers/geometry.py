"""Measure how features spread over their axes and how classes lie in them; features (N, D), labels (N,)."""

from collections.abc import Iterator

import numpy as np
import torch

from kdep.probe.knn import vote

NEIGHBOURS, TEMPERATURE, FOLDS = 10, 0.07, 5  # of the nearest-neighbour score; fixed, so nothing is chosen on it
BLOCK = 1024  # rows whose distances are held at once


def participation_ratio(variances: torch.Tensor) -> float:
    """(sum v)^2 / sum v^2 of the variances along the axes: 1 for a line, D for a sphere.

    Unlike the entropy of the effective rank it hardly sees small variances: a long tail adds little.
    """
    return float(variances.sum() ** 2 / variances.square().sum())


def class_distances(features: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Mean Euclidean distance of two images of one class, and of two images of different classes."""
    sums, counts = [0.0, 0.0], [0, 0]
    # The mean cancels in a difference; without it the norms are small and float32 keeps its digits.
    centred = (features.double() - features.double().mean(0)).float()
    for start in range(0, len(centred), BLOCK):
        distance = torch.cdist(centred[start : start + BLOCK], centred).double()
        same = labels[start : start + BLOCK, None] == labels
        own = torch.arange(len(distance))
        distance[own, own + start] = 0.0
        for kind, pairs in enumerate((same, ~same)):
            sums[kind] += float(distance[pairs].sum())
            counts[kind] += int(pairs.sum())
    counts[0] -= len(centred)  # an image is no pair with itself
    return sums[0] / counts[0], sums[1] / counts[1]


def nc1(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Spread within classes against that between them, trace(S_W pinv(S_B)) / C (Papyan, Han & Donoho 2020, NC1).

    S_W is the mean over images of (x - m_c)(x - m_c)', S_B the mean over classes of (m_c - m)(m_c - m)', m the mean of
    the class means. 0: every class is one point. With n images per class the means themselves are uncertain by S_W / n,
    so the value cannot rise far above n (C - 1) / C: compare it between teachers on the same images only.
    """
    x = features.double()
    classes, number = labels.unique(return_inverse=True)
    means = torch.zeros(len(classes), x.shape[1], dtype=torch.float64).index_add_(0, number, x)
    means /= number.bincount()[:, None]
    # pinv(S_B) = C U s^-2 U' from the thin SVD U s V' of the centred means, which is C x C small.
    left, singular, _ = torch.linalg.svd((means - means.mean(0)).T, full_matrices=False)
    kept = singular > singular[0] * max(means.shape) * torch.finfo(torch.float64).eps
    within = ((x - means[number]) @ left[:, kept]).square().mean(0)
    return float((within / singular[kept].square()).sum())


def folds(labels: np.ndarray, *, count: int = FOLDS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of (bank, queries), always the same: each image is a query once, each class is dealt out evenly."""
    draw = np.random.Generator(np.random.Philox(0))
    fold = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        positions = draw.permutation(np.flatnonzero(labels == label))
        fold[positions] = np.arange(len(positions)) % count
    for number in range(count):
        if (fold == number).any():
            yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def knn_accuracy(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images, in %, whose nearest ones in the other folds vote for their class."""
    right = 0
    for bank, queries in folds(labels.numpy()):
        grid = [(min(NEIGHBOURS, len(bank)), TEMPERATURE)]
        (answer,) = vote(features[queries], features[bank], labels[bank], grid=grid)
        right += int((answer == labels[queries]).sum())
    return 100.0 * right / len(labels)
