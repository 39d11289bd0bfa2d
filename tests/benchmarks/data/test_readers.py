"""Readers give images, labels, masks and boxes as arrays, the same from every layout."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from kdep_benchmarks.data.cards import Dataset, fingerprint
from kdep_benchmarks.data.readers.boxes import class_names, read_boxes
from kdep_benchmarks.data.readers.classification import images_of
from kdep_benchmarks.data.readers.masks import label_names, read_masks
from kdep_benchmarks.tasks.dense.readers import open_masks
from tests.helpers import toolbox_trees as trees


def test_masks_of_both_conventions_give_the_labels_that_were_drawn(tmp_path):
    voc, ade20k = read_masks(trees.voc(tmp_path / "voc"), "test"), read_masks(trees.ade20k(tmp_path / "ade"), "test")
    assert voc.names == ("background", *trees.CLASSES) and ade20k.names == trees.CLASSES
    assert len(voc) == len(ade20k) == 3
    for index in range(3):
        pixels, labels, _ = trees.picture(4 + index)
        assert np.array_equal(voc.labels(index), labels) and voc.labels(index).dtype == np.uint8
        # Ground, 0, is unlabelled; class n is label n - 1.
        assert np.array_equal(ade20k.labels(index), np.where(labels == 0, 255, labels - 1))
        assert np.array_equal(np.asarray(ade20k.image(index)), pixels)


def test_ignored_pixels_stay_ignored_where_labels_are_shifted(tmp_path):
    dataset = trees.ade20k(tmp_path)
    path = tmp_path / "masks" / "test" / "4.png"
    mask = np.array(Image.open(path))
    mask[0, :3] = 255, 0, 2
    Image.fromarray(mask).save(path)
    assert read_masks(dataset, "test").labels(0)[0, :3].tolist() == [255, 255, 1]


@pytest.mark.parametrize(("layout", "most"), [("voc", 255), ("ade20k", 254)])
def test_more_classes_than_8_bits_hold_beside_255_are_refused(tmp_path, layout, most):
    """Masks of 16 bits may hold more values, which would wrap to other classes: ADE20K-847, PASCAL-Context-459."""
    names = tuple(f"class {number}" for number in range(most + 1))
    names = ("background", *names[1:]) if layout == "voc" else names  # else the reader adds the background
    dataset = dataclasses.replace(getattr(trees, layout)(tmp_path), classes=names)
    with pytest.raises(ValueError, match=f"tiny-{layout}: .*{most + 1} classes.*at most {most}"):
        read_masks(dataset, "train")
    assert read_masks(dataclasses.replace(dataset, classes=names[:-1]), "train").highest == 254


def test_the_highest_class_of_8_bits_is_read_from_masks_of_16(tmp_path):
    dataset = dataclasses.replace(trees.ade20k(tmp_path), classes=tuple(f"class {number}" for number in range(254)))
    mask = np.arange(72 * 80, dtype=np.uint16).reshape(72, 80) % 256
    Image.fromarray(mask).save(tmp_path / "masks" / "test" / "4.png")
    expected = np.where((mask == 0) | (mask == 255), 255, mask - 1)
    assert np.array_equal(read_masks(dataset, "test").labels(0), expected)


def test_a_mask_of_one_bit_holds_the_classes_0_and_1(tmp_path):
    dataset = trees.voc(tmp_path)
    bits = np.random.default_rng(0).random((72, 80)) < 0.5
    Image.fromarray(bits).save(tmp_path / "VOC2012" / "SegmentationClass" / "train_1.png")
    read = open_masks(dataset, "train").read(1)
    assert read.dtype == np.int64 and np.array_equal(read, bits)


def test_boxes_of_both_layouts_are_the_corners_that_were_drawn(tmp_path):
    voc = read_boxes(trees.voc(tmp_path / "voc"), "test")
    coco = read_boxes(trees.coco(tmp_path / "coco"), "test", classes=trees.CLASSES)
    for split in (voc, coco):
        assert split.classes == trees.CLASSES and [image.size for image in split.images] == [(80, 72)] * 3
    for index, image in enumerate(coco.images):
        drawn = trees.picture(4 + index)[2]
        assert image.boxes.tolist() == [list(box[1:]) for box in drawn] and image.boxes.dtype == np.float64
        assert [trees.CLASSES[label] for label in image.labels] == [box[0] for box in drawn]
        assert image.areas.tolist() == [18 * 24] * 2 and not image.ignored.any()
    first, without, last = voc.images
    # Beside the two that were drawn: a difficult one; that of another class is left out.
    assert first.boxes[:2].tolist() == coco.images[0].boxes.tolist() and first.ignored.tolist() == [False, False, True]
    assert without.boxes.shape == (0, 4) and last.boxes.tolist() == coco.images[2].boxes.tolist()
    assert voc.left_out == {"boxes_of_other_classes": 1} and voc.per_class == {"red": 2, "green": 2}


def test_files_beside_an_image_are_not_taken_for_it(tmp_path):
    dataset = trees.voc(tmp_path)
    for extra in ("test_4.aug.jpg", "test_4.txt", "test_4.JPG.json", ".test_4.jpg"):
        (tmp_path / "VOC2012" / "JPEGImages" / extra).write_bytes(b"something")
    assert [one.path.name for one in read_boxes(dataset, "test").images] == [f"test_{n}.jpg" for n in (4, 5, 6)]
    before = fingerprint(dataset)
    image = tmp_path / "VOC2012" / "JPEGImages" / "test_4.jpg"
    image.write_bytes(image.read_bytes() + b"\0")
    assert fingerprint(dataset) != before


@pytest.mark.parametrize("layout", ["voc", "ade20k"])
def test_images_behind_a_link_below_their_folder_are_read(tmp_path, layout):
    dataset = getattr(trees, layout)(tmp_path / "data")
    before = read_masks(dataset, "test")
    expected = [before.labels(index) for index in range(3)]
    for folder in (before.folders[0].images, before.folders[0].masks):
        place = tmp_path / f"{folder.parent.name}-{folder.name}"
        folder.rename(place)
        folder.mkdir()
        (folder / "part").symlink_to(place)
    if layout == "voc":
        lists = tmp_path / "data" / dataset.files["test"]
        lists.write_text("".join(f"part/{name}\n" for name in lists.read_text().split()))
    found = read_masks(dataset, "test")
    assert all(np.array_equal(found.labels(index), expected[index]) for index in range(3)) and len(found) == 3


def test_a_hidden_image_is_read_by_nobody(tmp_path):
    dataset = trees.ade20k(tmp_path)
    names = [pair.image.name for pair in read_masks(dataset, "test").pairs]
    (tmp_path / "images" / "test" / ".4.png").write_bytes((tmp_path / "images" / "test" / "4.png").read_bytes())
    assert [pair.image.name for pair in read_masks(dataset, "test").pairs] == names


def test_a_byte_order_mark_is_no_part_of_the_first_class(tmp_path):
    (tmp_path / "names.txt").write_text("\ufeffwall\nsky\n", encoding="utf-8")
    dataset = dataclasses.replace(trees.ade20k(tmp_path), classes=("@names.txt",))
    assert label_names(dataset) == ("wall", "sky")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("test_4\n\ntest_5\n", "line 2: blank line; remove it"),
        ("test_4\n\n", "line 2: blank line; remove it"),
        ("\ufefftest_4\ntest_5\n", "line 1: begins with a byte-order mark; save the list as UTF-8 without one"),
        ("test_4\n/photos/5\n", "line 2: odd name: '/photos/5'; expected the name of an image below JPEGImages"),
    ],
)
def test_a_line_that_is_no_name_of_an_image_is_named_in_a_list_of_masks(tmp_path, text, said):
    dataset = trees.voc(tmp_path)
    path = dataset.root / dataset.files["test"]
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"{path}, {said}"):
        read_masks(dataset, "test")


def test_a_layout_that_has_no_masks_or_boxes_is_refused(tmp_path):
    dataset = Dataset("zoo", "imagefolder", tmp_path, {"train": "train", "test": "test"})
    with pytest.raises(ValueError, match="segmentation reads voc, ade20k, cityscapes"):
        read_masks(dataset, "train")
    with pytest.raises(ValueError, match="detection reads voc, coco"):
        read_boxes(dataset, "train")
    with pytest.raises(ValueError, match="segmentation needs the classes' names"):
        read_masks(dataclasses.replace(trees.ade20k(tmp_path), classes=()), "train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 50_000, "not a COCO json, nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "not a COCO json .Exceeds the limit"),
        (b"\xff\xfe", "not a text in UTF-8 .invalid start byte at byte 0"),
        ('{"images": [3], "annotations": [], "categories": []}', "images, item 0 is 3; expected a mapping"),
        (
            '{"images": [{"id": [1]}], "annotations": [], "categories": []}',
            "images, item 0 is .*numbers or texts as id",
        ),
        ('{"images": [], "annotations": [], "categories": [{"id": null}]}', "categories; each needs a number as id"),
    ],
)
def test_a_json_of_instances_that_is_none_is_named(tmp_path, content, said):
    dataset = trees.coco(tmp_path)
    path = dataset.root / dataset.files["train"]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"{path}: {said}"):
        read_boxes(dataset, "train", classes=class_names(dataclasses.replace(dataset, classes=())))


def test_files_that_are_not_read_in_class_folders_are_counted_by_their_ending(tmp_path, caplog):
    for name in ("a/0.jfif", "a/1.heic", "a/notes.txt", "b/0.JPG", "b/2.HEIC", "elsewhere/3.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, _ = images_of(tmp_path, ["a", "b"])
    assert {label: [path.name for path in paths] for label, paths in found.items()} == {"a": ["0.jfif"], "b": ["0.JPG"]}
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path}: not read: 2 .heic; convert such images")


@pytest.mark.parametrize("name", ["../photos/4.jpg", "{root}/photos/4.jpg", ".cache/4.jpg", ".4.jpg", "4.heic"])
def test_an_image_that_the_fingerprint_would_not_see_is_refused(tmp_path, name):
    name = name.format(root=tmp_path)
    dataset = trees.coco(tmp_path)
    (tmp_path / "test" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "test" / "4.jpg").rename(tmp_path / "test" / name)
    json_file = tmp_path / "test.json"
    json_file.write_text(json_file.read_text().replace('"4.jpg"', f'"{name}"'))
    split = read_boxes(dataset, "test", open_images=True)
    assert [image.path.name for image in split.images] == ["5.jpg", "6.jpg"]
    assert (split.findings[0].kind, split.findings[0].where) == ("odd name", f"{json_file}, image 4")


@pytest.mark.parametrize("name", ["cam1/4.jpg", "./4.jpg", "{root}/test/4.jpg"])
def test_an_image_below_the_folder_of_its_split_is_read_and_seen(tmp_path, name):
    name = name.format(root=tmp_path)
    dataset = trees.coco(tmp_path)
    place = tmp_path / "test" / name
    place.parent.mkdir(exist_ok=True)
    (tmp_path / "test" / "4.jpg").rename(place)
    json_file = tmp_path / "test.json"
    json_file.write_text(json_file.read_text().replace('"4.jpg"', f'"{name}"'))
    assert read_boxes(dataset, "test", open_images=True).images[0].path == place
    before = fingerprint(dataset)
    place.write_bytes(place.read_bytes() + b"\0")
    assert fingerprint(dataset) != before


def test_odd_lists_and_annotations_of_voc_are_named(tmp_path):
    dataset = trees.voc(tmp_path)
    path = dataset.root / dataset.files["train"]
    path.write_text("\ufefftrain_1\n../../x\n/x\n*\ntrain_0\n", encoding="utf-8")
    annotation = path.parents[2] / "Annotations" / "train_0.xml"
    annotation.write_text('<?xml version="1.0" encoding="no-such"?><annotation/>')
    kinds = [finding.kind for finding in read_boxes(dataset, "train", classes=trees.CLASSES).findings]
    assert kinds[:5] == ["odd name"] * 4 + ["annotation cannot be read"]
    path.write_bytes(b"train_0\n\xff\n")
    with pytest.raises(ValueError, match=f"{path}: not a text in UTF-8 .invalid start byte at byte 8.; save it"):
        read_boxes(dataset, "train", classes=trees.CLASSES)
