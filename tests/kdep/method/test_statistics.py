import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdep.method.statistics import Moments, effective_rank, explained, finish, numerical_rank, std_ratio, sum_moments


def correlated(count=300, dim=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    return torch.randn(count, dim, dtype=torch.float64, generator=generator) @ mix + 5


def statistics_of(features, batch=64):
    moments = Moments(features.shape[1])
    for part in features.split(batch):
        moments.add(part)
    return finish(moments, teacher="t", data="d")


@pytest.mark.parametrize("dim", [3, 24, 29])  # fewer than strips, so many in each, not so many in the last
def test_axes_and_variances_equal_a_thin_svd(dim):
    features = correlated(dim=dim)
    found = statistics_of(features)
    x = features.numpy()
    _, singular, axes_in_rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variances, singular**2 / len(x), rtol=1e-10)
    cosines = np.einsum("dk,kd->k", found.axes.numpy(), axes_in_rows)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-10)


def test_axes_stand_in_columns_and_diagonalise_the_covariance():
    features = correlated()
    found = statistics_of(features)
    projected = (features - features.mean(0)) @ found.axes
    covariance = projected.T @ projected / len(features)
    assert torch.allclose(covariance, found.variances.diag(), atol=1e-9 * float(found.variances[0]))
    assert (found.variances.diff() <= 0).all()


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_statistics_do_not_depend_on_batching_or_order(batch):
    features = correlated()
    shuffled = features[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    one, other = statistics_of(features), statistics_of(shuffled, batch)
    assert one.count == other.count == 300
    assert torch.allclose(one.axes, other.axes, atol=1e-9)
    assert torch.allclose(one.variances, other.variances, rtol=1e-11)


def test_summed_processes_equal_one_process():
    features, barrier, sums = correlated(), threading.Barrier(3), [None] * 3
    parts = [features[:100], features[100:], features[:0]]

    def work(rank):
        def total(own):
            sums[rank] = own.clone()
            barrier.wait(300)
            found = torch.stack(sums).sum(0)
            barrier.wait(300)
            return found

        moments = Moments(24)
        moments.add(parts[rank])
        return finish(sum_moments(moments, total), teacher="t", data="d")

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(work, range(3)))
    whole = statistics_of(features)
    for own in found:
        assert own.count == 300 and torch.allclose(own.axes, whole.axes, atol=1e-10)
        assert torch.allclose(own.variances, whole.variances, rtol=1e-11)


def test_the_sums_stay_on_the_device_of_the_features(monkeypatch):
    # Torch's device without values: whatever copied from it to the CPU would fail.
    monkeypatch.setattr(torch, "isfinite", lambda total: SimpleNamespace(all=lambda: True))
    moments = Moments(24)
    for _ in range(2):
        moments.add(torch.empty(5, 24, device="meta"))
    assert moments.count == 10 and moments.scatter.device.type == moments.mean.device.type == "meta"


def test_the_sums_are_on_the_cpu_where_processes_exchange_them_and_axes_are_computed(monkeypatch):
    moved = []
    monkeypatch.setattr(Moments, "_move_to", lambda self, device: moved.append(device.type))

    def total(own):
        assert moved == ["cpu", "cpu"]  # of the first batch, and before the sum
        return own

    moments = Moments(24)
    moments.add(correlated())
    sum_moments(moments, total)
    finish(moments, teacher="t", data="d")
    assert moved == ["cpu"] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_statistics_of_features_on_a_gpu_equal_those_on_the_cpu():
    found, wanted = statistics_of(correlated().cuda()), statistics_of(correlated())
    assert found.mean.device.type == found.axes.device.type == "cpu"
    assert torch.allclose(found.axes, wanted.axes, atol=1e-9)
    assert torch.allclose(found.variances, wanted.variances, rtol=1e-10)


def test_small_variances_beside_a_large_mean_survive_float32_features():
    features = (torch.randn(5000, 4, generator=torch.Generator().manual_seed(0)) * 1e-2 + 1000).float()
    expected = features.double().numpy().var(0)
    found = statistics_of(features)
    np.testing.assert_allclose(found.channel_variances, expected, rtol=1e-9)
    assert found.variances.dtype == found.axes.dtype == found.mean.dtype == torch.float64


def test_axis_signs_are_canonical():
    features = correlated()
    one, mirrored = statistics_of(features), statistics_of(-features)
    assert torch.allclose(one.axes, mirrored.axes, atol=1e-10)
    assert (one.axes.gather(0, one.axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_features_that_are_not_finite_are_refused():
    features = correlated(10)
    features[3, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN or Inf: check the teacher's weights"):
        Moments(24).add(features)


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 24\): expected \(B, 12\)"):
        Moments(12).add(correlated(5))


def test_one_image_has_no_statistics():
    with pytest.raises(ValueError, match="of 1 images: at least 2"):
        statistics_of(correlated(1))


def test_numerical_rank_does_not_count_rounding_noise():
    features = (correlated(300, 5) @ torch.randn(5, 24, dtype=torch.float64)).float()
    assert numerical_rank(statistics_of(features)) == 5
    assert numerical_rank(statistics_of(correlated())) == 24


def test_numerical_rank_counts_deviations_above_the_width_times_float32_rounding():
    eps = torch.finfo(torch.float32).eps
    points = torch.tensor([1.0] * 98 + [200 * eps, 50 * eps]).double().diag()  # of 100 channels: above 100 eps
    assert numerical_rank(statistics_of(torch.cat([points, -points]))) == 99


def test_std_ratio_is_largest_over_smallest():
    assert std_ratio(torch.tensor([2.0, 8.0, 4.0])) == 4
    assert std_ratio(torch.tensor([2.0, 0.0])) == float("inf")


def test_explained_is_the_share_of_the_leading_axes():
    # Variances 9, 4, 1 along the coordinates: two of three hold 13/14.
    points = torch.tensor([[3.0, 0, 0], [0, 2, 0], [0, 0, 1]])
    found = statistics_of(torch.cat([points, -points]))
    assert explained(found, 2) == pytest.approx(13 / 14)
    assert torch.allclose(found.variances, torch.tensor([3, 4 / 3, 1 / 3], dtype=torch.float64))


def test_effective_rank_is_one_for_a_line_and_the_dimension_for_a_sphere():
    line, sphere = torch.tensor([[1.0, 2, 3], [-1, -2, -3]]), torch.cat([torch.eye(3), -torch.eye(3)])
    assert effective_rank(statistics_of(line)) == pytest.approx(1)
    assert effective_rank(statistics_of(sphere)) == pytest.approx(3)
