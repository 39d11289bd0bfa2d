"""Real mmdet on tiny trees: both layouts give the same boxes, both detectors train the student, COCO scores them."""

import dataclasses
import itertools
import json

import pytest
import torch
from PIL import Image

from kdep.shipped import FOLDER as CONFIGS
from kdep_benchmarks.answers.detections import evaluate
from kdep_benchmarks.data.readers.boxes import class_names
from kdep_benchmarks.openmmlab import compat
from kdep_benchmarks.openmmlab.runner import train
from kdep_benchmarks.openmmlab.tasks import boxes, detect, looks
from kdep_benchmarks.tasks.settings import Detect, read_settings
from tests.helpers import toolbox_trees as trees
from tests.helpers.made_results import answered

pytestmark = pytest.mark.openmmlab


def run(checkpoint, task, work_dir, *, seed=0):
    return detect.run_detect(checkpoint, task, seed=seed, work_dir=work_dir, device=trees.CPU)


def split_of(dataset, role, tmp_path):
    split = boxes.write_split(dataset, role, class_names(dataset), tmp_path / f"{role}.json")
    return split, json.loads(split.path.read_text())


def named_boxes(content):
    names = {item["id"]: item["name"] for item in content["categories"]}
    files = {item["id"]: item["file_name"] for item in content["images"]}
    return [(files[item["image_id"]], names[item["category_id"]], item["bbox"]) for item in content["annotations"]]


def test_voc_boxes_start_at_0_and_difficult_ones_are_crowds(tmp_path):
    split, content = split_of(trees.voc(tmp_path), "test", tmp_path)
    name, x1, y1, x2, y2 = trees.picture(4)[2][0]
    assert named_boxes(content)[0] == ("VOC2012/JPEGImages/test_4.jpg", name, [x1, y1, x2 - x1, y2 - y1])
    assert [item["bbox"] for item in content["annotations"] if item["iscrowd"]] == [[60, 50, 10, 10]]
    # Three images of two boxes, less the image without boxes; one box of another class.
    assert (split.count, split.boxes) == (3, 4)
    assert split.left_out == {"boxes_of_other_classes": 1}


def test_coco_categories_keep_their_names_when_splits_number_them_differently(tmp_path):
    dataset = trees.coco(tmp_path)
    for role in ("train", "test"):
        split, content = split_of(dataset, role, tmp_path / "work")
        assert [item["name"] for item in content["categories"]] == list(trees.CLASSES)
        expected = [(b[0], *b[1:]) for image in content["images"] for b in trees.picture(image["id"])[2]]
        found = [(name, x, y, x + w, y + h) for _, name, (x, y, w, h) in named_boxes(content)]
        assert found == expected
        assert split.left_out == {}
        assert all(item["area"] == 18 * 24 and item["iscrowd"] == 0 for item in content["annotations"])


def test_unnamed_coco_classes_are_the_fit_splits_categories_by_id(tmp_path):
    dataset = dataclasses.replace(trees.coco(tmp_path), classes=())
    assert class_names(dataset) == ("green", "red")
    with pytest.raises(ValueError, match="has no category 'gren'; it has green, red"):
        class_names(dataclasses.replace(dataset, classes=("gren",)))


def test_splits_that_cannot_be_scored_are_refused(tmp_path):
    dataset = trees.voc(tmp_path)
    with pytest.raises(ValueError, match="test split: .*: no box: the split has no box of purple"):
        boxes.write_split(dataset, "test", ("purple",), tmp_path / "test.json")
    (tmp_path / "VOC2012" / "Annotations" / "test_5.xml").unlink()
    with pytest.raises(ValueError, match="annotation is missing: .*test_5.xml is not there"):
        boxes.write_split(dataset, "test", trees.CLASSES, tmp_path / "test.json")


@pytest.mark.parametrize("orientation", [None, 3, 6])
@pytest.mark.parametrize("role", ["train", "test"])
def test_mmdet_loads_stored_pixels_which_boxes_count_whatever_the_orientation_tag(tmp_path, role, orientation):
    dataset = trees.coco(tmp_path)
    for path in (tmp_path / role).glob("*.jpg") if orientation else ():
        trees.set_orientation(path, orientation)
    split, _ = split_of(dataset, role, tmp_path / "work")
    settings = read_settings(Detect, trees.task("detect", dataset, "detect_retinanet"))
    make = {"train": detect.train_dataset, "test": detect.test_dataset}[role]
    config = make(split, trees.CLASSES, settings)
    trees.check_stored_pixels_are_loaded(config, "mmdet", tagged=orientation is not None)


def detections_of(content, *, shift=0.0):
    keep = ("image_id", "category_id")
    for item in content["annotations"]:
        x, y, width, height = item["bbox"]
        if not item["iscrowd"]:
            yield {**{key: item[key] for key in keep}, "bbox": [x + shift, y, width, height], "score": 0.9}


def test_ap_is_100_for_the_boxes_themselves_and_0_for_none(tmp_path):
    split, content = split_of(trees.voc(tmp_path), "test", tmp_path)
    perfect = {"AP": 100.0, "AP50": 100.0, "AP75": 100.0}
    assert evaluate(content, list(detections_of(content)))[0] == pytest.approx(perfect)
    assert evaluate(content, [])[0] == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}


@pytest.mark.parametrize(
    "ids", [["b", "a", "c"], [3, "2", 1], [2**63 + 7, 2, 2**63 + 14], [2**53 + 1, 2**53, 5], [0.5, 2, -1]]
)
def test_every_image_is_scored_whatever_its_id_is(tmp_path, ids):
    dataset = trees.coco(tmp_path)
    content = json.loads((tmp_path / "test.json").read_text())
    new = dict(zip([item["id"] for item in content["images"]], ids, strict=True))
    for item in content["images"]:
        item["id"] = new[item["id"]]
    for item in content["annotations"]:
        item["image_id"] = new[item["image_id"]]
    (tmp_path / "test.json").write_text(json.dumps(content))
    _, written = split_of(dataset, "test", tmp_path / "work")
    scores, answers = evaluate(written, list(detections_of(written)))
    assert scores["AP"] == pytest.approx(100) and answers.arrays["boxes"].tolist() == [[1, 1]] * 3
    numbers = [item["id"] for item in written["images"]]
    in_order = sorted(range(3), key=lambda place: (isinstance(ids[place], str), ids[place]))
    assert sorted(range(3), key=lambda place: numbers[place]) == in_order  # so earlier answers are still paired


def test_ap_averages_over_ten_overlaps(tmp_path):
    # Boxes 18 wide shifted by 3 overlap by 15 / 21 = 0.714: right at 0.50, 0.55, ..., 0.70, five of ten thresholds.
    split, content = split_of(trees.coco(tmp_path), "test", tmp_path / "work")
    scores, _ = evaluate(content, list(detections_of(content, shift=3.0)))
    assert scores == pytest.approx({"AP": 50.0, "AP50": 100.0, "AP75": 0.0})


class Finding(torch.nn.Module):
    """Finds the boxes of `trees.picture` on every image, as mmdet's models give them."""

    def test_step(self, batch):
        from mmengine.structures import InstanceData

        (sample,) = batch["data_samples"]
        boxes = trees.picture(sample.img_id)[2]
        corners = torch.tensor([box[1:] for box in boxes], dtype=torch.float32)
        labels = torch.tensor([trees.CLASSES.index(box[0]) for box in boxes])
        sample.pred_instances = InstanceData(bboxes=corners, labels=labels, scores=torch.tensor([0.9, 0.8]))
        return [sample]


def test_a_detector_that_finds_the_true_boxes_has_an_ap_of_100(tmp_path):
    from mmengine.registry import init_default_scope

    task = trees.task("detect", trees.coco(tmp_path / "data"), "detect_retinanet")
    cell = trees.cell(trees.student(), task, tmp_path / "work")
    split, content = split_of(task.dataset, "test", tmp_path / "work")
    compat.prepare()
    init_default_scope("mmdet")
    found, _, scored = detect.detections(Finding(), detect.test_dataset(split, trees.CLASSES, cell.settings), cell)
    assert scored == 3 and [box["score"] for box in found] == pytest.approx([0.9, 0.8] * 3)
    perfect = {"AP": 100.0, "AP50": 100.0, "AP75": 100.0}
    assert evaluate(content, found)[0] == pytest.approx(perfect)


def test_small_images_train_too_and_those_without_boxes_do_not(tmp_path):
    from mmengine.registry import DATASETS, init_default_scope

    task = trees.task("detect", trees.coco(tmp_path / "data"), "detect_retinanet")
    cell = trees.cell(trees.student(), task, tmp_path / "work")
    split, content = split_of(task.dataset, "train", tmp_path / "work")
    content["images"][0] |= {"width": 20, "height": 20}
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] != content["images"][1]["id"]]
    split.path.write_text(json.dumps(content))
    compat.prepare()
    init_default_scope("mmdet")
    built = DATASETS.build(detect.train_dataset(split, trees.CLASSES, cell.settings))
    assert [built.get_data_info(place)["img_id"] for place in range(len(built))] == [0, 2, 3]


def trained_backbone(checkpoint, config, tmp_path, **settings):
    task = trees.task("detect", trees.coco(tmp_path / "data"), config, iterations=1, **settings)
    cell = trees.cell(checkpoint, task, tmp_path / "work")
    return train(detect.train_config(cell), cell).model.backbone


def test_after_training_at_lr_0_the_model_still_holds_the_student(tmp_path):
    checkpoint = trees.student()
    parameters = dict(
        trained_backbone(checkpoint, "detect_retinanet", tmp_path, lr=0, weight_decay=0).named_parameters()
    )
    assert len(parameters) == 60
    assert all(torch.equal(value, checkpoint.weights[name]) for name, value in parameters.items())


@pytest.mark.parametrize("config", ["detect_faster_rcnn", "detect_retinanet"])  # both at lr 0: see test_frozen
def test_stem_and_every_stage_train_and_batchnorm_follows_the_data(tmp_path, config):
    checkpoint = trees.student()
    live = trained_backbone(checkpoint, config, tmp_path, warmup=0).state_dict()
    moved = [name for name, tensor in live.items() if not torch.equal(tensor, checkpoint.weights[name])]
    assert len(moved) == len(live) == 120


def check_outcome(outcome):
    assert list(outcome.metrics) == ["AP", "AP50", "AP75"]
    assert all(0 <= value <= 100 for value in outcome.metrics.values())
    assert outcome.counts == trees.COUNTS and outcome.answers.images == trees.COUNTS["test"]
    assert answered(outcome.answers) == pytest.approx(outcome.metrics, abs=1e-9)
    assert outcome.chosen.get("no_detections", False) == (outcome.chosen["detections"] == 0)
    assert outcome.load["coverage"] == 100 and outcome.load["max_difference"] < 1e-4


@pytest.mark.parametrize(("arch", "tensors"), [("mobilenetv2_100", 312), ("mobilenetv3_small_050", 240)])
def test_retinanet_takes_other_networks_on_a_voc_tree(tmp_path, arch, tensors):
    task = trees.task("detect", trees.voc(tmp_path / "data"), "detect_retinanet", clip_grad=10.0)
    outcome = run(trees.student(arch), task, tmp_path / "work")
    check_outcome(outcome)
    assert outcome.load["tensors"] == tensors
    assert outcome.chosen["boxes_of_other_classes"] == 1


def test_faster_rcnn_trains_stops_goes_on_and_is_scored(tmp_path):
    task = trees.task("detect", trees.coco(tmp_path / "data"), "detect_faster_rcnn", save_every=1)
    cell = trees.cell(trees.student("test_resnet"), task, tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        train(trees.stopping(detect.train_config(cell), at=1), cell)
    assert torch.load(cell.last, weights_only=True)["meta"]["iter"] == 1
    outcome = run(cell.checkpoint, task, cell.work_dir)
    check_outcome(outcome)
    assert outcome.curves["iteration"] == [1, 2] and cell.last.exists()  # until the result is written
    with Image.open(tmp_path / "work.sheet.png") as sheet:
        assert sheet.width == 744


@pytest.mark.parametrize("first", [0, 1, 4])
def test_batches_of_like_images_go_on_behind_those_that_were_drawn(first):
    compat.prepare()  # also where this test runs alone
    from mmdet.datasets.samplers import AspectRatioBatchSampler
    from mmengine.dataset import InfiniteSampler
    from mmengine.registry import init_default_scope

    from kdep_benchmarks.openmmlab.resume import FromBatch

    class Sizes:
        def __len__(self):
            return 11

        def get_data_info(self, index):
            return {"width": 10, "height": 20 if index % 3 else 5}

    init_default_scope("mmdet")
    through = list(itertools.islice(AspectRatioBatchSampler(InfiniteSampler(Sizes(), seed=3), 2), 9))
    batches = {"type": "AspectRatioBatchSampler"}
    resumed = FromBatch(InfiniteSampler(Sizes(), seed=3), 2, first=first, batches=batches)
    assert list(itertools.islice(resumed, 9 - first)) == through[first:]


def test_true_boxes_are_drawn_where_they_are(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(looks, "detection_sheet", lambda images, truths, found, path, **_: seen.update(truths=truths))
    truth, content = split_of(trees.voc(tmp_path), "test", tmp_path)
    first = content["images"][0]

    class Sample:
        img_id, img_path = first["id"], truth.images / first["file_name"]

    monkeypatch.setattr(looks, "_predicted", lambda sample: None)
    looks.draw_boxes([Sample], truth.path, trees.CLASSES, tmp_path / "work")
    expected = [list(box[1:]) for box in trees.picture(4)[2]]  # without the crowd, which is neither right nor wrong
    assert seen["truths"][0].corners.tolist() == expected and seen["truths"][0].labels.tolist() == [0, 1]


def test_warm_up_is_of_optimizer_steps_however_many_passes_each_takes(tmp_path):
    data = trees.coco(tmp_path / "data")
    # Without a given warm-up a tenth of the training, and at most 500 steps.
    for iterations, given, expected in ((20, {"warmup": 4}, 4), (2000, {}, 200), (9000, {}, 500)):
        for accumulate in (1, 3):
            options = {"iterations": iterations, "accumulate": accumulate, **given}
            cell = trees.cell(
                trees.student(), trees.task("detect", data, "detect_retinanet", **options), tmp_path / "w"
            )
            ramp, steps = detect.train_config(cell).param_scheduler
            assert ramp["end"] == expected * accumulate
            assert steps["milestones"][0] == round(iterations * accumulate * 8 / 12) and steps["gamma"] == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content["annotations"][2].update(category_id=12),
            "annotation 3: category is missing: category 12 is not",
        ),
        (lambda content: content["images"][1].pop("width"), "image 5: image without its keys: has no width"),
        (lambda content: content["images"][1].update(id=None), "image None: image without its keys: has no id"),
    ],
)
def test_a_json_that_does_not_fit_itself_is_refused_by_its_place(tmp_path, change, message):
    dataset = trees.coco(tmp_path)
    content = json.loads((tmp_path / "test.json").read_text())
    change(content)
    (tmp_path / "test.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"test.json, {message}"):
        split_of(dataset, "test", tmp_path)


def test_without_a_detection_ap_is_0_and_said_so(tmp_path):
    config = tmp_path / "mine.py"
    base = CONFIGS / "transfer" / "detect_retinanet.py"
    config.write_text(f"_base_ = '{base}'\nmodel = dict(test_cfg=dict(score_thr=1.0))\n")
    task = trees.task("detect", trees.coco(tmp_path / "data"), str(config), iterations=1)
    outcome = run(trees.student("test_resnet"), task, tmp_path / "work")
    assert outcome.metrics == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    assert outcome.chosen["no_detections"] and outcome.counts["test"] == 3


def test_a_diverged_loss_stops_the_run_with_advice(tmp_path):
    task = trees.task("detect", trees.coco(tmp_path / "data"), "detect_retinanet", lr=1e30, iterations=3, warmup=0)
    with pytest.raises(FloatingPointError, match="loss is (nan|inf) at iteration [23]; use a lower lr"):
        run(trees.student("test_resnet"), task, tmp_path / "work")
