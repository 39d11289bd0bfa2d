import shutil

import numpy as np
import pytest
from PIL import Image

from kdep_benchmarks.answers.sketch import sketch_of
from kdep_benchmarks.data.cards import Dataset, fingerprint
from kdep_benchmarks.data.checks import leaks
from kdep_benchmarks.data.checks.leaks import contents_of, hashes_of
from kdep_benchmarks.data.preparation.packs import pack_folder
from kdep_benchmarks.tasks.task import Task
from tests.helpers import toolbox_trees as trees


def paint(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


def folders(root):
    for split, start in (("train", 0), ("val", 20), ("test", 40)):
        for number in range(4):
            paint(root / split / "ab"[number % 2] / f"{number}.png", start + number)
    files = {split: split for split in ("train", "val", "test")}
    return Task("d-knn", "knn", Dataset("d", "imagefolder", root, files))


def count(task):
    return contents_of(task, fingerprint(task.dataset)).leaked


def test_test_images_in_train_or_val_are_counted_and_equal_splits_refused(tmp_path):
    task = folders(tmp_path)
    assert count(task) == 0
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "test/a/of train.png")
    shutil.copy(tmp_path / "val/b/1.png", tmp_path / "test/b/of val.png")
    assert count(task) == 2
    for whole, other in (("test", "train"), ("test", "val"), ("val", "train")):
        kept = tmp_path / "kept"
        (tmp_path / whole).rename(kept)
        shutil.copytree(tmp_path / other, tmp_path / whole)
        with pytest.raises(ValueError, match=f"data set d: every one of the 4 images of {whole} is also in {other}"):
            count(task)
        shutil.rmtree(tmp_path / whole)
        kept.rename(tmp_path / whole)


def test_what_a_large_data_set_gives_is_remembered_and_made_again_where_the_memory_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("kdep_benchmarks.data.checks.leaks.WORTH", 12)
    task = folders(tmp_path / "d")
    first = contents_of(task, fingerprint(task.dataset))
    assert first.sketch == sketch_of(hashes_of(task, "test"))
    (memory,) = (tmp_path / "cache/kdep/leaks").iterdir()
    memory.write_text(memory.read_text().replace('"leaked": 0', '"leaked": 7'))
    assert contents_of(task, fingerprint(task.dataset)).leaked == 7
    memory.write_text('{"leaked": ')
    assert contents_of(task, fingerprint(task.dataset)) == first


def test_test_images_that_repeat_others_are_counted_also_from_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(leaks, "WORTH", 1)
    task = folders(tmp_path)
    for number in range(3):
        shutil.copy(tmp_path / "test/a/0.png", tmp_path / f"test/a/again {number}.png")
    shutil.copy(tmp_path / "test/a/0.png", tmp_path / "test/b/of another class.png")
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "train/a/again.png")  # in train it narrows no interval
    shutil.copy(tmp_path / "val/b/1.png", tmp_path / "test/b/of val.png")
    known = fingerprint(task.dataset)
    # Of the 9 test images one is there 5 times: 9^2 / (5^2 + 4) = 2.8.
    first = contents_of(task, known)
    assert (first.leaked, first.repeated, first.effective) == (1, 4, 3)
    monkeypatch.setattr(leaks, "hashes_of", None)
    assert contents_of(task, known) == first


def test_listed_images_that_are_missing_are_no_copies_of_each_other(tmp_path):
    trees.voc(tmp_path)
    shutil.copytree(tmp_path / "VOC2012/ImageSets/Main", tmp_path / "VOC2012/ImageSets/Segmentation")
    files = {role: f"VOC2012/ImageSets/Segmentation/{role}.txt" for role in trees.COUNTS}
    task = Task("d-segment", "segment", Dataset("d", "voc", tmp_path, files, trees.CLASSES))
    for number in (4, 5):
        (tmp_path / f"VOC2012/JPEGImages/test_{number}.jpg").unlink()
    found = contents_of(task, fingerprint(task.dataset))
    assert (found.leaked, found.repeated) == (0, 0)


def test_the_images_of_a_pack_are_compared_one_by_one(tmp_path):
    folders(tmp_path)
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "test/a/again.png")
    pack_folder(tmp_path, tmp_path / "p.npz")
    files = {split: f"p.npz:{split}" for split in ("train", "val", "test")}
    assert count(Task("p-linear", "linear", Dataset("p", "npz", tmp_path, files))) == 1


@pytest.mark.parametrize("layout", ["voc segment", "ade20k", "cityscapes", "voc detect", "coco"])
def test_images_of_dense_layouts_are_compared(tmp_path, layout):
    if layout.startswith("voc"):
        dataset, image = trees.voc(tmp_path), "VOC2012/JPEGImages/{}_{}.jpg"
        if layout == "voc segment":
            shutil.copytree(tmp_path / "VOC2012/ImageSets/Main", tmp_path / "VOC2012/ImageSets/Segmentation")
            files = {role: f"VOC2012/ImageSets/Segmentation/{role}.txt" for role in trees.COUNTS}
            dataset = Dataset("d", "voc", tmp_path, files, trees.CLASSES)
    elif layout == "coco":
        dataset, image = trees.coco(tmp_path), "{}/{}.jpg"
    else:
        dataset, image = trees.ade20k(tmp_path), "images/{}/{}.png"
        if layout == "cityscapes":
            for path in sorted(tmp_path.rglob("*.png")):
                kind = "_leftImg8bit.png" if "images" in path.parts else "_gtFine_labelTrainIds.png"
                path.rename(path.with_name(path.stem + kind))
            dataset = Dataset("d", "cityscapes", tmp_path, dataset.files, trees.CLASSES)
            image = "images/{}/{}_leftImg8bit.png"
    kind = "detect" if layout in ("voc detect", "coco") else "segment"
    task = Task("d-x", kind, dataset)
    assert count(task) == 0
    shutil.copy(tmp_path / image.format("train", 0), tmp_path / image.format("test", 4))
    assert count(task) == 1
