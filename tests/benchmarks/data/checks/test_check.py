"""Planted defects are each found, by name and place; a clean set has none."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdep import cli
from kdep_benchmarks.data.cards import CARDS, Card, Dataset
from kdep_benchmarks.data.checks.check import Subject, check_dataset, family_of
from kdep_benchmarks.data.checks.duplicates import NEAR, differing_bits, nearest, shared_images
from kdep_benchmarks.data.checks.labels import label_findings
from kdep_benchmarks.data.checks.masks import unscored
from kdep_benchmarks.data.findings import Finding, finding_lines
from kdep_benchmarks.data.pictures import appearance, look_at, of_file
from kdep_benchmarks.openmmlab.tasks.boxes import write_split
from kdep_benchmarks.openmmlab.tasks.masks import open_masks
from kdep_benchmarks.verbs.data import subjects
from tests.conftest import draw
from tests.helpers import toolbox_trees as trees

SUITE = """
tasks:
  - name: zoo-linear
    kind: linear
    dataset: {{name: zoo, layout: {layout}, root: {root}, files: {{train: {train}, test: {test}}}}}
"""


def folders(root):
    """Six train and two test pictures, all different, in each of three class folders."""
    for split, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("ant", "bee", "cow")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                draw(root / split / name / f"{number}.jpg", 100 * label + 10 * count + number)
    return Dataset("zoo", "imagefolder", root, {"train": "train", "test": "test"})


class rewritten:  # noqa: N801  reads as a verb
    """Change a json in place."""

    def __init__(self, path):
        self.path, self.content = path, json.loads(path.read_text())

    def __enter__(self):
        return self.content

    def __exit__(self, *_):
        self.path.write_text(json.dumps(self.content))


CLEAN = {"folders": folders, "voc": trees.voc, "coco": trees.coco, "ade20k": trees.ade20k, "voc masks": trees.voc}


def looked_over(dataset, *, family=None, card=None):
    return check_dataset(Subject(dataset, family or family_of(dataset), card))


def defects(dataset, **options):
    return [(finding.kind, finding.where) for finding in looked_over(dataset, **options).findings if finding.defect]


@pytest.mark.parametrize("kind", CLEAN)
def test_a_clean_set_has_no_defects(tmp_path, kind):
    report = looked_over(CLEAN[kind](tmp_path), family="segmentation" if kind == "voc masks" else None)
    assert (report.defects, [f for f in report.findings if f.defect]) == (0, [])
    assert report.images == ({"train": 18, "test": 6} if kind == "folders" else trees.COUNTS)


# The planted defects. Each function damages a clean tree and returns what must be found: kind and place.


def truncated_jpeg(root):
    path = root / "train" / "bee" / "3.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    return "image cannot be read", str(path)


def test_a_set_of_one_class_is_a_defect(tmp_path):
    dataset = folders(tmp_path)
    for name in ("bee", "cow"):
        for split in ("train", "test"):
            shutil.rmtree(tmp_path / split / name)
    assert defects(dataset) == [("too few classes", "classes of train")]


def test_equal_images_are_a_warning_in_two_classes_and_a_note_in_one(tmp_path):
    dataset = folders(tmp_path)
    first, second = (sorted((tmp_path / "train" / name).iterdir())[0] for name in ("bee", "cow"))
    second.write_bytes(first.read_bytes())
    copy = shutil.copy(first, first.with_name("copy.jpg"))
    report = looked_over(dataset)
    assert report.defects == 0
    assert {(f.grade, f.kind, f.where) for f in report.findings} == {
        ("warning", "image in two classes of train", str(second)),
        ("note", "image twice in train", str(copy)),
    }
    assert f"class 'cow', has the bytes of {first}, class 'bee'" in "".join(f.what for f in report.findings)


def empty_class(root):
    for split in ("train", "test"):
        (root / split / "dog").mkdir()
    draw(root / "test" / "dog" / "0.jpg", 900)
    return "empty class", "class 'dog' of train"


def class_missing_in_test(root):
    (root / "train" / "dog").mkdir()
    draw(root / "train" / "dog" / "0.jpg", 901)
    return "classes differ", "train and test"


def duplicate(root):
    path = root / "test" / "cow" / "copied.jpg"
    path.write_bytes((root / "train" / "ant" / "2.jpg").read_bytes())
    return "image both in train and in test", str(path)


def mask_value(root):
    return "mask value out of range", change_mask(
        root / "masks" / "train" / "2.png", lambda mask: mask.__setitem__(0, 3)
    )


def mask_size(root):
    path = root / "masks" / "test" / "5.png"
    Image.open(path).resize((79, 72), Image.Resampling.NEAREST).save(path)
    return "mask of another size", str(path)


def mask_of_colours(root):
    path = root / "masks" / "test" / "5.png"
    Image.open(path).convert("RGB").save(path)
    return "mask with colours", str(path)


def mask_missing(root):
    (root / "masks" / "train" / "1.png").unlink()
    return "mask is missing", str(root / "images" / "train" / "1.png")


def mask_cut_short(root):
    path = root / "masks" / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:80])
    return "mask cannot be read", str(path)


def change_mask(path, change):
    mask = np.array(Image.open(path))
    change(mask)
    Image.fromarray(mask).save(path)
    return str(path)


def json_box(root, bbox):
    path = root / "test.json"
    with rewritten(path) as content:
        content["annotations"][3] |= {"bbox": bbox}
        number = content["annotations"][3]["id"]
    return f"{path}, annotation {number} (5.jpg)"


def box_outside(root):
    return "box outside its image", json_box(root, [70, 60, 12, 10])  # the image is 80 x 72


def box_above(root):
    return "box outside its image", json_box(root, [5, -3, 12, 10])


def box_without_area(root):
    return "box without area", json_box(root, [5, 5, 0, 10])


def box_not_finite(root):
    return "box without numbers", json_box(root, [5, 5, math.nan, 10])


def boxes_from_0_to_1(root):
    with rewritten(root / "train.json") as content:
        for item in content["annotations"]:
            x, y, width, height = item["bbox"]
            item["bbox"] = [x / 80, y / 72, width / 80, height / 72]
    return "boxes not in pixels", "train train.json"


def centres_from_0_to_1(root):
    with rewritten(root / "test.json") as content:
        for item in content["annotations"]:
            item["bbox"] = [0.9, 0.5, 0.2, 1.0]
    return "boxes not in pixels", "test test.json"


def boxes_of_one_image_from_0_to_1(root):
    with rewritten(root / "train.json") as content:
        own = [item for item in content["annotations"] if item["image_id"] == 2]
        for item in own:
            x, y, width, height = item["bbox"]
            item["bbox"] = [x / 80, y / 72, width / 80, height / 72]
    return "boxes not in pixels", f"{root / 'train.json'}, annotation {own[0]['id']} (2.jpg)"


def crowd_in_text(root):
    with rewritten(root / "train.json") as content:
        content["annotations"][1]["iscrowd"] = "0"
        number, image = (content["annotations"][1][key] for key in ("id", "image_id"))
    return "crowd or not", f"{root / 'train.json'}, annotation {number} ({image}.jpg)"


def voc_corners_from_0_to_1(root):
    def share(found):
        return f"<{found[1]}>{int(found[2]) / (80 if found[1][0] == 'x' else 72)}</"

    for path in (root / "VOC2012" / "Annotations").glob("train_*.xml"):
        path.write_text(re.sub(r"<([xy]m..)>(\d+)</", share, path.read_text()))
    return "boxes not in pixels", "train VOC2012/ImageSets/Main/train.txt"


def category_of_a_box(root):
    with rewritten(root / "train.json") as content:
        content["annotations"][1]["category_id"] = 99
        number = content["annotations"][1]["id"]
    return "category is missing", f"{root / 'train.json'}, annotation {number}"


def category_of_a_split(root):
    with rewritten(root / "test.json") as content:
        content["categories"] = [item for item in content["categories"] if item["name"] != "green"]
        content["annotations"] = [item for item in content["annotations"] if item["category_id"] != 9]
    return "category is missing", str(root / "test.json")


def image_number_twice(root):
    with rewritten(root / "train.json") as content:
        content["images"].append({**content["images"][0], "file_name": "1.jpg"})
    return "number given twice", f"{root / 'train.json'}, image 0"


def box_without_image(root):
    with rewritten(root / "train.json") as content:
        content["annotations"].append({"id": 77, "image_id": 50, "bbox": [1, 1, 5, 5], "category_id": 7})
    return "box without an image", f"{root / 'train.json'}, annotation 77"


def image_of_another_size(root):
    with rewritten(root / "train.json") as content:
        content["images"][2]["width"] = 90
    return "image of another size", f"{root / 'train.json'}, image 2"


def broken_xml_box(root, text):
    path = root / "VOC2012" / "Annotations" / "train_2.xml"
    path.write_text(path.read_text().replace("</annotation>", f"{text}</annotation>"))
    return f"{path}, object 3"


def voc_box_without_area(root):
    return "box without area", broken_xml_box(root, trees.xml_object("red", 9, 9, 9, 9))


def voc_box_outside(root):
    return "box outside its image", broken_xml_box(root, trees.xml_object("red", 70, 60, 82, 70))


def voc_image_missing(root):
    (root / "VOC2012" / "JPEGImages" / "train_2.jpg").unlink()
    return "image is missing", f"{root / 'VOC2012' / 'ImageSets' / 'Main' / 'train.txt'}, line 3"


def voc_listed_twice(root):
    path = root / "VOC2012" / "ImageSets" / "Main" / "train.txt"
    path.write_text(path.read_text() + "train_0\n")
    return "listed twice", f"{path}, line 5"


def voc_class_spelt_differently(root):
    broken_xml_box(root, trees.xml_object("Red", 9, 9, 19, 19))
    return "class spelt differently", "train"


def json_image_missing(root):
    with rewritten(root / "train.json") as content:
        content["images"][1]["file_name"] = "train/1.jpg"
    return "image is missing", f"{root / 'train.json'}, image 1"


PLANTED = [
    ("folders", truncated_jpeg),
    ("folders", empty_class),
    ("folders", class_missing_in_test),
    ("folders", duplicate),
    ("ade20k", mask_value),
    ("ade20k", mask_size),
    ("ade20k", mask_of_colours),
    ("ade20k", mask_missing),
    ("ade20k", mask_cut_short),
    ("coco", box_outside),
    ("coco", box_above),
    ("coco", box_without_area),
    ("coco", box_not_finite),
    ("coco", boxes_from_0_to_1),
    ("coco", centres_from_0_to_1),
    ("coco", boxes_of_one_image_from_0_to_1),
    ("coco", crowd_in_text),
    ("voc", voc_corners_from_0_to_1),
    ("coco", category_of_a_box),
    ("coco", category_of_a_split),
    ("coco", image_number_twice),
    ("coco", box_without_image),
    ("coco", image_of_another_size),
    ("voc", voc_box_without_area),
    ("voc", voc_box_outside),
    ("voc", voc_image_missing),
    ("voc", voc_listed_twice),
    ("voc", voc_class_spelt_differently),
    ("coco", json_image_missing),
]


@pytest.mark.parametrize(("kind", "plant"), PLANTED, ids=[plant.__name__ for _, plant in PLANTED])
def test_a_planted_defect_is_found_where_it_is_and_nothing_else_is(tmp_path, kind, plant):
    dataset = CLEAN[kind](tmp_path)
    expected = plant(tmp_path)
    assert defects(dataset) == [expected]


def test_a_wrong_count_of_images_or_classes_is_found(tmp_path):
    dataset = folders(tmp_path)
    card = Card("imagefolder", "", dataset.files, "", "", images={"train": 18, "test": 7}, labels=4)
    assert defects(dataset, card=card) == [("wrong count", "classes of train"), ("wrong count", "images of test")]
    right = dataclasses.replace(card, images={"train": 18, "test": 6}, labels=3)
    assert defects(dataset, card=right) == []


@pytest.mark.parametrize(("label", "place"), [(3, "zoo.npz:train:1"), (-1, "zoo.npz:train:1")])
def test_a_label_without_a_class_is_found(tmp_path, label, place):
    content = {"classes": np.array(["ant", "bee", "cow"])}
    for split, first in (("train", 0), ("test", 10)):
        data = []
        for number in range(4):
            draw(tmp_path / "x.jpg", first + number)
            data.append((tmp_path / "x.jpg").read_bytes())
        content[f"{split}_blob"] = np.frombuffer(b"".join(data), np.uint8)
        content[f"{split}_offsets"] = np.cumsum([0, *map(len, data)])
        content[f"{split}_labels"] = np.array([0, 1, 2, 1])
    dataset = Dataset("zoo", "npz", tmp_path, {"train": "zoo.npz:train", "test": "zoo.npz:test"})
    np.savez(tmp_path / "zoo.npz", **content)
    assert defects(dataset) == []
    content["train_labels"][1] = label
    np.savez(tmp_path / "zoo.npz", **content)
    assert defects(dataset) == [("label out of range", place)]


def test_a_picture_resized_and_compressed_again_is_a_note_and_names_both(tmp_path):
    dataset = folders(tmp_path)
    path = tmp_path / "test" / "cow" / "again.jpg"
    original = tmp_path / "train" / "ant" / "2.jpg"
    noise = np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC).save(original)
    Image.open(original).resize((96, 72)).save(path, quality=60)
    found = [f for f in looked_over(dataset).findings if "looks like" in f.kind]
    assert [(f.where, f.defect) for f in found] == [(str(path), False)] and str(original) in found[0].what


def test_pictures_with_equal_hashes_that_differ_are_not_called_alike(tmp_path):
    """The hash does not see contrast: a pattern in black and white and the same in two greys have the same bits."""
    dataset = folders(tmp_path)
    pattern = np.kron(np.random.default_rng(4).integers(0, 2, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    images = [Image.fromarray(pattern * 255), Image.fromarray(100 + pattern * 40)]
    for image, split in zip(images, ("train", "test"), strict=True):
        image.save(tmp_path / split / "ant" / "pattern.png")
    assert bin(appearance(images[0]) ^ appearance(images[1])).count("1") <= 1  # the mean alone may differ
    assert [f for f in looked_over(dataset).findings if "looks like" in f.kind] == []


def test_an_orientation_tag_is_a_note_unless_the_image_is_upright(tmp_path):
    dataset = folders(tmp_path)
    tagged = {tmp_path / "train" / "ant" / f"{number}.jpg": number for number in (1, 3)}
    tagged[tmp_path / "test" / "cow" / "1.png"] = 6
    draw(tmp_path / "test" / "cow" / "1.png", 21)
    for path, orientation in tagged.items():
        trees.set_orientation(path, orientation)
    draw(tmp_path / "test" / "bee" / "damaged.png", 22)
    with Image.open(tmp_path / "test" / "bee" / "damaged.png") as image:
        image.save(image.filename, exif=b"Exif\0\0no tags of any kind")
    report = looked_over(dataset)
    assert report.defects == 0
    notes = {f.where: f.what for f in report.findings if f.kind == "orientation tag"}
    assert list(notes) == [str(path) for path, orientation in tagged.items() if orientation != 1]
    assert "tag 3 is ignored" in list(notes.values())[0] and "tag 6 is ignored" in list(notes.values())[1]


def test_crowds_and_images_without_boxes_are_notes(tmp_path):
    dataset = trees.coco(tmp_path)
    with rewritten(tmp_path / "test.json") as content:
        content["annotations"][0]["iscrowd"] = 1
        content["annotations"] = [item for item in content["annotations"] if item["image_id"] != 6]
    report = looked_over(dataset)
    assert report.defects == 0
    assert {f.kind: f.what.split()[0] for f in report.findings} == {"crowds": "1", "images without boxes": "1"}


@pytest.mark.parametrize("role", ["train", "test"])
def test_without_named_classes_the_splits_categories_are_compared(tmp_path, role):
    dataset = dataclasses.replace(trees.coco(tmp_path), classes=())
    assert defects(dataset) == []
    with rewritten(tmp_path / f"{role}.json") as content:
        content["categories"].append({"id": 50, "name": "blue"})
    lacks = "test" if role == "train" else "train"
    found = [item for item in defects(dataset) if item[0] == "category is missing"]
    assert found == [("category is missing", str(tmp_path / f"{lacks}.json"))]


def test_a_class_that_only_crowds_have_is_empty_which_is_a_note(tmp_path):
    dataset = trees.coco(tmp_path)
    with rewritten(tmp_path / "train.json") as content:
        for item in content["annotations"]:
            item["iscrowd"] = int(item["category_id"] == 3)
    report = looked_over(dataset)
    assert report.defects == 0
    assert ("empty class", "class 'green' of train") in [(f.kind, f.where) for f in report.findings]


def test_a_class_without_a_pixel_is_a_defect_in_train_and_a_note_in_test(tmp_path):
    dataset = dataclasses.replace(trees.ade20k(tmp_path), classes=(*trees.CLASSES, "blue"))
    found = [(f.kind, f.where, f.defect) for f in looked_over(dataset).findings]
    assert found == [("empty class", f"class 'blue' of {role}", role == "train") for role in ("train", "test")]


def test_what_no_score_is_about_is_the_share_of_ignored_pixels_and_the_classes_without_one(tmp_path):
    plain = trees.ade20k(tmp_path)
    masks = np.stack([trees.picture(number)[1] for number in (4, 5, 6)])  # the test images; 0 is unlabelled
    ignored = {"ignored_percent": pytest.approx(100 * (masks == 0).mean())}
    assert unscored(plain, np.bincount(masks.ravel(), minlength=3)[1:]) == ignored
    # A list of names that is longer than the values reach, and one that lacks a class in its midst.
    longer = dataclasses.replace(plain, classes=("red", "green", "blue", "grey"))
    first, second = np.bincount(masks.ravel())[1:]
    last = {"classes_not_in_test": ["blue", "grey"], "last_classes_not_in_test": 2}
    assert unscored(longer, np.array([first, second, 0, 0])) == ignored | last
    middle = unscored(longer, np.array([first, 0, second, 1]))
    assert middle["classes_not_in_test"] == ["green"] and "last_classes_not_in_test" not in middle


@pytest.mark.openmmlab
def test_masks_of_0_and_255_have_one_class_and_are_refused(tmp_path):
    dataset = trees.ade20k(tmp_path)
    for path in sorted((tmp_path / "masks").rglob("*.png")):
        change_mask(path, lambda mask: mask.__setitem__(mask == 2, 255))
    assert {place for kind, place in defects(dataset) if kind == "masks of one class"} == {"train", "test"}
    said = "only 'red' has pixels, so nothing is told apart; the values of classes are 1 to 2, and 255 is ignored"
    with pytest.raises(ValueError, match=f"test: masks of one class: {said}"):
        open_masks(dataset, "test")


def test_the_full_ade20k_is_refused_with_a_sentence(tmp_path):
    dataset = trees.ade20k(tmp_path)
    (tmp_path / "ADE20K_2021_17_01").mkdir()
    findings = looked_over(dataset).findings
    assert "is the full ADE20K; tasks read SceneParse150" in findings[0].what


def test_a_set_of_more_classes_than_masks_can_hold_does_not_open(tmp_path):
    names = tuple(f"class {number}" for number in range(459))
    found = looked_over(dataclasses.replace(trees.ade20k(tmp_path), classes=names)).findings
    assert [(f.kind, f.where, f.defect) for f in found] == [("split does not open", r, True) for r in ("train", "test")]
    assert "459 classes" in found[0].what


def test_a_json_that_does_not_parse_is_told_by_its_line(tmp_path):
    dataset = trees.coco(tmp_path)
    (tmp_path / "test.json").write_text('{"images": [],\n "annotations": [,]}')
    (found,) = [finding for finding in looked_over(dataset).findings if finding.defect]
    assert found.kind == "split does not open" and f"{tmp_path / 'test.json'}, line 2: not JSON" in found.what


def test_an_absent_set_is_one_defect_that_says_how_to_get_it(tmp_path):
    report = check_dataset(subjects("cub200", tmp_path)[0])
    assert [f.kind for f in report.findings] == ["not there"] and "data.caltech.edu" in report.findings[0].what


def test_an_empty_torchvision_folder_is_a_defect_and_nothing_is_downloaded(tmp_path):
    (tmp_path / "cifar10").mkdir()
    report = check_dataset(subjects("cifar10", tmp_path)[0])
    assert "torchvision:CIFAR10:train: not complete in" in report.findings[0].what
    assert list((tmp_path / "cifar10").iterdir()) == []


# Perceptual hash.


def test_the_hash_of_appearance_is_that_of_the_cosine_transform_written_out():
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32), dtype=np.uint8)
    image = Image.fromarray(pixels)
    values = []
    for u in range(8):
        for v in range(8):
            total = 0.0
            for y in range(32):
                for x in range(32):
                    wave = math.cos(math.pi * u * (2 * y + 1) / 64) * math.cos(math.pi * v * (2 * x + 1) / 64)
                    total += float(pixels[y, x]) * wave
            values.append(total)
    median = (sorted(values)[31] + sorted(values)[32]) / 2
    assert f"{appearance(image):064b}" == "".join(str(int(value > median)) for value in values)


def test_the_bits_are_those_of_imagehash(tmp_path):
    imagehash = pytest.importorskip("imagehash", reason="imagehash is no dependency; compared where it is installed")
    draw(tmp_path / "x.jpg", 5)
    image = Image.open(tmp_path / "x.jpg")
    assert f"{appearance(image):016x}" == str(imagehash.phash(image))


@pytest.mark.parametrize(("within", "at_once"), [(0, 10**6), (3, 10**6), (NEAR, 10**6), (NEAR, 5)])
def test_the_nearest_hashes_are_those_of_comparing_all_pairs(within, at_once, monkeypatch):
    monkeypatch.setattr("kdep_benchmarks.data.checks.duplicates.AT_ONCE", at_once)
    generator = np.random.default_rng(within)
    hashes = generator.integers(0, 1 << 63, 300, dtype=np.uint64)
    hashes[100:110] = hashes[5]  # of equal ones the first is named
    asked = generator.integers(0, 1 << 63, 200, dtype=np.uint64)
    for index in range(150):  # relatives, with 0 to 8 bits changed
        bits = generator.choice(64, index % 9, replace=False)
        asked[index] = hashes[index] ^ np.bitwise_or.reduce(
            np.uint64(1) << bits.astype(np.uint64), initial=np.uint64(0)
        )
    expected = []
    for at, value in enumerate(asked.tolist()):
        distances = [bin(value ^ other).count("1") for other in hashes.tolist()]
        if min(distances) <= within:
            expected.append((at, distances.index(min(distances)), min(distances)))
    assert nearest(hashes, asked, within=within) == expected and len(expected) > 10
    assert nearest(hashes[:0], asked, within=within) == nearest(hashes, asked[:0], within=within) == []


def test_bits_that_differ_are_counted():
    a, b = np.array([0, 5, 2**64 - 1], dtype=np.uint64), np.array([0, 6, 0], dtype=np.uint64)
    assert differing_bits(a, b).tolist() == [0, 2, 64]


def test_real_photographs_that_two_sets_share_are_found_by_their_look(shared):
    """Three images of coco_mini are also in coco128, there compressed again."""
    folders = shared / "VOCdevkit_coco128/VOC2012/JPEGImages", shared / "detection/coco_mini/val2017"
    pictures = [[of_file(path) for path in sorted(folder.glob("*.jpg"))] for folder in folders]
    looks = [look_at(part, "", show=False) for part in pictures]
    found = list(shared_images(("coco128", pictures[0], looks[0]), ("mini", pictures[1], looks[1])))
    assert [(Path(f.where).stem, f.defect) for f in found] == [
        (name, False) for name in ("000000000139", "000000000802", "000000011813")
    ]


def test_the_crowds_of_real_annotations_are_counted_and_are_no_defect(shared):
    roles = (("train", "train"), ("test", "val"))
    files = {role: f"annotations/instances_{split}2017.json" for role, split in roles}
    files |= {f"{role}_images": f"{split}2017" for role, split in roles}
    report = looked_over(Dataset("mini", "coco", shared / "detection" / "coco_mini", files))
    crowds = [int(f.what.split()[0]) for f in report.findings if f.kind == "crowds"]
    assert (report.defects, crowds, report.images) == (0, [8, 5], {"train": 80, "test": 79})


# What is meant by a name, and how it is told.


def test_findings_are_grouped_defects_first_and_counted_beyond_the_first_few():
    found = [Finding("b", "f", "w", defect=False), *(Finding("a", f"p{n}", "w") for n in range(4))]
    found.append(Finding("c", "g", "w", defect=False, warning=True))
    assert finding_lines(found, shown=2) == [
        "defect: a (4)",
        "  p0: w",
        "  p1: w",
        "  and 2 more",
        "warning: c (1)",
        "  g: w",
        "note: b (1)",
        "  f: w",
    ]


def suite(tmp_path, **parts):
    path = tmp_path / "mine.yaml"
    path.write_text(
        SUITE.format(**({"layout": "imagefolder", "root": "zoo", "train": "train", "test": "test"} | parts))
    )
    return path


def test_an_own_set_in_a_suite_file_is_checked_by_suite_set_or_task(tmp_path):
    folders(tmp_path / "zoo")
    path = suite(tmp_path)
    for name in (f"{path}", f"{path}:zoo", f"{path}:zoo-linear"):
        (subject,) = subjects(name, tmp_path)
        assert (subject.dataset.root, subject.family, subject.card) == (tmp_path / "zoo", "classification", None)
    with pytest.raises(ValueError, match=r"no data set or task 'bear'; there are zoo, zoo-linear"):
        subjects(f"{path}:bear", tmp_path)


@pytest.mark.parametrize(
    ("kind", "task"), [("voc", "detect"), ("voc", "segment"), ("ade20k", "segment"), ("coco", "detect")]
)
def test_own_trees_of_boxes_and_masks_are_described_in_a_suite_file(tmp_path, kind, task):
    made = CLEAN[kind](tmp_path / "mine")
    dataset = {"name": "mine", "layout": kind, "root": "mine", "files": made.files, "classes": list(made.classes)}
    content = {"tasks": [{"name": f"mine-{task}", "kind": task, "dataset": dataset}]}
    (tmp_path / "mine.yaml").write_text(json.dumps(content))  # which is YAML too
    (subject,) = subjects(str(tmp_path / "mine.yaml"), tmp_path)
    report = check_dataset(subject)
    assert subject.family == {"detect": "detection", "segment": "segmentation"}[task]
    assert (report.defects, report.images) == (0, trees.COUNTS)


def test_a_known_set_in_a_suite_is_held_against_its_card(tmp_path):
    (tmp_path / "mine.yaml").write_text("tasks: [cub200-knn, cub200-linear]\n")
    (subject,) = subjects(f"{tmp_path / 'mine.yaml'}:cub200", tmp_path)
    assert subject.card is CARDS["cub200"]


def test_of_a_suite_the_settings_that_transfer_will_refuse_are_named_too(tmp_path, capsys):
    made = CLEAN["coco"](tmp_path / "mine")
    dataset = {"name": "mine", "layout": "coco", "root": "mine", "files": made.files, "classes": list(made.classes)}
    (tmp_path / "mine.yaml").write_text(
        json.dumps({"tasks": [{"name": "mine-detect", "kind": "detect", "dataset": dataset}]})
    )
    assert cli.main(["data", "check", str(tmp_path / "mine.yaml"), "--data-root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "no defects" in said and "kdep transfer will refuse: mine-detect: " in said and "relative root" not in said
    assert cli.main(["data", "check", str(tmp_path / "mine.yaml"), "--data-root", str(tmp_path / "no")]) == 1
    assert f"a relative root of a suite starts at --data-root, here {tmp_path}/no" in capsys.readouterr().out


def test_the_command_ends_with_0_1_or_2(tmp_path, capsys):
    folders(tmp_path / "zoo")
    name = str(suite(tmp_path))
    assert cli.main(["data", "check", name, "--data-root", str(tmp_path)]) == 0
    assert "zoo (classification, imagefolder): 18 train, 6 test; no defects" in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path / "zoo")]) == 0  # as --data of kdep transfer
    assert "zoo (classification, imagefolder): 18 train, 6 test; no defects" in capsys.readouterr().out
    kind, where = truncated_jpeg(tmp_path / "zoo")
    assert cli.main(["data", "check", name, "--data-root", str(tmp_path)]) == 1
    assert f"defect: {kind} (1)\n    {where}: cannot be read" in capsys.readouterr().out
    assert cli.main(["data", "check", "zebra", "--data-root", str(tmp_path)]) == 2
    assert "there are cifar10" in capsys.readouterr().err


def test_the_list_names_every_card_once_with_its_counts_and_whether_it_is_there(tmp_path, capsys):
    folders(tmp_path / "cub200")
    assert cli.main(["ls", "data", "--data-root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines()}
    assert set(CARDS) <= set(rows)
    assert rows["cub200"].split()[1:3] == ["there", "imagefolder"] and "5,994 + 5,794" in rows["cub200"]
    assert rows["coco"].split()[1] == "absent"


# Training refuses what a check calls a defect, and accepts what it calls a note.


@pytest.mark.openmmlab
@pytest.mark.parametrize(
    ("kind", "plant"), [(kind, plant) for kind, plant in PLANTED if kind in ("coco", "voc", "ade20k")]
)
def test_a_training_refuses_the_defects_of_boxes_and_masks_in_the_words_of_the_check(tmp_path, kind, plant):
    dataset = CLEAN[kind](tmp_path)
    what, where = plant(tmp_path)
    if plant in (image_of_another_size, category_of_a_split):  # json alone, and one split alone, do not show these
        return
    with pytest.raises(ValueError, match=f"{re.escape(where)}: {what}: .*; kdep data check lists all defects"):
        for role in ("train", "test"):
            if kind == "ade20k":
                open_masks(dataset, role)
            else:
                write_split(dataset, role, trees.CLASSES, tmp_path / f"{role}.json")


def test_a_box_without_area_in_a_thousand_is_left_out_and_is_a_note(tmp_path):
    dataset = trees.coco(tmp_path)
    with rewritten(tmp_path / "train.json") as content:
        first = content["annotations"][0]
        content["annotations"] += [{**first, "id": 100 + number} for number in range(999)]
        content["annotations"].append({**first, "id": 99, "bbox": [5, 5, 0, 9]})
    assert defects(dataset) == []
    split = write_split(dataset, "train", trees.CLASSES, tmp_path / "written.json")
    assert split.boxes == 8 + 999 and split.left_out == {"boxes_without_area": 1}


def test_what_is_no_crowd_and_what_are_no_pixels_is_said_with_what_would_be_right(tmp_path):
    dataset = trees.coco(tmp_path)
    crowd_in_text(tmp_path), boxes_of_one_image_from_0_to_1(tmp_path)
    with rewritten(tmp_path / "test.json") as content:  # all of these are fine
        for item, crowd in zip(content["annotations"], (0, False, None, 0.0), strict=False):
            item["iscrowd"] = crowd
        content["annotations"] = [{**item, "id": n} for n, item in enumerate(content["annotations"])]
        whole = {**content["annotations"][0], "id": 99, "bbox": [0, 0, 1, 1]}
        content["images"].append({**content["images"][0], "id": 98, "file_name": "one.jpg"})
        content["annotations"].append({**whole, "image_id": 98})  # a pixel in the corner is whole
    shutil.copy(tmp_path / "test" / "4.jpg", tmp_path / "test" / "one.jpg")
    said = {
        finding.kind: finding.what
        for finding in check_dataset(Subject(dataset, "detection", None)).findings
        if finding.defect
    }
    assert set(said) == {"crowd or not", "boxes not in pixels"}
    assert said["crowd or not"] == "iscrowd '0'; expected the number 0 or 1, or no iscrowd"
    assert said["boxes not in pixels"].endswith("other images have pixels; write [x, y, width, height] in pixels")


def test_a_few_boxes_in_the_corner_of_their_image_are_no_defect(tmp_path):
    dataset = trees.coco(tmp_path)
    boxes_from_0_to_1(tmp_path)
    with rewritten(tmp_path / "train.json") as content:
        content["annotations"][-1]["bbox"] = [0, 0, 1, 2]
    assert defects(dataset) == []


def test_a_split_without_a_box_is_a_defect_and_is_refused(tmp_path):
    dataset = trees.coco(tmp_path)
    with rewritten(tmp_path / "test.json") as content:
        content["annotations"] = []
    assert defects(dataset) == [("no box", "test test.json")]
    with pytest.raises(ValueError, match="test split: test test.json: no box: the split has no box of red, green"):
        write_split(dataset, "test", trees.CLASSES, tmp_path / "written.json")


@pytest.mark.openmmlab
@pytest.mark.parametrize("config", ["detect_faster_rcnn", "detect_retinanet"])
def test_images_without_a_usable_box_do_not_stop_detection_training(tmp_path, config):
    """In train one image has no box and two have only crowds; one is as it should be."""
    from kdep_benchmarks.openmmlab.tasks import detect

    dataset = trees.coco(tmp_path / "data")
    with rewritten(tmp_path / "data" / "train.json") as content:
        boxes = [item for item in content["annotations"] if item["image_id"] != 1]
        content["annotations"] = [{**item, "iscrowd": int(item["image_id"] in (2, 3))} for item in boxes]
    assert defects(dataset) == []
    task = trees.task("detect", dataset, config, iterations=3, batch_size=1)
    outcome = detect.run_detect(
        trees.student("test_resnet"), task, seed=0, work_dir=tmp_path / "work", device=trees.CPU
    )
    # The image without a box is left out; those with crowds reach the network with nothing to find.
    assert outcome.counts == {"train": 3, "test": 3} and outcome.curves["iteration"] == [1, 2, 3]
    assert np.isfinite(outcome.curves["loss"]).all()


@pytest.mark.parametrize("files", [{"train": "train", "test": "train"}, {"train": ".:train", "test": ".:test"}])
def test_files_that_are_no_images_are_named_also_beside_class_folders_alone(tmp_path, files):
    root = tmp_path / "train" if files["train"] == "train" else tmp_path
    for at, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (8, 8), (at, number, 0)).save(root / name / f"{number}.png")
    (root / "cat" / "notes.heic").write_bytes(b"")
    _, found = label_findings(Dataset("pets", "imagefolder", tmp_path, files), "train")
    assert [one.where for one in found if one.what.startswith("not read")] == [str(root / "cat" / "notes.heic")]
