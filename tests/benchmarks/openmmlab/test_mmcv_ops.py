"""The torchvision-backed stand-in for mmcv's operators against slow, obvious versions."""

import math

import pytest
import torch

from kdep_benchmarks.openmmlab import compat, ops

pytestmark = pytest.mark.openmmlab
compat.prepare()


def boxes_and_scores(count=60):
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(count, 2, generator=generator) * 40
    size = torch.rand(count, 2, generator=generator) * 20
    return torch.cat([corner, corner + size], 1), torch.rand(count, generator=generator)


def overlap(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_what_no_better_box_overlaps(offset):
    boxes, scores = boxes_and_scores()
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i].tolist(), boxes[j].tolist(), offset) <= 0.3 for j in kept):
            kept.append(i)
    assert ops.nms(boxes, scores, 0.3, offset).tolist() == kept
    assert 10 < len(kept) < 60


def test_offset_of_one_pixel_decides_a_close_case():
    # Two boxes [0, 10] and [5, 15] wide: IoU 50 / 150 without, 66 / 176 with the extra pixel.
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]]), torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.35, 0).tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.35, 1).tolist() == [0]


def sample(feature, y, x):
    """Bilinear value of an (H, W) map; 0 beyond one pixel outside."""
    height, width = feature.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return feature.sum() * 0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = feature[top, left] * (left + 1 - x) + feature[top, right] * (x - left)
    lower = feature[bottom, left] * (left + 1 - x) + feature[bottom, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def slow_roi_align(feature, roi, size, scale, ratio, aligned):
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (value * scale - shift for value in roi.tolist())
    height, width = y2 - y1, x2 - x1
    if not aligned:
        height, width = max(height, 1), max(width, 1)
    bin_h, bin_w = height / size, width / size
    rows, columns = (ratio, ratio) if ratio else (math.ceil(bin_h), math.ceil(bin_w))

    def average(i, j):
        ys = [y1 + (i + (k + 0.5) / rows) * bin_h for k in range(rows)]
        xs = [x1 + (j + (k + 0.5) / columns) * bin_w for k in range(columns)]
        return sum(sample(feature, y, x) for y in ys for x in xs) / (rows * columns)

    return torch.stack([torch.stack([average(i, j) for j in range(size)]) for i in range(size)])


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient_equal_bilinear_sampling(aligned, ratio):
    from mmcv.ops import roi_align

    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 1, 8, 9, generator=generator, requires_grad=True)
    rois = torch.tensor([[1, 2.3, 1.1, 13.7, 12.2], [0, -3.0, 4, 6, 19], [1, 5, 5, 5.5, 5.2]])
    slow = [slow_roi_align(features[int(r[0]), 0], r[1:], 3, 0.5, ratio, aligned) for r in rois]
    weights = torch.rand(3, 3, 3, generator=generator)
    fast = roi_align(features, rois, 3, 0.5, ratio, "avg", aligned)[:, 0]
    torch.testing.assert_close(fast, torch.stack(slow))
    (expected,) = torch.autograd.grad((torch.stack(slow) * weights).sum(), features)
    (found,) = torch.autograd.grad((fast * weights).sum(), features)
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 1


def slow_focal_loss(logits, target, gamma, alpha, weight):
    rows = []
    for row, label in zip(logits, target.tolist(), strict=True):
        p = 1 / (1 + torch.exp(-row))
        hit = torch.tensor([c == label for c in range(len(row))])
        loss = torch.where(hit, -alpha * (1 - p) ** gamma * p.log(), -(1 - alpha) * p**gamma * (1 - p).log())
        rows.append(loss if weight is None else loss * weight[label])
    return torch.stack(rows)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5, 3.0])])
def test_focal_loss_and_its_gradient_equal_the_formula(weight):
    from mmcv.ops import sigmoid_focal_loss

    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    target = torch.tensor([0, 3, 1, 2, 2])
    slow = slow_focal_loss(logits, target, 1.7, 0.3, weight)
    fast = sigmoid_focal_loss(logits, target, 1.7, 0.3, weight, "none")
    torch.testing.assert_close(fast, slow)
    (expected,) = torch.autograd.grad(slow.sum(), logits)
    (found,) = torch.autograd.grad(sigmoid_focal_loss(logits, target, 1.7, 0.3, weight, "sum"), logits)
    torch.testing.assert_close(found, expected)


def test_background_is_no_class_of_the_focal_loss():
    logits, loss = torch.zeros(1, 2), torch.empty(1, 2)
    ops.sigmoid_focal_loss_forward(logits, torch.tensor([2]), logits.new_empty(0), loss, 2.0, 0.25)
    torch.testing.assert_close(loss, torch.full((1, 2), 0.75 * 0.25 * math.log(2)))


@pytest.mark.skipif(ops.backend() != ops.STAND_IN, reason="a compiled mmcv has all operators")
def test_every_other_operator_says_what_is_missing_when_called():
    from mmcv.ops import DeformConv2d

    layer = DeformConv2d(2, 2, 3, padding=1)
    with pytest.raises(NotImplementedError, match="deform_conv_forward has no stand-in"):
        layer(torch.zeros(1, 2, 4, 4), torch.zeros(1, 18, 4, 4))
    with pytest.raises(NotImplementedError, match="pool_mode"):
        ops.roi_align_forward(*[torch.zeros(1)] * 5, 1, 1, 1.0, 0, 0, True)


def test_a_registered_module_is_left_alone():
    import sys

    before = sys.modules[ops.NAME]
    ops.install()
    assert sys.modules[ops.NAME] is before
