"""At which sizes images are shown to a network whose maps are read, and the pixels that it sees."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

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


@pytest.mark.parametrize(
    ("device", "threads", "images", "workers"),
    [("cpu", 1, 65, 0), ("cpu", 8, 64, 0), ("cpu", 8, 65, 1)]
    + [("cuda", 1, 65, 0), ("cuda", 8, 64, 0), ("cuda", 8, 65, 7), ("cuda", 32, 65, 16)],
)
def test_images_are_decoded_by_as_many_processes_as_the_device_leaves_threads(
    monkeypatch, device, threads, images, workers
):
    started = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(maps, "Loader", lambda views, *, num_workers, **_: started.append(num_workers) or [])
    pixels, shown = SimpleNamespace(workers="auto", batch_size=8), [(32, 32)] * images
    found = run_maps(torch.nn.Identity(), [Path("a")] * images, shown, pixels=pixels, device=torch.device(device))
    with pytest.raises(ValueError, match="shorter"):  # the loader above gives no batch
        list(found)
    assert started == [workers]
