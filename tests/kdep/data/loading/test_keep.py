import pickle

import pytest
import torch
from PIL import Image

from kdep.data.decoding.decode import Encoded
from kdep.data.loading import keep as module
from kdep.data.loading.keep import Kept, keep
from kdep.data.loading.order import Order
from kdep.data.loading.views import Augmentation, Views, load
from kdep.data.sources.source import Files, open_source


@pytest.fixture
def source(photos, tmp_path):
    """JPEG and PNG files, one of them damaged."""
    names = []
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))[:24]):
        name = f"{number:02d}.{'png' if number % 4 == 0 else 'jpg'}"
        Image.open(path).resize((211, 160 + number)).save(tmp_path / name)
        names.append(name)
    (tmp_path / names[5]).write_bytes(b"\xff\xd8\xff")
    return Files(tmp_path, names)


def batches(source, workers=0):
    # Crops of 8 to 100 % at 32 px: a JPEG is decoded at full size, at a half and at a quarter.
    views = Views(source, Augmentation(32), 0)
    return list(load(views, Order(24, 8, 6, seed=0), workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_from_memory_are_those_of_the_files_bit_for_bit_and_decode_once(source, workers, monkeypatch):
    wanted = batches(source)
    kept = keep(source, 0.25, show=False)
    assert isinstance(kept, Kept) and kept.fingerprint == source.fingerprint
    found = batches(kept, workers)
    again = batches(kept, workers)
    if workers:  # the memory was filled by processes that have ended
        monkeypatch.setattr(Encoded, "decode", lambda *_: pytest.fail("decoded again"))
        again = batches(kept, workers=0)
    for a, b, c in zip(wanted, found, again, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.images, c.images) and a.unreadable == b.unreadable
    assert 0 < kept._table[-1, 0] <= kept._capacity


def test_what_does_not_fit_is_decoded_each_time(source):
    kept = Kept(source, 200_000)
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches(source), batches(kept), strict=True))
    assert 0 < kept._table[-1, 0] <= 200_000 and (kept._table[:-1, 1:] == 0).any()


def test_a_set_that_is_too_large_and_one_in_memory_already_are_left_alone(source, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "free_memory", lambda: 8_000_000)
    assert keep(source, 0.25) is source and keep(source, 0.0) is source
    assert isinstance(keep(source, 0.9, show=False), Kept)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert keep(source, 0.9) is source


def test_a_spawned_process_reads_the_files(source):
    copied = pickle.loads(pickle.dumps(Kept(source, 10_000_000)))
    assert isinstance(copied.open(0), Encoded)


def test_shards_in_memory_keep_their_order(photos, tmp_path):
    pytest.importorskip("webdataset", reason="the extra wds is not installed")
    from kdep.data.sources.write_shards import write_shards

    write_shards(photos, tmp_path / "tar", per_shard=64, seed=0, show=False)
    assert keep(open_source(f"wds:{tmp_path / 'tar'}"), 0.25, show=False).starts.tolist() == [0, 64, 128]
