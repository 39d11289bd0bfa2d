"""The frozen kinds in the real toolboxes: the backbone stays as it was bit by bit, what stands on it is trained."""

import pytest
import torch

from kdep.models.checkpoints.checkpoint import LoadError
from kdep_benchmarks.jobs.measure import run_kind
from kdep_benchmarks.openmmlab import frozen
from kdep_benchmarks.openmmlab.backbones import toolbox_weights
from kdep_benchmarks.openmmlab.runner import train
from kdep_benchmarks.openmmlab.tasks import detect, segment
from tests.helpers import toolbox_trees as trees

pytestmark = pytest.mark.openmmlab
CONFIG = {"segment-frozen": segment.train_config, "detect-frozen": detect.train_config}
TOOLBOX = {"segment-frozen": "mmseg", "detect-frozen": "mmdet"}


def task(kind, tmp_path, config, **settings):
    dataset = {"segment-frozen": trees.voc, "detect-frozen": trees.coco}[kind](tmp_path / "data")
    # A large rate and decay, so that whatever the optimizer reaches moves.
    return trees.task(kind, dataset, config, **{"lr": 0.1, "weight_decay": 0.1, "clip_grad": 1.0} | settings)


def fresh(cell):
    """The model as it is built with the seed of the cell, before anything trains."""
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import set_random_seed

    config = CONFIG[cell.task.kind](cell)
    init_default_scope(config.default_scope)
    set_random_seed(cell.seed)
    return MODELS.build(config.model)


@pytest.mark.parametrize(
    ("kind", "config", "arch"),
    [
        ("segment-frozen", "segment_fcn", "resnet18"),
        ("segment-frozen", "segment_pspnet", "mobilenetv2_100"),
        ("segment-frozen", "segment_fcn_light", "efficientnet_lite0"),
        ("detect-frozen", "detect_retinanet", "resnet18"),
        ("detect-frozen", "detect_retinanet_light", "mobilenetv2_100"),
        ("detect-frozen", "detect_faster_rcnn", "test_resnet"),
    ],
)
def test_every_tensor_of_the_backbone_is_the_students_after_training_and_the_rest_has_moved(
    tmp_path, kind, config, arch
):
    checkpoint = trees.student(arch)
    cell = trees.cell(checkpoint, task(kind, tmp_path, config), tmp_path / "work")
    before = fresh(cell)
    trained = train(CONFIG[kind](cell), cell)
    weights = toolbox_weights(arch, checkpoint.weights, TOOLBOX[kind])
    live = trained.model.backbone.state_dict()
    assert set(live) == set(weights) and any("running_var" in name for name in live)
    assert all(torch.equal(live[name], tensor) for name, tensor in weights.items())
    assert trained.load["frozen"] == trained.load["tensors"] == len(weights)
    rest = {n: p for n, p in trained.model.named_parameters() if not n.startswith("backbone.")}
    start = dict(before.named_parameters())
    still = {name for name, parameter in rest.items() if torch.equal(parameter, start[name])}
    assert len(rest) > 3 and not still


@pytest.mark.parametrize("kind", ["segment-frozen", "detect-frozen"])
def test_the_backbone_keeps_no_graph_and_no_mode_of_training(tmp_path, kind):
    config = {"segment-frozen": "segment_fcn", "detect-frozen": "detect_retinanet"}[kind]
    model = fresh(trees.cell(trees.student("mobilenetv2_100"), task(kind, tmp_path, config), tmp_path / "work"))
    frozen.freeze(model)
    model.train()  # as mmengine's loop does
    assert model.training and not any(module.training for module in model.backbone.modules())
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    assert not any(features.requires_grad for features in model.backbone(images))


def test_a_frozen_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path):
    of = task("segment-frozen", tmp_path, "segment_fcn", iterations=3, save_every=1)
    cell = trees.cell(trees.student("test_resnet"), of, tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        train(trees.stopping(segment.train_config(cell), at=2), cell)
    assert torch.load(cell.last, weights_only=True)["meta"]["iter"] == 2
    trained = train(segment.train_config(cell), cell)
    through = cell._replace(work_dir=tmp_path / "through")
    expected = train(segment.train_config(through), through)
    live = trained.model.state_dict()
    assert all(torch.equal(live[name], tensor) for name, tensor in expected.model.state_dict().items())
    assert trained.curves == expected.curves and trained.load["frozen"] == expected.load["frozen"] > 0


def test_a_backbone_that_changes_all_the_same_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "freeze", lambda model: None)
    of = task("detect-frozen", tmp_path, "detect_retinanet", iterations=1, warmup=0)
    with pytest.raises(LoadError, match="tiny: [1-9][0-9]* frozen tensors changed"):
        run_kind("detect-frozen")(trees.student("test_resnet"), of, seed=0, work_dir=tmp_path / "w", device=trees.CPU)


@pytest.mark.parametrize("kind", ["segment-frozen", "detect-frozen"])
def test_a_cell_is_scored_on_every_image_and_says_that_the_backbone_stayed(tmp_path, kind):
    config = {"segment-frozen": "segment_fcn", "detect-frozen": "detect_retinanet"}[kind]
    own = task(kind, tmp_path, config)
    outcome = run_kind(kind)(trees.student("test_resnet"), own, seed=0, work_dir=tmp_path / "w", device=trees.CPU)
    assert outcome.counts == trees.COUNTS and outcome.answers.images == trees.COUNTS["test"]
    assert outcome.load["coverage"] == 100 and outcome.load["frozen"] == outcome.load["tensors"]
