"""The kind box: proposals, RoIAlign box by box, ridge and AP against others' versions, and data that cannot be."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score
from torchvision.ops import roi_align

from kdep.models.backbones.backbone import build_backbone
from kdep_benchmarks.answers.detections import evaluate
from kdep_benchmarks.data.readers.boxed import Box as TrueBox
from kdep_benchmarks.data.readers.boxed import as_boxed_image, as_coco
from kdep_benchmarks.tasks.dense import box
from kdep_benchmarks.tasks.dense.box import (
    class_metrics,
    detections,
    draw_val,
    fit_classes,
    fit_offsets,
    mean_precision,
    run_box,
)
from kdep_benchmarks.tasks.dense.box_features import Part, box_features, fewer_channels
from kdep_benchmarks.tasks.dense.proposals import BACKGROUND, JITTERED, TRUE, iou, moved, offsets, propose
from kdep_benchmarks.tasks.dense.readers import open_boxes
from kdep_benchmarks.tasks.dense.ridge import ridge_path
from kdep_benchmarks.tasks.settings import Box
from kdep_benchmarks.tasks.task import Task
from tests.helpers import toolbox_trees as trees
from tests.helpers.made_results import answered

CPU = torch.device("cpu")
SMALL = {"size": 64, "batch_size": 2, "workers": 0}


def run(dataset, folder, *, seed=0, **settings):
    task = Task("tiny-box", "box", dataset, settings={**SMALL, **settings})
    return run_box(trees.student(), task, seed=seed, work_dir=folder, device=CPU)


def test_proposals_are_true_near_and_far_boxes(tmp_path):
    split = open_boxes(trees.voc(tmp_path), "test")
    found = propose(split.images, [0, 1, 2], 2)
    for number, image in enumerate(split.images):
        own = found.image == number
        true = found.box[own & (found.kind == TRUE)]
        assert np.array_equal(true, image.boxes[~image.ignored])
        ground = found.box[own & (found.kind == BACKGROUND)]
        assert len(ground) > 0 and (iou(ground, image.boxes) < 0.2).all()
        assert (ground >= 0).all() and (ground[:, 2:] <= image.size).all()
    near = found.kind == JITTERED
    overlap = np.array([iou(b[None], g[None])[0, 0] for b, g in zip(found.box[near], found.goal[near], strict=True)])
    assert near.sum() == 3 * (found.kind == TRUE).sum() and (overlap >= 0.5).all() and overlap.mean() < 0.9
    assert (found.label[found.kind == BACKGROUND] == 2).all()
    alone = propose(split.images, [2], 2)
    assert np.array_equal(alone.box, found.box[found.image == 2])


def test_offsets_lead_from_a_box_to_its_goal():
    generator = np.random.default_rng(0)
    box, goal = (generator.uniform(0, 20, (20, 4)) + [0, 0, 50, 50] for _ in range(2))
    sizes = np.full((20, 2), 100)
    assert moved(box, offsets(box, goal), sizes) == pytest.approx(goal)


def test_overlaps_are_torchvisions():
    from torchvision.ops import box_iou

    generator = np.random.default_rng(1)
    first, second = (generator.uniform(0, 40, (n, 4)) + [0, 0, 30, 30] for n in (7, 5))
    assert iou(first, second) == pytest.approx(box_iou(*map(torch.from_numpy, (first, second))).numpy())


def test_features_are_roi_align_box_by_box(tmp_path):
    checkpoint, dataset = trees.student(), trees.coco(tmp_path)
    train, test, cost = box_features(checkpoint, dataset, Box(**SMALL), cache=tmp_path / "cache", device=CPU)
    again = box_features(checkpoint, dataset, Box(**SMALL), cache=tmp_path / "cache", device=CPU)
    assert cost and not again[2] and torch.equal(test.whole, again[1].whole)
    backbone = build_backbone(checkpoint).eval()
    for number, image in enumerate(test.images):
        with Image.open(image.path) as opened:
            pixels = torch.from_numpy(np.array(opened)).permute(2, 0, 1)[None].float()
        # 72 x 80 pixels become 64 x 64: the sides are scaled apart, to multiples of 32.
        shown = torch.nn.functional.interpolate(pixels, (64, 64), mode="bilinear", antialias=True).round() / 255
        with torch.no_grad():
            maps = backbone.stage_maps(shown)[-3:]
        for row in np.flatnonzero(test.proposals.image == number):
            x1, y1, x2, y2 = test.proposals.box[row]
            expected = []
            for m, bins, more in [*((m, 1, 0.0) for m in maps), (maps[0], 4, 0.25)]:
                side, width, height = m.shape[-1], x2 - x1, y2 - y1
                left, right = (x1 - more * width) * side / 80, (x2 + more * width) * side / 80
                top, bottom = (y1 - more * height) * side / 72, (y2 + more * height) * side / 72
                roi = torch.tensor([[0, left, top, right, bottom]])
                expected.append(roi_align(m, roi.float(), bins, 1.0, -1, True).flatten())
            whole, parts = torch.cat(expected[:3]), expected[3]
            assert (test.whole[row].float() - whole).norm() < 0.02 * whole.norm()
            # The number of samples in a bin jumps where a bin is as wide as a position.
            assert (test.parts[row].float() - parts).norm() < 0.06 * parts.norm()


def test_many_channels_are_mixed_into_fewer_that_keep_distances():
    maps = torch.randn(2, 512, 3, 3, generator=torch.Generator().manual_seed(0))
    mixed = fewer_channels(maps)
    assert mixed.shape == (2, 128, 3, 3) and torch.equal(mixed, fewer_channels(maps))
    ratio = (mixed[0] - mixed[1]).flatten().norm() / (maps[0] - maps[1]).flatten().norm()
    assert 0.8 < ratio < 1.2
    assert torch.equal(fewer_channels(maps[:, :128]), maps[:, :128])


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_ridge_is_scikit_learns(penalty):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 9, generator=generator) * torch.logspace(-1, 2, 9) + 4
    y = torch.randn(300, 2, generator=generator) + x[:, :2] / torch.tensor([0.1, 0.2])
    rows = torch.arange(0, 300, 2)
    (ours,) = ridge_path(x, y, rows, [penalty], CPU)
    mean, deviation = x[rows].double().mean(0), x[rows].double().std(0, correction=0)
    model = Ridge(alpha=penalty * len(rows)).fit(((x[rows] - mean) / deviation).numpy(), y[rows].numpy())
    assert ours(x).numpy() == pytest.approx(model.predict(((x - mean) / deviation).numpy()), abs=2e-3)


def test_average_precision_of_classes_is_scikit_learns():
    generator = np.random.default_rng(0)
    scores, labels = generator.random((400, 5)).round(1), generator.integers(0, 5, 400)  # many equal scores
    labels[labels == 3] = 1
    expected = [average_precision_score(labels == c, scores[:, c]) for c in (0, 1, 2)]  # 3 is nowhere, 4 is background
    assert mean_precision(scores, labels) == pytest.approx(100 * np.mean(expected))


def test_average_precision_of_detections_can_be_told_again_from_the_answers(tmp_path):
    dataset = trees.voc(tmp_path)
    _, test, _ = box_features(trees.student(), dataset, Box(**SMALL), cache=tmp_path / "cache", device=CPU)
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(len(test.whole), 3, generator=generator)
    scores[torch.arange(len(scores)), torch.from_numpy(test.proposals.label)] += 0.5
    found = detections(test, scores, offsets(test.proposals.box, test.proposals.goal) * 0.7)
    truth = as_coco(test.images, 2)
    ours, answers = evaluate(truth, found)
    assert answered(answers) == pytest.approx(ours) and 20 < ours["AP"] < 100
    assert evaluate(truth, [])[0] == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


def test_the_truth_that_both_box_tasks_are_scored_against_is_worked_out_by_hand():
    boxes = [TrueBox((1.0, 2.0, 11.0, 22.0), 1, False, 150.0), TrueBox((0.0, 0.0, 5.0, 4.0), 0, True, 20.0)]
    images = [
        as_boxed_image(Path("a.jpg"), 7, (40, 30), boxes[:1]),
        as_boxed_image(Path("b.jpg"), 9, (8, 6), boxes[1:]),
    ]
    first = {"id": 1, "image_id": 7, "category_id": 2, "area": 150.0, "bbox": [1.0, 2.0, 10.0, 20.0], "iscrowd": 0}
    second = {"id": 2, "image_id": 9, "category_id": 1, "area": 20.0, "bbox": [0.0, 0.0, 5.0, 4.0], "iscrowd": 1}
    assert as_coco(images, 2) == {
        "images": [{"id": 7, "width": 40, "height": 30}, {"id": 9, "width": 8, "height": 6}],
        "annotations": [first, second],
        "categories": [{"id": 1}, {"id": 2}],
    }


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_both_layouts_are_measured(tmp_path, layout):
    outcome = run(getattr(trees, layout)(tmp_path), tmp_path / "work")
    assert list(outcome.metrics) == ["AP", "AP50", "AP75", "mAP", "accuracy"]
    assert outcome.counts == {"train": 3, "val": 1, "test": 3}
    assert outcome.metrics["accuracy"] == 100 and outcome.metrics["AP"] > 10  # two flat colours


def test_the_boxes_that_are_scored_are_moved_towards_the_objects(tmp_path, monkeypatch):
    given, found = [], box.detections
    monkeypatch.setattr(box, "detections", lambda *parts: given.append(parts) or found(*parts))
    run(trees.voc(tmp_path), tmp_path / "work")
    ((test, _, by),) = given
    proposals = test.proposals
    sizes = np.array([image.size for image in test.images])[proposals.image]
    near, after = proposals.kind == JITTERED, moved(proposals.box, by, sizes)

    def overlap(boxes):
        return np.mean([iou(a[None], b[None])[0, 0] for a, b in zip(boxes[near], proposals.goal[near], strict=True)])

    assert overlap(after) > overlap(proposals.box) + 0.02


def noise(images=10, dim=400):
    """Proposals of images with two objects each; the features say nothing of them, and are more than the proposals."""
    boxes = [TrueBox((10.0, 10.0 + 40 * n, 50.0, 45.0 + 40 * n), n, False, 1400.0) for n in range(2)]
    read = [as_boxed_image(Path(str(n)), n, (100, 100), boxes) for n in range(images)]
    proposals, draw = propose(read, range(images), 2), torch.Generator().manual_seed(0)
    whole, parts = (torch.randn(len(proposals.kind), dim, generator=draw).half() for _ in range(2))
    return Part(2, read, proposals, whole, parts)


def test_no_true_box_is_among_the_detections():
    test = noise()
    found = detections(test, torch.full((len(test.whole), 3), 0.3), np.zeros((len(test.whole), 4)))
    true = {tuple(corners) for corners in test.proposals.box[test.proposals.kind == TRUE].tolist()}
    boxes = [(x, y, x + w, y + h) for x, y, w, h in (one["bbox"] for one in found)]
    assert boxes and not true & set(boxes)


def test_val_takes_no_part_in_the_fits_by_which_penalties_are_chosen():
    train = noise()
    val = torch.from_numpy(train.proposals.image < 3)
    assert fit_classes(train, path=(1e-4,), val=val, device=CPU)[2]["val_mAP"][0] < 90  # 100 of one that has seen val
    assert fit_offsets(train, path=(1e-4,), val=val, device=CPU)[1]["offsets_explained"] < 50  # likewise


def test_the_penalty_of_the_classes_is_chosen_on_true_boxes_and_background(monkeypatch):
    train, asked = noise(), []
    val = train.proposals.image < 3
    monkeypatch.setattr(box, "mean_precision", lambda *given: asked.append(len(given[1])) or mean_precision(*given))
    fit_classes(train, path=(0.1,), val=torch.from_numpy(val), device=CPU)
    assert asked == [int((val & (train.proposals.kind != JITTERED)).sum())]


def test_accuracy_is_of_the_class_whatever_the_background_scores():
    test = noise()
    scores = torch.zeros(len(test.whole), 3)
    scores[:, 2] = 9.0
    scores[torch.arange(len(scores)), torch.from_numpy(test.proposals.label)] += 1.0
    assert class_metrics(test, scores)["accuracy"] == 100


def proposed(objects, *, taken=None):
    """Proposals of images, each with so many objects; of some of them, where `taken` names these."""
    boxes = [TrueBox((10.0, 10.0 + 20 * n, 40.0, 25.0 + 20 * n), n % 2, False, 450.0) for n in range(3)]
    images = [as_boxed_image(Path(str(n)), n, (100, 100), boxes[:count]) for n, count in enumerate(objects)]
    return propose(images, range(len(images)) if taken is None else taken, 2)


def fifth(there, seed):
    """A fifth of the images `there`, as it was always drawn."""
    order = torch.randperm(len(there), generator=torch.Generator().manual_seed(seed)).tolist()
    return {there[n] for n in order[: max(1, round(len(there) / 5))]}


@pytest.mark.parametrize(
    ("objects", "redrawn"),
    [
        ([1, 2, 3] * 4, set()),
        ([1, 1], set()),
        ([2, 0] * 10, {"none"}),
        ([0] * 3 + [1] * 2 + [0] * 3, {"none", "all"}),
    ],
)
def test_val_is_the_fifth_of_all_images_unless_it_has_no_object_or_all_of_them(objects, redrawn):
    proposals, why = proposed(objects), set()
    with_object = {n for n, count in enumerate(objects) if count}
    for seed in range(60):
        found = set(proposals.image[draw_val(proposals, seed).numpy()].tolist())
        assert found & with_object and with_object - found
        of_all = fifth(range(len(objects)), seed)
        if of_all & with_object and with_object - of_all:
            assert found == of_all
        else:
            assert found == fifth(sorted(with_object), seed)
            why.add("all" if of_all & with_object else "none")
    assert why == redrawn


@pytest.mark.parametrize(("taken", "count"), [([0, 1, 2], 1), ([0, 2], 0), ([1], 1)])
def test_objects_in_fewer_than_two_train_images_are_too_few(taken, count):
    with pytest.raises(ValueError, match=f"train images with an object: {count}; at least 2"):
        draw_val(proposed([0, 3, 0], taken=taken), 0)


def test_train_images_without_objects_leave_every_seed_a_score(tmp_path):
    dataset = trees.coco(tmp_path)
    path = dataset.root / "train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in (1, 2)]
    path.write_text(json.dumps(content))
    held = set()
    for seed in range(6):
        outcome = run(dataset, tmp_path / "work", seed=seed)
        json.dumps([outcome.metrics, outcome.chosen, outcome.curves], allow_nan=False)
        held |= fifth(range(4), seed)
    assert held & {0, 3}  # seeds whose fifth of all images has no object are among them


def test_test_boxes_of_a_class_that_train_lacks_are_counted(tmp_path):
    dataset = dataclasses.replace(trees.coco(tmp_path), classes=())
    path = dataset.root / "test.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 70, "name": "blue"})
    for item in content["annotations"][:2]:
        item["category_id"] = 70
    path.write_text(json.dumps(content))
    outcome = run(dataset, tmp_path / "work")
    assert outcome.chosen["boxes_of_other_classes"] == 2 and outcome.answers.arrays["boxes"].sum() == 4


def test_a_split_without_boxes_and_broken_boxes_are_refused(tmp_path):
    dataset = trees.coco(tmp_path)
    path = dataset.root / "train.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(ValueError, match="has no box"):
        run(dataset, tmp_path / "work")
    content["annotations"][0]["bbox"] = [5, float("nan"), 9, 9]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="box without numbers"):
        run(dataset, tmp_path / "work")
