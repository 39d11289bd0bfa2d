"""Which positions are drawn, and with which soft labels, against versions that look at each pixel."""

import numpy as np
import pytest

from kdep.probe.positions import draw_positions, quotas, soft_counts


def pixels_of(mask, grid):
    """The values in each position, row by row, pixel by pixel."""
    inside = [[] for _ in range(grid[0] * grid[1])]
    (height, width), (rows, columns) = mask.shape, grid
    for y in range(height):
        for x in range(width):
            inside[(y * rows // height) * columns + x * columns // width].append(mask[y, x])
    return inside


@pytest.mark.parametrize("shift", [0, 252])  # no class is 3, or 255 as in a file
def test_soft_counts_are_the_pixels_of_each_class_and_of_none(shift):
    mask = np.random.default_rng(0).integers(0, 4, (37, 50)).astype(np.uint8)
    found = soft_counts(np.where(mask == 3, mask + np.uint8(shift), mask), (4, 6), 3)
    assert found.tolist() == [[inside.count(label) for label in range(4)] for inside in pixels_of(mask, (4, 6))]


def test_a_position_is_drawn_by_the_share_of_its_own_pixels():
    random, grids = np.random.default_rng(0), [(4, 6), (4, 6), (5, 3), (4, 6), (4, 6)]
    # Sides that the grid does not divide, a much larger mask, positions of four pixels, fewer pixels than positions.
    masks = [random.integers(0, 6, size) for size in [(37, 50), (148, 203), (41, 22), (8, 12), (3, 5)]]
    masks = [np.minimum(mask, 3) for mask in masks]  # 3 stands for no class: half of the pixels
    found = draw_positions(
        [soft_counts(mask, grid, 3) for mask, grid in zip(masks, grids, strict=True)], total=1000, balance=0.5
    )
    drawn = dict(zip(zip(found.image.tolist(), found.cell.tolist(), strict=True), found.labels, strict=True))
    shares = set()
    for image, (mask, grid) in enumerate(zip(masks, grids, strict=True)):
        for cell, inside in enumerate(pixels_of(mask, grid)):
            known = [label for label in inside if label < 3]
            assert ((image, cell) in drawn) == bool(known and 2 * len(known) >= len(inside))
            if (image, cell) in drawn:
                expected = [known.count(label) / len(known) for label in range(3)]
                assert drawn[image, cell] == pytest.approx(expected)
            shares.add(len(known) / len(inside) if inside else None)
    assert {None, 0.25, 0.5, 0.75} <= shares and (found.weight == 1).all()


def test_every_image_gives_its_positions_whatever_its_size():
    counts = [soft_counts(np.zeros((side, side), int), (16, 16), 2) for side in [512] * 10 + [1024]]
    found = draw_positions(counts, total=25000, balance=0.5)
    assert np.bincount(found.image).tolist() == [256] * 11


@pytest.mark.parametrize("row", [slice(0), slice(1)])
def test_masks_without_areas_are_refused(row):
    mask = np.full((32, 32), 255)
    mask[row] = 1
    with pytest.raises(ValueError, match="none of 128 positions has a class in half of its pixels; expected masks of"):
        draw_positions([soft_counts(mask, (8, 8), 2)] * 2, total=100, balance=0.5)


@pytest.mark.parametrize(("balance", "shares"), [(0.0, [90, 9, 1]), (1.0, [54, 36, 10]), (0.5, [60, 30, 10])])
def test_rare_classes_are_drawn_more_often_the_more_balance(balance, shares):
    there = np.array([900, 90 if balance == 0 else 36, 10])
    drawn = quotas(there, 100, balance)
    assert drawn.sum() == 100 and (drawn <= there).all()
    if balance == 1:
        assert drawn.tolist() == shares
    assert (np.diff(drawn / there) >= 0).all()
