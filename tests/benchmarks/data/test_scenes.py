"""The embedded data set: the same everywhere, true to its formats, whole or absent."""

import contextlib
import functools
import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from kdep_benchmarks.data.scenes import make
from kdep_benchmarks.data.scenes.formats import Picture, write_ade20k, write_voc
from kdep_benchmarks.data.scenes.make import CLASSES, EMPTY_EVERY, STUFF, write_scenes
from kdep_benchmarks.data.scenes.render import HIDDEN, LEAST_VISIBLE_PIXELS, render

REPOSITORY = Path(__file__).resolve().parents[3]
SMALL = {
    "size": 40,
    "dense_size": 80,
    "pool": 16,
    "train_per_class": 3,
    "test_per_class": 2,
    "dense_train": 24,
    "dense_val": 24,
}
ADE20K_SPLIT = {"train": "training", "val": "validation"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, **SMALL)
    return folder


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def images(root, *folders):
    return [path.read_bytes() for folder in folders for path in sorted((root / folder).rglob("*.jpg"))]


def mask(path):
    return np.asarray(Image.open(path))


def open_coco(root, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / f"coco/annotations/instances_{split}.json"))


def annotated(root, split):
    """Yield (image name, annotation, mask) of every COCO annotation of the split."""
    coco = open_coco(root, split)
    for annotation in coco.dataset["annotations"]:
        name = coco.imgs[annotation["image_id"]]["file_name"].removesuffix(".jpg")
        yield name, annotation, coco.annToMask(annotation).astype(bool)


def voc_objects(root, name):
    """List (class, 0-based box with exclusive end) of one xml file."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    tree = ElementTree.parse(root / f"VOC2012/Annotations/{name}.xml")
    boxes = [(o.findtext("name"), [int(o.findtext(f"bndbox/{e}")) for e in edges]) for o in tree.findall("object")]
    return [(label, (left - 1, top - 1, right, bottom)) for label, (left, top, right, bottom) in boxes]


def test_same_seed_gives_the_same_bytes(root, tmp_path):
    write_scenes(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(root)


def test_another_seed_shares_no_image(root, tmp_path):
    write_scenes(tmp_path / "other", seed=1, **SMALL)
    assert not set(images(root, ".")) & set(images(tmp_path / "other", "."))


def test_splits_share_no_image(root):
    found = images(root, "images", "classification", "coco")
    assert len(set(found)) == len(found) == 16 + 12 * (3 + 2) + 24 + 24


def test_a_larger_split_begins_with_the_smaller_one(root, tmp_path):
    write_scenes(tmp_path / "larger", **{**SMALL, "pool": 20, "train_per_class": 4, "dense_val": 26})
    larger = contents(tmp_path / "larger")
    changed = {path for path, content in contents(root).items() if larger[path] != content}
    assert changed == {
        "scenes.json",
        "coco/annotations/instances_val.json",
        "VOC2012/ImageSets/Main/val.txt",
        "VOC2012/ImageSets/Segmentation/val.txt",
    }


def test_every_image_opens_at_its_size(root):
    for folder, size in {"images": 40, "classification": 40, "VOC2012": 80, "ade20k": 80, "coco": 80}.items():
        opened = [Image.open(io.BytesIO(content)) for content in images(root, folder)]
        assert opened
        assert {(image.mode, image.size) for image in opened} == {("RGB", (size, size))}
        assert min(np.asarray(image).std() for image in opened) > 2


@pytest.mark.parametrize(("split", "per_class"), [("train", 3), ("test", 2)])
def test_classification_has_the_declared_images_of_every_class(root, split, per_class):
    counts = {folder.name: len(list(folder.glob("*.jpg"))) for folder in (root / "classification" / split).iterdir()}
    assert counts == dict.fromkeys(CLASSES, per_class)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_dense_trees_hold_the_same_pictures(root, split):
    names = (root / f"VOC2012/ImageSets/Segmentation/{split}.txt").read_text().split()
    assert len(names) == 24
    assert (root / f"VOC2012/ImageSets/Main/{split}.txt").read_text().split() == names
    for name in names:
        voc, ade20k = f"VOC2012/JPEGImages/{name}.jpg", f"ade20k/images/{ADE20K_SPLIT[split]}/{name}.jpg"
        assert len({(root / path).read_bytes() for path in (voc, ade20k, f"coco/{split}/{name}.jpg")}) == 1
    assert len(list((root / f"coco/{split}").iterdir())) == 24


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_are_the_tight_boxes_of_visible_pixels(root, split):
    for _, annotation, visible in annotated(root, split):
        rows, columns = np.nonzero(visible)
        extent = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == extent
        assert annotation["area"] == visible.sum() >= LEAST_VISIBLE_PIXELS
        assert annotation["iscrowd"] == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_agree_with_the_instances(root, split):
    for name, annotation, visible in annotated(root, split):
        voc = mask(root / f"VOC2012/SegmentationClass/{name}.png")[visible]
        assert set(voc) <= {annotation["category_id"], 255}
        ade20k = mask(root / f"ade20k/annotations/{ADE20K_SPLIT[split]}/{name}.png")[visible]
        assert set(ade20k) == {annotation["category_id"]}


@pytest.mark.parametrize("split", ["train", "val"])
def test_voc_xml_holds_the_coco_boxes(root, split):
    expected = {name: [] for name in (root / f"VOC2012/ImageSets/Main/{split}.txt").read_text().split()}
    for name, annotation, _ in annotated(root, split):
        x, y, width, height = annotation["bbox"]
        expected[name].append((CLASSES[annotation["category_id"] - 1], (x, y, x + width, y + height)))
    assert {name: voc_objects(root, name) for name in expected} == expected


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_class_is_annotated_and_some_image_has_no_object(root, split):
    coco = open_coco(root, split)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert {annotation["category_id"] for annotation in coco.dataset["annotations"]} == set(range(1, len(CLASSES) + 1))
    assert set(coco.imgs) - {a["image_id"] for a in coco.dataset["annotations"]} >= {EMPTY_EVERY}


def test_voc_masks_hold_classes_and_void_under_the_voc_palette(root):
    found = [Image.open(path) for path in sorted((root / "VOC2012/SegmentationClass").iterdir())]
    values = set(np.concatenate([np.unique(image) for image in found]).tolist())
    assert values == {0, 255, *range(1, len(CLASSES) + 1)}
    palette = np.reshape(found[0].getpalette(), (256, 3)).tolist()
    # The devkit's colours: background, aeroplane, person, void.
    assert [palette[k] for k in (0, 1, 15, 255)] == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]


def test_ade20k_masks_hold_objects_grounds_and_other(root):
    found = [np.unique(mask(path)) for path in (root / "ade20k/annotations").rglob("*.png")]
    assert set(np.concatenate(found).tolist()) == set(range(len(CLASSES) + len(STUFF) + 1))


def test_an_object_too_hidden_to_see_is_not_named():
    scene = render(np.random.default_rng(0), size=96, labels=[1, *[0] * 9], radius=(0.4, 0.4))
    assert 0 < len(scene.things) < 10
    assert (scene.owner == HIDDEN).any()
    for number, thing in enumerate(scene.things, start=1):
        assert np.array_equal(scene.owner == number, thing.visible)


def test_a_hidden_object_is_void_in_voc_and_other_in_ade20k(tmp_path):
    scene = render(np.random.default_rng(0), size=96, labels=[1, *[0] * 9], radius=(0.4, 0.4))
    picture = Picture("a", b"", scene)
    write_voc(tmp_path, [picture], split="train", classes=CLASSES)
    write_ade20k(tmp_path, [picture], split="training", things=len(CLASSES))
    hidden = scene.owner == HIDDEN
    assert set(mask(tmp_path / "SegmentationClass/a.png")[hidden]) == {255}
    assert set(mask(tmp_path / "annotations/training/a.png")[hidden]) == {0}


def test_a_single_object_is_always_seen():
    for index in range(120):
        label = index % len(CLASSES)
        scene = render(np.random.default_rng(index), size=48, labels=[label], radius=(0.32, 0.42))
        assert [thing.label for thing in scene.things] == [label]


def test_an_object_cut_by_the_border_is_truncated():
    scenes = [render(np.random.default_rng(k), size=64, labels=[0], radius=(0.3, 0.4)) for k in range(40)]
    found = [(thing.truncated, 0 in thing.box or 64 in thing.box) for scene in scenes for thing in scene.things]
    assert {truncated for truncated, _ in found} == {True, False}
    assert all(touches for truncated, touches in found if truncated)


def test_a_second_call_draws_nothing_and_leaves_everything_as_it_is(root, monkeypatch):
    before = root.stat()
    monkeypatch.setattr(make, "_write_trees", None)
    write_scenes(root, **SMALL)
    assert (root.stat().st_ino, root.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_marker_fingerprints_all_files(root):
    marker = json.loads((root / "scenes.json").read_text())
    files = sorted((Path(path), content) for path, content in contents(root).items() if path != "scenes.json")
    digest = hashlib.sha256()
    for path, content in files:
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    assert (marker["files"], marker["sha256"]) == (len(files), digest.hexdigest())
    assert marker["parameters"] == {"version": 1, "seed": 0, **SMALL}


def test_other_parameters_are_refused_and_nothing_is_touched(root):
    before = contents(root)
    with pytest.raises(ValueError, match="pool=16 instead of 17; delete it, or name another folder"):
        write_scenes(root, **{**SMALL, "pool": 17})
    assert contents(root) == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(ValueError, match=r"not a folder of scenes \(no scenes.json\)"):
        write_scenes(tmp_path, **SMALL)
    assert contents(tmp_path) == {"thesis.txt": b"chapter 1"}


def test_an_empty_folder_is_filled(tmp_path):
    write_scenes(tmp_path / "new", **{**SMALL, "pool": 1})
    (tmp_path / "empty").mkdir()
    write_scenes(tmp_path / "empty", **{**SMALL, "pool": 1})
    assert contents(tmp_path / "empty") == contents(tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "new"}


@pytest.mark.parametrize(("how", "left_beside"), [(signal.SIGINT, 0), (signal.SIGKILL, 1)])
def test_an_interrupted_run_leaves_no_data_set(tmp_path, how, left_beside):
    code = f"from kdep_benchmarks.data.scenes.make import write_scenes; write_scenes({str(tmp_path / 'scenes')!r})"
    command = [sys.executable, "-c", code]
    # A test run in the background of a shell ignores SIGINT, and its children would inherit that.
    obey = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, preexec_fn=obey) as process:
        while process.poll() is None and not list(tmp_path.glob(".scenes.*.partial/scenes/images/000010.jpg")):
            time.sleep(0.02)
        process.send_signal(how)
    assert process.returncode != 0
    assert not (tmp_path / "scenes").exists()
    assert len(list(tmp_path.iterdir())) == left_beside
