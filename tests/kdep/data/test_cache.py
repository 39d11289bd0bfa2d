import json
import logging
import pickle
import re
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image

from kdep.data.cache import _scaled, estimate, open_cache, stored_size
from kdep.data.order import Order, once
from kdep.data.sources import open_source
from kdep.data.views import Augmentation, Views, load

from .test_decode import photograph

AUGMENTATION = Augmentation(32, jitter=0.2, lighting=0.1)


def pictures(folder, sizes, kind="jpg"):
    for number, size in enumerate(sizes):
        folder.mkdir(exist_ok=True, parents=True)
        photograph(size, number).save(folder / f"{number}.{kind}")
    return open_source(str(folder))


def batches(source, *, workers=0):
    views = Views(source, AUGMENTATION, seed=3)
    return list(load(views, Order(len(source.names), 3, 2, seed=3), workers=workers))


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_where_nothing_was_shrunk_views_and_fingerprint_are_those_of_the_source(tmp_path, kind):
    source = pictures(tmp_path / "p", [(40, 30), (34, 60), (50, 40)], kind)
    cached = open_cache(source, tmp_path / "c", size=32, show=False)
    assert cached.fingerprint == source.fingerprint and cached.names == source.names
    for a, b in zip(batches(source), batches(cached), strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.colour, b.colour)
        assert torch.equal(a.numbers, b.numbers)


def test_a_shrunk_image_keeps_the_draws_and_shows_nearly_the_same_crop(tmp_path):
    source = pictures(tmp_path / "p", [(160, 120), (120, 160), (200, 120)])
    cached = open_cache(source, tmp_path / "c", size=32, show=False)
    assert cached.fingerprint != source.fingerprint
    assert cached.read(0).size == (53, 40) and cached.open(0).size == (160, 120)
    for a, b in zip(batches(source), batches(cached), strict=True):
        assert torch.equal(a.colour, b.colour)
        # Half a stored pixel of rounding, and less detail: far less than another crop, another flip (30 levels).
        assert (a.images.int() - b.images.int()).abs().float().mean() < 12


def test_a_crop_of_a_shrunk_image_is_the_box_scaled_to_stored_pixels(tmp_path):
    source = pictures(tmp_path / "p", [(160, 120)])
    cached = open_cache(source, tmp_path / "c", size=32, show=False)
    stored = torch.from_numpy(np.array(cached.read(0))).permute(2, 0, 1)
    # 160 x 120 is stored as 53 x 40: columns 40 to 100 are 13.25 to 33.1, rows 30 to 90 are 10 to 30.
    assert torch.equal(cached.open(0).crop((40, 30, 100, 90), (20, 20)), stored[:, 10:30, 13:33])


@pytest.mark.parametrize(
    ("sizes", "crop_scale", "lost"),
    [
        ([(40, 30), (60, 40)], (0.08, 1.0), None),  # kept as they are: what they lack the source lacks too
        ([(40, 30), (160, 120), (90, 200)], (0.64, 1.0), None),
        ([(40, 30), (160, 120), (90, 200)], (0.63, 1.0), r"2 of 3 images .* 40 px.* 64 % .* 3 % .* 41 px.* at 0.64$"),
        ([(160, 120)], (0.08, 1.0), r"1 of 1 images .* 64 % of the area, about 61 % .* a short side of 114 px"),
        ([(160, 120)], (0.25, 0.5), r"about 100 % of those that data.crop_scale \[0.25, 0.5\] .* 64 px"),
    ],
)
def test_crops_that_the_cache_has_fewer_pixels_for_than_the_view_are_told(tmp_path, sizes, crop_scale, lost):
    cached = open_cache(pictures(tmp_path / "p", sizes), tmp_path / "c", size=32, show=False)
    found = cached.lost_detail(32, crop_scale)
    assert found is None if lost is None else re.search(lost, found)


def test_no_crop_that_is_not_told_is_enlarged(tmp_path):
    cached = open_cache(pictures(tmp_path / "p", [(120, 120)]), tmp_path / "c", size=32, show=False)
    for share in (0.5, 0.6, 0.64, 0.8):
        side = round(120 * share**0.5)
        left, right = _scaled(0, side, cached.read(0).size[0], 120)
        assert (cached.lost_detail(32, (share, 1.0)) is None) == (right - left >= 32)


def test_images_are_only_ever_shrunk():
    assert stored_size((500, 375), 280) == (373, 280)
    assert stored_size((375, 500), 280) == (280, 373)
    assert stored_size((64, 48), 280) == (64, 48)
    assert stored_size((4000, 280), 280) == (4000, 280)


def test_a_cache_is_made_once(tmp_path):
    source = pictures(tmp_path / "p", [(160, 120), (40, 30)])
    first = open_cache(source, tmp_path / "c", size=32, show=False)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()}
    again = open_cache(source, tmp_path / "c", size=32, show=False)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()} == stamps
    assert sorted(stamps) == [".lock", "index.npz", "pixels.bin"] and again.fingerprint == first.fingerprint


def test_workers_read_the_same_pixels(tmp_path):
    source = pictures(tmp_path / "p", [(160, 120), (40, 30), (90, 80), (100, 200)])
    cached = open_cache(source, tmp_path / "c", size=32, show=False)
    for a, b in zip(batches(cached), batches(cached, workers=2), strict=True):
        assert torch.equal(a.images, b.images)
    copy = pickle.loads(pickle.dumps(cached))
    assert copy.read(1).tobytes() == cached.read(1).tobytes()


def test_an_unreadable_image_stays_unreadable_for_the_same_reason(tmp_path):
    pictures(tmp_path / "p", [(160, 120), (40, 30), (90, 80)])
    (tmp_path / "p" / "0.jpg").write_bytes(b"no image")
    cut = tmp_path / "p" / "2.jpg"
    cut.write_bytes(cut.read_bytes()[:900])
    source = open_source(str(tmp_path / "p"))
    cached = open_cache(source, tmp_path / "c", size=32, show=False)
    reasons = [next(iter(load(Views(s, AUGMENTATION, 0), once(3, 3), workers=0))).unreadable for s in (source, cached)]
    assert reasons[0] == reasons[1] and [name for name, _ in reasons[1]] == ["0.jpg", "2.jpg"]
    assert "truncated" in reasons[1][1][1]
    assert cached.read(1).size == (40, 30)


def test_a_cache_of_other_images_or_another_size_is_refused(tmp_path):
    source = pictures(tmp_path / "p", [(160, 120), (40, 30)])
    open_cache(source, tmp_path / "c", size=32, show=False)
    with pytest.raises(ValueError, match="short_side 40, now 80.*remove the folder"):
        open_cache(source, tmp_path / "c", size=64, show=False)
    with pytest.raises(ValueError, match="the cache does not match this run .source"):
        open_cache(pictures(tmp_path / "q", [(160, 120)]), tmp_path / "c", size=32, show=False)


def test_a_file_that_does_not_fit_its_index_is_refused(tmp_path):
    source = pictures(tmp_path / "p", [(40, 30)])
    open_cache(source, tmp_path / "c", size=32, show=False)
    with (tmp_path / "c" / "pixels.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="3601 bytes, its index says 3600"):
        open_cache(source, tmp_path / "c", size=32, show=False)


def test_an_interrupted_cache_leaves_nothing_that_is_taken_for_one(tmp_path):
    source = pictures(tmp_path / "p", [(40, 30), (50, 40)])
    opened, calls = source.open, []

    def interrupted(index):
        calls.append(index)
        if len(calls) == 4:  # two for the estimate, then the second image
            raise KeyboardInterrupt
        return opened(index)

    source.open = interrupted
    with pytest.raises(KeyboardInterrupt):
        open_cache(source, tmp_path / "c", size=32, show=False)
    assert [path.name for path in (tmp_path / "c").iterdir()] == [".lock"]
    source.open = opened
    assert open_cache(source, tmp_path / "c", size=32, show=False).read(1).size == (50, 40)


def test_the_size_is_estimated_and_a_disk_too_small_refused(tmp_path, monkeypatch):
    source = pictures(tmp_path / "p", [(160, 120), (40, 30)])
    assert estimate(source, 40) == 3 * (53 * 40 + 40 * 30)
    usage = namedtuple("usage", "total used free")(10000, 0, 10000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="needs about 10.0 kB; the disk has 10.0 kB free"):
        open_cache(source, tmp_path / "c", size=32, show=False)
    assert [path.name for path in (tmp_path / "c").iterdir()] == [".lock"]


@pytest.mark.parametrize("margin", [0.9, 2])
def test_a_margin_that_would_enlarge_or_change_the_rule_is_refused(tmp_path, margin):
    with pytest.raises(ValueError, match="expected at least 1 and less than 2"):
        open_cache(pictures(tmp_path / "p", [(40, 30)]), tmp_path / "c", size=32, margin=margin)


def test_the_index_says_what_the_pixels_were_made_of(tmp_path):
    source = pictures(tmp_path / "p", [(160, 120)])
    open_cache(source, tmp_path / "c", size=32, show=False)
    with np.load(tmp_path / "c" / "index.npz") as index:
        about = json.loads(str(index["about"]))
    assert about["identity"] == {"format": 1, "pixels": 3, "source": source.fingerprint, "short_side": 40}


def test_pillow_reads_an_image_of_the_cache_whole(tmp_path):
    source = pictures(tmp_path / "p", [(40, 30)], "png")
    cached = open_cache(source, tmp_path / "c", size=32, show=False)
    assert isinstance(cached.read(0), Image.Image) and cached.read(0).tobytes() == source.read(0).tobytes()


def test_a_run_from_the_cache_is_the_run_from_the_files(tiny, tmp_path):
    from kdep.files import read
    from kdep.models.checkpoint import fingerprint
    from kdep.pretrain import pretrain

    files, cached = tiny("optim.epochs=1", "name=files"), tiny("optim.epochs=1", f"data.cache={tmp_path / 'cache'}")
    weights = [fingerprint(read(pretrain(config))["state_dict"]) for config in (files, cached)]
    assert weights[0] == weights[1]  # 40-pixel pictures at 32 pixels with a margin of 1.25 are kept as they are
    assert (tmp_path / "cache" / "pixels.bin").stat().st_size == 128 * 48 * 40 * 3


@pytest.mark.parametrize(("low", "told"), [(0.08, True), (0.5, True), (0.7, False)])
def test_a_run_says_when_its_cache_enlarges_crops(tiny, tmp_path, caplog, low, told):
    from kdep.data.training import open_views

    config = tiny(f"data.cache={tmp_path / 'cache'}", "data.size=24", f"data.crop_scale=[{low}, 1.0]")
    with caplog.at_level(logging.WARNING, "kdep"):
        open_views(config)
    assert ("128 of 128 images are stored with a short side of 30 px" in caplog.text) == told
