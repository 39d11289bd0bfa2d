import argparse
import copy
import dataclasses
import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import yaml
from torch import nn

from kdep.cli import guarded, main
from kdep.config import Loss, parse_config
from kdep.data.loading.order import once
from kdep.data.loading.training import make_pixels, open_views
from kdep.data.loading.views import load
from kdep.features import Labels, LiveTeacher
from kdep.files import read, save
from kdep.method.loss import distill_loss
from kdep.method.target import make_target
from kdep.models.checkpoints.checkpoint import LoadError, fingerprint, write_student
from kdep.models.student import open_student
from kdep.models.teacher import open_teacher
from kdep.models.weights import open_checkpoint
from kdep.pretrain import pretrain
from kdep.run import folder as folders
from kdep.run.distributed.alarm import Alarm
from kdep.run.distributed.processes import Process
from kdep.run.folder import DivergedError, RunFolder
from kdep.run.journal import Journal
from kdep.run.provenance import report
from kdep.run.resume import Training
from kdep.shipped import find


def folder(config):
    return config.runs / config.name


def live_teacher(config):
    return LiveTeacher(config, open_student(config), open_views(config), Process(torch.device("cpu")))


def odd_teacher(path):
    """A teacher file whose normalisation and BatchNorm statistics are unlike anyone's, and that answers to them."""
    checkpoint = open_checkpoint("random:test_efficientnet")
    for name, tensor in checkpoint.weights.items():
        if name.endswith("running_var"):
            tensor.mul_(0.7).add_(0.2)
    write_student(dataclasses.replace(checkpoint, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), tap="post"), path)
    return path


def test_a_run_lowers_the_loss_and_leaves_its_files(tiny, loss_drawn):
    config = tiny("optim.epochs=4")
    student = pretrain(config)
    log = [json.loads(line) for line in (folder(config) / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == list(range(4, 33, 4))
    assert log[-1]["loss"] < 2 / 3 * log[0]["loss"]
    assert log[-1]["images"] == 4 * 128 and log[-1]["epoch"] == 4
    kept = {path.name for path in student.parent.iterdir()}
    assert kept >= {"config.yaml", "statistics.pt", "log.jsonl", "run.pt", "student.pth", "loss.png", "tensorboard"}


def test_a_run_that_was_killed_while_its_picture_was_drawn_is_not_done(tiny, monkeypatch):
    config = tiny("optim.epochs=1")

    def killed(run: RunFolder) -> None:
        (run.path / ".loss.png.0a1b.part").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["kdep.pretrain"], "draw_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config)
    student = pretrain(config)
    assert student.exists() and list(student.parent.glob(".*.part")) == []


def test_the_alarm_knows_when_a_run_waits_for_its_device(tiny, monkeypatch):
    parts, during, flush = [], Alarm.during, Journal.flush
    monkeypatch.setattr(Alarm, "during", lambda self, *part: (parts.append(part), during(self, *part))[1])
    monkeypatch.setattr(Journal, "flush", lambda self, look: (parts.append("flush"), flush(self, look))[1])
    pretrain(tiny("optim.epochs=1", "log.every=4"))
    assert [parts[at - 1] for at, part in enumerate(parts) if part == "flush"] == [
        (step, "waiting for the device") for step in (3, 7)
    ]
    assert len([part for part in parts if part != "flush"]) == 2 * 8 + 2  # no wait in other steps


def test_the_numbers_of_labelled_images_go_to_the_device_without_a_wait(monkeypatch):
    waited = []

    class Pinned(torch.Tensor):
        def to(self, device, *, non_blocking=False):
            waited.append(not non_blocking)
            return torch.tensor(self.tolist(), device=device)

    monkeypatch.setattr("kdep.features.data_identity", lambda views: "")
    source = Labels(SimpleNamespace(labels=np.array([4, 5, 6])), Process(torch.device("cpu")))
    batch = SimpleNamespace(numbers=torch.tensor([2, 0]).as_subclass(Pinned))
    assert source.features(batch, torch.zeros(2)).tolist() == [[6], [4]] and waited == [False]


def test_the_student_file_holds_the_trained_backbone_and_where_it_came_from(tiny):
    config = tiny("optim.epochs=1")
    content = torch.load(pretrain(config), weights_only=True)
    run = read(folder(config) / "run.pt")
    trained = {name.removeprefix("network."): tensor for name, tensor in run["student"].items()}
    assert fingerprint(content["state_dict"]) == fingerprint(trained)
    assert not {"optimizer", "teacher", "target"} & set(content)
    provenance = content["provenance"]
    assert provenance["method"] == "kdep svd pts" and provenance["images_seen"] == 128
    assert provenance["teacher"]["source"] == "random:test_efficientnet" and provenance["teacher"]["tap"] == "post"
    assert provenance["config"] == config.model_dump(mode="json")
    assert provenance["loss"] == json.loads((folder(config) / "log.jsonl").read_text().splitlines()[-1])["loss"]


def test_statistics_are_those_of_the_teacher_in_eval_mode_under_its_own_normalisation(tiny, tmp_path):
    config = tiny(f"teacher.source={odd_teacher(tmp_path / 'teacher.pth')}", "optim.epochs=1")
    pretrain(config)
    found = read(folder(config) / "statistics.pt")
    views = open_views(config)
    (batch,) = load(views, once(128, 128), workers=0)
    pixels = make_pixels(views.augmentation, torch.device("cpu"))(batch)
    by_hand = (pixels - torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    with torch.no_grad():
        features = open_teacher(config).eval().network.forward_features(by_hand)
        features = nn.functional.silu(features).mean((2, 3)).double()
    assert found["count"] == 128 and torch.allclose(found["mean"], features.mean(0), atol=1e-6)
    assert torch.allclose(found["channel_variances"], features.var(0, correction=0), rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "axes"),
    [
        ((), 96),
        (("align.name=phi_s", "scale.name=sn"), 96),
        (("align.name=random", "scale.name=sn"), 256),
        (("align.name=none", "project=linear", "scale.name=sn"), 256),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_run_keeps_the_axes_that_it_reads_and_they_give_the_targets_of_all(tiny, monkeypatch, overrides, axes):
    config = tiny("optim.epochs=1", *overrides)
    made = []
    monkeypatch.setattr(
        "kdep.pretrain.make_target", lambda *given, **own: made.append(make_target(*given, **own)) or made[-1]
    )
    pretrain(config)
    file = folder(config) / "statistics.pt"
    found = read(file)
    assert found["axes"].shape == (256, axes) and len(found["variances"]) == 256
    assert file.stat().st_size < 8 * 256 * (axes + 3) + 16_000  # no more on disk than in the tensors
    teacher = live_teacher(config)
    teacher._axes_kept = None  # all
    every = teacher.statistics(RunFolder(tiny("name=all")))
    whole, width = make_target(config, every, 96)
    features = every.mean.float() + torch.randn(20, 256) @ (every.axes * every.variances.sqrt()).T.float()
    ((target, _),) = made
    assert width == len(target.std) and torch.allclose(target.std, whole.std, rtol=1e-5)
    assert float((target(features) - whole(features)).norm()) < 1e-5 * float(whole(features).norm())


def test_a_bank_s_run_keeps_its_own_axes_and_logits_keep_none(tiny, tmp_path):
    config = tiny("optim.epochs=1", f"bank.path={tmp_path / 'bank'}", "bank.axes=200")
    pretrain(config)
    assert read(folder(config) / "statistics.pt")["axes"].shape == (256, 96)
    teacher = timm.create_model("test_efficientnet", num_classes=10)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    given = (f"teacher.source={tmp_path / 'teacher.pth'}", "teacher.arch=test_efficientnet", "loss.name=logits")
    config = tiny("optim.epochs=1", "name=logits", *given)
    pretrain(config)
    found = read(folder(config) / "statistics.pt")
    assert found["axes"].shape == (256, 0) and (folder(config) / "statistics.pt").stat().st_size < 30_000


def test_the_loss_is_the_weighted_mean_square_of_student_minus_target_by_hand():
    images = torch.zeros(2, 3, 1, 1)
    wanted = torch.tensor([[[3.0, 0.0]], [[3.0, 0.0]]])
    # The student says 1 everywhere: 2 * (4 + 1 + 4 + 1) / 4.
    assert float(distill_loss(lambda x: torch.ones(2, 2), wanted, images, Loss(weight=2))) == 5


def test_the_dense_term_compares_every_position_of_the_map_by_hand():
    maps = torch.arange(8.0).view(1, 2, 2, 2)  # two channels on a 2 x 2 map

    def student(images, *, with_map):
        return maps.mean((2, 3)), maps

    wanted = torch.cat([maps.mean((2, 3))[:, None], maps.flatten(2).transpose(1, 2)], 1)
    images = torch.zeros(1, 3, 4, 4)
    assert float(distill_loss(student, wanted, images, Loss(dense=1))) == 0
    wanted[0, 1, 0] += 4  # one of the eight values of the map
    wanted[0, 0, 1] += 1  # one of the two pooled values
    assert float(distill_loss(student, wanted, images, Loss(weight=3, dense=0.5))) == 3 * 1 / 2 + 0.5 * 16 / 8


@pytest.mark.parametrize("mixup", ["false", "true"])
def test_the_same_pixels_go_to_teacher_and_student(tiny, monkeypatch, mixup):
    seen = {"teacher": [], "student": []}

    def noted(open_, who):
        def opened(config):
            network = open_(config)
            network.register_forward_pre_hook(lambda _, inputs: seen[who].append(inputs[0].clone()))
            return network

        return opened

    monkeypatch.setattr("kdep.features.open_teacher", noted(open_teacher, "teacher"))
    monkeypatch.setattr("kdep.pretrain.open_student", noted(open_student, "student"))
    pretrain(tiny("optim.epochs=1", f"data.mixup={mixup}"))
    assert len(seen["student"]) == 8
    assert all(torch.equal(t, s) for t, s in zip(seen["teacher"][-8:], seen["student"], strict=True))


def test_the_running_average_of_weights_and_batchnorm_is_what_is_exported(tiny, monkeypatch):
    update, steps = Training.update, []

    def noted(training, *arguments, **options):
        update(training, *arguments, **options)
        steps.append(copy.deepcopy(training.learner.student.network.state_dict()))

    monkeypatch.setattr(Training, "update", noted)
    found = read(pretrain(tiny("optim.epochs=1", "optim.ema=0.75")))["state_dict"]
    moved = [name for name, tensor in steps[0].items() if tensor.is_floating_point()]
    assert {name.rpartition(".")[2] for name in moved} == {"weight", "bias", "running_mean", "running_var"}
    for name in moved:
        expected = steps[0][name]
        for step in steps[1:]:
            expected = 0.75 * expected + 0.25 * step[name]
        assert torch.allclose(found[name], expected, atol=1e-6) and not torch.allclose(found[name], steps[-1][name])


def test_a_live_teachers_statistics_are_taken_without_tf32_and_half_precision(tiny, monkeypatch):
    """As a GPU would need it, whose rounding would hide a missing rank; emulated, for a CPU has no TF32."""
    states = []

    def note(_, inputs):
        if len(inputs[0]) > 1:  # not the images by which BatchNorm is folded
            states.append((torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")))

    def opened(config):
        teacher = open_teacher(config)
        teacher.register_forward_pre_hook(note)
        return teacher

    monkeypatch.setattr("kdep.features.open_teacher", opened)
    with torch.autocast("cpu", torch.bfloat16):
        pretrain(tiny("optim.epochs=1"))
    assert states[:8] == [(False, False)] * 8 and states[8][0]  # 128 images by 16; then training


def test_a_run_gives_the_teacher_no_gradient_and_leaves_it_as_it_was(tiny, monkeypatch):
    kept = []

    def opened(config):
        kept.append(open_teacher(config))
        return kept[0]

    monkeypatch.setattr("kdep.features.open_teacher", opened)
    before = fingerprint(open_teacher(tiny()).state_dict())
    pretrain(tiny("optim.epochs=1"))
    assert not kept[0].training and all(parameter.grad is None for parameter in kept[0].parameters())
    assert fingerprint(kept[0].state_dict()) == before


def test_another_seed_gives_another_student_and_the_same_seed_the_same(tiny):
    prints = [
        fingerprint(read(pretrain(tiny("optim.epochs=1", f"name={name}", f"seed={seed}")))["state_dict"])
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_weights_order_and_views_are_drawn_by_the_run_s_seed_unless_each_has_its_own(tiny):
    def student(name, *overrides):
        return fingerprint(read(pretrain(tiny("optim.epochs=1", f"name={name}", *overrides)))["state_dict"])

    keys = ("student.seed=1", "optim.seed=1", "data.seed=1")
    assert student("all", "seed=2", *keys) == student("one", "seed=1")
    lacking = {student(left.partition(".")[0], "seed=2", *(key for key in keys if key != left)) for left in keys}
    assert len(lacking | {student("one", "seed=1")}) == 4


def test_a_finished_run_says_when_images_were_added_to_or_removed_from_its_folder(tiny, photos, tmp_path, caplog):
    mine = tmp_path / "mine"
    shutil.copytree(photos, mine)
    config = tiny("optim.epochs=1", f"data.source={mine}")
    student = pretrain(config)
    trained, images = student.read_bytes(), sorted(mine.rglob("*.jpg"))

    def said():
        caplog.clear()
        assert pretrain(config) == student and student.read_bytes() == trained
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    assert said() == []
    before, remedy = f"{student} was trained on 128 images of {mine}; now: ", "choose another name (name=...)"
    shutil.copy(images[0], mine / "class0" / "new.jpg")
    assert said() == [f"{before}129. To train on these, {remedy}"]
    (mine / "class0" / "new.jpg").unlink()
    images[0].unlink()
    assert said() == [f"{before}127. To train on these, {remedy}"]
    for image in images[1:]:
        image.unlink()
    (line,) = said()
    assert line.startswith(f"{before}{mine}: no image in this folder") and line.endswith(remedy)
    shutil.rmtree(mine)  # images that were archived after the training are nobody's mistake
    assert said() == []


def test_a_finished_run_is_not_run_again(tiny):
    config = tiny("optim.epochs=1")
    first = pretrain(config)
    stamp = first.stat().st_mtime_ns
    assert pretrain(config) == first and first.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("override", ["optim.lr=0.01", "scale.exponent=2", "seed=2", "teacher.tap=pre"])
def test_a_run_refuses_to_go_on_under_another_configuration_and_shows_the_difference(tiny, override):
    run = RunFolder(tiny())
    run.bind()
    del run
    key, _, value = override.partition("=")
    with pytest.raises(ValueError, match=rf"another configuration.*\n  {key}: .* in the run, .?{value}.? now"):
        pretrain(tiny(override))


def test_precision_follows_the_device_and_a_run_resumes_only_in_the_precision_in_which_it_began(tiny, monkeypatch):
    config = tiny("precision=auto", "optim.epochs=1")
    chosen = {True: {"student": "bfloat16", "teacher": "float32"}, False: {"student": "float32", "teacher": "float32"}}
    for has_units, precision in chosen.items():
        monkeypatch.setattr("kdep.run.device._cpu_has_bfloat16", lambda has_units=has_units: has_units)
        content = read(pretrain(config.model_copy(update={"name": f"units{has_units}"})))
        assert content["provenance"]["precision"] == precision
        assert content["provenance"]["config"]["precision"] == "auto"  # as it was asked for
    (config.runs / "unitsTrue" / "student.pth").unlink()
    with pytest.raises(ValueError, match="\n  precision: 'bfloat16' in the run, 'float32' now"):
        pretrain(config.model_copy(update={"name": "unitsTrue"}))


def test_the_teacher_has_a_precision_of_its_own(tiny):
    pixels = torch.rand(2, 3, 32, 32)
    exact, half = (live_teacher(tiny(f"teacher.precision={name}")) for name in ("float32", "bfloat16"))
    with torch.autocast("cpu", torch.bfloat16):
        plain = exact.features(None, pixels)
    rounded = half.features(None, pixels)
    with torch.no_grad():
        expected = open_teacher(tiny())(pixels)[:, None]
    assert torch.allclose(plain, expected, atol=1e-5)
    assert 1e-4 < float((rounded - plain).norm() / plain.norm()) < 5e-2


def test_a_run_goes_on_under_a_configuration_that_changes_no_result(tiny):
    run = RunFolder(tiny())
    run.bind()
    del run
    RunFolder(tiny("log.every=1", "data.workers=1", "data.max_unreadable=0.5"))


@pytest.mark.parametrize("override", ["student.arch=resnet1", "teacher.source=none.pth", "scale.temperature=-1"])
def test_a_run_that_cannot_start_does_not_bind_its_name(tiny, override):
    with pytest.raises(ValueError, match="resnet1|none.pth|temperature"):
        pretrain(tiny(override))
    assert not (folder(tiny()) / "config.yaml").exists()


def test_a_run_that_proves_impossible_leaves_its_name_to_one_that_is_not(tiny, monkeypatch):
    """The rank is known only when the teacher has looked at the images; what was written then binds nobody."""
    with monkeypatch.context() as patched:
        patched.setattr("kdep.method.target.numerical_rank", lambda statistics: 50)
        with pytest.raises(ValueError, match="span at most 50 of their 256 dimensions.*teacher.tap: post"):
            pretrain(tiny())
    assert (folder(tiny()) / "statistics.pt").exists()
    pretrain(tiny("teacher.source=random:test_efficientnet#1", "optim.epochs=1"))
    with pytest.raises(ValueError, match="another configuration"):
        pretrain(tiny())


def test_statistics_of_a_start_that_failed_are_taken_anew(tiny, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("kdep.method.target.numerical_rank", lambda statistics: 50)
        with pytest.raises(ValueError, match="span at most 50"):
            pretrain(tiny("align.images=100"))
    assert read(folder(tiny()) / "statistics.pt")["count"] == 100
    pretrain(tiny("optim.epochs=1"))
    assert read(folder(tiny()) / "statistics.pt")["count"] == 128


def lock_and_fork(config, ready, worker):
    run = RunFolder(config)
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    worker[0] = pid
    ready.set()
    time.sleep(600)
    assert run.path.is_dir()


def test_a_run_is_locked_until_its_process_is_killed_and_not_by_the_children_of_a_killed_one(tiny, monkeypatch):
    context = multiprocessing.get_context("fork")  # RunFolder starts no thread
    ready, worker = context.Event(), context.Array("i", 1)
    process = context.Process(target=lock_and_fork, args=(tiny(), ready, worker))
    process.start()
    assert ready.wait(600)
    try:
        monkeypatch.setattr(folders, "PATIENCE", 0.1)
        with pytest.raises(ValueError, match="is in use by another process; choose another name"):
            RunFolder(tiny())
        process.kill()
        process.join()
        run = RunFolder(tiny())
        assert RunFolder(tiny()).path == run.path  # the same process may repeat a run that failed
    finally:
        process.kill()
        os.kill(worker[0], signal.SIGKILL)  # fails where it had ended by itself


@pytest.mark.parametrize(("key", "what"), [("teacher", "teacher"), ("data", "images")])
def test_statistics_of_another_teacher_or_other_images_are_refused_once_a_run_has_trained(tiny, key, what):
    config = tiny()
    run, teacher = RunFolder(config), live_teacher(config)
    run.bind()
    statistics = teacher.statistics(run)
    run.save_statistics(dataclasses.replace(statistics, **{key: "0123456789"}))
    assert teacher.statistics(run).teacher == statistics.teacher  # nothing was trained with them: they are made again
    run.save_statistics(dataclasses.replace(statistics, **{key: "0123456789"}))
    run.checkpoint.touch()
    with pytest.raises(ValueError, match=rf"statistics.pt: the run began with other {what} \({what} 01234567, now"):
        teacher.statistics(run)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tiny):
    config = tiny("optim.name=sgd", "optim.lr=1e12", "log.every=1", "log.checkpoint_every=1")
    with pytest.raises(DivergedError, match=r"the loss is (inf|nan) at step \d.*run.pt holds the last good.*optim.lr"):
        pretrain(config)
    state = read(folder(config) / "run.pt")
    assert all(bool(tensor.isfinite().all()) for tensor in state["student"].values())
    assert not (folder(config) / "student.pth").exists()


def test_weights_that_the_last_step_ruined_are_not_saved(tiny):
    config = tiny("optim.name=sgd", "optim.lr=1e30", "optim.momentum=0.9", "loss.weight=1e15", "log.checkpoint_every=1")
    with pytest.raises(
        DivergedError, match="weights are no longer finite after step 1; nothing saved yet.*a smaller scale.factor"
    ):
        pretrain(config)
    assert not (folder(config) / "run.pt").exists()


def spoiled(photos, path, count):
    """Every picture of a folder in a list, and `count` that are not there."""
    names = [str(file.relative_to(photos)) for file in sorted(photos.rglob("*.jpg"))]
    path.write_text("\n".join(names + [f"gone{number}.jpg" for number in range(count)]))
    return [f"data.source={path}", f"data.root={photos}", "optim.epochs=1"]


def test_a_few_unreadable_images_are_listed_and_skipped(tiny, photos, tmp_path):
    config = tiny(*spoiled(photos, tmp_path / "list.txt", 1))
    pretrain(config)
    lines = (folder(config) / "unreadable.txt").read_text().splitlines()
    assert len(lines) == 1 and lines[0].startswith("gone0.jpg\tFileNotFoundError")
    assert read(folder(config) / "statistics.pt")["count"] == 128


def test_more_unreadable_images_than_the_share_stop_the_run(tiny, photos, tmp_path):
    config = tiny(*spoiled(photos, tmp_path / "list.txt", 3))
    with pytest.raises(
        ValueError,
        match=r"3 of 131 images are unreadable, more than data.max_unreadable=0.01 allows; see .*txt. Repair",
    ):
        pretrain(config)


def test_images_that_were_repaired_before_training_began_are_tried_again(tiny, photos, tmp_path):
    keys = spoiled(photos, tmp_path / "list.txt", 3)
    config = tiny(*keys)
    with pytest.raises(ValueError, match="3 of 131 images are unreadable"):
        pretrain(config)
    assert len((folder(config) / "unreadable.txt").read_text().splitlines()) == 3
    spoiled(photos, tmp_path / "list.txt", 0)
    pretrain(config)
    assert (folder(config) / "student.pth").is_file() and not (folder(config) / "unreadable.txt").exists()


def test_a_list_whose_files_are_all_elsewhere_names_the_key_that_says_where_they_are(tiny, photos, tmp_path):
    keys = spoiled(photos, tmp_path / "list.txt", 0)
    with pytest.raises(ValueError, match=r"list.txt: .*jpg and the next 7 of its 128 files are not below .*data.root"):
        pretrain(tiny(keys[0], keys[2]))


def test_fewer_images_than_a_batch_are_refused(tiny):
    with pytest.raises(ValueError, match="128 images do not fill optim.batch_size=256; take more images"):
        pretrain(tiny("optim.batch_size=256"))


def test_a_student_starts_from_given_weights_under_their_normalisation(tiny, tmp_path):
    start = open_checkpoint("random:test_resnet")
    write_student(dataclasses.replace(start, mean=(0.2, 0.3, 0.4)), tmp_path / "start.pth")
    student = open_student(tiny(f"student.weights={tmp_path / 'start.pth'}"))
    assert fingerprint(student.network.state_dict()) == start.sha256
    assert student.mean.flatten().tolist() == pytest.approx([0.2, 0.3, 0.4])


def test_a_student_does_not_start_from_weights_of_another_architecture(tiny, tmp_path):
    save(open_checkpoint("random:resnet10t").weights, tmp_path / "start.pth")
    with pytest.raises(LoadError, match="start.pth does not fit ResNet"):
        open_student(tiny(f"student.weights={tmp_path / 'start.pth'}"))
    # The same tensors, other padding.
    with pytest.raises(LoadError, match="random:resnet50 is of resnet50, and student.arch is caffe_resnet50"):
        open_student(tiny("student.arch=caffe_resnet50", "student.weights=random:resnet50"))


def test_a_student_that_cannot_reach_its_targets_is_warned_of(tiny, caplog):
    config = tiny("student.arch=test_efficientnet", "student.tap=pre", "scale.name=none", "align.name=random")
    statistics = live_teacher(config).statistics(RunFolder(config))
    with caplog.at_level(logging.INFO, "kdep"):
        report(statistics, open_student(config))
    assert "span only 64 dimensions" in caplog.text and "numerical rank" in caplog.text


def test_a_run_on_a_full_disk_says_so_and_goes_on_once_there_is_room(tiny, tmp_path, a_full_disk, capsys):
    config = tiny()  # also writes the file
    command = ["pretrain", str(tmp_path / "tiny.yaml")]
    with a_full_disk(300_000):
        assert main(command) == 1
    file = config.runs / config.name / "run.pt"
    said = f"kdep: {file}: File too large; nothing half-written is left, the same command goes on from here\n"
    assert said in capsys.readouterr().err
    assert not [path for path in file.parent.iterdir() if path.name.endswith(".part") or path == file]
    assert main(command) == 0 and file.with_name("student.pth").exists()


def test_a_folder_that_may_not_be_written_is_named_and_other_errors_of_files_are_not_hidden(capsys):
    def denied(args):
        raise PermissionError(errno.EACCES, "Permission denied", "/banks/.lock")

    def broken(args):
        raise OSError(errno.EIO, "Input/output error", "/banks/0.npy")

    assert guarded(denied, argparse.Namespace()) == 1
    assert capsys.readouterr().err.startswith("kdep: /banks/.lock: Permission denied; ")
    with pytest.raises(OSError, match="Input/output error"):
        guarded(broken, argparse.Namespace())


def test_a_dry_run_prints_every_key_with_its_value_and_begins_nothing(tiny, tmp_path, capsys):
    config = tiny("optim.lr=0.5")
    assert main(["pretrain", str(tmp_path / "tiny.yaml"), "optim.lr=0.5", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert parse_config(yaml.safe_load(printed.out), "printed") == config and printed.err == "kdep: no problem found\n"
    assert not folder(config).exists()


@pytest.mark.parametrize(
    ("arch", "library"), [("resnet18", "mmseg"), ("test_resnet", "timm"), ("python:own:net", "onnx")]
)
def test_after_a_run_its_next_commands_are_such_as_exist(tiny, tmp_path, capsys, monkeypatch, arch, library):
    tiny()
    monkeypatch.setattr("kdep.pretrain.pretrain", lambda config: tmp_path / "student.pth")
    assert main(["pretrain", str(tmp_path / "tiny.yaml"), f"student.arch={arch}"]) == 0
    said = capsys.readouterr().out
    assert f"kdep transfer {tmp_path}/student.pth random:{arch} --suite probe\n" in said
    assert f"kdep compare tiny random:{arch}\n" in said
    assert f"kdep export {tmp_path}/student.pth --to {library}\n" in said


def test_recipes_are_listed_by_names_that_open_everywhere(tmp_path, capsys, monkeypatch):
    for place in (Path(__file__).parents[2], tmp_path):
        monkeypatch.chdir(place)
        assert main(["ls", "recipes"]) == 0
        recipes = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
        assert len(recipes) > 5 and all(find("pretrain", recipe).is_file() for recipe in recipes)
