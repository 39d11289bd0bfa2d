"""The axes on which positions are compared."""

import pytest
import torch

from kdep.probe.neighbours import leading_axes


def centred():
    drawn = torch.randn(200, 24, generator=torch.Generator().manual_seed(1)) * torch.arange(1, 25)
    return drawn - drawn.mean(0)


def test_axes_are_those_of_a_fixed_seed_and_no_generator_is_seeded_for_good(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    found = leading_axes(centred(), 6)
    assert torch.equal(torch.get_rng_state(), before) and seeded == []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        assert torch.equal(found, torch.svd_lowrank(centred(), q=6, niter=2)[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_axes_of_features_on_a_gpu_are_those_on_the_cpu_and_its_generator_stays():
    before = torch.cuda.get_rng_state()
    found = leading_axes(centred().cuda(), 6)
    assert found.device.type == "cuda" and torch.equal(found.cpu(), leading_axes(centred(), 6))
    assert torch.equal(torch.cuda.get_rng_state(), before)
