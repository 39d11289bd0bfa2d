"""Compute LogME of features and labels: the log evidence of linear regression from features to classes, per image.

You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021. Higher is better.

One class is a target y of zeros and ones, without an intercept. Weights have the prior N(0, 1 / alpha), and y has noise
of variance 1 / beta. The evidence is maximised over alpha and beta, and averaged over the classes. With eigenvalues s
of F'F, x the projections of y on the left singular vectors of F, and t = alpha / beta:

    m'm = sum s x^2 / (s + t)^2,  |Fm - y|^2 = |y|^2 - sum x^2 + sum x^2 t^2 / (s + t)^2,  gamma = sum s / (s + t)
    alpha = gamma / m'm,  beta = (N - gamma) / |Fm - y|^2       (the fixed point that is iterated)
"""

import math

import torch

from kdep_benchmarks.tasks.axes import eigenpairs

STEPS = 100  # of the fixed point; the authors' code stops after 11
TOLERANCE = 1e-6  # relative change of alpha / beta
SMALLEST = 1e-12  # added to both squares; a perfect fit would make beta infinite


def logme(features: torch.Tensor, labels: torch.Tensor, *, block: int = 16384) -> float:
    """Mean over the classes that occur of the maximal log evidence, divided by the number of images.

    Args:
        features: (N, D), read in blocks.
        labels: (N,) class numbers.
        block: images in a block.
    """
    present, numbers = labels.unique(return_inverse=True)
    gram = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    sums = torch.zeros(len(present), features.shape[1], dtype=torch.float64)
    for part, own in zip(features.split(block), numbers.split(block), strict=True):
        rows = part.cpu().double()
        gram += rows.T @ rows
        sums.index_add_(0, own.cpu(), rows)
    values, vectors = eigenpairs(gram)
    kept = values > 1e-10 * values.max().clamp_min(1e-30)  # float64 rounding of the Gram matrix
    kept[-1] = True  # the largest: of features that are all zero, too
    values, vectors = values[kept].clamp_min(1e-30), vectors[:, kept]
    images = torch.bincount(numbers).double().cpu()
    evidence = _evidence(values, (sums @ vectors).square() / values, images, len(labels))
    return float(evidence.mean())


def _evidence(values: torch.Tensor, projected: torch.Tensor, squares: torch.Tensor, images: int) -> torch.Tensor:
    """Maximal log evidence per image of each target (K,).

    Args:
        values: eigenvalues (R,) of F'F, none 0.
        projected: squared projections (K, R) of the targets on the left singular vectors.
        squares: squared norms (K,) of the targets.
        images: N.
    """
    outside = (squares - projected.sum(1)).clamp_min(0)
    ratio = torch.ones_like(squares)
    for _ in range(STEPS):
        shrunk = values / (values + ratio[:, None])
        gamma = shrunk.sum(1)
        weights = (projected * shrunk.square() / values).sum(1)
        residual = outside + (projected * (1 - shrunk).square()).sum(1)
        alpha, beta = gamma / (weights + SMALLEST), (images - gamma) / (residual + SMALLEST)
        before, ratio = ratio, alpha / beta
        if bool(((ratio / before - 1).abs() <= TOLERANCE).all()):
            break
    # The axes without variance have the prior's determinant, which cancels in R / 2 log(alpha).
    determinant = (alpha[:, None] + beta[:, None] * values).log().sum(1)
    evidence = len(values) * alpha.log() + images * (beta.log() - math.log(2 * math.pi)) - determinant
    return (evidence - beta * residual - alpha * weights) / (2 * images)
