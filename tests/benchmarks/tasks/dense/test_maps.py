"""At which sizes images are shown to a network whose maps are read, and the pixels that it sees."""

import numpy as np
from PIL import Image

from kdep_benchmarks.tasks.dense.maps import Geometry, read_image


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
