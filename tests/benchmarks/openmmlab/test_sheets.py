"""Sheets show what they were given, where it was, and stand on the page of the board."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from kdep_benchmarks.board.report import write_leaderboard
from kdep_benchmarks.openmmlab.sheets import (
    GAP,
    IGNORED,
    LINE,
    ROWS,
    TILE,
    Boxes,
    _palette,
    data_uri,
    detection_sheet,
    find_sheets,
    segmentation_sheet,
    sheet_path,
)
from kdep_benchmarks.results import write_result
from tests.helpers.made_results import failure, result

CLASSES = ("background", "cat", "dog")
TOP = LINE + GAP


def grey(height=60, width=80, value=90):
    return np.full((height, width, 3), value, dtype=np.uint8)


def pixel(sheet, column, x, y, row_top=TOP):
    """Colour at (x, y) of the picture in a column, as a share of `TILE`."""
    return sheet.getpixel((GAP + column * (TILE + GAP) + round(x * TILE), row_top + round(y * TILE)))


def test_a_segmentation_sheet_shows_image_truth_and_prediction_side_by_side(tmp_path):
    truth, predicted = np.zeros((60, 80), dtype=np.int64), np.zeros((60, 80), dtype=np.uint8)
    truth[:, 40:], truth[:10], predicted[:, 40:] = 2, 255, 1
    path = tmp_path / "deep" / "seed0.sheet.png"
    segmentation_sheet([grey()], [truth], [predicted], path, classes=CLASSES)
    sheet, colours = Image.open(path), [tuple(colour) for colour in _palette(3).tolist()]
    assert pixel(sheet, 0, 0.5, 0.4) == (90, 90, 90)
    assert pixel(sheet, 1, 0.2, 0.5) == colours[0] and pixel(sheet, 1, 0.8, 0.5) == colours[2]
    assert pixel(sheet, 1, 0.5, 0.05) == IGNORED
    masks = sheet.crop((GAP + TILE + GAP, TOP, 2 * (GAP + TILE), TOP + TILE * 60 // 80))
    assert {colour for _, colour in masks.getcolors()} == {colours[0], colours[2], IGNORED}  # none mixed at an edge
    assert pixel(sheet, 2, 0.2, 0.5) == colours[0] and pixel(sheet, 2, 0.8, 0.5) == colours[1]


def test_colours_do_not_depend_on_what_appears_and_neighbours_differ():
    colours = _palette(150).astype(int)
    assert len(np.unique(colours, axis=0)) == 150
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 60


def test_a_detection_sheet_draws_boxes_where_they_are_and_leaves_out_weak_ones(tmp_path):
    truth = Boxes(np.array([[20.0, 15.0, 60.0, 45.0]]), np.array([1]))
    corners = np.array([[20.0, 15.0, 60.0, 45.0], [4.0, 30.0, 16.0, 54.0]])
    predicted = Boxes(corners, np.array([2, 1]), np.array([0.9, 0.1]))
    detection_sheet([grey()], [truth], [predicted], tmp_path / "s.png", classes=CLASSES)
    sheet, colours = Image.open(tmp_path / "s.png"), [tuple(colour) for colour in _palette(3).tolist()]
    left, middle, low = 20 / 80, 30 / 80, 45 / 80  # the picture is 80 wide, TILE on the sheet
    assert pixel(sheet, 1, left, middle) == colours[1] and pixel(sheet, 2, left, middle) == colours[2]
    assert pixel(sheet, 1, 0.5, low - 1 / TILE) == colours[1]  # its lower edge
    assert pixel(sheet, 1, 0.5, middle) == (90, 90, 90)  # not filled
    assert pixel(sheet, 2, 4 / 80, 40 / 80) == (90, 90, 90)  # the weak one
    assert pixel(sheet, 0, left, middle) == (90, 90, 90)


def test_a_detector_without_certain_boxes_shows_its_best_three(tmp_path):
    corners = np.array([[2.0 + 15 * i, 30.0, 12.0 + 15 * i, 50.0] for i in range(5)])
    predicted = Boxes(corners, np.ones(5, dtype=int), np.array([0.01, 0.05, 0.02, 0.04, 0.03]))
    truth = Boxes(np.zeros((0, 4)), np.zeros(0, dtype=int))
    detection_sheet([grey()], [truth], [predicted], tmp_path / "s.png", classes=CLASSES)
    sheet, colour = Image.open(tmp_path / "s.png"), tuple(_palette(3)[1].tolist())
    assert [pixel(sheet, 2, (2 + 15 * i) / 80, 45 / 80) == colour for i in range(5)] == [False, True, False, True, True]


def test_images_of_any_size_get_a_row_each_up_to_the_number_of_rows(tmp_path):
    images = [grey(20, 40), grey(40, 20), *[grey(30, 30)] * 10]
    masks = [np.zeros(image.shape[:2], dtype=int) for image in images]
    segmentation_sheet(images, masks, masks, tmp_path / "s.png", classes=CLASSES)
    rows = TILE // 2 + (ROWS - 1) * TILE + ROWS * GAP  # the first is half as high as wide
    assert Image.open(tmp_path / "s.png").size == (3 * TILE + 4 * GAP, TOP + rows + LINE + GAP)


def test_an_image_without_boxes_and_one_of_a_single_pixel_do_not_stop_a_sheet(tmp_path):
    none = Boxes(np.zeros((0, 4)), np.zeros(0, dtype=int), np.zeros(0))
    detection_sheet([grey(), grey(1, 1)], [none, none], [none, none], tmp_path / "s.png", classes=CLASSES)
    flat = Boxes(np.array([[5.0, 5.0, 5.0, 5.0]]), np.array([0]), np.array([0.5]))
    detection_sheet([grey()], [flat], [flat], tmp_path / "s.png", classes=CLASSES)


ONE = Boxes(np.array([[0.0, 0.0, 9.0, 9.0]]), np.array([3]), np.array([0.9]))


@pytest.mark.parametrize(
    ("make", "arguments", "what"),
    [
        (
            segmentation_sheet,
            ([grey()], [np.full((60, 80), 3)], [np.zeros((60, 80), int)]),
            "image 0 has labels 0 to 3",
        ),
        (segmentation_sheet, ([grey()], [np.zeros((9, 9), int)], [np.zeros((60, 80), int)]), r"truth 0 is \(9, 9\)"),
        (segmentation_sheet, ([grey()], [], []), "1 images, 0 truths, 0 predictions"),
        (segmentation_sheet, ([grey() / 255], [np.zeros((60, 80))], [np.zeros((60, 80))]), "float64; .* uint8 RGB"),
        (detection_sheet, ([grey()], [ONE], [ONE]), "labels 3 to 3 for 3 classes"),
        (detection_sheet, ([grey()], [ONE], [Boxes(ONE.corners, ONE.labels)]), "prediction 0 has no scores"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(tmp_path, make, arguments, what):
    with pytest.raises(ValueError, match=what):
        make(*arguments, tmp_path / "s.png", classes=CLASSES)
    assert list(tmp_path.iterdir()) == []


def written(folder, seed, **others):
    one = result("a", "voc-segment", seed, **others)
    path = sheet_path(write_result(one, folder))
    path.write_bytes(f"seed {seed}".encode())
    return one, path


def test_the_sheet_of_the_lowest_seed_that_has_one_is_shown(tmp_path):
    (two, second), (three, _) = written(tmp_path, 2), written(tmp_path, 3)
    other, apart = written(tmp_path, 0, version=2)
    results = [result("a", "voc-segment", 0), three, two, other, failure("b", "voc-segment")]
    assert set(find_sheets(results, [tmp_path / "none", tmp_path]).values()) == {second, apart}
    assert second.name == "seed2.sheet.png"


def test_the_page_holds_the_sheet_itself(tmp_path):
    path = write_result(result("a", "voc-segment", score=40.0), tmp_path)
    write_result(result("b", "voc-segment", score=50.0), tmp_path)
    mask = np.zeros((60, 80), dtype=int)
    segmentation_sheet([grey()], [mask], [mask], sheet_path(path), classes=CLASSES)
    write_leaderboard(tmp_path, tmp_path)
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.count("<img ") == 1 and "voc-segment: image, truth, prediction (1 checkpoint)" in page
    assert f'src="{data_uri(sheet_path(path))}"' in page
    assert "truth and prediction of a" in page


def test_a_picture_on_the_page_is_no_wider_than_it_is_shown(tmp_path):
    Image.new("RGB", (3000, 1000)).save(tmp_path / "s.png")
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri(tmp_path / "s.png").partition(",")[2])))
    assert picture.size == (744, 248)
    (tmp_path / "s.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"s.png: no picture"):
        data_uri(tmp_path / "s.png")
