"""Sets are made from tiny archives in the owners' own layouts, placed by hand; downloads go on where they stopped."""

import functools
import hashlib
import http.server
import io
import os
import shutil
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdep import cli
from kdep_benchmarks.data.cards import CARDS, VOC_CLASSES, absent, known
from kdep_benchmarks.data.checks.check import check_dataset
from kdep_benchmarks.data.preparation import archives as data_archives
from kdep_benchmarks.data.preparation import owners
from kdep_benchmarks.data.preparation import prepare as data_prepare
from kdep_benchmarks.data.preparation.archives import Archive, NotPrepared, build, download, md5_of, obtain, unpack
from kdep_benchmarks.data.preparation.masks_made import train_ids
from kdep_benchmarks.data.preparation.prepare import prepare
from kdep_benchmarks.verbs.data import subjects


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches a real server."""

    def urlopen(request, **_):
        raise OSError("no network in tests")

    monkeypatch.setattr(data_archives.urllib.request, "urlopen", urlopen)


def picture(number, size=(24, 20)):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()


def mask(values, size=(24, 20)):
    pixels = np.resize(np.array(values, np.uint8), (size[1], size[0]))
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def tar(path, files):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def names_below(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(str(path.relative_to(folder)) for path in files)


def left_behind(root):
    return [path.name for path in root.rglob("*") if path.name.endswith((".part", ".partial"))]


# Classification.


def caltech256(root, per_class=4):
    files = {"256_ObjectCategories/198.spider/RENAME2": b"not an image"}
    for number, name in enumerate(("001.ak47", "198.spider")):
        for image in reversed(range(1, per_class + 1)):
            files[f"256_ObjectCategories/{name}/{name[:3]}_{image:04d}.jpg"] = picture(100 * number + image)
    return tar(root / "256_ObjectCategories.tar", files)


def test_caltech256_takes_the_first_images_of_a_class_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "PER_CLASS", 3)
    caltech256(tmp_path)
    prepare("caltech256", tmp_path)
    assert names_below(tmp_path / "caltech256") == [
        "test/001.ak47/001_0004.jpg",
        "test/198.spider/198_0004.jpg",
        *(f"train/001.ak47/001_000{n}.jpg" for n in (1, 2, 3)),
        *(f"train/198.spider/198_000{n}.jpg" for n in (1, 2, 3)),
    ]
    assert (tmp_path / "caltech256/test/001.ak47/001_0004.jpg").read_bytes() == picture(4)


def test_caltech256_trains_on_60_of_each_class(tmp_path):
    caltech256(tmp_path, per_class=64)
    prepare("caltech256", tmp_path)
    assert len(names_below(tmp_path / "caltech256" / "test")) == 2 * 4
    assert len(names_below(tmp_path / "caltech256" / "train")) == 2 * 60


def cub200(root):
    birds = ("001.Albatross/A_0001.jpg", "001.Albatross/A_0002.jpg", "002.Wren/W_0001.jpg", "002.Wren/W_9.jpg")
    images = dict(enumerate(birds, start=1))
    train = {1: 0, 2: 1, 3: 1, 4: 0}
    files = {"attributes.txt": b"1 has_bill_shape::curved\n"}
    files |= {f"CUB_200_2011/images/{name}": picture(number) for number, name in images.items()}
    files["CUB_200_2011/parts/parts.txt"] = b"1 back\n"
    for name, values in (("images.txt", images), ("train_test_split.txt", train)):
        files[f"CUB_200_2011/{name}"] = "".join(f"{number} {value}\n" for number, value in values.items()).encode()
    return tar(root / "CUB_200_2011.tgz", files)


CUB_SORTED = [
    "test/001.Albatross/A_0001.jpg",
    "test/002.Wren/W_9.jpg",
    "train/001.Albatross/A_0002.jpg",
    "train/002.Wren/W_0001.jpg",
]


def test_cub200_is_divided_as_its_owner_says_and_check_then_counts_it(tmp_path, capsys):
    cub200(tmp_path)
    assert cli.main(["data", "prepare", "cub200", "--data-root", str(tmp_path)]) == 0
    assert f"next: kdep data check cub200 --data-root {tmp_path}" in capsys.readouterr().out
    assert names_below(tmp_path / "cub200") == CUB_SORTED
    report = check_dataset(subjects("cub200", tmp_path)[0])
    assert [f.what for f in report.findings if f.defect] == ["2, expected 200", "2, expected 5994", "2, expected 5794"]


def test_dtd_is_opened_by_torchvision_from_an_archive_placed_by_hand(tmp_path, monkeypatch):
    import torchvision

    files = {f"dtd/images/{kind}/{kind}_{n}.jpg": picture(n) for kind in ("banded", "lined") for n in range(3)}
    for n, split in enumerate(("train1", "val1", "test1")):
        files[f"dtd/labels/{split}.txt"] = f"banded/banded_{n}.jpg\nlined/lined_{n}.jpg\n".encode()
    path = tar(tmp_path / "dtd-r1.0.1.tar.gz", files)
    with pytest.raises(NotPrepared, match="has md5 .*, the owner's file fff73e5086ae6bdbea199a49dfb8a4c1; remove it"):
        prepare("dtd", tmp_path)
    monkeypatch.setattr(torchvision.datasets.DTD, "_MD5", md5_of(path))
    prepare("dtd", tmp_path)
    assert check_dataset(subjects("dtd", tmp_path)[0]).images == {"train": 2, "val": 2, "test": 2}
    assert path.is_file() and not (tmp_path / "dtd" / "dtd" / path.name).exists()


def imagenet(root, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import imagenet as reader

    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(1, "n01", "tench", "fish", 0), (2, "n02", "goldfish", "fish", 0), (3, "n99", "fish", "all", 2)]
    savemat(mat := io.BytesIO(), {"synsets": np.array(rows, dtype=fields)})
    truth = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    devkit = {"ILSVRC2012_devkit_t12/data/meta.mat": mat.getvalue(), truth: b"2\n1\n2\n"}
    paths = {"devkit": tar(root / "ILSVRC2012_devkit_t12.tar.gz", devkit)}
    classes = {}
    for wnid in ("n01", "n02"):
        content = {f"{wnid}_{n}.JPEG": picture(n) for n in range(2)}
        classes[f"{wnid}.tar"] = tar(root / f"{wnid}.tar", content).read_bytes()
        (root / f"{wnid}.tar").unlink()
    paths["train"] = tar(root / "ILSVRC2012_img_train.tar", classes)
    val = {f"ILSVRC2012_val_0000000{n}.JPEG": picture(10 + n) for n in (1, 2, 3)}
    paths["val"] = tar(root / "ILSVRC2012_img_val.tar", val)
    monkeypatch.setattr(reader, "ARCHIVE_META", {key: (path.name, md5_of(path)) for key, path in paths.items()})


def test_imagenet_is_sorted_by_torchvisions_reader(tmp_path, monkeypatch):
    imagenet(tmp_path, monkeypatch)
    prepare("imagenet1k", tmp_path)
    assert names_below(tmp_path / "imagenet") == [
        *(f"train/n0{c}/n0{c}_{n}.JPEG" for c in (1, 2) for n in (0, 1)),
        "val/n01/ILSVRC2012_val_00000002.JPEG",
        "val/n02/ILSVRC2012_val_00000001.JPEG",
        "val/n02/ILSVRC2012_val_00000003.JPEG",
    ]
    assert len(names_below(tmp_path)) == 7 + 3  # the archives stay


# Segmentation.

FIT, VAL = ("2007_000032", "2007_000039"), ("2007_000033", "2007_000042")


def voc2012(root):
    top, files = "VOCdevkit/VOC2012", {}
    for number, name in enumerate((*FIT, *VAL, "2008_000002", "2008_000003")):
        files[f"{top}/JPEGImages/{name}.jpg"] = picture(number)
        files[f"{top}/Annotations/{name}.xml"] = b"<annotation/>"
    for name in (*FIT, *VAL):
        files[f"{top}/SegmentationClass/{name}.png"] = mask([0, 15, 255])
    for split, names in (("train", FIT), ("val", VAL)):
        files[f"{top}/ImageSets/Segmentation/{split}.txt"] = "".join(f"{name}\n" for name in names).encode()
    return tar(root / "VOCtrainval_11-May-2012.tar", files)


def sbd(root):
    """SBD's train and val hold one image of VOC's train, one of VOC's val, and two of neither."""
    from scipy.io import savemat

    top, files = "benchmark_RELEASE/dataset", {}
    parts = {"train": (FIT[0], "2008_000002"), "val": (VAL[0], "2008_000003")}
    for split, names in parts.items():
        for name in names:
            labels = np.full((20, 24), 7 if name.startswith("2008") else 9, np.uint8)
            labels[:, :12] = 0
            savemat(mat := io.BytesIO(), {"GTcls": {"Segmentation": labels, "CategoriesPresent": [7]}})
            files[f"{top}/cls/{name}.mat"] = mat.getvalue()
            files[f"{top}/img/{name}.jpg"] = picture(1)
        files[f"{top}/{split}.txt"] = "".join(f"{name}\n" for name in names).encode()
    return tar(root / "benchmark.tgz", files)


def test_voc2012_is_unpacked_to_its_year(tmp_path):
    voc2012(tmp_path)
    prepare("voc2012", tmp_path)
    assert check_dataset(subjects("voc2012", tmp_path)[0]).images == {"train": 2, "test": 2}


def test_the_augmented_masks_are_sbds_less_vocs_val_and_vocs_own_for_its_train(tmp_path):
    voc2012(tmp_path), sbd(tmp_path)
    prepare("voc2012aug", tmp_path)
    year = tmp_path / "VOCdevkit" / "VOC2012"
    listed = (year / "ImageSets" / "Segmentation" / "trainaug.txt").read_text().split()
    assert listed == [*FIT, "2008_000002", "2008_000003"]
    values = {name: np.unique(Image.open(year / "SegmentationClassAug" / f"{name}.png")).tolist() for name in listed}
    assert values == {**dict.fromkeys(FIT, [0, 15, 255]), **dict.fromkeys(listed[2:], [0, 7])}
    report = check_dataset(subjects("voc2012aug", tmp_path)[0])
    assert report.images == {"train": 4, "test": 2}
    kinds = {f.kind for f in report.findings if f.defect}
    assert kinds == {"empty class", "wrong count"}  # 20 classes are not in 4 masks


def test_what_is_missing_of_the_augmented_masks_is_named_with_its_place(tmp_path):
    place = "VOCdevkit/VOC2012/SegmentationClassAug"
    (finding,) = check_dataset(subjects("voc2012aug", tmp_path)[0]).findings
    assert "trainaug.txt is not there" in str(finding) and f"whose masks go to {place})" in str(finding)
    voc2012(tmp_path)
    with pytest.raises(NotPrepared, match=f"benchmark.tgz cannot be downloaded.*place it at {tmp_path}/benchmark.tgz"):
        prepare("voc2012aug", tmp_path)
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt").touch()
    (finding,) = check_dataset(subjects("voc2012aug", tmp_path)[0]).findings
    assert f"{tmp_path / place} is not there; get it: kdep data prepare voc2012aug" in str(finding)


def test_masks_that_were_placed_by_hand_are_listed_without_vocs_val(tmp_path):
    voc2012(tmp_path)
    prepare("voc2012", tmp_path)
    year = tmp_path / "VOCdevkit" / "VOC2012"
    (year / "SegmentationClassAug").mkdir()
    for name in (*FIT, *VAL, "2008_000002"):  # the folder that is passed around has 12,031
        (year / "SegmentationClassAug" / f"{name}.png").write_bytes(mask([0, 7]))
    prepare("voc2012aug", tmp_path)
    assert (year / "ImageSets/Segmentation/trainaug.txt").read_text().split() == [*FIT, "2008_000002"]


def test_masks_without_the_rest_of_voc2012_are_no_voc2012(tmp_path):
    masks = tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    masks.mkdir(parents=True)
    with pytest.raises(NotPrepared, match="VOC2012: exists but is not VOC 2012"):
        prepare("voc2012aug", tmp_path)


def ade20k(root, top="ADEChallengeData2016"):
    files = {f"{top}/objectInfo150.txt": b"Idx\tRatio\tTrain\tVal\tName\n1\t0.2\t9\t9\twall\n2\t0.1\t9\t9\tsky\n"}
    for split, word in (("training", "train"), ("validation", "val")):
        for n in (1, 2):
            name = f"ADE_{word}_0000000{n}"
            files[f"{top}/images/{split}/{name}.jpg"] = picture(n + 10 * len(word))
            files[f"{top}/annotations/{split}/{name}.png"] = mask([0, 1, 2])
    return zipped(root / "ADEChallengeData2016.zip", files)


def test_ade20k_is_unpacked_to_where_its_card_looks(tmp_path):
    ade20k(tmp_path)
    prepare("ade20k", tmp_path)
    found = check_dataset(subjects("ade20k", tmp_path)[0])
    assert found.images == {"train": 2, "test": 2}
    assert {f.kind for f in found.findings} == {"wrong count"}  # of images; both classes have pixels


@pytest.mark.parametrize("where", ["ADE20K_2021_17_01.zip", "ADE20K_2021_17_01/index_ade20k.pkl"])
def test_the_full_ade20k_is_refused(tmp_path, where):
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_bytes(b"")
    with pytest.raises(NotPrepared, match="is the full ADE20K; tasks read SceneParse150"):
        prepare("ade20k", tmp_path)


def test_an_archive_of_another_layout_is_refused_and_nothing_appears(tmp_path):
    ade20k(tmp_path, top="ADE20K_2021_17_01")
    with pytest.raises(NotPrepared, match=r"contains nothing of the owner's ADEChallengeData2016/"):
        prepare("ade20k", tmp_path)
    assert not (tmp_path / "ade" / "ADEChallengeData2016").exists()


def cityscapes(root):
    trees = {"leftImg8bit": {}, "gtFine": {}}
    for split in ("train", "val", "test"):
        for n in (0, 1):
            name = f"{split}/aachen/aachen_00000{n}_000019"
            Image.open(io.BytesIO(picture(n + 10 * len(split)))).save(file := io.BytesIO(), "PNG")
            trees["leftImg8bit"][f"leftImg8bit/{name}_leftImg8bit.png"] = file.getvalue()
            trees["gtFine"][f"gtFine/{name}_gtFine_labelIds.png"] = mask([0, 7, 11, 26, 33])
            trees["gtFine"][f"gtFine/{name}_gtFine_color.png"] = picture(3)
    for folder, files in trees.items():
        zipped(root / f"{folder}_trainvaltest.zip", files)


def test_cityscapes_masks_are_given_the_numbers_that_are_scored(tmp_path):
    cityscapes(tmp_path)
    prepare("cityscapes", tmp_path)
    masks = tmp_path / "cityscapes" / "gtFine"
    made = np.asarray(Image.open(masks / "val/aachen/aachen_000001_000019_gtFine_labelTrainIds.png"))
    assert made.ravel()[:5].tolist() == [255, 0, 2, 13, 18]
    assert not (masks / "test").exists()
    report = check_dataset(subjects("cityscapes", tmp_path)[0])
    assert report.images == {"train": 2, "test": 2}
    assert {f.kind for f in report.findings if f.defect} == {"empty class", "wrong count"}


def test_cityscapes_unpacked_by_hand_gets_the_masks_that_are_missing(tmp_path):
    cityscapes(tmp_path)
    prepare("cityscapes", tmp_path)
    gone = tmp_path / "cityscapes/gtFine/train/aachen/aachen_000000_000019_gtFine_labelTrainIds.png"
    gone.unlink()
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"):
        (tmp_path / name).unlink()
    prepare("cityscapes", tmp_path)
    assert gone.is_file()


def test_the_19_classes_of_cityscapes_are_numbered_in_the_order_of_their_names():
    """By the table of cityscapesscripts: road 7, sidewalk 8, building 11, ..., bicycle 33."""
    table = {
        "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
        "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
        "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
    }  # fmt: skip
    names = known("cityscapes", Path("data")).classes
    made = train_ids(np.arange(256, dtype=np.uint8))
    assert {name: int(np.flatnonzero(made == number)[0]) for number, name in enumerate(names)} == table
    assert (made == 255).sum() == 256 - 19


# Detection.


def test_voc0712_joins_three_archives(tmp_path):
    voc2012(tmp_path)
    year = tmp_path / "VOCtrainval_11-May-2012.tar"
    with tarfile.open(year, "a") as archive:
        info = tarfile.TarInfo("VOCdevkit/VOC2012/ImageSets/Main/trainval.txt")
        info.size = len(content := f"{FIT[0]}\n".encode())
        archive.addfile(info, io.BytesIO(content))
    box = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    for number, (part, name) in enumerate((("trainval", "000005"), ("test", "000001"))):
        top = "VOCdevkit/VOC2007"
        files = {
            f"{top}/JPEGImages/{name}.jpg": picture(50 + number),
            f"{top}/Annotations/{name}.xml": f"<annotation>{box}</annotation>".encode(),
            f"{top}/ImageSets/Main/{part}.txt": f"{name}\n".encode(),
        }
        tar(tmp_path / f"VOC{part}_06-Nov-2007.tar", files)
    prepare("voc0712", tmp_path)
    report = check_dataset(subjects("voc0712", tmp_path)[0])
    assert report.images == {"train": 2, "test": 1}
    empty = [f for f in report.findings if f.kind == "empty class" and f.where.endswith("of train")]
    assert len(empty) == len(VOC_CLASSES) - 1 and not any(f.defect for f in empty)


def test_coco_keeps_images_and_instances(tmp_path):
    for split, number in (("train2017", 1), ("val2017", 2)):
        zipped(tmp_path / f"{split}.zip", {f"{split}/00000000000{number}.jpg": picture(number)})
    kinds = ("instances", "captions")
    parts = {f"annotations/{kind}_{split}.json": b"{}" for kind in kinds for split in ("train2017", "val2017")}
    zipped(tmp_path / "annotations_trainval2017.zip", parts)
    prepare("coco", tmp_path)
    assert names_below(tmp_path / "coco") == [
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "train2017/000000000001.jpg",
        "val2017/000000000002.jpg",
    ]


# What is missing, damaged, cut off or killed.


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("dtd", "dtd-r1.0.1.tar.gz"),
        ("caltech256", "256_ObjectCategories.tar"),
        ("cub200", "CUB_200_2011.tgz"),
        ("voc2012aug", "VOCtrainval_11-May-2012.tar"),
        ("ade20k", "ADEChallengeData2016.zip"),
        ("voc0712", "VOCtrainval_06-Nov-2007.tar"),
        ("coco", "train2017.zip"),
    ],
)
def test_offline_one_sentence_says_which_file_to_place_where(tmp_path, capsys, name, file):
    root = tmp_path / "data"
    assert cli.main(["data", "prepare", name, "--data-root", str(root)]) == 1
    said = capsys.readouterr().err
    assert f"{file} cannot be downloaded" in said and f"place it at {root / file} (from " in said
    assert names_below(root) == []


@pytest.mark.parametrize("name", ["imagenet1k", "cityscapes"])
def test_sets_behind_a_registration_name_every_file_that_is_not_there(tmp_path, name):
    archives = {"imagenet1k": owners.IMAGENET, "cityscapes": owners.CITYSCAPES}[name]
    (tmp_path / archives[0].name).write_bytes(b"")
    with pytest.raises(NotPrepared) as error:
        prepare(name, tmp_path)
    assert [archive.name in str(error.value) for archive in archives] == [False, *[True] * (len(archives) - 1)]


@pytest.mark.parametrize("cut", [0.5, 0.98])
def test_a_damaged_archive_is_named_and_no_half_set_appears(tmp_path, cut):
    path = cub200(tmp_path)
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(NotPrepared, match=r"CUB_200_2011.tgz: not an archive, or damaged"):
        prepare("cub200", tmp_path)
    assert absent(known("cub200", tmp_path)) is not None


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    path = tar(tmp_path / "bad.tar", {"top/../../x.txt": b"x"})
    with pytest.raises(NotPrepared, match="points outside the folder"):
        unpack(path, tmp_path / "into", lambda name: name, show=False)
    assert not (tmp_path.parent / "x.txt").exists()


@pytest.mark.parametrize("name", ["CUB_200_2011/images/001.Albatross/A_0001.jpg", "CUB_200_2011/images.txt"])
def test_an_archive_that_expands_too_far_is_refused_and_leaves_nothing(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("KDEP_MAX_EXPANDED", "100000")
    cub200(tmp_path)
    prepare("cub200", tmp_path)
    shutil.rmtree(tmp_path / "cub200")
    with tarfile.open(path := tmp_path / "CUB_200_2011.tgz") as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    tar(path, {**files, name: bytes(300_000)})
    assert path.stat().st_size < 10_000
    assert cli.main(["data", "prepare", "cub200", "--data-root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert (
        f"{path}: " in said and "would expand to 30" in said and "KDEP_MAX_EXPANDED allows a growth of 100,000" in said
    )
    assert names_below(tmp_path) == [path.name] and left_behind(tmp_path) == []


def test_what_is_there_already_counts_as_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("KDEP_MAX_EXPANDED", "3000")
    path = tar(tmp_path / "zeros.tgz", {f"{number}": bytes(1000) for number in range(9)})
    for number in range(9):
        (tmp_path / "into" / f"{number}").parent.mkdir(exist_ok=True)
        (tmp_path / "into" / f"{number}").write_bytes(bytes(1000))
    with pytest.raises(data_archives.TooLarge, match="zeros.tgz"):
        unpack(path, tmp_path / "into", lambda name: name, show=False)


def test_an_archive_larger_than_the_limit_that_does_not_grow_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("KDEP_MAX_EXPANDED", "1000")  # as ImageNet's, of 138 GB
    files = {f"{number}": os.urandom(5000) for number in range(5)}
    for path in (tar(tmp_path / "a.tar", files), tar(tmp_path / "a.tgz", files), zipped(tmp_path / "a.zip", files)):
        assert unpack(path, tmp_path / path.suffix, lambda name: name, show=False) == 5


@pytest.mark.parametrize("name", ["x" * 250, "a/" + "y" * 201, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    member = data_archives.Member(name, 0, None, None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data_archives, "members", lambda path: iter([member]))
        with pytest.raises(NotPrepared, match="odd.tar: the name .* is too long, or no name of a file"):
            unpack(tmp_path / "odd.tar", tmp_path / "into", lambda name: name, show=False)


def test_a_list_in_the_archive_that_says_something_else_names_the_archive(tmp_path):
    path = tar(tmp_path / "CUB_200_2011.tgz", {"CUB_200_2011/images.txt": b"1 two words\n"})
    with pytest.raises(NotPrepared, match=rf"{path}: not the owner's files, or damaged \(.*\); download"):
        prepare("cub200", tmp_path)


def test_an_encrypted_zip_file_is_named(tmp_path):
    path = ade20k(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:  # the bit that says so, in the central directory and in the local header
        content[at + 8] |= 1
        at = content.find(b"PK\x01\x02", at + 1)
    path.write_bytes(content)
    with pytest.raises(NotPrepared, match="ADEChallengeData2016.zip: not an archive, or damaged .*encrypted"):
        prepare("ade20k", tmp_path)


def test_a_killed_unpacking_goes_on_and_writes_no_file_twice(tmp_path, monkeypatch):
    cub200(tmp_path)
    written = []
    real = data_archives.write_atomically

    def write(path, content):
        if len(written) == 2:
            written.append(None)
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, content)

    monkeypatch.setattr(data_archives, "write_atomically", write)
    with pytest.raises(KeyboardInterrupt):
        prepare("cub200", tmp_path)
    assert not (tmp_path / "cub200").exists()
    prepare("cub200", tmp_path)
    assert names_below(tmp_path / "cub200") == CUB_SORTED
    assert len([name for name in written if name]) == 4 and left_behind(tmp_path) == []


def test_of_two_commands_at_once_one_makes_the_set_and_the_other_waits(tmp_path, monkeypatch):
    real, written, failed = data_archives.write_atomically, [], []

    def write(path, content):
        time.sleep(0.02)
        written.append(path.name)
        real(path, content)

    def run():
        try:
            prepare("cub200", tmp_path)
        except Exception as error:
            failed.append(error)

    cub200(tmp_path)
    monkeypatch.setattr(data_archives, "write_atomically", write)
    both = [threading.Thread(target=run) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert failed == [] and len(written) == 4
    assert names_below(tmp_path / "cub200") == CUB_SORTED and left_behind(tmp_path) == []


def test_a_neighbour_made_from_another_archive_is_not_gone_on_with(tmp_path):
    stale = tmp_path / ".cub200.00000000.partial" / "train" / "001.Albatross"
    stale.mkdir(parents=True)
    (stale / "old.jpg").write_bytes(b"old")
    cub200(tmp_path)
    prepare("cub200", tmp_path)
    assert names_below(tmp_path / "cub200") == CUB_SORTED and left_behind(tmp_path) == []


def test_what_is_there_stays_untouched_even_without_its_archive(tmp_path):
    cub200(tmp_path)
    prepare("cub200", tmp_path)
    (tmp_path / "CUB_200_2011.tgz").unlink()
    mine = tmp_path / "cub200" / "train" / "001.Albatross" / "mine.jpg"
    mine.write_bytes(picture(9))
    prepare("cub200", tmp_path)
    assert mine.is_file()


def test_an_incomplete_folder_of_that_name_is_told(tmp_path):
    (tmp_path / "cub200" / "train").mkdir(parents=True)
    with pytest.raises(NotPrepared, match=r"cub200: not complete: .*cub200.test is not there"):
        prepare("cub200", tmp_path)


def test_build_makes_in_an_empty_folder_too(tmp_path):
    (tmp_path / "here").mkdir()
    build(tmp_path / "here", [], lambda archives, into: (into / "x").write_text("x") and None)
    assert names_below(tmp_path) == ["here/x"]


def test_scenes_are_generated(tmp_path, monkeypatch):
    from kdep_benchmarks.data.scenes import make as scenes

    sizes = {"size": 32, "dense_size": 32, "pool": 2, "train_per_class": 2, "test_per_class": 1}
    small = functools.partial(scenes.write_scenes, **sizes, dense_train=10, dense_val=10)
    monkeypatch.setattr(scenes, "write_scenes", small)
    for name in ("scenes", "scenes-coco"):
        prepare(name, tmp_path)
    for name in ("scenes", "scenes-voc", "scenes-ade20k", "scenes-coco"):
        report = check_dataset(subjects(name, tmp_path)[0])
        assert report.images == ({"train": 24, "test": 12} if name == "scenes" else {"train": 10, "test": 10})
        assert {f.kind for f in report.findings if f.defect} <= {"empty class"}  # ten pictures do not show everything


# Downloads, from a server of this test's own.


class Partial(http.server.BaseHTTPRequestHandler):
    """Serves `content`; understands ranges where `ranges`, and stops after `stop_after` bytes."""

    content, ranges, stop_after, asked = b"", True, None, []

    def do_GET(self):  # noqa: N802  the name is the library's
        start = self.headers.get("Range")
        type(self).asked.append(start)
        begin = int(start.removeprefix("bytes=").rstrip("-")) if start and self.ranges else 0
        if begin >= len(self.content):
            self.send_error(416)
            return
        rest = self.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.stop_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    import urllib.request

    monkeypatch.undo()  # this server may be reached
    handler = type("Handler", (Partial,), {"content": os.urandom(5000), "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}/set.tgz"
        monkeypatch.setattr(data_archives.urllib.request, "urlopen", urllib.request.build_opener().open)
        yield handler
        running.shutdown()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_goes_on_or_begins_anew_where_the_server_cannot(tmp_path, server, ranges):
    part = tmp_path / "set.tgz.part"
    server.ranges, server.stop_after = ranges, 2000
    with pytest.raises(OSError, match="the connection broke after 2000 of 5000 bytes"):
        download(server.url, part, show=False)
    server.stop_after = None
    download(server.url, part, show=False)
    assert part.read_bytes() == server.content and server.asked == [None, "bytes=2000-"]
    if ranges:
        download(server.url, part, show=False)  # complete: the server has nothing behind the end
        assert part.read_bytes() == server.content


def test_a_download_is_kept_under_its_name_only_with_the_owners_md5(tmp_path, server):
    digest = hashlib.md5(server.content, usedforsecurity=False).hexdigest()
    with pytest.raises(NotPrepared, match=f"the download has md5 {digest}, the owner's file 0000"):
        obtain((Archive("set.tgz", "page", server.url, "0000"),), tmp_path, show=False)
    assert list(tmp_path.iterdir()) == []
    (path,) = obtain((Archive("set.tgz", "page", server.url, digest),), tmp_path, show=False)
    assert path.read_bytes() == server.content and names_below(tmp_path) == ["set.tgz"]


def test_every_card_can_be_prepared():
    assert set(data_prepare.RECIPES) | {"caltech256"} == set(CARDS)
