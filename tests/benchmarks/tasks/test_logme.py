"""LogME against scikit-learn's evidence maximisation, and against a search over alpha and beta."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.linear_model import BayesianRidge

from kdep_benchmarks.tasks.logme import logme


def made(images, dims, classes=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images) % classes
    return torch.randn(images, dims, generator=generator) + 0.7 * labels[:, None], labels


def by_search(features, labels):
    """Mean over classes of the maximum over (alpha, beta) of log N(y; 0, I / beta + F F' / alpha), per image."""
    found = []
    for label in labels.unique():
        y, outer = (labels == label).double().numpy(), (features.double() @ features.double().T).numpy()

        def loss(logs, y=y, outer=outer):
            alpha, beta = np.exp(np.clip(logs, -20, 20))
            return -multivariate_normal.logpdf(y, cov=np.eye(len(y)) / beta + outer / alpha)

        starts = [(a, b) for a in (0.0, 5.0) for b in (0.0, 4.0)]  # the evidence can have several maxima
        found.append(
            max(-minimize(loss, start, method="Nelder-Mead", options={"fatol": 1e-3}).fun for start in starts) / len(y)
        )
    return np.mean(found)


@pytest.mark.parametrize(("images", "dims"), [(24, 3), (8, 12)], ids=["more images", "more features"])
def test_logme_is_the_largest_evidence_over_both_variances(images, dims):
    features, labels = made(images, dims)
    assert logme(features, labels, block=7) == pytest.approx(by_search(features, labels), abs=4e-4)


def test_logme_is_the_mean_of_scikit_learns_scores():
    features, labels = made(200, 8)
    ridge = BayesianRidge(
        fit_intercept=False, compute_score=True, tol=1e-9, max_iter=1000, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0
    )
    scores = [ridge.fit(features.numpy(), (labels == k).numpy().astype(float)).scores_[-1] / 200 for k in range(3)]
    assert logme(features, labels) == pytest.approx(np.mean(scores), abs=1e-4)


def test_logme_survives_a_perfect_fit_constant_features_and_classes_without_images():
    labels = torch.tensor([0, 3, 0, 3, 3, 0])
    exact = torch.nn.functional.one_hot(labels, 4).float()
    assert np.isfinite(logme(exact, labels)) and logme(exact, labels) > logme(torch.ones(6, 4), labels)
    # Without features a half of the images is ones and nothing explains them: y ~ N(0, 1/2) has this evidence.
    assert logme(torch.zeros(6, 4), labels) == pytest.approx(-0.5 * (1 + np.log(2 * np.pi / 2)), abs=1e-6)
