import pytest
import torch
from torch import nn

from kdep.config import Optim
from kdep.run.optim import learning_rate, make_optimizer

PAPER = Optim(epochs=90, batch_size=512, lr=0.3)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.3), (29, 0.3), (30, 0.03), (59, 0.03), (60, 0.003), (89, 0.003)])
def test_the_papers_rate_falls_tenfold_every_thirty_epochs(epoch, expected):
    first, last = epoch * 250, epoch * 250 + 249
    assert learning_rate(PAPER, first, 250) == pytest.approx(expected)
    assert learning_rate(PAPER, last, 250) == pytest.approx(expected)


def test_cosine_goes_from_the_full_rate_through_half_of_it_to_zero():
    optim = Optim(epochs=10, batch_size=2, lr=0.4, schedule="cosine")
    assert [learning_rate(optim, step, 10) for step in (0, 50, 100)] == pytest.approx([0.4, 0.2, 0])


def test_a_length_in_steps_replaces_epochs_and_the_cosine_ends_there():
    optim = Optim(steps=100, batch_size=2, lr=0.4, schedule="cosine", warmup_epochs=0.5)
    assert (optim.total(30), optim.begun(60, 200)) == (100, 4)  # three epochs and a third
    assert learning_rate(optim, 100, 30) == pytest.approx(0)
    with pytest.raises(ValueError, match="warmup_epochs 0.5 is 150 steps, which leaves nothing of optim.steps 100"):
        optim.total(300)


@pytest.mark.parametrize(("length", "said"), [({}, "epochs or steps is needed"), ({"epochs": 1, "steps": 1}, "both")])
def test_a_run_has_one_length(length, said):
    with pytest.raises(ValueError, match=said):
        Optim(batch_size=2, lr=0.4, **length)


def test_warm_up_is_linear_and_then_the_schedule_starts_at_the_full_rate():
    optim = Optim(epochs=3, batch_size=2, lr=1.0, schedule="cosine", warmup_epochs=0.5)
    rates = [learning_rate(optim, step, 8) for step in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_sgd_is_plain_momentum_as_in_the_paper():
    weight = nn.Parameter(torch.tensor([1.0]))
    model = nn.ParameterList([weight])
    optimizer = make_optimizer(model, Optim(epochs=1, batch_size=2, lr=0.1, momentum=0.5, weight_decay=0.5))
    for _ in range(2):
        weight.grad = torch.tensor([1.0])
        optimizer.step()
    # g = 1 + 0.5 * 1 = 1.5, w = 0.85; then g = 1.425, v = 0.75 + 1.425 = 2.175, w = 0.85 - 0.2175
    assert weight.item() == pytest.approx(0.6325)


@pytest.fixture
def filled_memory():
    """Let `torch.empty` return NaN, as it may."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sgd_has_momentum_of_its_own_steps_only_where_the_gradient_scaler_skips_the_first(layout, filled_memory):
    model = nn.Conv2d(4, 8, 3).to(memory_format=layout)
    optimizer = make_optimizer(model, Optim(epochs=1, batch_size=4, lr=0.1))
    scaler, before = torch.amp.GradScaler("cpu"), model.weight.detach().clone()
    for factor in (float("inf"), 1e-3, 1e-3):
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(model(torch.ones(4, 4, 6, 6)).square().mean() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model.weight, before) == (factor == float("inf"))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize(("decay_all", "expected"), [(True, {0.1: 4}), (False, {0.1: 1, 0.0: 3})])
def test_weight_decay_spares_norms_and_biases_only_when_told_to(decay_all, expected):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optim = Optim(name="adamw", epochs=1, batch_size=2, lr=0.1, weight_decay=0.1, decay_all=decay_all)
    groups = make_optimizer(model, optim).param_groups
    assert {group["weight_decay"]: len(group["params"]) for group in groups} == expected


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_named_optimizer_lowers_a_parabola(name):
    weight = nn.Parameter(torch.tensor([1.0]))
    optim = Optim(name=name, epochs=1, batch_size=2, lr=0.05)
    optimizer = make_optimizer(nn.ParameterList([weight]), optim)
    for _ in range(20):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.item() ** 2 < 0.5
