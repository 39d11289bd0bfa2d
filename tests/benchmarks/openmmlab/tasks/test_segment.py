"""Real mmseg on tiny trees: the student arrives in the model, trains, is scored on every image, survives a stop."""

import dataclasses
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kdep.models.checkpoints.checkpoint import LoadError, fingerprint, load_exactly
from kdep.shipped import FOLDER as CONFIGS
from kdep_benchmarks.data.readers.masks import label_names
from kdep_benchmarks.jobs.memory import halve
from kdep_benchmarks.openmmlab import compat, hooks
from kdep_benchmarks.openmmlab.backbones import backbone_config, build_module, channels, toolbox_weights
from kdep_benchmarks.openmmlab.resume import go_on, seed_worker
from kdep_benchmarks.openmmlab.runner import train
from kdep_benchmarks.openmmlab.tasks import looks, masks, segment
from kdep_benchmarks.openmmlab.tasks.masks import open_masks
from kdep_benchmarks.tasks.settings import Segment, read_settings
from kdep_benchmarks.tasks.task import load_task
from tests.helpers import toolbox_trees as trees
from tests.helpers.made_results import answered

pytestmark = pytest.mark.openmmlab


def run(checkpoint, task, work_dir, *, seed=0):
    return segment.run_segment(checkpoint, task, seed=seed, work_dir=work_dir, device=trees.CPU)


def trained_model(checkpoint, task, work_dir):
    cell = trees.cell(checkpoint, task, work_dir)
    return train(segment.train_config(cell), cell).model


def check_outcome(outcome):
    assert list(outcome.metrics) == ["mIoU", "aAcc", "mAcc"]
    assert all(0 <= value <= 100 for value in outcome.metrics.values())
    assert outcome.counts == trees.COUNTS and outcome.answers.images == trees.COUNTS["test"]
    assert answered(outcome.answers) == pytest.approx(outcome.metrics, abs=1e-9)
    assert outcome.load["coverage"] == 100 and outcome.load["max_difference"] < 1e-4


def test_after_training_at_lr_0_the_model_still_holds_the_student(tmp_path):
    checkpoint = trees.student()
    settings = {"lr": 0, "weight_decay": 0, "iterations": 1, "output_stride": 32}
    task = trees.task("segment", trees.voc(tmp_path / "data"), "segment_fcn", **settings)
    parameters = dict(trained_model(checkpoint, task, tmp_path / "work").backbone.named_parameters())
    assert len(parameters) == 60
    assert all(torch.equal(value, checkpoint.weights[name]) for name, value in parameters.items())


def test_stem_and_every_stage_train_and_batchnorm_follows_the_data(tmp_path):
    checkpoint = trees.student()
    task = trees.task("segment", trees.voc(tmp_path / "data"), "segment_fcn", iterations=1, output_stride=32)
    live = trained_model(checkpoint, task, tmp_path / "work").backbone.state_dict()
    moved = [name for name, tensor in live.items() if not torch.equal(tensor, checkpoint.weights[name])]
    assert len(moved) == len(live) == 120


def test_pspnet_is_scored_on_every_image_of_a_voc_tree_of_ones_own_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(hooks.WatchClock, "iterations_per_second", 2.5)
    task = trees.task("segment", trees.voc(tmp_path / "data"), "segment_pspnet", head_lr_factor=10.0)
    outcome = run(trees.student("test_resnet"), task, tmp_path / "work")
    check_outcome(outcome)
    assert outcome.curves["iteration"] == [1, 2]
    assert outcome.cost["images_per_second"] == 2.5 * 2  # images in a batch
    # The cell drops it once its result is written: lost before that, the training would be lost too.
    assert [path.name for path in (tmp_path / "work").glob("**/*.pth")] == ["last.pth"]
    with Image.open(tmp_path / "work.sheet.png") as sheet:
        # Three columns and three rows of images of 80 x 72 pixels, a title above and the classes below.
        assert sheet.width == 744 and sheet.height == pytest.approx(3 * 744 / 3 * 72 / 80 + 60, abs=1)


def answered_with(labels, classes):
    """An answer to labels: right in the left half, the next class in the right one, class 0 for ignored pixels."""
    answer, half = np.where(labels == 255, 0, labels), labels.shape[-1] // 2
    answer[..., half:] = (answer[..., half:] + 1) % classes
    return answer


class Answering(torch.nn.Module):
    """Answers with `answered_with`."""

    def test_step(self, batch):
        from mmengine.structures import PixelData

        (sample,) = batch["data_samples"]
        answer = answered_with(sample.gt_sem_seg.data.numpy(), len(trees.CLASSES))
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(answer))
        return [sample]


@pytest.mark.parametrize(
    ("make", "masks", "classes"),
    [(trees.voc, "VOC2012/SegmentationClass/test_*.png", 3), (trees.ade20k, "masks/test/*.png", 2)],
)
def test_pixels_are_counted_on_the_masks_own_grid_and_ignored_ones_never(make, masks, classes, tmp_path, monkeypatch):
    from mmengine.registry import init_default_scope

    monkeypatch.setattr(trees, "CLASSES", ("ground", "red", "green")[-classes:])
    dataset = dataclasses.replace(make(tmp_path / "data"), classes=trees.CLASSES)
    truths = []
    for path in sorted((tmp_path / "data").glob(masks)):
        labels = np.asarray(Image.open(path)).astype(int)
        labels[:9] = 255 if classes == 3 else 0  # 0 is unlabelled in ADE20K, which counts classes from 1
        Image.fromarray(labels.astype(np.uint8)).save(path)
        truths.append(labels if classes == 3 else np.where(labels == 0, 255, labels - 1))
    cell = trees.cell(trees.student(), trees.task("segment", dataset, "segment_fcn"), tmp_path / "work")
    transforms = segment.test_transforms(cell.settings)
    compat.prepare()
    init_default_scope("mmseg")
    test = segment._joined(segment.split_configs(open_masks(dataset, "test")), transforms)
    areas = segment.image_areas(Answering(), test, cell)
    for found, truth in zip(areas, truths, strict=True):
        answer, counted = answered_with(truth, classes), truth != 255
        for label in range(classes):
            true, told = (truth == label) & counted, (answer == label) & counted
            assert found[:, label].tolist() == [(true & told).sum(), told.sum(), true.sum()]


@pytest.mark.parametrize("orientation", [None, 3, 6])
@pytest.mark.parametrize("role", ["train", "test"])
def test_mmseg_loads_stored_pixels_which_masks_cover_whatever_the_orientation_tag(tmp_path, role, orientation):
    dataset = trees.voc(tmp_path)
    for path in (tmp_path / "VOC2012" / "JPEGImages").glob(f"{role}_*.jpg") if orientation else ():
        trees.set_orientation(path, orientation)
    settings = read_settings(Segment, trees.task("segment", dataset, "segment_fcn"))
    transforms = {"train": segment.train_transforms, "test": segment.test_transforms}[role](settings)
    config = segment._joined(segment.split_configs(open_masks(dataset, role)), transforms)
    trees.check_stored_pixels_are_loaded(config, "mmseg", tagged=orientation is not None)


def test_a_sheet_that_cannot_be_drawn_costs_no_score(tmp_path, monkeypatch, caplog):
    def broken(*args, **others):
        raise OSError("no room for a picture")

    monkeypatch.setattr(looks, "segmentation_sheet", broken)
    task = trees.task("segment", trees.voc(tmp_path / "data"), "segment_fcn", iterations=1, batch_size=1)
    check_outcome(run(trees.student("test_resnet"), task, tmp_path / "work"))
    assert "no sheet was drawn" in caplog.text and "no room for a picture" in caplog.text


def test_half_the_batch_with_twice_the_accumulation_takes_as_many_steps_on_as_many_images(tmp_path):
    whole = trees.task("segment", trees.voc(tmp_path / "data"), "segment_fcn", batch_size=4, iterations=3)
    half, said = halve(whole)
    assert said == {"images_at_once": 2, "before": 4, "accumulate": 2}
    for task, size in ((whole, 4), (half, 2)):
        cell = trees.cell(trees.student("test_resnet"), task, tmp_path / "work")
        config = segment.train_config(cell)
        assert config.train_dataloader.batch_size == size
        assert config.train_cfg.max_iters * size == 3 * 4
        assert config.optim_wrapper.accumulative_counts * size == 4


def test_fcn_takes_another_network_on_an_ade20k_tree(tmp_path):
    task = trees.task("segment", trees.ade20k(tmp_path / "data"), "segment_fcn", accumulate=2, iterations=1)
    outcome = run(trees.student("mobilenetv2_100"), task, tmp_path / "work")
    check_outcome(outcome)
    assert outcome.load["tensors"] == 306
    assert outcome.curves["iteration"] == [1, 2]


def interrupted(tmp_path, *, at, **settings):
    settings = {"iterations": 3, "save_every": 1} | settings
    task = trees.task("segment", trees.voc(tmp_path / "data"), "segment_fcn", **settings)
    cell = trees.cell(trees.student("test_resnet"), task, tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        train(trees.stopping(segment.train_config(cell), at=at), cell)
    return cell, torch.load(cell.last, weights_only=True)


def counted(monkeypatch):
    """Paths of the images that are decoded from now on."""
    from mmcv.transforms import LoadImageFromFile

    read, own = [], LoadImageFromFile.transform
    monkeypatch.setattr(
        LoadImageFromFile, "transform", lambda self, found: read.append(found["img_path"]) or own(self, found)
    )
    return read


def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped_and_reads_only_what_is_left(tmp_path, monkeypatch):
    cell, saved = interrupted(tmp_path, at=2)
    assert saved["meta"]["iter"] == 2
    read = counted(monkeypatch)
    trained = train(segment.train_config(cell), cell)
    assert len(read) == cell.settings.batch_size
    assert trained.curves["iteration"] == [1, 2, 3]
    assert trained.curves["loss"][:2] == saved["meta"]["curve"][1]
    assert trained.cost == {}  # one iteration, which warms up, tells no speed
    through = cell._replace(work_dir=tmp_path / "through")
    expected = train(segment.train_config(through), through)
    # The same images, and the same scales, crops, flips and colours of them.
    assert read[-2:] == read[:2] and trained.curves == expected.curves
    live = trained.model.state_dict()
    assert all(torch.equal(live[name], tensor) for name, tensor in expected.model.state_dict().items())


def test_after_a_stop_a_worker_sees_the_images_that_are_left_with_new_draws(tmp_path):
    cell, _ = interrupted(tmp_path, at=2, workers=1)
    config = segment.train_config(cell)
    go_on(config, cell.last, seed=cell.seed)
    assert config.train_dataloader.worker_init_fn.seed not in range(-2, 3)
    assert config.train_dataloader.batch_sampler == {"type": "FromBatch", "first": 2, "batches": None}
    assert train(segment.train_config(cell), cell).curves["iteration"] == [1, 2, 3]


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, [2, 4, 6]), (60.0, [6])])
def test_by_default_the_clock_decides_when_whole_steps_are_saved(tmp_path, monkeypatch, seconds, saved):
    monkeypatch.setattr(hooks, "SECONDS", seconds)
    keep, at = hooks.KeepLast(tmp_path / "last.pth", every=None, accumulate=2), []
    runner = SimpleNamespace(max_iters=6)
    runner.save_checkpoint = lambda folder, name, **_: at.append(runner.iter + 1) or (tmp_path / name).touch()
    for runner.iter in range(6):
        keep.after_train_iter(runner, runner.iter)
    assert at == saved and (tmp_path / "last.pth").exists()


def test_speed_is_of_whole_iterations_behind_the_first(monkeypatch):
    times = iter([100.0, 103.0, 103.5, 107.0])
    monkeypatch.setattr(hooks, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    clock = hooks.WatchClock()
    for expected in (None, 1 / 3, 2 / 3.5, 3 / 7):
        clock.after_train_iter(None, 0)
        assert clock.iterations_per_second == expected


def test_a_training_checkpoint_of_another_seed_is_not_continued(tmp_path):
    cell, _ = interrupted(tmp_path, at=2)
    other = cell._replace(seed=1)
    curves = train(segment.train_config(other), other).curves
    assert curves["iteration"] == [1, 2, 3]
    assert torch.load(cell.last, weights_only=True)["meta"]["seed"] == 1


def resized(transforms, side, *, times=1):
    """(Height, width) of an image after the resizing among some transforms, drawn so many times."""
    from mmcv.transforms import Compose

    resize = Compose([step for step in transforms if step["type"].endswith("Resize")])
    image = {"img": np.zeros((*side, 3), np.uint8), "img_shape": side, "seg_fields": []}
    return [resize(dict(image))["img_shape"] for _ in range(times)]


@pytest.mark.parametrize("protocol", ["fair", "paper"])
def test_cityscapes_is_trained_and_scored_at_full_resolution(tmp_path, protocol):
    task = load_task("cityscapes-segment", tmp_path, protocol=protocol)
    assert task.version == {"fair": 3, "paper": 2}[protocol]
    settings = read_settings(Segment, task)
    assert resized(segment.test_transforms(settings), (1024, 2048)) == [(1024, 2048)]
    heights = [height for height, _ in resized(segment.train_transforms(settings), (1024, 2048), times=30)]
    assert 512 <= min(heights) < 1024 < max(heights) <= 2048
    crop = next(step for step in segment.train_transforms(settings) if step["type"] == "RandomCrop")
    assert crop["crop_size"] == (512, 512)


def test_without_a_scale_the_short_side_becomes_the_crop(tmp_path):
    settings = read_settings(Segment, load_task("voc2012-segment", tmp_path))
    assert resized(segment.test_transforms(settings), (375, 500)) == [(512, 683)]
    assert segment.train_transforms(settings)[2]["scale"] == (2048, 512)


def broken(checkpoint, change):
    weights = change(dict(checkpoint.weights))
    return dataclasses.replace(checkpoint, weights=weights, sha256=fingerprint(weights))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: {k: v for k, v in weights.items() if k != "bn1.running_var"}, "1 missing.*bn1.running_var"),
        (lambda weights: {f"student.{k}": v for k, v in weights.items()}, "120 missing.*120 unexpected"),
        (lambda weights: {**weights, "bn1.bias": weights["bn1.bias"][:3]}, "1 of another shape.*bn1.bias"),
    ],
)
def test_weights_that_do_not_fit_exactly_are_refused(tmp_path, change, message):
    task = trees.task("segment", trees.voc(tmp_path / "data"), "segment_fcn")
    with pytest.raises(LoadError, match=message):
        run(broken(trees.student(), change), task, tmp_path / "work")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("type='ResNetV1c'", "ResNetV1c.*missing.*stem"),
        # A BatchNorm's epsilon is no tensor: everything loads, and every map is a little wrong.
        ("norm_cfg=dict(eps=1e-3)", "all tensors loaded, but stride 4 differs"),
    ],
)
def test_a_backbone_that_computes_something_else_is_refused(tmp_path, backbone, message):
    config = tmp_path / "mine.py"
    config.write_text(
        f"_base_ = '{CONFIGS / 'transfer' / 'segment_fcn.py'}'\nmodel = dict(backbone=dict({backbone}))\n"
    )
    task = trees.task("segment", trees.voc(tmp_path / "data"), str(config))
    with pytest.raises(LoadError, match=message):
        run(trees.student(), task, tmp_path / "work")


def test_colour_order_and_normalisation_are_part_of_the_load_check(tmp_path):
    cell = trees.cell(trees.student(), trees.task("segment", trees.voc(tmp_path), "segment_fcn"), tmp_path / "work")
    config = segment.train_config(cell)
    config.model.data_preprocessor.bgr_to_rgb = False
    with pytest.raises(LoadError, match="stride 4 differs"):
        train(config, cell)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1}, "unknown key learning_rate; there are config, iterations"),
        ({"short_sides": (4, 4)}, "unknown key short_sides"),
        ({"scale": (0, 4)}, "scale.0 must be greater than or equal to 1, got 0"),
        ({"lr": "5e-4"}, "lr must be a number, got '5e-4'"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"iterations": 0}, "iterations must be greater than or equal to 1, got 0"),
        (
            {"config": "segment_unet"},
            "config: there are segment_fcn, segment_fcn_light, segment_pspnet, or .*got 'segment_unet'",
        ),
        ({"config": "detect_retinanet"}, "a config of mmdet; segment needs one of mmseg"),
        ({"config": "segment_pspnet", "batch_size": 1}, "batch_size is 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_trains(tmp_path, settings, message):
    task = trees.task("segment", trees.ade20k(tmp_path / "data"), settings.pop("config", "segment_fcn"), **settings)
    with pytest.raises(ValueError, match=message):
        run(trees.student("test_resnet"), task, tmp_path / "work")


def test_masks_that_cannot_be_the_classes_are_refused(tmp_path):
    dataset = trees.voc(tmp_path)
    mask = tmp_path / "VOC2012" / "SegmentationClass" / "train_1.png"
    Image.fromarray(np.full((72, 80), 3, np.uint8)).save(mask)
    with pytest.raises(ValueError, match="train_1.png: mask value out of range: holds 3 .*; the classes are 0 to 2"):
        open_masks(dataset, "train")
    ade = trees.ade20k(tmp_path / "ade")
    first = ade.root / ade.files["train_masks"] / "1.png"
    Image.fromarray(np.full((72, 80), 99, np.uint8)).save(first)
    with pytest.raises(ValueError, match=r"holds 99 .*; the classes are 1 to \d+, and 0 and 255 are ignored"):
        open_masks(ade, "train")
    Image.fromarray(np.zeros((72, 80, 3), np.uint8)).save(mask)
    with pytest.raises(ValueError, match="train_1.png: mask with colours: an image of mode RGB"):
        open_masks(dataset, "train")
    mask.unlink()
    with pytest.raises(ValueError, match="mask is missing: .*train_1.png is not there"):
        open_masks(dataset, "train")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (72, 80)), "mask of another size: 72 x 80, its image 80 x 72"),
        (Image.new("RGB", (80, 72)), "mask with colours: an image of mode RGB"),
    ],
)
def test_size_and_mode_of_every_train_mask_are_checked(tmp_path, monkeypatch, mask, message):
    monkeypatch.setattr(masks, "LOOKED_AT", 1)  # the values of the others are not read
    dataset = trees.voc(tmp_path)
    assert len(open_masks(dataset, "train")) == 4
    mask.save(tmp_path / "VOC2012" / "SegmentationClass" / "train_3.png")
    with pytest.raises(ValueError, match=f"train_3.png: {message}"):
        open_masks(dataset, "train")


def test_class_names_may_stand_in_ade20ks_own_list(tmp_path):
    (tmp_path / "names.txt").write_text("Idx\tRatio\tName\n1\t0.1\twall\n2\t0.2\tsky\n")
    dataset = dataclasses.replace(trees.ade20k(tmp_path), classes=("@names.txt",))
    assert label_names(dataset) == ("wall", "sky")


@pytest.mark.parametrize("toolbox", ["mmseg", "mmdet"])
def test_networks_without_pyramid_or_toolbox_are_refused(toolbox):
    with pytest.raises(ValueError, match="test_vit has maps at strides \\[16\\]"):
        backbone_config("test_vit", toolbox)
    with pytest.raises(LoadError, match="1 of 90 tensors are missing"):
        weights = trees.student("test_resnet").weights
        weights.pop("layer1.0.bn1.bias")
        toolbox_weights("test_resnet", weights, toolbox)


class Toy(torch.nn.Module):
    """Parameters under the names of a toolbox's model."""

    def __init__(self):
        super().__init__()
        for name in ("backbone", "neck", "decode_head", "auxiliary_head"):
            setattr(self, name, torch.nn.Linear(1, 1))


def test_heads_and_neck_learn_faster_than_the_backbone_and_all_rates_fall_to_zero_by_the_power_of_0_9(tmp_path):
    from mmengine.optim import PolyLR, build_optim_wrapper

    settings = {"head_lr_factor": 10.0, "iterations": 8, "lr": 0.02, "weight_decay": 0.003}
    task = trees.task("segment", trees.voc(tmp_path / "data"), "segment_fcn", **settings)
    config = segment.train_config(trees.cell(trees.student(), task, tmp_path / "work"))
    toy = Toy()
    wrapper = build_optim_wrapper(toy, config.optim_wrapper)
    rates = {id(group["params"][0]): group for group in wrapper.optimizer.param_groups}
    for name, parameter in toy.named_parameters():
        group = rates[id(parameter)]
        assert group["lr"] == pytest.approx(0.02 if name.startswith("backbone") else 0.2)
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 0.003, False)
    (schedule,) = config.param_scheduler
    assert schedule.pop("type") == "PolyLR"
    poly, lr = PolyLR(wrapper.optimizer, **schedule), []
    for _ in range(8):
        lr.append(rates[id(toy.backbone.weight)]["lr"])
        wrapper.optimizer.step()
        poly.step()
    # mmengine reaches the end at the last iteration, not behind it.
    assert lr == pytest.approx([0.02 * (1 - step / 7) ** 0.9 for step in range(8)], abs=1e-12)


def test_clipping_mixed_precision_and_accumulation_reach_the_optimizer(tmp_path):
    data = trees.voc(tmp_path / "data")
    given = {"clip_grad": 7.0, "amp": True, "accumulate": 2}
    for settings, expected in (({}, (None, "OptimWrapper", 1)), (given, ({"max_norm": 7.0}, "AmpOptimWrapper", 2))):
        task = trees.task("segment", data, "segment_fcn", **settings)
        wrapper = segment.train_config(trees.cell(trees.student(), task, tmp_path / "work")).optim_wrapper
        assert (wrapper.clip_grad, wrapper.type, wrapper.accumulative_counts) == expected


def test_each_worker_draws_random_numbers_of_its_own():
    drawn = []
    for worker in (0, 1, 0):
        seed_worker(worker, seed=3)
        drawn.append((random.random(), np.random.random(), torch.rand(()).item()))
    assert drawn[0] == drawn[2] and not any(one == other for one, other in zip(*drawn[:2], strict=True))


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100", "test_resnet"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_is_that_of_the_last_map_and_changes_no_name(arch, stride):
    checkpoint = trees.student(arch)
    module = build_module(backbone_config(arch, "mmseg", output_stride=stride), "mmseg")
    load_exactly(module, toolbox_weights(arch, checkpoint.weights, "mmseg"), arch)
    maps = module(torch.zeros(1, 3, 64, 64))
    assert [features.shape[-1] for features in maps] == [64 // min(own, stride) for own in (4, 8, 16, 32)]
    assert tuple(features.shape[1] for features in maps) == channels(arch)
    convolutions = [layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert {layer.dilation[0] for layer in convolutions} == {8: {1, 2, 4}, 16: {1, 2}, 32: {1}}[stride]
