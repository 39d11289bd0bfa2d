"""Make the data sets whose archives their owners publish, in the layouts of their cards."""

import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from kdep.files import write_atomically, write_text
from kdep_benchmarks.data.cards import CARDS
from kdep_benchmarks.data.preparation.archives import (
    Archive,
    NotPrepared,
    filled,
    make_from,
    md5_of,
    members,
    unpack_some,
    without_first,
)
from kdep_benchmarks.data.preparation.masks_made import voc_mask, write_train_ids
from kdep_benchmarks.data.readers.masks import FULL_ADE20K, full_ade20k

PER_CLASS = 60  # training images of each class of Caltech-256, as in the paper's code
CALTECH256 = Archive(
    "256_ObjectCategories.tar",
    "data.caltech.edu/records/nyy15-4j048",
    "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
    "67b4f42ca05d46448c6bb8ecd2220f6d",
)
CUB200 = Archive(
    "CUB_200_2011.tgz",
    "data.caltech.edu/records/65de6-vp158",
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "97eceeb196236b17998738112f37df78",
)
ADE20K = Archive(
    "ADEChallengeData2016.zip",
    "data.csail.mit.edu/places/ADEchallenge",
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
)
COCO = tuple(
    Archive(name, "cocodataset.org", f"http://images.cocodataset.org/{folder}/{name}")
    for folder, name in (
        ("zips", "train2017.zip"),
        ("zips", "val2017.zip"),
        ("annotations", "annotations_trainval2017.zip"),
    )
)
CITYSCAPES = tuple(
    Archive(name, "www.cityscapes-dataset.com/downloads, after registration")
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
)
IMAGENET = tuple(
    Archive(name, "image-net.org/challenges/LSVRC/2012, after registration")
    for name in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
)


def _caltech256(archives: list[Path], into: Path, *, show: bool) -> None:
    """The first images of each class by name are train."""
    classes: dict[str, list[str]] = defaultdict(list)
    for member in members(archives[0]):
        parts = PurePosixPath(member.name).parts
        if len(parts) == 3 and parts[2].endswith(".jpg"):
            classes[parts[1]].append(parts[2])
    train = {(name, image) for name, images in classes.items() for image in sorted(images)[:PER_CLASS]}

    def place(name: str) -> str | None:
        parts = PurePosixPath(name).parts
        if len(parts) != 3 or not parts[2].endswith(".jpg"):
            return None
        return "/".join(("train" if parts[1:] in train else "test", *parts[1:]))

    unpack_some(archives[0], into, place, "256_ObjectCategories/CLASS/IMAGE.jpg", show)


def _cub200(archives: list[Path], into: Path, *, show: bool) -> None:
    lists = {"images.txt": {}, "train_test_split.txt": {}}
    for member in members(archives[0]):
        if member.name.count("/") == 1 and (name := without_first(member.name)) in lists:
            lists[name] = dict(line.split() for line in member.read().decode().splitlines())
    train = lists["train_test_split.txt"]
    split_of = {
        image: "train" if train[number] == "1" else "test"
        for number, image in lists["images.txt"].items()
        if number in train
    }

    def place(name: str) -> str | None:
        image = without_first(name).removeprefix("images/")
        return f"{split_of[image]}/{image}" if image in split_of else None

    unpack_some(archives[0], into, place, "images listed in images.txt and train_test_split.txt", show)


def _ade20k(data_root: Path, show: bool) -> None:
    place = CARDS["ade20k"].folder
    for folder in (data_root, data_root / "ade"):
        full = full_ade20k(folder)
        if full is not None and not filled(data_root / place) and not (data_root / ADE20K.name).is_file():
            raise NotPrepared(FULL_ADE20K.format(place=full) + f" downloads it, or takes it from {data_root}")
    make_from(data_root, place, (ADE20K,), partial(_below, "ADEChallengeData2016"), show)


def _below(folder: str, archives: list[Path], into: Path, *, show: bool) -> None:
    """Unpack what lies below one folder of each archive."""

    def place(name: str) -> str | None:
        return name.removeprefix(f"{folder}/") if name.startswith(f"{folder}/") else None

    for path in archives:
        unpack_some(path, into, place, f"{folder}/", show)


def _voc(years: tuple[str, ...], data_root: Path, show: bool) -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # addresses and md5 of the owner's files

    for year in years:
        keys = ("2007", "2007-test") if year == "2007" else (year,)
        said = [DATASET_YEAR_DICT[key] for key in keys]
        page = f"host.robots.ox.ac.uk/pascal/VOC/voc{year}"
        archives = tuple(Archive(entry["filename"], page, entry["url"], entry["md5"]) for entry in said)
        folder = f"VOCdevkit/VOC{year}"
        make_from(data_root, folder, archives, partial(_below, folder), show)


def _voc2012aug(data_root: Path, show: bool) -> None:
    """SBD's masks for its train and val images less VOC's val, VOC's own for VOC's train: 10,582, as is usual.

    Masks placed by hand are used; those of VOC's val images are not listed.
    """
    from torchvision.datasets import SBDataset

    _voc(("2012",), data_root, show)
    year = data_root / "VOCdevkit" / "VOC2012"
    if not (year / "ImageSets" / "Segmentation" / "val.txt").is_file():
        raise NotPrepared(f"{year}: exists but is not VOC 2012; move it away until VOC 2012 is unpacked")
    sbd = Archive("benchmark.tgz", "home.bharathh.info/pubs/codes/SBD/download.html", SBDataset.url, SBDataset.md5)
    folder = "VOCdevkit/VOC2012/SegmentationClassAug"
    make_from(data_root, folder, (sbd,), partial(_augmented, year), show)
    # Listed from the folder, so that an interrupted run can make the list again.
    lists = year / "ImageSets" / "Segmentation"
    names = {path.stem for path in (data_root / folder).glob("*.png")} - set((lists / "val.txt").read_text().split())
    text = "".join(f"{name}\n" for name in sorted(names))
    write_text(lists / "trainaug.txt", text)


def _augmented(year: Path, archives: list[Path], into: Path, *, show: bool) -> None:
    lists = {part: (year / f"ImageSets/Segmentation/{part}.txt").read_text().split() for part in ("train", "val")}
    listed: set[str] = set()
    for member in members(archives[0]):
        if member.name.endswith(("dataset/train.txt", "dataset/val.txt")):
            listed |= set(member.read().decode().split())
    wanted = listed - set(lists["val"]) - set(lists["train"])
    for member in members(archives[0]):
        path = PurePosixPath(member.name)
        if path.parent.name == "cls" and path.stem in wanted and not (into / f"{path.stem}.png").is_file():
            mask = voc_mask(member.read())
            write_atomically(into / f"{path.stem}.png", lambda part, mask=mask: mask.save(part, "PNG"))
    if missing := sorted(name for name in wanted if not (into / f"{name}.png").is_file()):
        raise NotPrepared(f"{archives[0]}: lists {len(missing)} images without a mask, such as {missing[0]}")
    if not wanted:
        raise NotPrepared(
            f"{archives[0]}: contains nothing of the owner's benchmark_RELEASE/dataset; download it again"
        )
    for name in lists["train"]:
        source = year / "SegmentationClass" / f"{name}.png"
        write_atomically(into / f"{name}.png", lambda part, source=source: shutil.copyfile(source, part))


def _cityscapes(data_root: Path, show: bool) -> None:
    make_from(data_root, "cityscapes", CITYSCAPES, _cityscapes_trees, show)
    write_train_ids(data_root / "cityscapes" / "gtFine", show=show)


def _cityscapes_trees(archives: list[Path], into: Path, *, show: bool) -> None:
    ends = {"leftImg8bit": "_leftImg8bit.png", "gtFine": "_gtFine_labelIds.png"}
    for path, (folder, end) in zip(archives, ends.items(), strict=True):
        below = (f"{folder}/train/", f"{folder}/val/")

        def place(name: str, below: tuple[str, str] = below, end: str = end) -> str | None:
            return name if name.startswith(below) and name.endswith(end) else None

        unpack_some(path, into, place, " and ".join(below), show)


def _coco_trees(archives: list[Path], into: Path, *, show: bool) -> None:
    kept = ("train2017/", "val2017/", "annotations/instances_")
    for path in archives:
        unpack_some(path, into, lambda name: name if name.startswith(kept) else None, ", ".join(kept), show)


def _imagenet_trees(archives: list[Path], into: Path, *, show: bool) -> None:
    """Use torchvision's reader, which cannot resume and therefore starts again."""
    from torchvision.datasets import imagenet

    shutil.rmtree(into)
    into.mkdir()
    links = [into / path.name for path in archives]
    for link, path in zip(links, archives, strict=True):
        link.symlink_to(path.resolve())
    try:
        imagenet.parse_devkit_archive(into)
        imagenet.parse_train_archive(into)
        imagenet.parse_val_archive(into)
    except (RuntimeError, OSError, ValueError) as error:
        raise NotPrepared(f"{archives[0].parent}: torchvision cannot read the archives ({error})") from error
    for link in links:
        link.unlink()
    (into / imagenet.META_FILE).unlink()


def _torchvision(name: str, data_root: Path, show: bool) -> None:
    import torchvision

    kind = CARDS[name].files["train"].partition(":")[0]
    make = getattr(torchvision.datasets, kind)
    url, md5 = (make._URL, make._MD5) if kind == "DTD" else (make.url, make.tgz_md5)
    archive = Archive(url.rpartition("/")[2], url, url, md5)
    make_from(data_root, CARDS[name].folder, (archive,), partial(_by_torchvision, make, md5), show)


def _by_torchvision(make: Any, md5: str, archives: list[Path], into: Path, *, show: bool) -> None:
    path = archives[0]
    # torchvision would overwrite an archive that it does not know.
    if (found := md5_of(path)) != md5:
        raise NotPrepared(f"{path}: has md5 {found}, the owner's file {md5}; remove it and run this again")
    folder = into / "dtd" if make.__name__ == "DTD" else into
    folder.mkdir(exist_ok=True)
    copy = folder / path.name
    copy.unlink(missing_ok=True)
    try:
        os.link(path, copy)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, copy)
    make(into, download=True)
    copy.unlink()


def _scenes(data_root: Path, show: bool) -> None:
    from kdep_benchmarks.data.scenes.make import MARKER, write_scenes

    if not (data_root / "scenes" / MARKER).is_file():
        write_scenes(data_root / "scenes")


RECIPES: dict[str, Callable[[Path, bool], None]] = {
    **{name: partial(_torchvision, name) for name in ("cifar10", "cifar100", "dtd")},
    "caltech256": lambda root, show: make_from(root, "caltech256", (CALTECH256,), _caltech256, show),
    "cub200": lambda root, show: make_from(root, "cub200", (CUB200,), _cub200, show),
    "imagenet1k": lambda root, show: make_from(root, "imagenet", IMAGENET, _imagenet_trees, show),
    "voc2012": partial(_voc, ("2012",)),
    "voc2012aug": _voc2012aug,
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
    "voc0712": partial(_voc, ("2007", "2012")),
    "coco": lambda root, show: make_from(root, "coco", COCO, _coco_trees, show),
    **{name: _scenes for name in CARDS if name.startswith("scenes")},
}
