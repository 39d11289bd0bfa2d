import pytest
import torch

from kdep.method.scale import SCALERS, make_scaler

STD = torch.tensor([4.0, 1.0])


def scaled(name, values, **options):
    return make_scaler(name, options)(torch.tensor(values), STD)


def test_pts_is_the_signed_cube_root_of_the_feature_over_the_temperature():
    # (0.8 / 0.1)^(1/3) = 2, (2.7 / 0.1)^(1/3) = 3
    assert torch.allclose(scaled("pts", [0.8, -0.8, 0.0, 2.7]), torch.tensor([2.0, -2.0, 0.0, 3.0]))


def test_pts_takes_its_temperature_and_exponent():
    # (0.8 / 0.2)^(1/2) = 2
    assert torch.allclose(scaled("pts", [0.8, -0.2], temperature=0.2, exponent=2), torch.tensor([2.0, -1.0]))


def test_pts_turns_a_std_ratio_into_its_cube_root():
    normal = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    wide, narrow = (make_scaler("pts", {})(normal * std, STD).std() for std in (8.0, 1.0))
    assert wide / narrow == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("sn", {}, [2.0, 3.0]),  # 8 / 4, 3 / 1
        ("sn", {"factor": 1.5}, [3.0, 4.5]),
        ("whiten", {"alpha": 0.5}, [4.0, 3.0]),  # 8 / sqrt(4), 3 / sqrt(1)
        ("whiten", {"alpha": 0.25}, [8 / 2**0.5, 3.0]),
        ("whiten", {"alpha": 1}, [2.0, 3.0]),  # as sn
        ("unit", {"factor": 8.5**0.5}, [8.0, 3.0]),  # the mean variance is (16 + 1) / 2
        ("none", {}, [8.0, 3.0]),
        ("none", {"factor": 2.0}, [16.0, 6.0]),
    ],
)
def test_a_scaler_gives_the_numbers_worked_out_by_hand(name, options, expected):
    assert torch.allclose(scaled(name, [8.0, 3.0], **options), torch.tensor(expected))


def test_an_unknown_scaler_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=f"scale.name 'log': there are {', '.join(SCALERS)}"):
        make_scaler("log", {})


def test_an_option_of_another_scaler_is_refused():
    with pytest.raises(ValueError, match="scale.temperature: sn takes factor; scale={name: sn} drops the options"):
        make_scaler("sn", {"temperature": 0.1})


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_an_option_must_be_a_positive_number(value):
    with pytest.raises(ValueError, match="scale.temperature: expected a positive number"):
        make_scaler("pts", {"temperature": value})


def test_an_option_that_turns_its_scaler_round_is_refused():
    with pytest.raises(ValueError, match=r"scale.alpha: expected at most 1, got 2; above 1 small axes dominate"):
        make_scaler("whiten", {"alpha": 2})
    with pytest.raises(ValueError, match=r"scale.exponent: expected at least 1, got 0.5; below 1 std ratios grow"):
        make_scaler("pts", {"exponent": 0.5})


CHANNELS = torch.tensor([6.0, 3.0, 2.0])  # deviations of the teacher's own channels, largest first


def test_deviations_are_matched_to_those_of_the_teachers_largest_channels():
    # Deviations 4 and 1 become 6 and 3.
    assert make_scaler("sm", {})(torch.tensor([8.0, 2.0]), STD, CHANNELS).tolist() == [12.0, 6.0]


def test_deviations_are_matched_by_their_rank_and_not_by_the_order_of_the_channels():
    features, std = torch.ones(1, 2), torch.tensor([3.0, 5.0])
    scaled = make_scaler("sm", {})(features * std, std, torch.tensor([6.0, 4.0, 1.0]))
    assert scaled.tolist() == [[4.0, 6.0]]


def test_deviations_are_mapped_linearly_to_the_ratio_of_the_teachers_channels():
    # The ratio of the channels is 3: deviations 4 and 1 become 3 and 1; one of 2.5, half-way, becomes 2.
    scaler = make_scaler("sm_linear", {})
    assert scaler(torch.tensor([4.0, 1.0]), STD, CHANNELS).tolist() == pytest.approx([3.0, 1.0])
    three = torch.tensor([4.0, 2.5, 1.0])
    assert scaler(three, three, CHANNELS).tolist() == pytest.approx([3.0, 2.0, 1.0])


@pytest.mark.parametrize("name", ["sn", "whiten", "sm", "sm_linear"])
@pytest.mark.parametrize("still", [0.0, 1e-8], ids=["exactly", "up to rounding"])
def test_a_constant_channel_gives_0_and_leaves_the_others_as_they_were(name, still):
    # Behind its mean a constant channel is 0, or what float32 leaves of a large one.
    std, features = torch.tensor([4.0, 2.5, still, 1.0]), torch.tensor([8.0, 5.0, still, 2.0])
    found = make_scaler(name, {})(features, std, CHANNELS.new_tensor([6.0, 3.0, 3.0, 2.0]))
    assert float(found[2]) == 0 and bool(found.isfinite().all())
    kept = [0, 1, 3]
    channels = torch.tensor([6.0, 3.0, 3.0]) if name == "sm" else CHANNELS
    assert torch.equal(found[kept], make_scaler(name, {})(features[kept], std[kept], channels))


def test_deviations_that_are_equal_are_mapped_to_1():
    scaler = make_scaler("sm_linear", {})
    equal = torch.tensor([3.0, 3.0 * (1 + 2e-7)])
    assert torch.allclose(scaler(equal * 2, equal, CHANNELS), torch.tensor([2.0, 2.0]))
    assert scaler(torch.zeros(2), torch.zeros(2), CHANNELS).tolist() == [0.0, 0.0]


def test_a_constant_channel_of_the_teacher_does_not_count_for_the_ratio():
    scaler, dead = make_scaler("sm_linear", {}), torch.tensor([6.0, 3.0, 2.0, 0.0])
    features = torch.tensor([4.0, 1.0])
    assert torch.equal(scaler(features, STD, dead), scaler(features, STD, CHANNELS))


def test_layernorm_gives_each_image_mean_0_and_variance_1():
    found = make_scaler("layernorm", {})(torch.tensor([[1.0, 3.0], [10.0, 30.0]]), STD)
    assert torch.allclose(found, torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]), atol=1e-4)
