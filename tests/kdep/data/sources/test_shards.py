import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kdep.cli import main
from kdep.data.decoding.opening import UNREADABLE
from kdep.data.loading.order import LANES, Order, once
from kdep.data.loading.views import Augmentation, Views, load
from kdep.data.sources.manifest import FILE, KEY
from kdep.data.sources.shards import ShardError, find_shards, index_path
from kdep.data.sources.source import Subset, labels_of, open_source
from kdep.files import write_atomically

wds = pytest.importorskip("webdataset", reason="the extra wds is not installed")
pytest.importorskip("pyarrow", reason="the extra wds is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory):
    """The pictures in shards of 30, with their manifest: 30, 30, 30, 30, 8."""
    out = tmp_path_factory.mktemp("shards")
    assert main(["data", "shards", str(photos), str(out), "--per-shard", "30"]) == 0
    return out


@pytest.fixture
def copied(shards, tmp_path):
    """A copy without the manifest."""
    out = tmp_path / "copied"
    shutil.copytree(shards, out, ignore=shutil.ignore_patterns(FILE))
    return out


@pytest.fixture
def remote(shards):
    """The shards behind a URL."""
    import fsspec

    system = fsspec.filesystem("memory")
    for path in shards.iterdir():
        system.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


def name(photos, number):
    return f"{photos.name}-{number:06d}.tar"


def test_shards_are_webdatasets_and_its_reader_finds_the_same_images_in_the_same_order(shards, photos):
    source = open_source(f"wds:{shards}")
    samples = list(wds.WebDataset([str(path) for path in sorted(shards.glob("*.tar"))], shardshuffle=False))
    assert len(samples) == len(source.names) == 128
    assert [int(sample["cls"]) for sample in samples] == labels_of(source).tolist()
    assert source._shards[0].name == name(photos, 0) and source.starts.tolist() == [0, 30, 60, 90, 120, 128]
    assert all(source.open(index)._data == sample["jpg"] for index, sample in enumerate(samples))
    assert {sample["jpg"] for sample in samples} == {path.read_bytes() for path in photos.rglob("*.jpg")}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_shards_that_are_not_all_written_leave_none_and_the_same_command_writes_them(
    photos, shards, tmp_path, monkeypatch, error
):
    def stop(part, path=None, *, left=[2]):  # noqa: B006 - counts
        left[0] -= 1
        if not left[0]:
            raise error
        return write_atomically(part, path)

    command = ["data", "shards", str(photos), str(tmp_path / "out"), "--per-shard", "30"]
    with monkeypatch.context() as patch:
        patch.setattr("kdep.data.sources.write_shards.write_atomically", stop)
        assert main(command) in (1, 130)
    assert list((tmp_path / "out").rglob("*")) == []
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix == ".tar"} == {
        path.name: path.read_bytes() for path in shards.glob("*.tar")
    }


def test_a_folder_of_shards_may_have_brackets_in_its_name(shards, photos, tmp_path):
    out = tmp_path / "shards {1} [new]"
    assert main(["data", "shards", str(photos), str(out), "--per-shard", "100"]) == 0
    assert open_source(f"wds:{out}").starts.tolist() == [0, 100, 128]


def test_the_index_of_foreign_shards_is_kept_and_equals_their_manifest(shards, copied, monkeypatch):
    first, known = open_source(f"wds:{copied}"), open_source(f"wds:{shards}")
    monkeypatch.setattr("kdep.data.sources.shards.members", lambda *_: pytest.fail("read the headers again"))
    again = open_source(f"wds:{copied}/*.tar")
    assert first.fingerprint == again.fingerprint == known.fingerprint and first.names == known.names


def test_a_url_gives_the_same_images_and_fetches_blocks_in_every_loading_process(shards, remote, photos, monkeypatch):
    monkeypatch.setattr("kdep.data.sources.shards.BLOCK", 5000)
    local = open_source(f"wds:{shards}")
    there = open_source(f"wds:{remote}/{photos.name}-{{000000..000004}}.tar")
    assert there.fingerprint == local.fingerprint and not there._local
    assert all(there.open(index)._data == local.open(index)._data for index in range(128))
    order = Order(128, 16, 1, seed=0, starts=there.starts)
    views = [Views(source, Augmentation(32), 0) for source in (local, there)]
    batches = [list(load(own, order, workers=workers)) for own, workers in zip(views, (0, 2), strict=True)]
    assert all(torch.equal(a.images, b.images) for a, b in zip(*batches, strict=True))


def made(path, *members):
    """A tar file of these members."""
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            about = tarfile.TarInfo(member)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


def test_the_image_of_a_sample_is_the_one_with_the_plain_ending(tmp_path):
    made(tmp_path / "a.tar", ("x/1.mask.png", b"m"), ("x/1.JPG", b"i"), ("x/1.json", b"{}"), ("__meta__.png", b""))
    source = open_source(f"wds:{tmp_path}/a.tar")
    assert list(source.names) == ["a.tar/x/1.JPG"] and source.labels is None
    assert wds.tariterators.base_plus_ext("x/1.mask.png") == ("x/1", "mask.png")


@pytest.mark.parametrize("kept", [3000, 3072])
def test_a_truncated_shard_is_refused_by_its_name_and_member(tmp_path, kept):
    made(tmp_path / "a.tar", ("1.jpg", b"i" * 500), ("2.jpg", b"i" * 1500))
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:kept])  # within 2.jpg, and behind it before tar's end
    with pytest.raises(ValueError, match=r"a\.tar: (damaged or )?truncated .*2\.jpg.*copy the shard again"):
        open_source(f"wds:{tmp_path}/a.tar")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("none-{00..02}.tar", "3 of 3 shards are missing, first .*none-00.tar"),
        ("*.gone", "no shard there"),
        ("empty.tar", "empty.tar: no image in this shard"),
        ("packed.tar", "packed.tar: damaged or truncated before its first member.*unpacked"),
        ("class.tar", "1.cls is no class number"),
        ("huge.tar", r"1.cls is no class number \(got 9{20}\)"),
        ("nosuch://x/y.tar", "nosuch"),
    ],
)
def test_what_is_wrong_with_shards_is_one_sentence(tmp_path, pattern, said):
    made(tmp_path / "empty.tar", ("a.txt", b"no image"))
    (tmp_path / "packed.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    made(tmp_path / "class.tar", ("1.cls", b"dog"), ("1.jpg", b""))
    made(tmp_path / "huge.tar", ("1.cls", b"9" * 20), ("1.jpg", b""))
    with pytest.raises(ValueError, match=said):
        open_source(f"wds:{pattern}" if "://" in pattern else f"wds:{tmp_path}/{pattern}")


def test_a_manifest_that_lists_images_outside_of_its_shards_is_refused(shards, copied):
    from pyarrow import parquet

    file = Path(shutil.copy(shards / FILE, copied))
    table, about = parquet.read_table(file), parquet.ParquetFile(file).metadata.metadata[KEY]
    for name, value in (("bytes", 2**60), ("offset", -1)):
        column = [value, *table.column(name).to_pylist()[1:]]
        wrong = table.set_column(table.schema.get_field_index(name), name, [column])
        parquet.write_table(wrong.replace_schema_metadata({KEY: about}), file)
        with pytest.raises(ValueError, match=f"{file}: damaged, it lists images that the shards do not hold"):
            open_source(f"wds:{copied}")


def test_an_image_of_too_many_bytes_in_a_shard_is_not_read(tmp_path, monkeypatch):
    made(tmp_path / "a.tar", ("1.jpg", b"i" * 5000), ("2.jpg", b"i"))
    monkeypatch.setenv("KDEP_MAX_EXPANDED", "4999")
    with pytest.raises(UNREADABLE, match="5,000 bytes; KDEP_MAX_EXPANDED allows 4,999"):
        open_source(f"wds:{tmp_path}/a.tar").open(0)


def test_a_shard_that_shrinks_during_a_run_stops_it_and_is_indexed_anew(copied):
    source = open_source(f"wds:{copied}")
    path = Path(source._shards[4].path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ShardError, match="ends in .*after .* of its"):
        Views(source, Augmentation(32), 0)[127, 0]  # not skipped like an undecodable image
    assert index_path(source._shards) != index_path(find_shards(str(copied))[1])


def test_a_store_that_does_not_answer_is_one_sentence(remote, monkeypatch):
    import fsspec

    class NoAnswerError(Exception):
        """What a client of a store raises."""

    def silent(*arguments, **options):
        raise NoAnswerError("no route to the store")

    source, store = open_source(f"wds:{remote}"), type(fsspec.filesystem("memory"))
    with monkeypatch.context() as patch:
        patch.setattr(store, "cat_file", silent)
        with pytest.raises(ShardError, match="no route to the store, at .*start again to go on"):
            source.open(0)
        patch.setattr(store, "info", silent)
        with pytest.raises(ValueError, match=r"wds:memory://bucket: NoAnswerError: no route to the store"):
            open_source(f"wds:{remote}")


STARTS = np.cumsum([0, 700, 300, 900, 20, 80])


@pytest.mark.parametrize("start", [0, 1, 37, 62, 63])
def test_the_order_of_shards_goes_on_from_any_step(start):
    whole = list(Order(2000, 32, 2, seed=5, starts=STARTS))
    assert list(Order(2000, 32, 2, seed=5, start=start, starts=STARTS)) == whole[start:]


def test_an_epoch_of_shards_shows_every_image_once_in_another_order():
    batches = list(Order(2000, 20, 2, seed=5, starts=STARTS))
    epochs = [[index for batch in batches[at : at + 100] for index, _ in batch] for at in (0, 100)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(2000)) and epochs[0] != epochs[1]


def test_processes_read_parts_of_their_own_of_a_row_of_shards():
    many = np.arange(0, 24_001, 1000)
    parts = [list(Order(24_000, 24, 1, seed=1, rank=rank, world=2, starts=many)) for rank in range(2)]
    seen = [{index for batch in part for index, _ in batch} for part in parts]
    assert all(len(part) == 1000 and len(part[0]) == 12 for part in parts)
    assert len(seen[0]) == len(seen[1]) == 12_000 and not seen[0] & seen[1]
    assert len({index // 1000 for index in seen[0]}) == 12  # whole shards: half of the bytes


def test_a_loading_process_stays_within_a_few_shards():
    many = np.arange(0, 480_001, 1000)
    batches = list(Order(480_000, 64, 1, seed=1, starts=many))
    for worker in range(8):  # as the DataLoader deals batches
        own = batches[worker::8]
        near = [{index // 1000 for batch in own[at : at + 3] for index, _ in batch} for at in (0, 100, 500)]
        assert max(map(len, near)) <= 3 * LANES // 8
    read = [{index // 1000 for batch in batches[worker::8] for index, _ in batch} for worker in range(8)]
    assert sum(map(len, read)) <= 480 + LANES  # no shard is read by two, but where a lane ends
    positions = [index for index, _ in batches[0]]
    assert len(set(np.diff(positions))) > 20  # shuffled within the window


def test_loading_processes_of_a_url_divide_the_lanes(remote, monkeypatch):
    monkeypatch.setattr("kdep.cores.cores", lambda: 16)
    views = Views(open_source(f"wds:{remote}"), Augmentation(32), 0)
    order = Order(128, 16, 1, seed=0, starts=views.source.starts)
    assert load(views, order, workers="auto", pin=True).num_workers == 12  # of 15


def test_a_subset_of_shards_keeps_their_order(shards):
    subset = open_source(f"wds:{shards}", limit=50, seed=0)
    assert isinstance(subset, Subset) and subset.starts[-1] == 50 and len(subset.starts) == 6
    assert len(labels_of(subset)) == 50


def test_a_run_from_shards_and_a_bank_ends_after_its_steps_and_resumes_exactly(tiny, shards, tmp_path, monkeypatch):
    from kdep import pretrain as module
    from kdep.bank.read import Bank
    from kdep.files import read
    from kdep.models.checkpoints.checkpoint import fingerprint

    bank = "bank={path: " + str(tmp_path / "bank") + ", views: 1}"
    common = (f"data.source=wds:{shards}", "optim.epochs=null", "optim.steps=10", bank)
    whole = read(module.pretrain(tiny(*common, "name=whole")))
    assert whole["provenance"]["images_seen"] == 160
    assert Bank(tmp_path / "bank").description.data["images_for_axes"] == 128  # at most 50,000, of shards
    step, left = module.distill_loss, [7]

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(module, "distill_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.pretrain(tiny(*common, "name=halves"))
    halves = read(module.pretrain(tiny(*common, "name=halves")))
    assert fingerprint(halves["state_dict"]) == fingerprint(whole["state_dict"])


def test_statistics_batches_are_made_while_they_are_read():
    batches = once(10**9, 100, rank=1, world=4)
    assert len(batches) == 2_500_000 and next(iter(batches))[0] == (1, 0)
