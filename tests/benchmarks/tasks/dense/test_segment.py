"""dense-linear and dense-knn against slow versions, and what they do with data that cannot be."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from timm.models.resnet import ResNet

from kdep.models.backbones.backbone import Backbone, build_backbone, create_network
from kdep.models.backbones.fold import fold_batchnorm
from kdep.models.backbones.taps import find_taps
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.probe.areas import segmentation_metrics
from kdep.probe.neighbours import Memory
from kdep.probe.positions import draw_positions
from kdep_benchmarks.tasks.dense.box_features import box_features
from kdep_benchmarks.tasks.dense.mask_features import MaskFeatures, mask_features, taken
from kdep_benchmarks.tasks.dense.readers import open_masks
from kdep_benchmarks.tasks.dense.segment import (
    count_areas,
    estimated_miou,
    fit_dense,
    run_dense_knn,
    run_dense_linear,
    val_positions,
)
from kdep_benchmarks.tasks.linear import fit_path
from kdep_benchmarks.tasks.settings import Box, DenseLinear
from kdep_benchmarks.tasks.task import Task
from tests.benchmarks.tasks.test_linear import made, objective
from tests.helpers import toolbox_trees as trees

CPU = torch.device("cpu")
BOXES = {"size": 64, "batch_size": 2, "workers": 0}
SMALL = {"size": 64, "stride": 8, "batch_size": 2, "workers": 0, "positions": 300}


def run(kind, dataset, folder, *, arch="resnet18", seed=0, **settings):
    task = Task(f"tiny-{kind}", kind, dataset, settings={**SMALL, **settings})
    return {"dense-linear": run_dense_linear, "dense-knn": run_dense_knn}[kind](
        trees.student(arch), task, seed=seed, work_dir=folder, device=CPU
    )


def test_a_drawn_position_counts_as_often_as_it_stands_for():
    generator = np.random.default_rng(1)
    counts = [generator.multinomial(64, generator.dirichlet([0.5, 0.1, 0.05]), size=400) for _ in range(30)]
    known = [np.pad(of_image, ((0, 0), (0, 1))) for of_image in counts]  # every pixel has a class
    draw = draw_positions(known, total=4000, balance=1.0)
    assert len(draw.labels) == 4000 and draw.weight.sum() == pytest.approx(12000)
    labels, answer = torch.from_numpy(draw.labels), torch.from_numpy(generator.integers(0, 3, 4000))
    every = np.concatenate(counts) / 64
    frequency = (draw.labels * draw.weight[:, None]).sum(0) / 12000
    assert frequency == pytest.approx(every.mean(0), abs=0.01)
    slow = np.zeros((3, 3))  # right, answered, labelled
    for label, given, weight in zip(draw.labels, answer.tolist(), draw.weight, strict=True):
        slow[0, given] += label[given] * weight
        slow[1, given] += weight
        slow[2] += label * weight
    expected = segmentation_metrics(slow)["mIoU"]
    assert estimated_miou(answer, labels, torch.from_numpy(draw.weight)) == pytest.approx(expected)


def test_metrics_are_those_of_all_stored_predictions():
    generator = torch.Generator().manual_seed(0)
    sizes = [(30, 44), (25, 31), (64, 40)]
    truth = [torch.randint(0, 5, size, generator=generator) for size in sizes]  # 4 stands for no class
    truth = [torch.where(mask == 2, 1, mask) for mask in truth]  # class 2 is nowhere true
    scores = [torch.randn(4, 5, 7, generator=generator) for _ in sizes]
    for on_grid in scores:
        on_grid[2] = -9  # nor answered
    masks = type("Masks", (), {"read": staticmethod(lambda number: truth[number].numpy())})
    areas = count_areas(scores, masks)
    predicted = [
        F.interpolate(s[None], size, mode="bilinear", align_corners=False)[0].argmax(0)
        for s, size in zip(scores, sizes, strict=True)
    ]
    p, t = (torch.cat([m.flatten() for m in maps]) for maps in (predicted, truth))
    p, t = p[t < 4], t[t < 4]
    iou = [float(((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum()) for c in (0, 1, 3)]
    recall = [float(((p == c) & (t == c)).sum() / (t == c).sum()) for c in (0, 1, 3)]
    found = segmentation_metrics(areas.sum(0))
    assert found["mIoU"] == pytest.approx(100 * np.mean(iou)) and found["mAcc"] == pytest.approx(100 * np.mean(recall))
    assert found["aAcc"] == pytest.approx(100 * float((p == t).float().mean()))
    assert areas.shape == (3, 3, 4) and areas[1, 2].sum() == areas[1, 1].sum() == int((truth[1] < 4).sum())


def test_soft_labels_have_the_optimum_of_scikit_learns_weighted_images():
    x, labels = made(count=400)
    soft = torch.rand(400, 4, generator=torch.Generator().manual_seed(1)) + 4 * F.one_hot(labels, 4)
    soft /= soft.sum(1, keepdim=True)
    (ours,) = fit_path(x, soft, classes=4, penalties=[1e-2])
    deviation, mean = x.double().std(0, correction=0), x.double().mean(0)
    standard = ((x - mean) / deviation).numpy()
    # An image with shares is one image of each class, weighted by its share.
    model = LogisticRegression(C=1 / (1e-2 * 400), tol=1e-10, max_iter=10000)
    model.fit(np.repeat(standard, 4, axis=0), np.tile(np.arange(4), 400), sample_weight=soft.flatten().numpy())
    reached = objective(x, soft.double(), 1e-2, torch.tensor(model.coef_.T), torch.tensor(model.intercept_))
    assert ours.objective == pytest.approx(reached, rel=1e-4)
    probabilities = ours.scores(x).softmax(1).numpy()
    assert np.abs(probabilities - model.predict_proba(standard)).max() < 0.01


def test_features_are_the_networks_own_at_the_drawn_positions(tmp_path):
    checkpoint, dataset = trees.student(), trees.voc(tmp_path)
    settings = DenseLinear(**SMALL)
    found = mask_features(checkpoint, dataset, settings, cache=tmp_path / "cache", device=CPU)
    again = mask_features(checkpoint, dataset, settings, cache=tmp_path / "cache", device=CPU)
    assert found.cost and not again.cost and torch.equal(found.test, again.test)
    backbone = build_backbone(checkpoint).eval()
    with Image.open(open_masks(dataset, "test").images[1]) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    shown = F.interpolate(pixels, (64, 64), mode="bilinear", antialias=True).round() / 255
    with torch.no_grad():
        maps = backbone.stage_maps(shown)[-3:]
    expected = torch.cat([F.interpolate(m, (8, 8), mode="bilinear", align_corners=False) for m in maps], 1)
    ours = found.test[64:128].float()
    assert (ours - expected[0].flatten(1).T).norm() < 0.01 * expected.norm()  # float16 and resampling in uint8
    assert found.train.shape == (256, 896) and found.labels.sum(1).numpy() == pytest.approx(1)


def scaled(checkpoint, factor):
    """The same network with another scale of its last map."""
    weights = checkpoint.weights | {"layer4.1.bn2.weight": factor * checkpoint.weights["layer4.1.bn2.weight"]}
    return replace(checkpoint, weights=weights, sha256=fingerprint(weights))


def test_features_too_large_for_float16_are_kept_in_float32_and_those_of_broken_weights_refused(tmp_path):
    # An untrained ResNet-101 has maps of 300,000.
    checkpoint, dataset, settings = scaled(trees.student(), 1e7), trees.voc(tmp_path), DenseLinear(**SMALL)
    found = mask_features(checkpoint, dataset, settings, cache=tmp_path / "cache", device=CPU)
    assert found.train.dtype == found.test.dtype == torch.float32 and found.test.max() > 1e6
    boxes, *_ = box_features(checkpoint, dataset, Box(**BOXES), cache=tmp_path / "cache", device=CPU)
    assert boxes.whole.dtype == boxes.parts.dtype == torch.float32 and boxes.whole.isfinite().all()
    for measure, own in ((mask_features, settings), (box_features, Box(**BOXES))):
        with pytest.raises(ValueError, match="features are not finite"):
            measure(scaled(checkpoint, float("nan")), dataset, own, cache=tmp_path / "cache", device=CPU)


def test_of_many_images_a_draw_from_all_of_them_takes_part():
    some = taken(1000, 50)
    assert some == sorted(set(some)) == taken(1000, 50) and len(some) == 50
    assert some[0] < 100 and some[-1] > 900 and taken(3, 50) == [0, 1, 2]


def test_the_path_chooses_on_val_and_refits_on_all(tmp_path):
    features = mask_features(
        trees.student(), trees.voc(tmp_path), DenseLinear(**SMALL), cache=tmp_path / "cache", device=CPU
    )
    val = val_positions(features.image, 0)
    solution, chosen, curves = fit_dense(features, path=(0.01, 0.1, 1.0), val=val, device=CPU)
    assert curves["lambda"] == [0.01, 0.1, 1.0] and chosen["lambda"] in curves["lambda"]
    best = curves["val_mIoU"][curves["lambda"].index(chosen["lambda"])]
    assert best == max(curves["val_mIoU"])
    (slow,) = fit_path(features.train.float(), features.labels, classes=3, penalties=[chosen["lambda"]])
    assert solution.objective == pytest.approx(slow.objective, rel=1e-4)
    assert len(features.image[val].unique()) == 1


def noise(count=60, dim=80, classes=3):
    """Positions of 10 images whose features say nothing of their classes, more features than positions."""
    generator = torch.Generator().manual_seed(0)
    labels = F.one_hot(torch.randint(classes, (count,), generator=generator), classes).float()
    features = torch.randn(count, dim, generator=generator).half()
    none = torch.zeros(0, dim)
    image, weight = torch.arange(count) // 6, torch.ones(count)
    return MaskFeatures(features, labels, image, weight, none, np.zeros((0, 2)), None, {}, {}, {})


def test_val_takes_no_part_in_the_fit_by_which_the_penalty_is_chosen():
    found = noise()
    _, _, curves = fit_dense(found, path=(1e-4,), val=found.image < 4, device=CPU)
    assert curves["val_mIoU"][0] < 60  # a fit that has seen val answers all of it


def test_positions_of_val_count_as_often_as_they_stand_for():
    found = noise()
    heavy = replace(found, weight=torch.where(found.labels[:, 0] > 0, 100.0, 1.0))
    val = found.image < 4
    plain, weighed = (fit_dense(one, path=(1e-4,), val=val, device=CPU)[2]["val_mIoU"] for one in (found, heavy))
    assert plain != weighed


def test_neighbours_are_those_of_brute_force():
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(200, 12, generator=generator) * torch.arange(1, 13) + 3
    queries = torch.randn(50, 12, generator=generator) * torch.arange(1, 13) + 3
    labels = torch.rand(200, 3, generator=generator)
    found = Memory(bank, labels, axes=12, device=CPU).ask(queries, k=7, temperature=0.05)
    mean, deviation = bank.numpy().mean(0), bank.numpy().std(0)
    unit = [((x.numpy() - mean) / deviation) for x in (queries, bank)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in unit]
    for query, answer in zip(unit[0], found, strict=True):
        similarity = unit[1] @ query
        nearest = np.argsort(-similarity)[:7]
        weights = np.exp(similarity[nearest] / 0.05)
        expected = (weights[:, None] * labels.numpy()[nearest]).sum(0) / weights.sum()
        assert answer.numpy() == pytest.approx(expected, abs=1e-4)


def test_comparisons_on_the_leading_axes_keep_what_varies():
    generator = torch.Generator().manual_seed(1)
    bank = torch.randn(300, 5, generator=generator) @ torch.randn(5, 40, generator=generator)
    labels = torch.eye(300)
    whole, few = (Memory(bank, labels, axes=axes, device=CPU).ask(bank, k=3, temperature=0.1) for axes in (40, 5))
    assert (whole - few).abs().max() < 1e-3
    with pytest.raises(ValueError, match="k is 301, but only 300 labelled positions"):
        Memory(bank, labels, axes=5, device=CPU).ask(bank, k=301, temperature=0.1)


@pytest.mark.parametrize("kind", ["dense-linear", "dense-knn"])
@pytest.mark.parametrize(
    ("arch", "layout"), [("resnet18", "voc"), ("mobilenetv2_100", "ade20k"), ("vit_tiny_patch16_224", "voc")]
)
def test_every_layout_and_kind_of_network_is_measured(tmp_path, kind, arch, layout):
    positions = {"k": 5} if kind == "dense-knn" else {}
    outcome = run(kind, getattr(trees, layout)(tmp_path), tmp_path / "work", arch=arch, **positions)
    assert outcome.counts == (
        {"train": 3, "val": 1, "test": 3} if kind == "dense-linear" else {"train": 4, "val": 0, "test": 3}
    )
    assert next(iter(outcome.metrics)) == "mIoU" and 20 < outcome.metrics["mIoU"] <= 100


def repaint(dataset, role, painted):
    """Change the masks of a VOC tree."""
    for path in (dataset.root / "VOC2012" / "SegmentationClass").glob(f"{role}_*.png"):
        trees.save(painted(np.array(Image.open(path))).astype(np.uint8), path)


def test_a_class_that_train_does_not_have_is_named_and_scores_nothing(tmp_path):
    dataset = trees.voc(tmp_path)
    repaint(dataset, "train", lambda mask: np.where(mask == 2, 1, mask))
    outcome = run("dense-linear", dataset, tmp_path / "work")
    assert outcome.chosen["classes_not_in_train"] == ["green"]


@pytest.mark.parametrize("role", ["train", "test"])
def test_masks_of_0_and_255_have_one_class_and_are_refused(tmp_path, role):
    dataset = trees.voc(tmp_path)
    repaint(dataset, role, lambda mask: np.where(mask > 0, 255, mask))
    for _ in range(2):  # the second time from stored features
        with pytest.raises(ValueError, match=f"{role}: masks of one class: only 'background' has pixels"):
            run("dense-linear", dataset, tmp_path / "work")


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100", "regnetx_002", "convnext_atto"])
@pytest.mark.parametrize("tap", ["pre", "post"])
def test_maps_are_those_that_timm_gives_whatever_the_tap(arch, tap):
    torch.manual_seed(0)
    network = create_network(arch).eval()
    theirs = timm.create_model(arch, features_only=True, pretrained=False).eval()
    weights = {name.replace(".", "_"): tensor for name, tensor in network.state_dict().items()}
    theirs.load_state_dict({name: weights[name.replace(".", "_")] for name in theirs.state_dict()})
    images = torch.randn(2, 3, 64, 96)
    if tap not in find_taps(network).names:
        pytest.skip(f"{arch} has no tap {tap}")
    backbone = Backbone(network, tap=tap, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    folded = fold_batchnorm(copy.deepcopy(backbone), images.shape[-1])
    with torch.no_grad():
        expected, found, again = theirs(images), backbone.stage_maps(images), folded.stage_maps(images)
    assert [m.shape for m in found] == [m.shape for m in expected]
    for ours, other, own in zip(found, again, expected, strict=True):
        torch.testing.assert_close(ours, own)
        assert (other - own).norm() < 1e-4 * own.norm()


def test_a_transformer_with_stages_has_their_maps():
    backbone = Backbone(create_network("hiera_tiny_224"), tap="post", mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    with torch.no_grad():
        maps = backbone.stage_maps(torch.randn(1, 3, 224, 224))
    assert [m.shape[1:] for m in maps] == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


def test_a_network_without_maps_is_refused(tmp_path, monkeypatch):
    monkeypatch.delattr(ResNet, "forward_intermediates")
    with pytest.raises(ValueError, match="resnet18 has no feature maps"):
        run("dense-linear", trees.voc(tmp_path), tmp_path / "work")


def test_a_value_that_is_no_class_is_refused_in_any_mask(tmp_path):
    dataset = trees.voc(tmp_path)
    path = tmp_path / "VOC2012" / "SegmentationClass" / "train_2.png"
    mask = np.array(Image.open(path))
    mask[0, 0] = 9
    trees.save(mask, path)
    with pytest.raises(ValueError, match=r"train_2.png.*9 \(1 pixels\).*0 to 2"):
        run("dense-linear", dataset, tmp_path / "work")


def test_one_labelled_train_image_is_too_few():
    with pytest.raises(ValueError, match="one image only"):
        val_positions(torch.zeros(50, dtype=torch.long), 0)
    assert val_positions(torch.arange(10).repeat(3), 0).sum() == 6
