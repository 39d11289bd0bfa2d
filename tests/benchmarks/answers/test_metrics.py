"""Metrics of weighted images equal those of the images written out again and again, and pycocotools' AP."""

import numpy as np
import pytest

from kdep_benchmarks.answers.detections import box_answers, evaluate
from kdep_benchmarks.answers.metrics import constant_score, metrics_of
from kdep_benchmarks.answers.resample import image_draws, standard_errors
from kdep_benchmarks.answers.store import Answers, area_answers, class_answers


def test_top1_and_macro_are_those_worked_out_by_hand():
    # Class 0: 2 of 3 right, class 1: 0 of 1. Two draws: the second has one more wrong, so 1 of 3.
    answers = class_answers(np.array([[0, 0, 1, 0], [0, 1, 1, 0]]), np.array([0, 0, 0, 1]))
    found = metrics_of(answers)
    assert found["top1"][0] == pytest.approx(100 * (2 / 4 + 1 / 4) / 2)
    assert found["top1_macro"][0] == pytest.approx(100 * ((2 / 3 + 1 / 3) / 2 + 0) / 2)
    # Without the only image of class 1 the class takes no part; image 0 counts three times.
    weighted = metrics_of(answers, np.array([[3.0], [1], [0], [0]]))
    assert weighted["top1"][0] == pytest.approx(100 * (3 + 0.5) / 4) == weighted["top1_macro"][0]


def test_mean_iou_sums_pixels_over_images_and_leaves_out_a_class_that_is_nowhere():
    # Two images: class a 4 of 6 and 2 of 4, together 6 of 10; class b 3 of 4; class c nowhere.
    areas = np.array([[[4, 3, 0], [5, 3, 0], [5, 4, 0]], [[2, 0, 0], [3, 0, 0], [3, 0, 0]]])
    found = metrics_of(area_answers(areas))
    assert found["mIoU"][0] == pytest.approx(100 * (0.6 + 0.75) / 2)
    assert found["aAcc"][0] == pytest.approx(100 * 9 / 12)
    assert found["mAcc"][0] == pytest.approx(100 * (6 / 8 + 3 / 4) / 2)
    assert metrics_of(area_answers(areas), np.array([[0.0], [2]]))["mIoU"][0] == pytest.approx(100 * 2 / 4)


def test_the_best_constant_answer_is_the_most_frequent_class_everywhere():
    # 3 of 4 images; 8 of 12 labelled pixels, over 2 classes that occur; no detection.
    assert constant_score(class_answers(np.array([1, 1, 1, 1]), np.array([0, 0, 1, 0]))) == 75.0
    areas = np.array([[[4, 3, 0], [5, 3, 0], [5, 4, 0]], [[2, 0, 0], [3, 0, 0], [3, 0, 0]]])
    assert constant_score(area_answers(areas)) == pytest.approx(100 * (8 / 12 + 0) / 2)
    everywhere = np.array([[[5, 0, 0], [9, 0, 0], [5, 4, 0]], [[3, 0, 0], [3, 0, 0], [3, 0, 0]]])
    assert constant_score(area_answers(areas)) == pytest.approx(metrics_of(area_answers(everywhere))["mIoU"][0])
    assert constant_score(box_answers([[None]], images=1, classes=1)) == 0.0


def ground_truth(random, *, images, classes, crowds=True):
    """A COCO data set of made boxes, some of them crowds; every class is somewhere."""
    annotations = []
    for image in range(images):
        for _ in range(random.integers(0, 5)):
            x, y, w, h = *random.uniform(0, 60, 2), *random.uniform(8, 40, 2)
            annotations.append((image + 1, int(random.integers(classes)) + 1, [x, y, w, h]))
    return {
        "images": [{"id": image + 1, "width": 100, "height": 100} for image in range(images)],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
        "annotations": [
            {
                "id": number + 1,
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowds and random.random() < 0.1),
            }
            for number, (image, label, box) in enumerate(annotations)
        ],
    }


def made_detections(random, truth, *, classes, extra=3):
    """Detections near the boxes, and false ones; few distinct scores, so that ties occur."""
    found = []
    for box in truth["annotations"]:
        for _ in range(random.integers(0, 3)):
            place = np.array(box["bbox"]) + random.normal(0, 3, 4)
            found.append((box["image_id"], box["category_id"], place))
    for image in truth["images"]:
        found += [
            (image["id"], int(random.integers(classes)) + 1, random.uniform(5, 50, 4))
            for _ in range(random.integers(0, extra))
        ]
    return [
        {"image_id": image, "category_id": label, "bbox": place.clip(1).tolist()}
        | {"score": float(np.float32(random.integers(1, 40) / 40))}
        for image, label, place in found
    ]


def repeated(truth, found, weights):
    """The data set with every image as often as its weight says, under new numbers."""
    images, boxes, detections = [], [], []
    for image, weight in zip(truth["images"], weights, strict=True):
        for _ in range(int(weight)):
            number = len(images) + 1
            images.append({**image, "id": number})
            own = [box for box in truth["annotations"] if box["image_id"] == image["id"]]
            boxes += [{**box, "image_id": number, "id": len(boxes) + at + 1} for at, box in enumerate(own)]
            detections += [{**one, "image_id": number} for one in found if one["image_id"] == image["id"]]
    return {**truth, "images": images, "annotations": boxes}, detections


@pytest.mark.parametrize("seed", range(4))
def test_ap_of_the_answers_is_pycocotools_and_so_is_that_of_images_drawn_again(seed):
    random, classes = np.random.default_rng(seed), 4
    truth = ground_truth(random, images=12, classes=classes)
    found = made_detections(random, truth, classes=classes)
    stats, answers = evaluate(truth, found)
    names = ("AP", "AP50", "AP75")
    ours = metrics_of(answers)
    assert [ours[name][0] for name in names] == pytest.approx([stats[name] for name in names], abs=1e-9)
    assert 1 < stats["AP"] < 99
    draws = image_draws(12)[:, :5].astype(float)
    weighted = metrics_of(answers, draws)
    for number, weights in enumerate(draws.T):
        again, detected = repeated(truth, found, weights)
        expected, _ = evaluate(again, detected)
        assert [weighted[name][number] for name in names] == pytest.approx([expected[n] for n in names], abs=1e-9)


def test_no_detection_is_an_ap_of_0_and_a_class_without_boxes_takes_no_part():
    random = np.random.default_rng(0)
    truth = ground_truth(random, images=8, classes=2, crowds=False)
    stats, nothing = evaluate(truth, [])
    assert stats == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0} == {k: v[0] for k, v in metrics_of(nothing).items()}
    assert standard_errors(nothing, draws=50)["AP"] == 0
    known = [one for one in made_detections(random, truth, classes=2) if one["category_id"] == 1]
    only_first = {**truth, "annotations": [box for box in truth["annotations"] if box["category_id"] == 1]}
    stats, answers = evaluate(only_first, known)
    assert metrics_of(answers)["AP"][0] == pytest.approx(stats["AP"]) and stats["AP"] > 1


def test_at_most_100_detections_of_an_image_and_class_count():
    truth = ground_truth(np.random.default_rng(1), images=3, classes=1)
    found = made_detections(np.random.default_rng(1), truth, classes=1, extra=400)
    stats, answers = evaluate(truth, found)
    assert len(found) > 300 and np.bincount(answers.arrays["image"]).max() == 100
    assert metrics_of(answers)["AP"][0] == pytest.approx(stats["AP"], abs=1e-9)


def test_standard_errors_are_those_of_the_binomial_where_that_is_known():
    random = np.random.default_rng(0)
    right = random.random(400) < 0.7
    answers = class_answers(right.astype(int), np.ones(400, int))
    share = right.mean()
    expected = 100 * (share * (1 - share) / 399) ** 0.5
    assert standard_errors(answers)["top1"] == pytest.approx(expected, rel=0.05)  # 2,000 draws: 1.6 % of it
    assert standard_errors(class_answers(np.ones(400, int), np.ones(400, int)))["top1"] == 0
    assert standard_errors(class_answers(np.ones(1, int), np.ones(1, int))) == {}
    two = standard_errors(class_answers(np.array([0, 1]), np.ones(2, int)))
    assert two["top1"] == pytest.approx(100 * 0.5, rel=0.05)  # variance 0.5 of the two values, over 2


def test_forms_and_arrays_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="form 'boxs'; a form is one of classes, areas, boxes"):
        Answers("boxs", {})
    with pytest.raises(ValueError, match=r"areas: arrays \['area'\]; expected \['areas'\]"):
        Answers("areas", {"area": np.zeros(1)})
    assert box_answers([], images=2, classes=1).images == 2
