"""Readers give images, labels, masks and boxes as arrays, the same from every layout."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.data.readers.boxes import read_boxes
from kdep_benchmarks.data.readers.masks import read_masks
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


def test_a_layout_that_has_no_masks_or_boxes_is_refused(tmp_path):
    dataset = Dataset("zoo", "imagefolder", tmp_path, {"train": "train", "test": "test"})
    with pytest.raises(ValueError, match="segmentation reads voc, ade20k, cityscapes"):
        read_masks(dataset, "train")
    with pytest.raises(ValueError, match="detection reads voc, coco"):
        read_boxes(dataset, "train")
    with pytest.raises(ValueError, match="segmentation needs the classes' names"):
        read_masks(dataclasses.replace(trees.ade20k(tmp_path), classes=()), "train")
