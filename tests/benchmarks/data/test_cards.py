"""The fingerprint of a data set: other data has another one, and what no reader opens does not count."""

import dataclasses
import hashlib
import shlex
import shutil
from pathlib import Path

import pytest

from kdep_benchmarks.data.cards import CARDS, Dataset, absent, fingerprint, known, refuse_bad_splits
from kdep_benchmarks.data.readers.boxes import read_boxes
from kdep_benchmarks.data.readers.masks import read_masks
from kdep_benchmarks.tasks.task import load_task
from tests.conftest import draw
from tests.helpers import toolbox_trees as trees


def folders(root: Path) -> Dataset:
    for number, split in enumerate(("train", "test")):
        (root / split / "a").mkdir(parents=True)
        draw(root / split / "a" / "1.png", number)
    return Dataset("mine", "imagefolder", root, {"train": "train", "test": "test"})


def downloaded(root: Path) -> Dataset:
    (root / "cifar-10-batches-py").mkdir(parents=True)
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"pixels")
    return Dataset("cifar10", "torchvision", root, {"train": "CIFAR10:train", "test": "CIFAR10:test"})


def same_length(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (trees.voc, lambda root: same_length(root / "VOC2012/SegmentationClass/test_4.png")),
        (trees.voc, lambda root: same_length(root / "VOC2012/Annotations/test_4.xml")),
        (trees.voc, lambda root: (root / "VOC2012/JPEGImages/train_0.jpg").write_bytes(b"another image")),
        (trees.voc, lambda root: shutil.rmtree(root / "VOC2012/SegmentationClass")),
        (trees.ade20k, lambda root: same_length(root / "masks/test/4.png")),
        (trees.coco, lambda root: (root / "test/4.jpg").unlink()),
        (folders, lambda root: draw(root / "test/a/2.png", 5)),
        (downloaded, lambda root: (root / "cifar-10-batches-py/data_batch_1").write_bytes(b"more pixels")),
    ],
)
def test_other_data_has_another_fingerprint(tmp_path, make, change):
    dataset = make(tmp_path)
    before = fingerprint(dataset)
    change(tmp_path)
    assert fingerprint(dataset) != before


@pytest.mark.parametrize("make", [trees.voc, trees.ade20k])
def test_another_list_of_classes_is_other_data_and_one_that_is_missing_is_named(tmp_path, make):
    # An edited list scores other classes; its results must not be taken for those of the old one.
    dataset = dataclasses.replace(make(tmp_path), classes=("@names.txt",))
    assert absent(dataset) == f"{tmp_path / 'names.txt'} is not there"
    found = []
    for names in ("ground\nred\ngreen\n", "ground\nred\nblue\n"):
        (tmp_path / "names.txt").write_text(names)
        assert absent(dataset) is None
        found.append(fingerprint(dataset))
    assert found[0] != found[1]


def renamed(root: Path, kind: str, name: str) -> Dataset:
    """A VOC tree whose test image `test_4` has another name."""
    dataset, year = trees.voc(root), root / "VOC2012"
    for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png"), ("Annotations", ".xml")):
        place = year / folder / f"{name}{suffix}"
        place.parent.mkdir(exist_ok=True)
        (year / folder / f"test_4{suffix}").rename(place)
    (year / "ImageSets/Main/test.txt").write_text(f"{name}\ntest_5\n")
    (year / "ImageSets/Main").rename(year / f"ImageSets/{kind}")
    return dataclasses.replace(dataset, files={r: f"VOC2012/ImageSets/{kind}/{r}.txt" for r in ("train", "test")})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Segmentation", "scene 4"),
        ("mine", "scene 4"),  # masks may be listed in any folder
        ("Segmentation", "cam1/4"),
        ("Segmentation", ".4"),
        ("Main", "cam1/4"),
        ("Main", "test_4.v2"),
    ],
)
def test_every_image_that_a_voc_reader_opens_counts_whatever_its_name(tmp_path, kind, name):
    dataset = renamed(tmp_path, kind, name)
    opened = [pair.image for pair in read_masks(dataset, "test").pairs]
    if kind == "Main":
        opened = [image.path for image in read_boxes(dataset, "test").images]
    assert len(opened) == 2
    for path in opened:
        before = fingerprint(dataset)
        same_length(path)
        assert fingerprint(dataset) != before


def test_of_two_images_of_one_voc_name_the_one_that_is_read_counts(tmp_path):
    dataset = trees.voc(tmp_path)
    draw(tmp_path / "VOC2012/JPEGImages/test_4.png", 9)
    (read, *_) = read_boxes(dataset, "test").images
    before = fingerprint(dataset)
    same_length(read.path)
    assert fingerprint(dataset) != before


def test_plain_names_of_a_voc_list_keep_their_fingerprint(tmp_path):
    # Published results hold it. Hashed here step by step: layout, files and classes; then each list with its images,
    # its masks and its annotations, as NAME|BLAKE2b-128.
    dataset, year = trees.voc(tmp_path), tmp_path / "VOC2012"
    (year / "ImageSets/Main/test.txt").write_text("test_4 1\ntest_6 -1\n")  # the second column of a class list
    digest = hashlib.sha256(f"voc|{sorted(dataset.files.items())}|{dataset.classes}".encode())
    for role, names in (("test", ("test_4", "test_6")), ("train", [f"train_{n}" for n in range(4)])):
        digest.update((year / f"ImageSets/Main/{role}.txt").read_bytes())
        for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png"), ("Annotations", ".xml")):
            for path in (year / folder / f"{name}{suffix}" for name in names):
                content = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
                digest.update(f"{path.relative_to(tmp_path)}|".encode() + content)
    assert fingerprint(dataset) == digest.hexdigest()


@pytest.mark.parametrize(
    ("make", "extra"),
    [
        (folders, "train/.DS_Store"),
        (folders, "train/a/.1.png.part"),
        (folders, "train/a/readme.txt"),
        (trees.voc, "VOC2012/JPEGImages/of_another_list.jpg"),
        (trees.ade20k, "masks/test/Thumbs.db"),
        (downloaded, "cifar-10-python.tar.gz"),  # torchvision leaves it, `kdep data prepare` does not
    ],
)
def test_what_no_reader_opens_does_not_count(tmp_path, make, extra):
    dataset = make(tmp_path)
    before = fingerprint(dataset)
    (tmp_path / extra).write_bytes(b"something")
    assert fingerprint(dataset) == before


@pytest.mark.parametrize("name", CARDS)
def test_what_is_absent_is_got_by_the_command_that_puts_it_where_it_was_looked_for(name, tmp_path):
    for data_root in (tmp_path / "my data", Path("here"), Path()):
        command = absent(known(name, data_root)).partition("get it: kdep ")[2].rpartition(" (from ")[0]
        assert shlex.split(command) == ["data", "prepare", name, "--data-root", str(data_root)]
    assert absent(known("scenes", tmp_path)).endswith(" (from kdep_benchmarks.data.scenes.make, which draws it)")
    shipped = load_task("scenes-segment", tmp_path).dataset
    assert f"kdep data prepare scenes-ade20k --data-root {tmp_path} (from" in absent(shipped)
    own = dataclasses.replace(known(name, tmp_path), root=tmp_path / "mine")
    assert absent(own).endswith(" is not there")


def test_a_voc_tree_without_its_images_or_masks_is_absent(tmp_path):
    dataset = trees.voc(tmp_path)
    year = tmp_path / "VOC2012"
    (year / "ImageSets/Main").rename(year / "ImageSets/Segmentation")
    files = {role: f"VOC2012/ImageSets/Segmentation/{role}.txt" for role in ("train", "test")}
    dataset = dataclasses.replace(dataset, files=files)
    assert absent(dataset) is None
    shutil.rmtree(year / "SegmentationClass")
    assert absent(dataset) == f"{year / 'SegmentationClass'} is not there"
    shutil.rmtree(year / "JPEGImages")
    assert absent(dataset) == f"{year / 'JPEGImages'} is not there"


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("imagefolder", {"train": "train", "test": "./train"}),
        ("npz", {"train": "a.npz:train", "test": "a.npz:test", "val": "a.npz:train"}),
        ("voc", {"train": "Main/a.txt,Main/b.txt", "test": "Main/b.txt, Main/a.txt"}),
        ("ade20k", {"train_images": "i", "train_masks": "m", "test_images": "i", "test_masks": "n"}),
    ],
)
def test_a_split_that_is_the_train_split_is_refused(tmp_path, layout, files):
    with pytest.raises(ValueError, match="data set zoo: (test|val|test_images) and train are both"):
        refuse_bad_splits(Dataset("zoo", layout, tmp_path, files))


def test_a_class_folder_without_an_image_is_refused_by_name(tmp_path):
    for place in ("train/cat/1.png", "train/dog/below/1.JPG", "test/cat/1.png", "test/dog/.1.png", "test/dog/1.txt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    dataset = Dataset("zoo", "imagefolder", tmp_path, {"train": "train", "test": "test"})
    with pytest.raises(ValueError, match=r"data set zoo: test: .*/test/dog holds no image \(1 of 2 class folders"):
        refuse_bad_splits(dataset)
    (tmp_path / "test" / "dog").rename(tmp_path / "texts")
    (tmp_path / "test" / "dog").symlink_to(tmp_path / "train" / "dog")
    refuse_bad_splits(dataset)


def test_coco_splits_may_share_a_folder_of_images_but_not_their_list(tmp_path):
    images = {"train_images": "JPEGImages", "test_images": "JPEGImages"}
    refuse_bad_splits(Dataset("zoo", "coco", tmp_path, {"train": "a.json", "test": "b.json", **images}))
    with pytest.raises(ValueError, match="test and train are both a.json"):
        refuse_bad_splits(Dataset("zoo", "coco", tmp_path, {"train": "a.json", "test": "a.json", **images}))


def test_every_card_has_splits_of_its_own(tmp_path):
    for name, card in CARDS.items():
        if card.layout != "imagefolder":  # whose folders are looked into
            refuse_bad_splits(known(name, tmp_path))


@pytest.mark.parametrize(
    ("make", "test", "train"),
    [
        (trees.coco, "test/4.jpg", "train/1.jpg"),
        (trees.ade20k, "masks/test/4.png", "masks/train/1.png"),
        (trees.voc, "VOC2012/JPEGImages/test_4.jpg", "VOC2012/JPEGImages/train_1.jpg"),
    ],
)
def test_what_is_trained_on_does_not_change_with_a_test_image(tmp_path, make, test, train):
    dataset = make(tmp_path)
    before = fingerprint(dataset), fingerprint(dataset, without="test")
    with (tmp_path / test).open("ab") as file:
        file.write(b"more")
    assert fingerprint(dataset) != before[0] and fingerprint(dataset, without="test") == before[1]
    with (tmp_path / train).open("ab") as file:
        file.write(b"more")
    assert fingerprint(dataset, without="test") != before[1]
