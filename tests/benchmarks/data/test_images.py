import dataclasses
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from kdep.data.sources.source import torchvision_files, torchvision_split
from kdep_benchmarks.data.cards import Dataset, fingerprint
from kdep_benchmarks.data.checks.check import Subject, check_dataset
from kdep_benchmarks.data.findings import finding_lines
from kdep_benchmarks.data.images import hold_out, open_split, open_splits
from kdep_benchmarks.tasks.choose import folder_tasks, split_folder

CLASSES = ("ant", "bee", "cow")


def paint(path, value, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


@pytest.fixture
def folders(tmp_path):
    """Ten train and four test images in each of three class folders; the red value tells class and number."""
    for split, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                paint(tmp_path / split / name / f"{number}.png", 50 * label + number)
    return Dataset("zoo", "imagefolder", tmp_path, {"train": "train", "test": "test"})


@pytest.fixture
def packed(folders, tmp_path):
    """The same images in an .npz."""
    content = {"classes": np.array(CLASSES)}
    for split in ("train", "test"):
        paths = sorted((tmp_path / split).glob("*/*.png"))
        data = [path.read_bytes() for path in paths]
        content[f"{split}_blob"] = np.frombuffer(b"".join(data), np.uint8)
        content[f"{split}_offsets"] = np.cumsum([0, *map(len, data)])
        content[f"{split}_labels"] = np.array([CLASSES.index(path.parent.name) for path in paths], np.int16)
    np.savez(tmp_path / "zoo.npz", **content)
    return Dataset("zoo", "npz", tmp_path, {"train": "zoo.npz:train", "test": "zoo.npz:test"})


def red(images, index):
    return images.read(index).getpixel((0, 0))[0]


@pytest.mark.parametrize("layout", ["folders", "packed"])
def test_images_come_with_the_label_of_their_class(layout, request):
    images = open_split(request.getfixturevalue(layout), "train")
    assert images.classes == CLASSES and len(images) == 30
    assert [red(images, index) // 50 for index in range(30)] == images.labels.tolist()


def test_links_to_folders_above_give_no_image_another_label(folders, tmp_path, caplog):
    before = open_split(folders, "train"), fingerprint(folders)
    for place in ("train/ant", "train/bee", "train/bee/deep"):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "up").symlink_to("..")
        (tmp_path / place / "here").symlink_to(".")
    (tmp_path / "train" / "ant" / "set").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "train" / "cow" / "pipe.png")
    found = open_split(folders, "train")
    assert (list(found.names), found.labels.tolist()) == (list(before[0].names), before[0].labels.tolist())
    assert "skipped 8" in caplog.text and fingerprint(folders) == before[1]
    report = check_dataset(Subject(folders, "classification", None))
    skipped = [finding for finding in report.findings if finding.kind == "path skipped"]
    assert len(skipped) == 8 and [finding.where for finding in skipped if finding.defect] == [
        str(tmp_path / "train" / "cow" / "pipe.png")
    ]


def test_a_class_of_one_image_is_named_with_its_folder_where_it_has_to_be_divided(folders, tmp_path):
    for number in range(1, 10):
        (tmp_path / "train" / "bee" / f"{number}.png").unlink()
    divided = dataclasses.replace(folders, files={"train": "train:train", "test": "train:test"})
    said = rf"class 'bee' has one image in {tmp_path / 'train' / 'bee'}, and train:test needs two.*\(1 of 3 classes"
    with pytest.raises(ValueError, match=said):
        open_split(divided, "test")
    with pytest.raises(ValueError, match=rf"fewer than three images.*: 1 in {tmp_path / 'train' / 'bee'} \(1 of 3"):
        split_folder(tmp_path / "train")
    assert len(open_split(folders, "train").labels)  # with a test folder it is no defect, and told
    notes = [(f.where, f.defect) for f in check_dataset(Subject(folders, "classification", None)).findings]
    assert ("class 'bee' of train", False) in notes


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_val_folder_may_have_any_of_its_usual_names(folders, tmp_path, name):
    (tmp_path / name).mkdir()
    files, said = split_folder(tmp_path)
    assert files == {"train": "train", "val": name, "test": "test"} and f"chosen on {name}, scores are of test" in said
    (tmp_path / "test").rename(tmp_path / "kept")
    assert split_folder(tmp_path)[0] == {"train": "train", "test": name}
    (tmp_path / ("valid" if name == "val" else "val")).mkdir()
    with pytest.raises(ValueError, match=r"has val and valid\w*; keep one of them"):
        split_folder(tmp_path)


@pytest.mark.parametrize("beside", ["other/train/ant", "other/test/ant", "plain", "zoo/extra"])
def test_a_folder_of_data_sets_is_refused_and_one_of_them_named(folders, tmp_path, beside):
    for split in ("train", "test"):
        shutil.copytree(tmp_path / split, tmp_path / "nest" / "zoo" / split)
    shutil.copytree(tmp_path / "train" / "ant", tmp_path / "nest" / beside)
    with pytest.raises(ValueError, match=rf"nest: not one data set: zoo hold.* --data {tmp_path / 'nest' / 'zoo'}, or"):
        split_folder(tmp_path / "nest")
    assert split_folder(tmp_path / "nest" / "zoo")[0] == {"train": "train", "test": "test"}


def test_a_class_with_folders_of_the_names_of_splits_is_no_data_set(folders, tmp_path):
    """Trains and the tests that they pass are photographed in folders; only one has kinds of its own."""
    for own in ("train/old", "train/new", "test/hall", "bus"):
        shutil.copytree(tmp_path / "train" / "ant", tmp_path / "nest" / "rail" / own)
    shutil.copytree(tmp_path / "train" / "bee", tmp_path / "nest" / "road")
    assert split_folder(tmp_path / "nest")[0] == {"train": ".:train", "test": ".:test"}


@pytest.mark.parametrize("alone", [False, True])
def test_the_checkpoints_of_a_notebook_are_neither_a_class_nor_images_of_one(folders, tmp_path, alone):
    root = tmp_path / "train" if alone else tmp_path
    for name in ("train", "test") if alone else ():  # class folders with the names of splits are still classes
        shutil.copytree(tmp_path / "train" / "ant", tmp_path / "train" / "cow" / name)

    def seen():
        files, said = split_folder(root)
        dataset = dataclasses.replace(folders, root=root, files=files)
        found = [open_split(dataset, role) for role in ("train", "test")]
        findings = check_dataset(Subject(dataset, "classification", None)).findings
        return said, fingerprint(dataset), [(list(i.names), i.labels.tolist()) for i in found], list(findings)

    before = seen()
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        paint(folder / ".ipynb_checkpoints" / "0-checkpoint.png", 9)
        (folder / ".ipynb_checkpoints" / "notes.ipynb").touch()
        (folder / "._0.png").write_bytes(b"of a Mac")
    assert seen() == before


def test_a_folder_of_too_long_a_name_is_refused_before_anything_is_measured(folders, tmp_path):
    long = tmp_path / ("x" * 160)
    long.mkdir()
    for split in ("train", "test"):
        (tmp_path / split).rename(long / split)
    with pytest.raises(ValueError, match="the tasks would be called after it: .* at most 150 bytes; give the folder"):
        folder_tasks(long, [])


def test_a_class_folder_that_is_a_link_to_its_own_split_is_named(folders, tmp_path):
    (tmp_path / "train" / "all").symlink_to(".")
    with pytest.raises(ValueError, match="class 'all' has no image"):
        open_split(folders, "train")


def test_names_that_are_not_utf_8_are_read_hashed_and_shown_printable(folders, tmp_path, capsys):
    odd = tmp_path / "train" / "ant" / os.fsdecode(b"caf\xe9.png")
    paint(odd, 3)
    found = open_split(folders, "train")
    assert len(found) == 31 and len(found.fingerprint) == 64
    assert len(fingerprint(folders)) == 64
    odd.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image ant/caf\\udce9.png cannot be read"):
        found.read(list(found.names).index(str(odd.relative_to(tmp_path / "train"))))
    report = check_dataset(Subject(folders, "classification", None))
    assert any("caf\\udce9.png" in line for line in finding_lines(report.findings))


def test_images_below_a_class_folder_belong_to_it_and_other_files_do_not(folders, tmp_path):
    paint(tmp_path / "train" / "bee" / "deep" / "x.png", 99)
    (tmp_path / "train" / "bee" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".cache").mkdir()
    images = open_split(folders, "train")
    assert len(images) == 31 and images.per_class.tolist() == [10, 11, 10]


def test_a_fifth_of_every_class_is_held_out_and_nothing_is_in_both():
    labels = np.repeat([0, 1, 2], [50, 10, 2])
    train, val = hold_out(labels, seed=0)
    assert np.bincount(labels[val]).tolist() == [10, 2, 1]
    assert sorted([*train, *val]) == list(range(62))


def test_the_seed_draws_the_select_split():
    labels = np.repeat([0, 1], 50)
    again, first, other = hold_out(labels, seed=1)[1], hold_out(labels, seed=1)[1], hold_out(labels, seed=2)[1]
    assert (first == again).all() and (first != other).any()


def test_a_class_of_one_image_stays_in_train():
    train, val = hold_out(np.array([0, 1, 1, 1, 1, 1]), seed=0)
    assert 0 in train and len(val) == 1


def test_counts_are_the_sizes_of_the_splits(folders):
    assert open_splits(folders, seed=0).counts == {"train": 24, "val": 6, "test": 12}


def test_a_select_split_of_its_own_is_used_whole_whatever_the_seed(folders, tmp_path):
    shutil.copytree(tmp_path / "test", tmp_path / "val")
    own = dataclasses.replace(folders, files={**folders.files, "val": "val"})
    one, two = open_splits(own, seed=0), open_splits(own, seed=1)
    assert one.counts == {"train": 30, "val": 12, "test": 12}
    assert (one.val == two.val).all()
    assert all(red(one.pool, i) // 50 == one.pool.labels[i] for i in [*one.train, *one.val])


def test_splits_of_different_classes_are_refused(folders, tmp_path):
    paint(tmp_path / "test" / "dog" / "0.png", 1)
    with pytest.raises(ValueError, match="train has 3 classes and test 4; they differ in dog. Give every split"):
        open_splits(folders, seed=0)


def test_one_class_alone_is_refused_in_every_layout(folders, tmp_path):
    for split in ("train", "test"):
        for name in CLASSES[1:]:
            shutil.rmtree(tmp_path / split / name)
    with pytest.raises(ValueError, match=rf"data set zoo: train has one class only \({CLASSES[0]}\)"):
        open_splits(folders, seed=0)
    blob = next(tmp_path.rglob("*.png")).read_bytes()
    content = {}
    for split in ("train", "test"):
        content[f"{split}_blob"] = np.frombuffer(2 * blob, np.uint8)
        content[f"{split}_offsets"] = np.array([0, len(blob), 2 * len(blob)])
        content[f"{split}_labels"] = np.zeros(2, np.int16)
    np.savez(tmp_path / "one.npz", **content)
    with pytest.raises(ValueError, match="data set zoo: train has one class only"):
        open_splits(Dataset("zoo", "npz", tmp_path, {"train": "one.npz:train", "test": "one.npz:test"}), seed=0)


def test_a_class_without_an_image_is_named(folders, tmp_path):
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(ValueError, match="class 'dog' has no image"):
        open_split(folders, "train")


def test_an_image_that_cannot_be_read_is_named(folders, tmp_path):
    path = tmp_path / "train" / "bee" / "3.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"bee/3\.png cannot be read"):
        open_split(folders, "train").read(13)


def test_an_image_of_too_many_bytes_is_named_and_not_read(folders, tmp_path):
    with (tmp_path / "train" / "bee" / "3.png").open("wb") as file:
        file.truncate(10**12)
    train = open_split(folders, "train")
    with pytest.raises(ValueError, match=r"bee/3\.png.* cannot be read.*KDEP_MAX_EXPANDED allows 536,870,912"):
        train.read(13)
    assert train.fingerprint == open_split(folders, "train").fingerprint  # of its size


@pytest.mark.parametrize("layout", ["folders", "packed"])
def test_the_fingerprint_is_of_the_images_and_labels(layout, request, tmp_path):
    dataset = request.getfixturevalue(layout)
    train = open_split(dataset, "train")
    assert train.fingerprint == open_split(dataset, "train").fingerprint != open_split(dataset, "test").fingerprint
    before = train.fingerprint
    train = open_split(dataset, "train")
    train.labels[0] = 1
    assert train.fingerprint != before


def test_a_changed_pixel_changes_the_fingerprint_at_equal_size(folders, tmp_path):
    before = open_split(folders, "train").fingerprint
    path = tmp_path / "train" / "bee" / "3.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert open_split(folders, "train").fingerprint != before


def test_an_image_written_over_at_equal_size_and_date_is_noticed(folders, tmp_path):
    before = open_split(folders, "train").fingerprint
    path = tmp_path / "train" / "bee" / "3.png"
    date, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
    assert open_split(folders, "train").fingerprint != before


def test_torchvision_sets_are_read_by_split(tmp_path):
    draw = np.random.default_rng(0).integers(0, 256, (2, 2, 28, 28), dtype=np.uint8)
    for name, pixels in (("train", draw[0]), ("t10k", draw[1])):
        folder = tmp_path / "MNIST" / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        sizes = b"".join(n.to_bytes(4, "big") for n in (2, 28, 28))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + pixels.tobytes())
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + bytes([1, 0]))
    source = torchvision_split("MNIST", tmp_path, "test")
    assert np.array_equal(np.asarray(source[1][0]), draw[1, 1])


@pytest.fixture
def textures(folders, tmp_path):
    """The folders' images as torchvision lays out DTD."""
    base = tmp_path / "dtd" / "dtd"
    shutil.copytree(tmp_path / "train", base / "images")
    (base / "labels").mkdir()
    names = [f"{name}/{number}.png" for name in reversed(CLASSES) for number in range(10)]
    for split, listed in (("train", names[::2]), ("val", names[1::2]), ("test", names)):
        (base / "labels" / f"{split}1.txt").write_text("\n".join(listed))
    files = {"train": "DTD:train", "val": "DTD:val", "test": "DTD:test"}
    return Dataset("textures", "torchvision", tmp_path, files), base / "images"


def test_the_fingerprint_of_files_of_torchvision_is_that_of_their_bytes_and_decodes_none(
    textures, tmp_path, monkeypatch
):
    dataset, root = textures
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image is decoded"))
    train, pool = open_split(dataset, "train"), open_splits(dataset, seed=0).pool
    listed = [root / name / f"{number}.png" for name in reversed(CLASSES) for number in range(0, 10, 2)]
    assert train.source.files == listed and len(pool) == 30
    before = train.fingerprint, pool.fingerprint
    content = listed[3].read_bytes()
    listed[3].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert open_split(dataset, "train").fingerprint != before[0]
    assert open_splits(dataset, seed=0).pool.fingerprint != before[1]


@pytest.mark.parametrize(("name", "pairs"), [("_images", False), ("samples", True), ("_samples", True)])
def test_files_of_torchvisions_classes_go_by_several_names(tmp_path, name, pairs):
    paths = [str(tmp_path / f"{number}.jpg") for number in range(2)]

    class Images(list):
        pass

    images = Images(paths)
    setattr(images, name, [(path, 0) for path in paths] if pairs else paths)
    assert torchvision_files(images) == [tmp_path / "0.jpg", tmp_path / "1.jpg"]
    setattr(images, name, [(np.zeros(1), 0), (np.zeros(1), 1)])  # as FER2013, which is in memory
    assert torchvision_files(images) is None


def test_an_unknown_split_of_a_torchvision_set_is_refused(tmp_path):
    dataset = Dataset("x", "torchvision", tmp_path, {"train": "CIFAR10:train", "test": "CIFAR10:valid"})
    with pytest.raises(ValueError, match="no split 'valid'"):
        open_split(dataset, "test")


def test_named_classes_must_be_those_found(folders):
    with pytest.raises(ValueError, match="differ in cow, dog"):
        open_split(dataclasses.replace(folders, classes=("ant", "bee", "dog")), "train")
