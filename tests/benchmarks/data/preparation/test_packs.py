"""Packs hold what their list says, the same for the same seed; those of the studies are made from owners' archives."""

import io
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from kdep.data.sources.source import open_source
from kdep_benchmarks.data.cards import known
from kdep_benchmarks.data.images import open_split
from kdep_benchmarks.data.preparation import owners
from kdep_benchmarks.data.preparation.archives import NotPrepared
from kdep_benchmarks.data.preparation.packs import pack_folder
from kdep_benchmarks.data.preparation.photographs import make_pack
from kdep_benchmarks.data.preparation.prepare import prepare
from tests.conftest import draw


def classes(folder, count, *, first=0):
    for label, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            draw(folder / name / f"{number}.jpg", first + 100 * label + number)
    return folder


def listed(out):
    lines = out.with_suffix(".txt").read_text().splitlines()
    return [tuple(line.split("\t")) for line in lines if not line.startswith("#")]


def test_a_pack_holds_the_files_of_its_list_and_is_the_same_each_time(tmp_path):
    folder = classes(tmp_path / "zoo", 10)
    for name in "ab":
        pack_folder(folder, tmp_path / f"{name}.npz", per_class={"train": 5})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    rows = listed(tmp_path / "a.npz")
    assert Counter(split for split, _, _ in rows) == {"train": 10, "test": 4}
    assert len({name for _, _, name in rows}) == len(rows)  # no image in both splits
    for split in ("train", "test"):
        source, own = open_source(f"{tmp_path}/a.npz:{split}"), [row for row in rows if row[0] == split]
        assert len(own) == len(source.names)
        for index, (_, label, name) in enumerate(own):
            assert source._bytes(index) == (folder / name).read_bytes()  # as the file was
            assert source.classes[source.labels[index]] == label == name.partition("/")[0]


def test_splits_that_are_there_are_kept_and_large_images_made_smaller(tmp_path):
    classes(tmp_path / "zoo" / "train", 6)
    classes(tmp_path / "zoo" / "test", 3, first=50)
    out = tmp_path / "zoo.npz"
    pack_folder(tmp_path / "zoo", out, size=20, per_class={"train": 4, "test": 2})
    assert Counter(split for split, _, _ in listed(out)) == {"train": 8, "test": 4}
    assert open_source(f"{out}:train").read(0).size == (24, 20)  # of 48 x 40
    assert all(name.startswith(f"{split}/{label}/") for split, label, name in listed(out))
    with pytest.raises(ValueError, match="ant: 3 images for test, 9 are needed"):
        pack_folder(tmp_path / "zoo", out, per_class={"test": 9})
    with pytest.raises(ValueError, match="no class folders"):
        pack_folder(tmp_path / "zoo" / "train" / "ant", out)


def jpeg(seed, path):
    draw(path / "x.jpg", seed)
    return (path / "x.jpg").read_bytes()


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def labels_and_classes(name, root, role):
    split = open_split(known(name, root), role)
    return split.per_class.tolist(), split.classes


def test_tiny_imagenet_is_packed_from_its_archive_with_the_names_of_its_classes(tmp_path):
    files, annotations = {"tiny-imagenet-200/words.txt": "n01\tgoldfish, carp\nn02\ttoad\nn03\tnot among them\n"}, []
    content = jpeg(0, tmp_path)
    for label in ("n01", "n02"):
        for number in range(101):
            files[f"tiny-imagenet-200/train/{label}/images/{label}_{number}.JPEG"] = content
        for number in range(26):
            files[f"tiny-imagenet-200/val/images/{label}_{number}.JPEG"] = content
            annotations.append(f"{label}_{number}.JPEG\t{label}\t0\t0\t62\t62")
    files["tiny-imagenet-200/val/val_annotations.txt"] = "\n".join(annotations)
    zipped(tmp_path / "tiny-imagenet-200.zip", files)
    prepare("tiny_imagenet200", tmp_path)
    assert labels_and_classes("tiny_imagenet200", tmp_path, "train") == ([100, 100], ("goldfish, carp", "toad"))
    assert labels_and_classes("tiny_imagenet200", tmp_path, "test")[0] == [25, 25]
    rows = listed(tmp_path / "classification" / "tiny_imagenet200.npz")
    assert all(name.startswith("val/n02/n02_") for split, label, name in rows if (split, label) == ("val", "toad"))


def test_flowers_and_groceries_are_packed_from_their_archives(tmp_path):
    flowers = {f"flowers/{c}/{n}.jpg": jpeg(n, tmp_path) for c in ("daisy", "tulip") for n in range(5)}
    zipped(tmp_path / "flowers-recognition.zip", flowers)
    prepare("flowers5", tmp_path)
    assert labels_and_classes("flowers5", tmp_path, "train") == ([4, 4], ("daisy", "tulip"))
    assert labels_and_classes("flowers5", tmp_path, "test")[0] == [1, 1]
    root = "GroceryStoreDataset-master/dataset"
    shop = {
        f"{root}/{split}/{kind}/{n}.jpg": jpeg(n, tmp_path)
        for split in ("train", "val", "test")
        for kind in ("Fruit/Apple/Golden", "Packages/Milk/Arla/Oat")
        for n in range(2)
    }
    zipped(tmp_path / "GroceryStoreDataset.zip", {**shop, f"{root}/iconic-images/x/y/Golden/z.jpg": b""})
    prepare("grocery", tmp_path)
    assert labels_and_classes("grocery", tmp_path, "test") == ([2, 2], ("Golden", "Oat"))


def test_a_part_of_cifar10_is_packed_without_loss(tmp_path, monkeypatch):
    import torchvision

    class CIFAR10:
        def __init__(self, root, train):
            count, self.classes = (1010 if train else 410), ["ant", "bee"]
            self.targets = [number % 2 for number in range(count)]
            self.data = np.random.default_rng(train).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    monkeypatch.setitem(owners.RECIPES, "cifar10", lambda *_: None)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", CIFAR10)
    make_pack("cifar10s", tmp_path, False)
    assert labels_and_classes("cifar10s", tmp_path, "train") == ([500, 500], ("ant", "bee"))
    out = tmp_path / "classification" / "cifar10.npz"
    source, (_, _, index) = open_source(f"{out}:test"), [row for row in listed(out) if row[0] == "test"][7]
    assert np.array_equal(np.asarray(source.read(7)), CIFAR10(None, False).data[int(index)])
    assert Image.open(io.BytesIO(source._bytes(7))).format == "WEBP"


def test_an_archive_that_is_missing_is_named_with_its_place_and_a_pack_that_is_there_stays(tmp_path):
    with pytest.raises(NotPrepared, match=f"place by hand: {tmp_path}/flowers-recognition.zip .from kaggle.com"):
        prepare("flowers5", tmp_path)
    place = tmp_path / "classification" / "flowers5_128px.npz"
    place.parent.mkdir()
    place.write_bytes(b"mine")
    prepare("flowers5", tmp_path)
    assert place.read_bytes() == b"mine"
