"""Sheets show what they were given, where it was."""

import numpy as np
import pytest
from PIL import Image

from kdep_benchmarks.openmmlab.tasks.sheets import (
    ROWS,
    WIDTH,
    Boxes,
    colour_of,
    detection_sheet,
    segmentation_sheet,
    with_boxes,
    with_mask,
)

CLASSES = ("background", "cat", "dog")
NONE = Boxes(np.zeros((0, 4)), np.zeros(0, dtype=int), np.zeros(0))


def grey(height=60, width=80, value=90):
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_a_mask_is_drawn_over_its_image_in_the_colours_of_its_classes():
    mask = np.zeros((60, 80), dtype=np.int64)
    mask[:, 40:], mask[:10] = 2, 255
    drawn = with_mask(grey(), mask).astype(int)
    for (y, x), colour in {(30, 10): colour_of(0), (30, 60): colour_of(2), (5, 40): (96, 96, 96)}.items():
        assert np.abs(drawn[y, x] - (0.8 * np.array(colour) + 0.2 * 90)).max() <= 1
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 3


def test_boxes_are_drawn_where_they_are():
    drawn = with_boxes(grey(), Boxes(np.array([[20.0, 15.0, 60.0, 45.0]]), np.array([1])))
    assert drawn.shape == (186, 248, 3)
    ink = (drawn == colour_of(1)).all(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    edges = [columns[0], rows[0], columns[-1], rows[-1]]
    assert np.abs(np.array(edges) - 3.1 * np.array([20, 15, 60, 45])).max() <= 2  # the line's width
    assert (drawn[93, 124] == 90).all() and (drawn[~ink] == 90).all()  # not filled


def test_weak_boxes_are_left_out_unless_all_are_weak(tmp_path, monkeypatch):
    seen = []
    draw = with_boxes
    monkeypatch.setattr(
        "kdep_benchmarks.openmmlab.tasks.sheets.with_boxes",
        lambda image, boxes: seen.append(boxes) or draw(image, boxes),
    )
    corners = np.array([[2.0 + 15 * i, 30.0, 12.0 + 15 * i, 50.0] for i in range(5)])
    for scores, kept in (
        ([0.9, 0.1, 0.2, 0.4, 0.3], [0.9, 0.4, 0.3]),
        ([0.01, 0.05, 0.02, 0.04, 0.03], [0.05, 0.04, 0.03]),
    ):
        predicted = Boxes(corners, np.ones(5, dtype=int), np.array(scores))
        detection_sheet([grey()], [NONE], [predicted], tmp_path / "s.png", classes=CLASSES)
        assert seen[-1].scores.tolist() == kept


def test_colours_do_not_depend_on_what_appears_and_neighbours_differ():
    colours = np.array([colour_of(label) for label in range(150)])
    assert len(np.unique(colours, axis=0)) == 150
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 60


def test_images_of_any_size_get_a_row_each_up_to_the_number_of_rows(tmp_path):
    images = [grey(20, 40), grey(40, 20), *[grey(30, 30)] * 10]
    masks = [np.zeros(image.shape[:2], dtype=int) for image in images]
    segmentation_sheet(images, masks, masks, tmp_path / "deep" / "s.png", classes=CLASSES)
    width, height = Image.open(tmp_path / "deep" / "s.png").size
    assert width == WIDTH and height == pytest.approx(WIDTH / 3 * (0.5 + 2 + ROWS - 2), abs=61)


def test_images_without_boxes_of_a_single_pixel_or_with_flat_boxes_do_not_stop_a_sheet(tmp_path):
    detection_sheet([grey(), grey(1, 1)], [NONE, NONE], [NONE, NONE], tmp_path / "s.png", classes=CLASSES)
    flat = Boxes(np.array([[5.0, 5.0, 5.0, 5.0]]), np.array([0]), np.array([0.5]))
    detection_sheet([grey()], [flat], [flat], tmp_path / "s.png", classes=CLASSES)
