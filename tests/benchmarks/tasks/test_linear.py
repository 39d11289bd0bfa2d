"""The probe's solver against scikit-learn, finite optimality conditions and hand-made cases."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

import kdep_benchmarks.tasks.axes
import kdep_benchmarks.tasks.linear
from kdep_benchmarks.tasks.axes import Images, find_axes, moments
from kdep_benchmarks.tasks.linear import descend, fit_path, measure


def made(count=600, dim=20, classes=4, seed=0, spread=1.0):
    """Features of unequal scales, offsets and correlations, and labels that they partly explain."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    mixing = torch.randn(dim, dim, generator=generator) * torch.arange(1, dim + 1).float().rsqrt()[:, None]
    x = torch.randn(classes, dim, generator=generator)[labels] * spread + torch.randn(count, dim, generator=generator)
    return x @ mixing * torch.logspace(-2, 2, dim) + 5, labels


def standardised(x):
    return (x - x.double().mean(0)) / x.double().std(0, correction=0)


def images(x, labels, rows=None, block=64):
    return Images(x, labels, rows, block=block, device=torch.device("cpu"))


def objective(x, labels, penalty, weight, bias):
    """The documented objective in the standardised features, from weights in them, written out slowly."""
    loss = F.cross_entropy(standardised(x) @ weight.double() + bias.double(), labels)
    return float(loss + penalty / 2 * weight.double().square().sum())


def scikit(x, labels, penalty):
    model = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=10000)
    return model.fit(standardised(x).numpy(), labels.numpy())


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
def test_the_optimum_is_scikit_learns(penalty):
    x, labels = made()
    (ours,) = fit_path(x, labels, classes=4, penalties=[penalty])
    theirs = scikit(x, labels, penalty)
    reached = objective(x, labels, penalty, torch.tensor(theirs.coef_.T), torch.tensor(theirs.intercept_))
    assert ours.objective == pytest.approx(reached, rel=1e-4)
    agree = ours.scores(x).argmax(1).numpy() == theirs.predict(standardised(x).numpy())
    assert agree.mean() >= 0.998


def test_the_weights_reach_the_objective_that_is_reported():
    x, labels = made(seed=1)
    (ours,) = fit_path(x, labels, classes=4, penalties=[1e-3])
    weight = ours.weight.double() * x.double().std(0, correction=0)[:, None]
    bias = ours.bias.double() + x.double().mean(0) @ ours.weight.double()
    assert objective(x, labels, 1e-3, weight, bias) == pytest.approx(ours.objective, rel=1e-5)


def test_warm_starts_change_no_optimum():
    x, labels = made(seed=2, spread=0.3)
    penalties = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    path = fit_path(x, labels, classes=4, penalties=penalties)
    alone = [fit_path(x, labels, classes=4, penalties=[p], tolerance=1e-10)[0] for p in penalties]
    assert [s.penalty for s in path] == penalties
    assert [s.objective for s in path] == pytest.approx([s.objective for s in alone], rel=1e-4)


def test_products_in_float32_reach_the_same_optimum(monkeypatch):
    x, labels = made(seed=3)
    exact = fit_path(x, labels, classes=4, penalties=[1e-4, 1e-2])
    monkeypatch.setattr(kdep_benchmarks.tasks.linear, "SMALL", 0)
    single = fit_path(x, labels, classes=4, penalties=[1e-4, 1e-2])
    assert [s.objective for s in single] == pytest.approx([s.objective for s in exact], rel=1e-4)


def test_more_images_than_are_computed_at_once_change_nothing(monkeypatch):
    x, labels = made(seed=4)
    (whole,) = fit_path(x, labels, classes=4, penalties=[1e-3])
    monkeypatch.setattr(kdep_benchmarks.tasks.linear, "ROWS", 64)
    (parts,) = fit_path(x, labels, classes=4, penalties=[1e-3])
    assert parts.objective == pytest.approx(whole.objective, rel=1e-6)


def test_the_bias_is_not_penalised():
    labels = torch.tensor([0] * 90 + [1] * 10)
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    (ours,) = fit_path(x, labels, classes=2, penalties=[1e6])
    assert ours.scores(x).softmax(1)[:, 1].numpy() == pytest.approx(np.full(100, 0.1), abs=1e-3)


def test_the_scale_and_offset_of_a_feature_do_not_matter():
    x, labels = made(seed=5)
    (plain,) = fit_path(x, labels, classes=4, penalties=[1e-2])
    (moved,) = fit_path(x * torch.logspace(2, -2, 20) - 3, labels, classes=4, penalties=[1e-2])
    assert moved.objective == pytest.approx(plain.objective, rel=1e-3)


def test_a_constant_feature_carries_nothing():
    x, labels = made(seed=6)
    noise = 7 + 1e-6 * torch.randn(600, 1, generator=torch.Generator().manual_seed(0))
    (plain,) = fit_path(x, labels, classes=4, penalties=[1e-2])
    (more,) = fit_path(torch.cat([x, noise, torch.zeros(600, 1)], 1), labels, classes=4, penalties=[1e-2])
    assert more.objective == pytest.approx(plain.objective, rel=1e-6)
    assert (more.weight[-2:] == 0).all()


def test_fewer_images_than_features_are_solved_in_their_span():
    x, labels = made(count=40, dim=100, seed=7)
    assert len(find_axes(images(x, labels)).variances) <= 40
    (ours,) = fit_path(x, labels, classes=4, penalties=[1e-2])
    theirs = scikit(x, labels, 1e-2)
    reached = objective(x, labels, 1e-2, torch.tensor(theirs.coef_.T), torch.tensor(theirs.intercept_))
    assert ours.objective == pytest.approx(reached, rel=1e-4)


def test_separable_images_are_solved_at_the_smallest_penalty():
    labels = torch.arange(15) % 3
    x = F.one_hot(labels, 64) + 0.1 * torch.randn(15, 64, generator=torch.Generator().manual_seed(0))
    path = fit_path(x, labels, classes=3, penalties=[1e-6, 1e-3, 10.0])
    assert all((s.scores(x).argmax(1) == labels).all() for s in path)
    assert path[0].objective < path[1].objective < path[2].objective


def test_a_path_takes_fewer_steps_than_its_penalties_alone():
    x, labels = made(count=1000, dim=60, classes=8, seed=8, spread=0.2)
    penalties = [10.0**e for e in range(-6, 1)]
    path = sum(s.steps for s in fit_path(x, labels, classes=8, penalties=penalties))
    alone = sum(fit_path(x, labels, classes=8, penalties=[p])[0].steps for p in penalties)
    assert path < 0.8 * alone


def test_features_that_carry_nothing_give_the_frequencies_of_the_classes():
    (ours,) = fit_path(torch.ones(10, 3), torch.tensor([0] * 7 + [1] * 3), classes=2, penalties=[1e-3])
    assert ours.scores(torch.ones(1, 3)).softmax(1)[0].tolist() == pytest.approx([0.7, 0.3])


@pytest.mark.parametrize(
    ("change", "penalties", "message"), [(float("nan"), [1.0], "not finite"), (0.0, [1.0, 0.0], "penalty 0.0")]
)
def test_what_cannot_be_fitted_is_refused(change, penalties, message):
    x, labels = made(count=20)
    with pytest.raises(ValueError, match=message):
        fit_path(x + change, labels, classes=4, penalties=penalties)


def test_moments_in_blocks_are_those_of_all_images_whatever_the_offset():
    x, labels = made(count=1000, seed=9)
    x = (x + 1e4).sort(0).values  # the first block is far from the mean, as where images are sorted by class
    mean, covariance = moments(images(x, labels))
    assert torch.allclose(mean, x.double().mean(0), rtol=1e-12)
    assert torch.allclose(covariance, torch.cov(x.double().T, correction=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kept", [0, 2**31])
def test_axes_have_the_variances_that_they_say_and_no_correlation(kept, monkeypatch):
    monkeypatch.setattr(kdep_benchmarks.tasks.axes, "KEPT", kept)
    x, labels = made(seed=10)
    source = images(x, labels)
    axes = find_axes(source)
    turned = source.on(axes, torch.float64)
    weight, bias = turned.parameters(torch.eye(20, 21, dtype=torch.float64))
    z = torch.cat([block @ weight.T for block, _ in turned])
    assert torch.allclose(z.T @ z / len(z), axes.variances.diag(), atol=1e-6) and (bias == 0).all()
    slopes = sum(labels.double()[None] @ block for block, labels in turned)
    assert torch.allclose(turned.gradient(slopes), labels.double()[None] @ z)


def test_a_network_most_of_whose_units_never_fire_has_the_axes_of_the_others():
    # On this matrix torch's solver of one thread does not converge (torch 2.13, MKL).
    generator, threads = torch.Generator().manual_seed(18), torch.get_num_threads()
    fires = torch.randperm(1280, generator=generator)[:100]
    mixed = torch.randn(2000, 6, generator=generator) @ torch.randn(6, 100, generator=generator)
    alive = (mixed + 0.1 * torch.randn(2000, 100, generator=generator)).clamp(0, 6)
    x = torch.zeros(2000, 1280).index_copy(1, fires, alive)
    labels = torch.zeros(2000, dtype=torch.long)
    try:
        torch.set_num_threads(1)
        axes, theirs = (find_axes(images(features, labels, block=2000)) for features in (x, alive))
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(axes.variances, theirs.variances)
    turned = (x.double() - axes.mean) @ axes.basis
    assert torch.allclose(turned.T @ turned / 2000, axes.variances.diag(), atol=1e-9)


def test_axes_of_few_images_have_the_variances_that_they_say():
    x = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)) * 3 + 1
    axes = find_axes(images(x, torch.zeros(20, dtype=torch.long), block=7))
    turned = (x.double() - axes.mean) @ axes.basis
    assert len(axes.variances) == 19 and torch.allclose(turned.var(0, correction=0), axes.variances)


def test_features_too_large_to_rotate_give_the_same_solutions(monkeypatch):
    x, labels = made(seed=11)
    monkeypatch.setattr(kdep_benchmarks.tasks.linear, "SMALL", 0)
    kept = fit_path(x, labels, classes=4, penalties=[1e-5, 1e-2])
    monkeypatch.setattr(kdep_benchmarks.tasks.axes, "KEPT", 0)
    read = fit_path(x, labels, classes=4, penalties=[1e-5, 1e-2])
    assert [s.objective for s in read] == pytest.approx([s.objective for s in kept], rel=1e-4)
    assert torch.allclose(read[1].scores(x), kept[1].scores(x), atol=2e-2)


def test_some_of_the_images_are_fitted_alike_whether_they_are_kept_rotated_or_not(monkeypatch):
    x, labels = made(seed=11)
    found, rows = [], torch.arange(0, 600, 2)
    for kept in (2**31, 0):
        monkeypatch.setattr(kdep_benchmarks.tasks.axes, "KEPT", kept)
        source = images(x, labels, torch.arange(600).flip(0))
        axes = find_axes(source)
        some = source.on(axes, torch.float64).only(rows)
        assert len(some) == 300 and torch.equal(some.labels, labels.flip(0)[rows])
        found += [s.objective for s in descend(some, axes, classes=4, penalties=[1e-2])]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_images_at_positions_are_fitted_as_if_they_were_all():
    x, labels = made(seed=12)
    rows = torch.arange(0, 600, 2) + torch.arange(300) % 2
    (there,) = fit_path(x, labels, classes=4, penalties=[1e-2], rows=rows)
    (alone,) = fit_path(x[rows], labels[rows], classes=4, penalties=[1e-2])
    assert torch.equal(there.weight, alone.weight)


def test_a_solution_is_measured_in_blocks_as_at_once(monkeypatch):
    monkeypatch.setattr(kdep_benchmarks.tasks.linear, "ROWS", 50)
    x, labels = made(seed=13, spread=0.3)
    path, rows = fit_path(x, labels, classes=4, penalties=[1e-3, 1.0]), torch.arange(100, 333)
    for solution in path:
        top1, loss = measure(solution, x, labels, rows=rows)
        scores = solution.scores(x[rows])
        assert top1 == pytest.approx(100 * float((scores.argmax(1) == labels[rows]).double().mean()))
        assert loss == pytest.approx(float(F.cross_entropy(scores, labels[rows])), rel=1e-5)
        assert torch.equal(solution.predict(x[rows]), scores.argmax(1))
