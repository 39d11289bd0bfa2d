import gc
import io
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdep.data.loading.order import Order, once
from kdep.data.loading.training import make_pixels
from kdep.data.loading.views import (
    LIGHT_AXES,
    LIGHT_STD,
    Augmentation,
    Batch,
    Threaded,
    Views,
    _crop_box,
    load,
    mix,
    recolour,
    view,
)
from kdep.data.sources.names import Names
from kdep.data.sources.source import Subset, open_source
from kdep.data.sources.subset import write_subset

AUGMENTATION = Augmentation(24, (0.3, 1.0), jitter=0.2, lighting=0.1)


def pictures(folder, count=3, size=(40, 30)):
    for number in range(count):
        pixels = np.random.Generator(np.random.Philox(number)).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        (folder / f"c{number % 2}").mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(folder / f"c{number % 2}" / f"{number}.png")
    return folder


def drawn(image, **key):
    return view(image, AUGMENTATION, **{"seed": 0, "index": 3, "number": 1, **key})


def make_pack(path):
    blobs = []
    for shade in (10, 200):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6), (shade, 0, 0)).save(buffer, "PNG")
        blobs.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, blobs)])
    np.savez(path, fit_blob=np.concatenate(blobs), fit_offsets=offsets, fit_labels=[1, 0], classes=["a", "b"])
    return path


def test_views_do_not_depend_on_the_number_of_workers(photos):
    views = Views(open_source(str(photos)), AUGMENTATION, seed=3)
    order = list(Order(128, 32, 2, seed=3))[:5]
    alone, shared = (list(load(views, order, workers=workers)) for workers in (0, 2))
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.colour, b.colour)


def test_a_view_is_a_function_of_seed_image_and_number(photos):
    image = open_source(str(photos)).read(0)
    pixels, colour = drawn(image)
    assert torch.equal(drawn(image)[0], pixels) and torch.equal(drawn(image)[1], colour)
    for other in ({"seed": 1}, {"index": 4}, {"number": 2}):
        assert not torch.equal(drawn(image, **other)[1], colour)


def test_a_view_without_augmentation_is_the_resized_image(photos):
    image = open_source(str(photos)).read(0)
    pixels, colour = view(image, Augmentation(24, (1.0, 1.0), flip=False), seed=0, index=0, number=0)
    # A whole-image crop of another aspect than the image's does not exist, so the box is the image.
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert pixels.dtype == torch.uint8 and np.array_equal(pixels, expected)
    assert colour.tolist() == [1, 1, 1, 0, 0, 0]


def test_half_of_the_views_are_flipped():
    image = Image.fromarray(np.tile(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], (32, 1, 3)))
    augmentation = Augmentation(16, (0.5, 1.0))
    rising = [bool((v := view(image, augmentation, seed=0, index=i, number=0)[0][0, 0])[0] < v[-1]) for i in range(200)]
    assert 75 < sum(rising) < 125


def test_colours_do_not_depend_on_whether_views_are_flipped():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    for index in range(4):
        one, other = (
            view(image, Augmentation(8, flip=flip, jitter=0.4, lighting=0.1), seed=0, index=index, number=0)[1]
            for flip in (True, False)
        )
        assert torch.equal(one, other)


def test_crops_cover_the_shares_of_the_area_that_were_asked_for():
    # Red counts columns, green counts rows: what a crop spans can be read off its pixels.
    columns, rows = np.meshgrid(np.arange(200), np.arange(200))
    grid = np.stack([columns, rows, rows], -1).astype(np.uint8)
    shares = []
    for index in range(300):
        crop = view(Image.fromarray(grid), Augmentation(200, (0.2, 0.6)), seed=0, index=index, number=0)[0].int()
        width, height = (int(crop[c].max() - crop[c].min()) + 1 for c in (0, 1))
        assert 0.7 < width / height < 1.4
        shares.append(width * height / 200**2)
    assert 0.18 < min(shares) < 0.25 and 0.55 < max(shares) < 0.62 and 0.36 < np.mean(shares) < 0.44


def test_crops_are_as_often_wide_as_tall():
    draw = np.random.default_rng(0)
    boxes = np.array([_crop_box(draw, 1000, 1000, (0.1, 0.3)) for _ in range(4000)])
    aspects = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    # Uniform in +-log(4/3), a deviation of 0.166: 0.003 of the mean.
    assert abs(aspects.mean()) < 0.01 and 0.28 < np.abs(aspects).max() < 0.3


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    batches = list(Order(images=12, batch_size=4, epochs=2, seed=0))
    epochs = [[entry for batch in part for entry in batch] for part in (batches[:3], batches[3:])]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [(index, number) for index in range(12)]
    assert [index for index, _ in epochs[0]] != [index for index, _ in epochs[1]]


def test_an_incomplete_last_batch_is_left_out():
    order = Order(images=11, batch_size=4, epochs=2, seed=0)
    assert len(order) == len(list(order)) == 4 and order.steps_per_epoch == 2


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 6])
def test_an_order_goes_on_from_any_step(start):
    ended = list(Order(images=12, batch_size=4, epochs=None, seed=7, start=min(start, 5), steps=5))
    assert ended == list(Order(images=12, batch_size=4, epochs=2, seed=7))[min(start, 5) : 5]
    whole = list(Order(images=12, batch_size=4, epochs=2, seed=7))
    rest = Order(images=12, batch_size=4, epochs=2, seed=7, start=start)
    assert list(rest) == whole[start:] and len(rest) == 6 - start


def test_processes_share_the_batches_of_a_single_one():
    whole = Order(images=12, batch_size=4, epochs=1, seed=7)
    shares = [Order(images=12, batch_size=4, epochs=1, seed=7, rank=rank, world=2) for rank in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first) == len(second) == 2 and sorted(first + second) == sorted(batch)


def test_statistics_see_the_first_view_of_every_image_once_whatever_the_processes():
    seen = [entry for rank in range(3) for batch in once(10, 4, rank=rank, world=3) for entry in batch]
    assert sorted(seen) == [(index, 0) for index in range(10)]


def test_statistics_of_fewer_images_see_a_choice_from_the_whole_list():
    seen = [index for rank in range(2) for batch in once(1000, 8, count=50, rank=rank, world=2) for index, _ in batch]
    assert len(set(seen)) == 50 and min(seen) < 100 and max(seen) > 900


@pytest.mark.parametrize("workers", [0, "auto"])
def test_loading_leaves_the_global_random_state_alone(photos, workers):
    views = Views(open_source(str(photos)), AUGMENTATION, seed=0)
    before = torch.get_rng_state()
    next(iter(load(views, once(4, 2), workers=workers)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_holds_its_views_in_order_flips_included(photos):
    views = Views(open_source(str(photos)), AUGMENTATION, seed=3)
    (batch,) = load(views, [[(index, 1) for index in range(20)]], workers=0)
    for index in range(20):
        pixels, colour = view(views.source.open(index), AUGMENTATION, seed=3, index=index, number=1)
        assert torch.equal(batch.images[index], pixels) and torch.equal(batch.colour[index], colour)
    assert batch.numbers.tolist() == list(range(20)) and batch.images.is_contiguous()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_give_the_batches_of_a_single_one(photos, threads):
    views = Views(open_source(str(photos)), AUGMENTATION, seed=3)
    order = list(Order(128, 5, 1, seed=3))[:4]  # 5 views among 2 or 3 threads: unequal shares
    loader = Threaded(views, order, threads)
    assert len(loader) == 4
    for a, b in zip(load(views, order, workers=0), loader, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.colour, b.colour)
        assert torch.equal(a.numbers, b.numbers)


def test_workers_chosen_by_themselves_are_threads_on_a_cpu_and_processes_beside_a_gpu(photos):
    views = Views(open_source(str(photos)), AUGMENTATION, seed=3)
    assert isinstance(load(views, once(4, 2), workers="auto"), Threaded)
    assert load(views, once(4, 2), workers="auto", pin=True).num_workers >= 1
    assert load(views, once(4, 2), workers=2).num_workers == 2


def test_threads_of_a_loader_pass_on_what_is_unreadable(tmp_path):
    pictures(tmp_path / "p")
    (tmp_path / "p" / "c0" / "0.png").write_bytes(b"no image")
    (batch,) = load(Views(open_source(str(tmp_path / "p")), AUGMENTATION, seed=0), once(3, 3), workers="auto")
    assert [name for name, _ in batch.unreadable] == ["c0/0.png"] and batch.numbers.tolist() == [1, 2]


class ReadOnly:
    """A source that only gives whole images, as the one of fine-tuning does."""

    def __init__(self, source):
        self.names, self.read = source.names, source.read


def test_a_source_of_whole_images_is_resampled_by_pillow(photos):
    source = open_source(str(photos))
    (batch,) = load(Views(ReadOnly(source), AUGMENTATION, seed=3), [[(5, 0)]], workers=0)
    expected, _ = view(source.read(5), AUGMENTATION, seed=3, index=5, number=0)
    assert torch.equal(batch.images[0], expected)


def test_opened_and_whole_images_give_views_of_the_same_draws(photos):
    source = open_source(str(photos))
    for index in range(20):
        key = {"seed": 3, "index": index, "number": 1}
        lazy, colour = view(source.open(index), AUGMENTATION, **key)
        whole, same = view(source.read(index), AUGMENTATION, **key)
        assert torch.equal(colour, same)
        # Torch sees only the box, Pillow's filter looks over its border.
        assert (lazy.int() - whole.int()).abs()[:, 2:-2, 2:-2].max() <= 1
        assert (lazy.int() - whole.int()).abs().float().mean() < 1


def slow_recolour(image, colour):
    """One image, as the formula reads: brightness, contrast about the grey mean, saturation about grey, noise."""
    grey = np.array([0.299, 0.587, 0.114])
    x = np.clip(image / 255 * colour[0], 0, 1)
    mean = (x * grey[:, None, None]).sum(0).mean()
    x = np.clip(mean + (x - mean) * colour[1], 0, 1)
    level = (x * grey[:, None, None]).sum(0)
    x = np.clip(level + (x - level) * colour[2], 0, 1)
    shift = np.array(LIGHT_AXES) @ (colour[3:] * np.array(LIGHT_STD))
    return np.clip(x + shift[:, None, None], 0, 1)


@pytest.mark.parametrize("part", [1, 3 * 9 * 8 * 2, 2**19])
def test_colour_equals_the_slow_formula_however_the_batch_is_divided(monkeypatch, part):
    monkeypatch.setattr("kdep.data.loading.views.PART", part)
    draw = np.random.Generator(np.random.Philox(0))
    images = draw.integers(0, 256, (5, 3, 9, 8), dtype=np.uint8)
    colour = np.concatenate([draw.uniform(0.3, 1.7, (5, 3)), draw.normal(0, 0.5, (5, 3))], 1).astype(np.float32)
    found = recolour(torch.from_numpy(images), torch.from_numpy(colour)).numpy()
    expected = [slow_recolour(*entry) for entry in zip(images.astype(float), colour.astype(float), strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_constants_of_the_colours_are_made_once_per_device(monkeypatch):
    """On a GPU each one made from Python's numbers would wait for everything in its queue."""
    images, colour = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.rand(2, 6)
    first = recolour(images, colour)

    def refuse(*_, **__):
        raise AssertionError("a tensor is made from Python's numbers in the loop")

    for owner, name in ((torch, "tensor"), (torch.Tensor, "new_tensor")):
        monkeypatch.setattr(owner, name, refuse)
    assert torch.equal(recolour(images, colour), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_colours_and_mixes_views_without_being_waited_for():
    gpu = torch.device("cuda")
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(images, torch.rand(8, 6), []).pin_memory()
    pixels = make_pixels(Augmentation(16, jitter=0.1, lighting=0.1), gpu)
    expected = mix(recolour(batch.images, batch.colour), seed=0, step=0)
    pixels(batch)  # makes what is made once
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = mix(pixels(batch), seed=0, step=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(found.cpu(), expected, atol=1e-5)


def test_colour_is_not_rounded_by_autocast():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colour = torch.tensor([[1.1, 0.9, 1.05, 0.1, -0.2, 0.3]]).expand(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = recolour(images, colour)
    assert found.dtype == torch.float32 and torch.equal(found, recolour(images, colour))


def test_colour_changes_give_the_numbers_worked_out_by_hand():
    images = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    unchanged = recolour(images, torch.tensor([[1.0, 1, 1, 0, 0, 0]]))
    darker = recolour(images, torch.tensor([[0.5, 1, 1, 0, 0, 0]]))
    grey = recolour(images, torch.tensor([[1.0, 1, 0, 0, 0, 0]]))
    assert torch.allclose(unchanged.flatten() * 255, torch.tensor([200.0, 100, 50]))
    assert torch.allclose(darker.flatten() * 255, torch.tensor([100.0, 50, 25]))
    # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    assert torch.allclose(grey.flatten() * 255, torch.full((3,), 124.2), atol=1e-3)


def test_colour_noise_moves_along_the_principal_axes_of_rgb():
    images = torch.full((1, 3, 1, 1), 128, dtype=torch.uint8)
    found = recolour(images, torch.tensor([[1.0, 1, 1, 0.5, 0, 0]])).flatten() - 128 / 255
    # 0.5 * 0.2175 along (-0.5675, -0.5808, -0.5836), the first component of each row
    assert torch.allclose(found, 0.10875 * torch.tensor([-0.5675, -0.5808, -0.5836]), atol=1e-6)


def test_colour_noise_alone_colours_too():
    batch = Batch(torch.full((2, 3, 4, 4), 100, dtype=torch.uint8), torch.tensor([[1.0, 1, 1, 0.5, 0.2, 0.1]] * 2), [])
    cpu = torch.device("cpu")
    plain, lit = (make_pixels(Augmentation(4, lighting=value), cpu)(batch) for value in (0.0, 0.1))
    assert torch.equal(plain, batch.images / 255) and torch.equal(lit, recolour(batch.images, batch.colour))
    assert not torch.equal(plain, lit)


def test_a_folder_is_searched_recursively_in_sorted_order(tmp_path):
    source = open_source(str(pictures(tmp_path / "p")))
    assert source.names == ["c0/0.png", "c0/2.png", "c1/1.png"]
    assert source.read(1).size == (40, 30) and source.read(1).mode == "RGB"


def test_a_list_of_paths_starts_at_its_root_and_keeps_its_order(tmp_path):
    pictures(tmp_path / "p")
    (tmp_path / "list.txt").write_text("# chosen by hand\nc1/1.png\n\nc0/0.png\n")
    source = open_source(str(tmp_path / "list.txt"), root=tmp_path / "p")
    assert source.names == ["c1/1.png", "c0/0.png"] and source.read(0).size == (40, 30)


def test_a_pack_of_encoded_images_opens_by_split(tmp_path):
    source = open_source(f"{make_pack(tmp_path / 'images.npz')}:fit")
    assert [source.read(i).getpixel((0, 0)) for i in range(2)] == [(10, 0, 0), (200, 0, 0)]
    assert source.labels.tolist() == [1, 0] and source.classes == ("a", "b")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{0}/images.npz:val", "no split 'val'; expected .*images.npz:SPLIT, of fit$"),
        ("{0}/images.npz", "no split ''; expected .*images.npz:SPLIT, of fit$"),
        ("{0}/none.npz:fit", r"none.npz is not there \(no none.npz in {0}\); expected a folder of images, a .txt list"),
        ("{0}/empty", "no image in this folder or below"),
        ("{0}/none/b", r"{0}/none/b is not there \(no none in {0}\); .*, FILE.npz:SPLIT, .* or torchvision:NAME$"),
        ("{0}/cut.npz/b", r"\(no b in {0}/cut.npz\)"),
        ("{0}/none.txt", "none.txt is not there"),
        ("{0}/some.jpg", "some.jpg: not an image source; expected a folder of images"),
        ("{0}/cut.npz:fit", "cut.npz: damaged or not an .npz archive .not a zip file.; copy the file again"),
        ("{0}/changed.npz:fit", "changed.npz: damaged.*Bad CRC"),
        ("{0}/deflated.npz:fit", "deflated.npz: damaged"),
        ("torchvision:Cifar", "torchvision.datasets has no such class; examples are CIFAR10"),
    ],
)
def test_an_address_that_leads_nowhere_says_what_was_looked_for(tmp_path, spec, message):
    content = make_pack(tmp_path / "images.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-30])
    (tmp_path / "changed.npz").write_bytes(content.replace(b"IDAT", b"idat"))
    np.savez_compressed(tmp_path / "deflated.npz", fit_blob=np.zeros(4000, np.uint8), fit_offsets=[0, 4000])
    content = bytearray((tmp_path / "deflated.npz").read_bytes())
    content[70:74] = b"\xff" * 4
    (tmp_path / "deflated.npz").write_bytes(content)
    (tmp_path / "some.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message.format(tmp_path)):
        open_source(spec.format(tmp_path))


def test_a_relative_source_is_looked_for_here_and_then_below_the_data_root(tmp_path, monkeypatch):
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here, root / "deep"):
        folder.mkdir(parents=True)
        make_pack(folder / "images.npz")
    pictures(root / "photos")
    (root / "list.txt").write_text("c1/1.png\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("KDEP_DATA", str(root))
    assert len(open_source("deep/images.npz:fit").names) == 2
    assert open_source("list.txt", root=Path("photos")).read(0).size == (40, 30)
    (root / "images.npz").write_bytes(b"")  # the one in the current folder is read
    assert len(open_source("images.npz:fit").names) == 2
    with pytest.raises(ValueError, match=f"none is not there .*nor below the data root {root}; KDEP_DATA names"):
        open_source("none")


def test_a_list_whose_root_is_not_there_says_so(tmp_path):
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(
        ValueError, match="roots is not there .*; expected the folder to which the paths in .*list.txt are relative"
    ):
        open_source(str(tmp_path / "list.txt"), root=tmp_path / "roots")


def test_a_pack_has_a_label_for_each_image(tmp_path):
    path = tmp_path / "short.npz"
    np.savez_compressed(path, fit_blob=np.zeros(4000, np.uint8), fit_offsets=[0, 2000, 4000], fit_labels=[0])
    with pytest.raises(ValueError, match="fit_labels has 1 entries for 2 images"):
        open_source(f"{path}:fit")


def test_a_pack_without_offsets_has_no_split(tmp_path):
    np.savez(tmp_path / "a.npz", fit_blob=np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no split 'fit'; expected .*:SPLIT, of none"):
        open_source(f"{tmp_path / 'a.npz'}:fit")


def test_a_subset_is_seeded_and_its_views_are_those_of_its_own_numbering(photos):
    source = open_source(str(photos))
    one, same, other = (Subset(source, 40, seed) for seed in (0, 0, 1))
    assert one.names == same.names == sorted(one.names) and one.fingerprint == same.fingerprint
    assert set(one.names) != set(other.names) and one.fingerprint != other.fingerprint
    assert one.read(5).tobytes() == source.read(source.names.index(one.names[5])).tobytes()


def test_a_share_of_a_folder_has_an_image_of_every_class(tmp_path):
    for name, count in (("many", 40), ("few", 3)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / "images" / name / f"{number}.png")
    assert write_subset(tmp_path / "images", tmp_path / "list.txt", per_class=None, fraction=0.1, seed=0) == 5
    assert "few/" in (tmp_path / "list.txt").read_text()


NAMES = [
    "a/1.png",
    "",
    "a/ü 漢.png",
    "b\udcff.png",
    "a/1.png",
]  # \udcff: a byte that is no UTF-8, as the system tells it


def test_names_read_as_a_list_of_them():
    names = Names(iter(NAMES))
    assert len(names) == 5 and list(names) == NAMES and [*reversed(names)] == NAMES[::-1]
    assert [names[i] for i in range(-5, 5)] == NAMES + NAMES and names[np.int64(2)] == NAMES[2]
    assert names[1:4] == NAMES[1:4] and names[::-2] == NAMES[::-2]
    assert names.index("b\udcff.png") == 3 and "a" not in names
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            names[wrong]
    assert len(Names([])) == 0 and not Names([]) and list(Names([])) == []


def test_names_are_equal_to_the_same_names_only():
    assert Names(NAMES) == NAMES and NAMES == Names(NAMES) == Names(NAMES)
    assert pickle.loads(pickle.dumps(Names(NAMES))) == NAMES
    for other in (NAMES[:-1], NAMES[::-1], []):
        assert Names(NAMES) != other and Names(NAMES) != Names(other)
    assert Names(["ab", "c"]) != Names(["a", "bc"]) and Names(["a"]) != "a"


def strings(thing):
    """Every string that an object keeps alive."""
    seen, found, left = set(), set(), [thing]
    while left:
        found |= {item for item in left if isinstance(item, str)}
        left = [item for item in gc.get_referents(*left) if id(item) not in seen]
        left = [item for item in left if not isinstance(item, type | types.ModuleType | types.FunctionType)]
        seen |= {id(item) for item in left}
    return found


def test_a_source_keeps_no_string_per_image(photos, tmp_path):
    folder = open_source(str(photos))
    for source in (folder, Subset(folder, 40, 0), open_source(f"{make_pack(tmp_path / 'images.npz')}:fit")):
        names = list(source.names)
        assert len(set(names)) == len(source.names) and not strings(source) & set(names)


def test_a_subset_larger_than_the_source_is_refused(photos):
    with pytest.raises(ValueError, match="data.limit 129 exceeds its 128 images"):
        open_source(str(photos), limit=129)


def test_a_fingerprint_changes_with_the_images(tmp_path):
    before = open_source(str(pictures(tmp_path / "p"))).fingerprint
    assert open_source(str(tmp_path / "p")).fingerprint == before
    with (tmp_path / "p" / "c0" / "0.png").open("ab") as file:
        file.write(b"x")
    assert open_source(str(tmp_path / "p")).fingerprint != before


def test_unreadable_images_leave_the_batch_with_their_reason(tmp_path):
    pictures(tmp_path / "p")
    (tmp_path / "p" / "c0" / "0.png").write_bytes(b"no image")
    cut = tmp_path / "p" / "c1" / "1.png"
    cut.write_bytes(cut.read_bytes()[:200])
    views = Views(open_source(str(tmp_path / "p")), AUGMENTATION, seed=0)
    (batch,) = load(views, once(3, 3), workers=0)
    assert batch.images.shape == (1, 3, 24, 24)
    assert [name for name, _ in batch.unreadable] == ["c0/0.png", "c1/1.png"]
    assert batch.unreadable[0][1].startswith("UnidentifiedImageError: ")


def test_a_written_subset_takes_as_many_of_each_class_and_opens_as_a_source(tmp_path):
    pictures(tmp_path / "p", count=9)
    assert write_subset(tmp_path / "p", tmp_path / "a.txt", per_class=2, fraction=None, seed=0) == 4
    write_subset(tmp_path / "p", tmp_path / "b.txt", per_class=2, fraction=None, seed=0)
    source = open_source(str(tmp_path / "a.txt"), root=tmp_path / "p")
    assert [name[:2] for name in source.names] == ["c0", "c0", "c1", "c1"]
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text()


def test_a_subset_of_classes_leaves_no_image_out_in_silence(tmp_path):
    pictures(tmp_path / "p", count=4)
    (tmp_path / "p" / "c0" / "0.png").rename(tmp_path / "p" / "loose.png")
    with pytest.raises(ValueError, match="p: 1 images are in no class folder .first loose.png."):
        write_subset(tmp_path / "p", tmp_path / "a.txt", per_class=2, fraction=None, seed=0)
    assert not (tmp_path / "a.txt").exists()


@pytest.mark.parametrize(
    ("share", "said"),
    [
        ({"per_class": -1, "fraction": None}, "--per-class -1: expected 1 or more"),
        ({"per_class": None, "fraction": 0.01}, "--fraction 0.01: leaves no image of the 4"),
    ],
)
def test_a_subset_of_no_image_is_refused(tmp_path, share, said):
    pictures(tmp_path / "p", count=4)
    with pytest.raises(ValueError, match=said):
        write_subset(tmp_path / "p", tmp_path / "a.txt", **share, seed=0)
    assert not (tmp_path / "a.txt").exists()


THREADS = """
import os, sys, threading, torch
from kdep.data.loading.order import Order
from kdep.data.loading.views import Augmentation, Views, load
from kdep.data.sources.source import open_source

def count():
    return len(os.listdir("/proc/self/task"))

class Meeting(Views):
    def __getitem__(self, at):
        both.wait(600)  # until both shares of the batch have begun: else one thread may take both
        return super().__getitem__(at)

torch.set_num_threads(3)
both = threading.Barrier(2)
views = Meeting(open_source(sys.argv[1]), Augmentation(64, crop_scale=(0.5, 0.5)), seed=0)
batches = iter(load(views, Order(4, 4, 2, seed=0), workers="auto"))
torch.ones(2**22).add_(1)  # starts torch's own threads
before = count()
next(batches)
print(count() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_threads_that_decode_start_no_threads_of_their_own(tmp_path):
    command = [sys.executable, "-c", THREADS, str(pictures(tmp_path, 4, (640, 480)))]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == 2  # two images each
