"""Which images a watched run is probed with, and their classes and masks."""

import numpy as np
import pytest
from PIL import Image

from kdep.probe.labelled import read_classes, read_masked


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def masked(root, classes):
    """Photographs with masks, each of one class; every fifth is test."""
    for number, label in enumerate(classes):
        save(root / "JPEGImages" / f"{number}.png", np.full((8, 8, 3), number))
        save(root / "SegmentationClass" / f"{number}.png", np.full((8, 8), label))
    return root


def test_of_more_images_than_are_asked_for_a_draw_takes_all_classes(tmp_path):
    for number in range(40):
        save(tmp_path / "classes" / "ab"[number % 2] / f"{number}.png", np.full((8, 8, 3), number))
    few, again = (read_classes(tmp_path / "classes", size=8, most=6) for _ in range(2))
    assert len(few.train) == len(few.test) == 6 and set(few.train_labels) == {0, 1}
    assert few.fingerprint == again.fingerprint
    found = read_masked(masked(tmp_path / "voc", [0, 1] * 5), size=8, most=3)
    assert len(found.train) == len(found.train_labels) == 3


def test_the_middle_of_an_image_is_read(tmp_path):
    wide = np.zeros((20, 60, 3))
    wide[:, 20:40] = 200
    for split in ("train", "test"):
        for name, pixels in (("wide", wide), ("tall", wide.transpose(1, 0, 2))):
            save(tmp_path / split / name / "0.png", pixels)
    data = read_classes(tmp_path, size=20, most=9)
    assert all((images == 200).all() for images in (data.train, data.test))


def test_a_class_of_train_alone_is_read_and_one_of_test_alone_is_refused(tmp_path):
    for place in ("train/a", "train/b", "train/c", "test/a"):
        save(tmp_path / place / "0.png", np.zeros((8, 8, 3)))
    assert read_classes(tmp_path, size=8, most=9).classes == 3
    save(tmp_path / "test/d/0.png", np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="test has the class d, and train has no image of it"):
        read_classes(tmp_path, size=8, most=9)


def test_of_more_classes_than_are_drawn_the_others_are_left_out(tmp_path, caplog):
    for number in range(40):
        for place in ("train", "test"):
            save(tmp_path / place / f"{number:02d}" / "0.png", np.full((8, 8, 3), number))
    data = read_classes(tmp_path, size=8, most=10)
    shown = [set(side[:, 0, 0, 0].tolist()) for side in (data.train, data.test)]
    assert data.classes == len(data.train) == 10 and shown[0] == shown[1]  # one image of each class, of that shade
    assert "10 images of train are of 10 of 40 classes" in caplog.text
    for number in range(2, 40):
        (tmp_path / "train" / f"{number:02d}" / "0.png").unlink()
    with pytest.raises(ValueError, match="test has the class 02, and train has no image of it"):
        read_classes(tmp_path, size=8, most=10)


def test_a_class_that_only_test_masks_have_counts(tmp_path):
    assert read_masked(masked(tmp_path, [0, 1, 0, 1, 2]), size=8, most=9).classes == 3


@pytest.mark.parametrize(("labels", "role"), [([255] * 4 + [1], "train"), ([0, 1, 0, 1, 255], "test")])
def test_masks_of_a_split_without_any_class_are_refused(tmp_path, labels, role):
    with pytest.raises(ValueError, match=f"no pixel of the {role} masks has a class"):
        read_masked(masked(tmp_path, labels), size=8, most=9)
