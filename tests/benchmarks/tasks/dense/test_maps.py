"""At which sizes images are shown to a network whose maps are read, and the pixels that it sees."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kdep.data.loading import views
from kdep_benchmarks.tasks import features
from kdep_benchmarks.tasks.dense import maps
from kdep_benchmarks.tasks.dense.maps import Geometry, read_image, run_maps


def test_a_long_image_is_squeezed_to_four_times_its_short_side():
    geometry = Geometry(32, None, None)
    assert geometry.shown((64, 640), 64) == (64, 256) and geometry.shown((640, 64), 64) == (256, 64)
    assert geometry.shown((100, 150), 64) == (64, 96)


def test_an_image_is_shown_upright_at_its_height_and_width(tmp_path):
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[:48] = 200  # the upper half
    Image.fromarray(pixels).save(tmp_path / "a.png")
    shown = read_image(tmp_path / "a.png", (96, 64))
    assert shown.shape == (3, 96, 64) and (shown[:, :40] == 200).all() and (shown[:, 56:] == 0).all()


def decoding(monkeypatch, kind, images, device):
    """How many processes a frozen probe, a dense probe and fine-tuning start to decode images."""
    started = []
    module = {"features": features, "maps": maps, "views": views}[kind]
    monkeypatch.setattr(module, "Loader", lambda shown, *, num_workers, **_: started.append(num_workers) or [])
    pixels, device = SimpleNamespace(workers="auto", batch_size=16, size=32, resize=None), torch.device(device)
    if kind == "features":
        list(features.frames(None, np.arange(images), pixels=pixels, device=device))
    elif kind == "maps":
        found = run_maps(torch.nn.Identity(), [Path("a")] * images, [(32, 32)] * images, pixels=pixels, device=device)
        with pytest.raises(ValueError, match="shorter"):  # the loader above gives no batch
            list(found)
    else:
        views.load(SimpleNamespace(source=None), [], workers="auto", pin=device.type == "cuda")
    return started.pop()


@pytest.mark.parametrize(("threads", "images", "workers"), [(1, 65, 0), (8, 64, 0), (8, 65, 1)])
def test_the_network_keeps_all_cores_of_a_cpu_but_one(monkeypatch, threads, images, workers):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert decoding(monkeypatch, "maps", images, "cpu") == workers


@pytest.mark.parametrize("kind", ["features", "maps", "views"])
@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (8, 7), (32, 16)])
def test_beside_a_gpu_all_cores_but_one_decode_for_every_kind(monkeypatch, kind, cores, workers):
    monkeypatch.setattr("kdep.cores.cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)  # which OMP_NUM_THREADS says
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert decoding(monkeypatch, kind, 65, "cuda") == workers
    if kind != "views":
        assert decoding(monkeypatch, kind, 64, "cuda") == 0  # a process takes longer to start
