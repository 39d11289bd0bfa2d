import pytest
import torch

from kdep.scale import SCALERS, make_scaler

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
        ("unit", {"factor": 8.5**0.5}, [8.0, 3.0]),  # the mean variance is (16 + 1) / 2
        ("none", {}, [8.0, 3.0]),
    ],
)
def test_a_scaler_gives_the_numbers_worked_out_by_hand(name, options, expected):
    assert torch.allclose(scaled(name, [8.0, 3.0], **options), torch.tensor(expected))


def test_an_unknown_scaler_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=f"scale.name 'log': there are {', '.join(SCALERS)}"):
        make_scaler("log", {})


def test_an_option_of_another_scaler_is_refused():
    with pytest.raises(ValueError, match="scale.temperature: sn takes factor"):
        make_scaler("sn", {"temperature": 0.1})


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_an_option_must_be_a_positive_number(value):
    with pytest.raises(ValueError, match="scale.temperature: expected a positive number"):
        make_scaler("pts", {"temperature": value})


CHANNELS = torch.tensor([6.0, 3.0, 2.0])  # deviations of the teacher's own channels, largest first


def test_deviations_are_matched_to_those_of_the_teachers_largest_channels():
    # Deviations 4 and 1 become 6 and 3.
    assert make_scaler("sm", {})(torch.tensor([8.0, 2.0]), STD, CHANNELS).tolist() == [12.0, 6.0]


def test_deviations_are_mapped_linearly_to_the_ratio_of_the_teachers_channels():
    # The ratio of the channels is 3: deviations 4 and 1 become 3 and 1; one of 2.5, half-way, becomes 2.
    scaler = make_scaler("sm_linear", {})
    assert scaler(torch.tensor([4.0, 1.0]), STD, CHANNELS).tolist() == pytest.approx([3.0, 1.0])
    three = torch.tensor([4.0, 2.5, 1.0])
    assert scaler(three, three, CHANNELS).tolist() == pytest.approx([3.0, 2.0, 1.0])


def test_layernorm_gives_each_image_mean_0_and_variance_1():
    found = make_scaler("layernorm", {})(torch.tensor([[1.0, 3.0], [10.0, 30.0]]), STD)
    assert torch.allclose(found, torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]), atol=1e-4)
