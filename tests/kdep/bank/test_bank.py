import json
import logging
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kdep.bank import file as bank_module
from kdep.bank import hashes
from kdep.bank import prepare as targets
from kdep.bank import write as target_writer
from kdep.bank.file import Description
from kdep.bank.prepare import describe
from kdep.bank.read import HEADROOM, Bank, decode, encode, share_of
from kdep.cli import main
from kdep.config import load_config
from kdep.data.loading.order import Order
from kdep.data.loading.training import make_pixels, open_views
from kdep.data.loading.views import load
from kdep.data.sources.source import choose
from kdep.features import LiveTeacher
from kdep.files import read, save, write_atomically
from kdep.method.scale import make_scaler
from kdep.method.target import Target
from kdep.models.backbones.maps import map_on_grid
from kdep.models.checkpoints.checkpoint import write_student
from kdep.models.student import open_student
from kdep.models.teacher import open_teacher
from kdep.models.weights import open_checkpoint
from kdep.pretrain import pretrain
from kdep.run import folder
from kdep.run.distributed.processes import Process

CPU = torch.device("cpu")
FOLDING = 3  # images that show where BatchNorm can be folded, and that the folded teacher is the same


@pytest.fixture
def banked(tiny, tmp_path):
    """A configuration with a bank of two views, as many as it has epochs."""

    def load_(*overrides):
        return tiny(f"bank.path={tmp_path / 'bank'}", *overrides)

    return load_


@pytest.fixture
def small_files(monkeypatch):
    """Files of 40 images, so that 128 images take four of them, the last with 8."""
    monkeypatch.setattr(bank_module, "SHARD", 40)


def live_features(config, index, number):
    """The teacher's features of one view, by hand."""
    views = open_views(config)
    (batch,) = load(views, [[(index, number)]], workers=0)
    with torch.no_grad():
        return open_teacher(config)(make_pixels(views.augmentation, CPU)(batch))[0]


def count_images(monkeypatch):
    """Images that the teacher sees, as a list of batch sizes."""
    seen = []

    def opened(config):
        teacher = open_teacher(config)
        teacher.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        return teacher

    monkeypatch.setattr(targets, "open_teacher", opened)
    return seen


def damage(path, files, change):
    """Change stored targets as if the teacher had computed them so."""
    for file in path.glob(files):
        np.save(file, change(np.load(file)))
        hashes.note_hash(file, file)
    hashes.seal(path)


def losses(config):
    log = (config.runs / config.name / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in log]


def test_what_is_stored_is_the_teacher_on_its_axes_for_every_view(banked, small_files):
    config = banked()
    bank = Bank(targets.build(config))
    statistics = bank.statistics
    for index, number in ((0, 0), (39, 1), (40, 0), (127, 1)):
        z = (live_features(config, index, number).double() - statistics.mean) @ statistics.axes[:, :96]
        assert torch.allclose(bank.rows([index], number)[0].double(), z, rtol=2e-3, atol=2e-3 * float(z.abs().max()))
    assert not torch.allclose(bank.rows([5], 0), bank.rows([5], 1), rtol=0.1)
    assert bank.rows([3, 4, 5], 1).shape == (3, 96)


def test_statistics_of_a_bank_are_those_of_a_live_teacher(banked, tiny, small_files):
    stored = Bank(targets.build(banked())).statistics
    pretrain(tiny("optim.epochs=1", "name=live"))
    live = read(tiny().runs / "live" / "statistics.pt")
    assert stored.count == live["count"] == 128
    assert (stored.teacher, stored.data) == (live["teacher"], live["data"])
    assert torch.allclose(stored.mean, live["mean"], rtol=1e-6, atol=1e-7)
    assert torch.allclose(stored.variances, live["variances"], rtol=1e-5, atol=1e-9)


def test_a_bank_trains_the_student_of_a_live_teacher_up_to_the_rounding_of_float16(banked, tiny, monkeypatch):
    """Small networks amplify a rounding within some steps, so the live teacher is rounded too, and no further."""
    gentle = ("scale.name=unit", "optim.lr=3e-4")
    from_bank, live = banked("name=banked", *gentle), tiny("name=live", *gentle)
    a = read(pretrain(from_bank))["state_dict"]

    class Rounded(LiveTeacher):
        axes = 96

        def statistics(self, run):
            self.found = super().statistics(run)
            return self.found

        def features(self, batch, images):
            centred = super().features(batch, images) - self.found.mean.float()
            return (centred @ self.found.axes[:, :96].float()).half().float()

    with monkeypatch.context() as patch:
        patch.setattr("kdep.features.LiveTeacher", Rounded)
        b = read(pretrain(live))["state_dict"]
    assert losses(live)[-1] < 0.95 * losses(live)[0]
    assert losses(from_bank) == pytest.approx(losses(live), rel=1e-3)
    assert max(float((a[name].float() - b[name].float()).norm() / b[name].float().norm()) for name in b) < 0.01
    exact = tiny("name=exact", "scale.name=unit", "optim.lr=1e-6", "optim.epochs=1")
    pretrain(exact)
    pretrain(slow := banked("name=slow", "scale.name=unit", "optim.lr=1e-6", "optim.epochs=1", "bank.views=1"))
    assert losses(slow) == pytest.approx(losses(exact), rel=2e-4)


def test_targets_are_float32_whatever_the_precision_of_the_training(banked, tiny, tmp_path):
    exact = targets.build(banked())
    half = targets.build(tiny(f"bank.path={tmp_path / 'half'}", "precision=bfloat16"))
    assert json.loads((half / "bank.json").read_text())["precision"] == "float32"
    files = sorted(path.relative_to(exact) for path in exact.rglob("*.npy"))
    assert len(files) == 2
    for file in files:
        assert np.array_equal(np.load(exact / file), np.load(half / file))


def test_a_run_in_bfloat16_learns_from_a_bank_that_it_made_and_from_one_that_it_found(banked):
    for name in ("made", "found"):
        config = banked("precision=bfloat16", "bank.check=8", f"name={name}")
        assert pretrain(config).exists()
        assert losses(config)[-1] < losses(config)[0]
    exact = banked("name=exact")
    pretrain(exact)
    assert 1e-5 < abs(losses(exact)[0] / losses(config)[0] - 1) < 0.05


def test_the_teacher_computes_targets_and_checks_them_without_tf32_and_half_precision(banked, monkeypatch):
    """As a GPU would need it; emulated, for a CPU has no TF32."""
    states = []

    def note(_, inputs):
        if len(inputs[0]) > 1:  # not the images of folding
            precision = torch.get_float32_matmul_precision()
            states.append((torch.backends.cudnn.allow_tf32, precision, torch.is_autocast_enabled("cpu")))

    def opened(config):
        teacher = open_teacher(config)
        teacher.register_forward_pre_hook(note)
        return teacher

    monkeypatch.setattr(targets, "open_teacher", opened)
    torch.set_float32_matmul_precision("high")
    try:
        for check in (0, 2):  # made without a check; found, and checked alone
            with torch.autocast("cpu", torch.bfloat16):
                targets.build(banked(f"bank.check={check}"))
            assert set(states) == {(False, "highest", False)}
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.backends.cudnn.allow_tf32


def test_a_precision_that_the_device_lacks_is_refused_before_a_bank_is_made(banked):
    config = banked("precision=float16")
    with pytest.raises(ValueError, match="precision float16 is for GPUs"):
        pretrain(config)
    assert not config.bank.path.exists()


def test_a_bank_of_an_older_format_or_another_precision_is_refused(banked):
    path = targets.build(banked("optim.epochs=1"))
    content = json.loads((path / "bank.json").read_text())
    for change, named in (({"precision": "bfloat16"}, "precision: 'bfloat16' in the bank"), ({"format": 3}, "reads 4")):
        (path / "bank.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=named):
            targets.build(banked("optim.epochs=1"))


def test_the_teacher_sees_no_image_twice(banked, small_files, monkeypatch):
    seen = count_images(monkeypatch)
    targets.build(banked("bank.check=0", "optim.batch_size=16"))
    assert sum(seen) == 2 * 128 + FOLDING


def test_an_interrupted_bank_goes_on_at_the_missing_files_and_ends_the_same(banked, tiny, tmp_path, small_files):
    whole = targets.build(tiny(f"bank.path={tmp_path / 'whole'}"))
    write, left = target_writer.Writer.write, [0]

    def interrupted(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(self, *arguments)

    for stop in (2, 4, 3, 2):  # among raw files, on the way to the axes, between the views
        left[0] = stop
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target_writer.Writer, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                targets.build(banked())
    halves = targets.build(banked())
    files = sorted(str(path.relative_to(whole)) for path in whole.rglob("*.npy"))
    assert files == sorted(str(path.relative_to(halves)) for path in halves.rglob("*.npy"))
    assert len(files) == 2 * 4
    for name in files:
        assert np.array_equal(np.load(whole / name), np.load(halves / name))


def test_a_bank_that_was_killed_before_its_hashes_were_written_is_not_finished(banked, monkeypatch):
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            targets.build(banked())
    seen = count_images(monkeypatch)
    assert pretrain(banked()).exists()
    assert sum(seen) == banked().bank.check + FOLDING  # nothing is computed again, only compared


def test_more_views_are_added_and_the_old_ones_left_alone(banked, monkeypatch):
    path = targets.build(banked("optim.epochs=1"))
    before = (path / "view000" / "00000.npy").stat().st_mtime_ns
    seen = count_images(monkeypatch)
    targets.build(banked("bank.views=3", "bank.check=0"))
    assert (path / "view000" / "00000.npy").stat().st_mtime_ns == before
    assert sorted(p.name for p in path.glob("view*")) == ["view000", "view001", "view002"]
    assert sum(seen) == 2 * 128 + FOLDING


def test_fewer_views_than_epochs_repeat_crops_and_targets(banked):
    order = Order(8, 4, 5, seed=0, views=2)
    assert [number for batch in order for _, number in batch[:1]] == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert {index for batch in list(order)[:2] for index, _ in batch} == set(range(8))
    config = banked("bank.views=1", "optim.epochs=2")
    content = read(pretrain(config))
    assert content["provenance"]["views"] == 1 and content["provenance"]["bank"] == "float16"
    assert [p.name for p in (config.bank.path).glob("view*")] == ["view000"]
    more = read(pretrain(banked("bank.views=3", "optim.epochs=2", "name=more", "bank.check=0")))
    assert more["provenance"]["views"] == 2  # the run has read two of three


OTHERS = [
    ("teacher.tap=pre align.name=random", "teacher.tap: 'post' in the bank, 'pre' wanted"),
    ("teacher.source=random:test_resnet", "teacher.sha256"),
    ("teacher.size=48", "teacher.sha256"),
    ("seed=2", "data.identity"),
    ("data.size=40", "data.identity"),
    ("data.jitter=0", "data.identity"),
    ("data.limit=100", "data.images: 128 in the bank, 100 wanted"),
    ("align.images=100", "data.images_for_axes: None in the bank, 100 wanted"),
    ("bank.code=int8", "code: 'float16' in the bank, 'int8' wanted"),
    ("bank.axes=100", "axes: 96 in the bank, 100 wanted"),
    ("loss.dense=1", "grid: 0 in the bank, 1 wanted"),
]


def test_another_bank_is_refused_and_the_difference_named(banked):
    targets.build(banked("optim.epochs=1"))
    for override, named in OTHERS:
        with pytest.raises(ValueError, match="bank of another teacher or of other views") as error:
            targets.build(banked("optim.epochs=1", *override.split()))
        assert named in str(error.value)


def test_a_damaged_entry_is_found_by_the_live_teacher(banked):
    path = targets.build(banked())
    damage(path, "view*/*.npy", lambda rows: np.roll(rows, 1, axis=0))
    with pytest.raises(ValueError, match=r"view \d of class.*jpg is stored .* % off"):
        targets.build(banked())
    targets.build(banked("bank.check=0"))


def test_a_damaged_entry_of_any_view_is_found(banked):
    damage(targets.build(banked()), "view001/*.npy", lambda rows: np.roll(rows, 1, axis=0))
    with pytest.raises(ValueError, match=r"view 1 of class.*jpg is stored .* % off"):
        targets.build(banked("bank.check=64"))


def test_targets_a_tenth_too_large_are_found(banked):
    path = targets.build(banked("optim.epochs=1"))
    damage(path, "view*/*.npy", lambda rows: (rows.astype(np.float32) * 1.1).astype(np.float16))
    with pytest.raises(ValueError, match=r"is stored (9|1\d)\.\d % off"):
        targets.build(banked("optim.epochs=1"))


def test_a_finished_bank_serves_without_its_teacher_and_an_unfinished_one_does_not(banked, tmp_path, caplog):
    file = tmp_path / "teacher.pth"
    write_student(open_checkpoint("random:test_efficientnet"), file)
    config = banked(f"teacher.source={file}", "optim.epochs=1")
    targets.build(config)
    file.unlink()
    with caplog.at_level(logging.WARNING, "kdep"):
        student = pretrain(config)
    assert student.exists() and "without its teacher" in caplog.text
    with pytest.raises(ValueError, match="teacher.pth: no such file"):
        targets.build(banked(f"teacher.source={file}", "optim.epochs=2"))
    with pytest.raises(ValueError, match="data.identity"):
        targets.build(banked(f"teacher.source={file}", "optim.epochs=1", "seed=2"))


def test_a_finished_bank_is_only_read_and_needs_no_lock(banked, monkeypatch):
    config = banked("optim.epochs=1")
    path = targets.build(config)
    (path / ".lock").unlink()

    def state():
        return {file: file.stat().st_mtime_ns for file in (path, *path.rglob("*"))}

    def refused(*_):
        raise AssertionError("a finished bank is not locked, and nothing is written into it")

    before = state()
    path.chmod(0o555)  # says nothing to root, who may run this: hence the rest
    monkeypatch.setattr(targets, "take_lock", refused)
    for module, name in ((targets, "write_text"), (target_writer, "write_atomically")):
        monkeypatch.setattr(module, name, refused)
    pretrain(config)
    path.chmod(0o755)
    assert state() == before


def hold(path, held, done):
    lock = folder.take_lock(path, "")
    held.set()
    done.wait(600)
    lock.release()


def test_an_unfinished_bank_that_another_process_is_making_is_refused(banked, monkeypatch):
    path, context = targets.build(banked("optim.epochs=1")), multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(path, held, done))
    holder.start()
    try:
        assert held.wait(600)
        targets.build(banked("optim.epochs=1"))  # the one view that is there
        monkeypatch.setattr(folder, "PATIENCE", 0.1)
        with pytest.raises(ValueError, match="is in use by another process; wait for it"):
            targets.build(banked("optim.epochs=2"))
    finally:
        done.set()
        holder.join()


def test_the_bank_of_another_teacher_is_refused_where_the_run_s_own_is_not_at_hand(banked, tmp_path):
    file = tmp_path / "first.pth"
    write_student(open_checkpoint("random:test_efficientnet"), file)
    targets.build(banked(f"teacher.source={file}", "optim.epochs=1"))
    file.unlink()
    for override, named in (
        (f"teacher.source={tmp_path}/other.pth", "other.pth (tap post, not opened)"),
        ("teacher.tap=pre", "first.pth (tap pre, not opened)"),
        ("teacher.arch=resnet10t", "first.pth (arch resnet10t, tap post, not opened)"),
        ("teacher.size=48", "size 48"),
        ("bank.code=int8", "code: 'float16' in the bank, 'int8' wanted"),
    ):
        with pytest.raises(ValueError, match="bank of another teacher or of other views") as error:
            targets.build(banked(f"teacher.source={file}", "optim.epochs=1", override))
        assert named in str(error.value)
        if "code" not in named:
            assert f"The bank's teacher is {file} (test_efficientnet, tap post, " in str(error.value)


def test_a_teacher_with_the_same_tensors_and_another_architecture_is_another_teacher(banked, tmp_path):
    arch, file = "test_efficientnet", tmp_path / "teacher.pth"
    write_student(open_checkpoint(f"random:{arch}"), file)
    overrides = (f"teacher.source={file}", "optim.epochs=1")
    targets.build(banked(*overrides))
    found = open_teacher(banked(*overrides))
    assert describe(banked(*overrides), found, open_views(banked()), dim=96, grid=0).teacher["arch"] == arch
    found.network.pretrained_cfg = found.network.pretrained_cfg | {"architecture": f"{arch}_of_another_kind"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "open_teacher", lambda _: found)
        with pytest.raises(ValueError, match=f"teacher.arch: '{arch}' in the bank, '{arch}_of_another_kind' wanted"):
            targets.build(banked(*overrides))


def test_a_resumed_run_refuses_the_bank_of_a_teacher_that_was_exchanged_in_its_file(banked, tiny, tmp_path):
    file, checkpoint = tmp_path / "teacher.pth", open_checkpoint("random:test_efficientnet")
    own, other = (
        tiny(f"bank.path={tmp_path / name}", f"teacher.source={file}", "optim.epochs=1") for name in ("own", "other")
    )
    write_student(checkpoint, file)
    pretrain(own).unlink()
    checkpoint.weights["conv_stem.weight"].mul_(1.5)
    write_student(checkpoint, file)
    targets.build(other)
    file.unlink()
    assert pretrain(own).exists()
    (own.runs / own.name / "student.pth").unlink()
    with pytest.raises(ValueError, match="the run began with other teacher"):
        pretrain(other)


def test_a_resumed_run_refuses_another_bank_of_its_teacher_and_images_whose_axes_differ(banked, tmp_path):
    config, file = banked("optim.epochs=1", "bank.check=0"), tmp_path / "bank" / "bank.pt"

    def turn_axes(by):
        content, about = read(file), json.loads(file.with_suffix(".json").read_text())
        content["statistics"]["axes"] = content["statistics"]["axes"].roll(by, 1)
        save(content, file)
        about["hashes"]["bank.pt"] = hashes.hash_file(file)
        file.with_suffix(".json").write_text(json.dumps(about))

    pretrain(config).unlink()
    turn_axes(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="bank: has other axes than .*statistics.pt, with which the run began"):
            pretrain(config)
    turn_axes(-1)
    assert pretrain(config).exists()


def test_one_bank_serves_narrower_students_all_scalers_and_rotated_axes(banked):
    path = targets.build(banked("bank.axes=256"))
    assert Bank(path).description.axes == 256
    for overrides in (("scale.name=unit",), ("scale.name=sn",), ("align.name=random",), ("align.name=top_variance",)):
        pretrain(banked("bank.axes=256", f"name={overrides[0].replace('=', '-')}", "optim.epochs=1", *overrides))


def test_targets_from_stored_axes_equal_those_from_features(banked):
    config = banked("optim.epochs=1", "bank.axes=256")
    bank, dim = Bank(targets.build(config)), 96
    scaler = make_scaler("pts", {"exponent": 1, "temperature": 1})
    features = torch.stack([live_features(config, index, 0) for index in range(6)])
    z = (features.double() - bank.statistics.mean) @ bank.statistics.axes
    for aligner in ("svd", "random", "top_variance", "phi_s"):
        live = Target(bank.statistics, dim, aligner=aligner, scaler=scaler)
        stored = Target(bank.statistics, dim, aligner=aligner, scaler=scaler, axes=256)
        assert torch.allclose(stored(z), live(features), atol=1e-4 * float(live(features).abs().max())), aligner


def test_an_aligner_that_needs_more_axes_than_are_kept_is_refused(banked, tmp_path):
    with pytest.raises(ValueError, match="bank.axes 96: expected at least the 256 that this run reads"):
        pretrain(banked("align.name=random", "bank.axes=96"))
    assert not list((tmp_path / "bank").rglob("*.npy"))  # before the teacher saw any image
    assert Bank(targets.build(banked("align.name=random", "bank.views=1"))).description.axes == 256
    statistics = Bank(tmp_path / "bank").statistics
    with pytest.raises(ValueError, match="align.name random needs more than the bank's 96 axes.*bank.axes=256"):
        Target(statistics, 96, aligner="random", scaler=make_scaler("none", {}), axes=96)
    with pytest.raises(ValueError, match="bank.axes 90: expected at least the 96 that this run reads and at most"):
        targets.build(banked("bank.axes=90", f"bank.path={tmp_path / 'other'}"))


def test_a_bank_with_maps_gives_the_dense_term_the_live_maps(banked, tiny):
    dense = ("data.size=64", "loss.dense=1", "optim.epochs=1", "optim.lr=3e-4")
    config = banked(*dense)
    bank = Bank(targets.build(config))
    assert bank.description.grid == 2 and bank.statistics.count == 128
    views = open_views(config)
    (batch,) = load(views, [[(7, 0)]], workers=0)
    with torch.no_grad():
        pooled, maps = open_teacher(config)(make_pixels(views.augmentation, CPU)(batch), with_map=True)
    rows = torch.cat([pooled[:, None], map_on_grid(maps, 2)], 1)[0].double()
    z = (rows - bank.statistics.mean) @ bank.statistics.axes[:, :96]
    assert torch.allclose(bank.decode(bank.read(7, 0)).double(), z, rtol=2e-3, atol=2e-3 * float(z.abs().max()))
    pretrain(banked(*dense, "name=banked"))
    pretrain(tiny(*dense, "name=live"))
    assert losses(banked(*dense, "name=banked")) == pytest.approx(losses(tiny(*dense, "name=live")), rel=2e-3)
    pretrain(banked("data.size=64", "optim.epochs=1", "name=pooled"))  # a bank with maps serves a run without them
    with pytest.raises(ValueError, match="feature maps .* need bank.code=float16"):
        targets.build(tiny(*dense, f"bank.path={config.bank.path}8", "bank.code=int8"))


def test_the_axes_of_a_bank_with_maps_come_from_the_images_they_need_and_no_others_are_seen_twice(
    banked, tiny, small_files, monkeypatch
):
    overrides = ("data.size=64", "loss.dense=1", "optim.epochs=1", "align.images=3", "seed=5")
    overrides += ("align.name=random",)  # three images span too few axes for others
    shards = {int(index) // 40 for index in choose(128, 3, 5)}
    assert len(shards) < 4  # one file of the raw features has no image to keep
    seen, written, write = count_images(monkeypatch), [], target_writer.Writer.write

    def noted(self, file, *arguments):
        written.append(file)
        write(self, file, *arguments)

    monkeypatch.setattr(target_writer.Writer, "write", noted)
    path = targets.build(banked(*overrides, "bank.check=0"))
    assert sum(seen) == 3 + 128 + FOLDING
    assert {shard for number, shard in written if number < 0} == shards
    stored = Bank(path).statistics
    features = torch.stack([live_features(banked(*overrides), int(i), 0) for i in choose(128, 3, 5)])
    assert stored.count == 3 and torch.allclose(stored.mean.float(), features.mean(0), atol=1e-5)
    assert len(list(path.glob("view000/*.npy"))) == 4 and not (path / "raw").exists()
    assert all(Bank(path).read(index, 0) is not None for index in range(128))


def test_a_map_on_a_coarser_grid_keeps_its_mean_and_on_its_own_its_values():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert map_on_grid(maps, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert map_on_grid(maps, 4).flatten().tolist() == list(range(16))
    assert map_on_grid(maps[:, :, :2, :2], 4).shape == (1, 16, 1)


def test_integer_codes_by_hand():
    values, peaks = torch.tensor([[1.0, -0.125, 0.0, 9.0], [float("nan")] * 4]), torch.tensor([1.0, 1.0, 1.0, 4.0])
    cube = encode(values, "int8", peaks)
    assert cube.tolist() == [[127, -64, 0, 127], [-128] * 4]  # cube roots: 1, -1/2 (63.5 rounds to even), 0, beyond
    back = decode(torch.from_numpy(cube[:1]), "int8", peaks)[0]
    assert back.tolist() == pytest.approx([1, -((64 / 127) ** 3), 0, 4])
    linear = encode(values, "int8_linear", peaks)
    assert linear[0].tolist() == [127, -16, 0, 127]
    assert decode(torch.from_numpy(linear[:1]), "int8_linear", peaks)[0, 1] == pytest.approx(-16 / 127)


def test_codes_reach_a_quarter_beyond_the_largest_value_of_the_first_view(banked):
    bank = Bank(targets.build(banked("optim.epochs=1")))
    largest = bank.rows(range(128), 0).abs().amax(0)
    assert HEADROOM == 1.25 and torch.allclose(bank.peaks, 1.25 * largest, rtol=2e-3)


@pytest.mark.parametrize("code", ["int8", "int8_linear"])
def test_an_integer_bank_is_half_the_size_and_close_to_the_live_teacher(banked, code):
    config = banked(f"bank.code={code}", "optim.epochs=1")
    bank = Bank(targets.build(config))
    row = bank.read(11, 0)
    assert row.dtype == torch.int8 and row.shape == (1, 96)
    z = (live_features(config, 11, 0).double() - bank.statistics.mean) @ bank.statistics.axes[:, :96]
    assert float((bank.rows([11], 0)[0] - z).norm() / z.norm()) < 0.05


def test_an_image_that_is_unreadable_has_no_target_and_counts_nowhere(banked, photos, tmp_path):
    listed = [str(file.relative_to(photos)) for file in sorted(photos.rglob("*.jpg"))]
    (tmp_path / "list.txt").write_text("\n".join(["gone.jpg", *listed]))
    config = banked(f"data.source={tmp_path / 'list.txt'}", f"data.root={photos}", "optim.epochs=1", "data.memory=0")
    bank = Bank(targets.build(config))
    assert bank.statistics.count == 128 and bank.read(0, 0) is None and bank.read(1, 0) is not None
    assert bank.rows([0], 0).isnan().all()
    # It can be read by now, but there is nothing to learn for it.
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(photos / listed[0], tmp_path / "photos" / "gone.jpg")
    views = open_views(config)
    views.stored = bank
    views.source.root = tmp_path / "photos"
    (batch,) = load(views, [[(0, 0), (1, 0)]], workers=0)
    assert batch.unreadable[0][0] == "gone.jpg" and "no stored target" in batch.unreadable[0][1]
    assert batch.stored.shape == (1, 1, 96) and batch.numbers.tolist() == [1]


def test_too_many_unreadable_images_stop_a_bank_with_one_of_them_and_what_to_do(banked, photos, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(["gone.jpg", *(str(file) for file in sorted(photos.rglob("*.jpg")))]))
    with pytest.raises(
        ValueError, match="1 of 129 images .* allows, such as gone.jpg; repair or remove them, or raise"
    ):
        targets.build(banked(f"data.source={tmp_path / 'list.txt'}", "data.max_unreadable=0", "optim.epochs=1"))


def test_a_disk_without_room_is_noticed_before_the_teacher_runs(banked, monkeypatch):
    monkeypatch.setattr(target_writer.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(ValueError, match="needs 0.0 GB more; the disk has 0.0 GB free. Reduce bank.views"):
        targets.build(banked())


@pytest.mark.parametrize(("shards", "world"), [(1, 4), (3, 4), (4, 3), (5, 2), (7, 7), (2, 1)])
def test_every_file_is_made_by_one_process_and_none_makes_two_more_than_another(shards, world):
    processes = [Process(CPU, rank, world) for rank in range(world)]
    for views in ([-1], range(1), range(1, 6), range(6)):
        files = [(view, shard) for view in views for shard in range(shards)]
        shares = [share_of(files, shards, process) for process in processes]
        assert sorted(file for own in shares for file in own) == files
        counts = [len(own) for own in shares]
        assert max(counts) - min(counts) <= 1
        for process, own in zip(processes, shares, strict=True):  # whatever else is missing
            assert share_of(files[1::2], shards, process) == [file for file in own if file in files[1::2]]


@pytest.mark.parametrize(("images", "files"), [(1, 1), (4096, 1), (4097, 2), (32_768, 8), (32_769, 8), (1_281_167, 8)])
def test_a_view_of_any_number_of_images_lies_in_at_most_eight_files_that_share_them(images, files):
    about = Description.model_construct(data={"images": images}, axes=8, grid=0)
    parts = [about.images_of(shard) for shard in range(about.shards)]
    assert about.shards == files and all(parts)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == images


def test_a_file_is_written_batch_by_batch(banked, monkeypatch):
    encoded, encode_ = [], target_writer.encode
    monkeypatch.setattr(target_writer, "encode", lambda rows, *own: encoded.append(len(rows)) or encode_(rows, *own))
    targets.build(banked("optim.batch_size=48", "optim.epochs=2", "bank.check=0"))
    assert encoded == 2 * [48, 48, 32]


def test_reading_needs_no_more_than_its_row_of_a_huge_file(tmp_path):
    about = Description.model_construct(data={"images": 5000}, axes=8, grid=0)
    path = tmp_path / "view000" / "00001.npy"
    path.parent.mkdir()
    array = np.lib.format.open_memmap(path, "w+", np.float16, (5000 - 4096, 1, 8))
    array[4999 - 4096] = 7
    array.flush()
    bank = Bank.__new__(Bank)
    bank.path, bank.description, bank._absent, bank._bytes = tmp_path, about, np.float16("nan"), 16
    bank._checked = hashes.Checked(tmp_path, {"view000/00001.npy": hashes.hash_file(path)})
    assert bank.read(4999, 0).tolist() == [[7.0] * 8] and bank.read(4998, 0).tolist() == [[0.0] * 8]


def test_the_command_makes_the_bank_and_says_once_what_it_serves(tiny, tmp_path, capsys, monkeypatch):
    tiny()
    bank = tmp_path / "bank"
    assert main(["targets", str(tmp_path / "tiny.yaml"), f"bank.path={bank}"]) == 0
    assert "2 view(s) of 128 images on 96 axes, float16" in capsys.readouterr().out
    with monkeypatch.context() as second_process:
        second_process.setenv("RANK", "1")
        assert main(["targets", str(tmp_path / "tiny.yaml"), f"bank.path={bank}"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["pretrain", str(tmp_path / "tiny.yaml"), f"bank.path={bank}", "optim.epochs=1"]) == 0
    assert main(["targets", str(tmp_path / "tiny.yaml")]) == 2
    assert "add bank.path=FOLDER" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown key bank.view .did you mean views.*; there are path, views"):
        load_config(tmp_path / "tiny.yaml", [f"bank.path={bank}", "bank.view=3"])
    assert open_student(tiny()).dim == 96


def test_a_changed_row_and_a_foreign_shard_are_refused_by_name_even_without_the_comparison_with_the_teacher(
    banked, tiny, tmp_path, small_files
):
    own, other = (
        banked("optim.epochs=1", "bank.check=0"),
        tiny(f"bank.path={tmp_path / 'other'}", "optim.epochs=1", "seed=2"),
    )
    path = targets.build(own)
    shard = path / "view000" / "00002.npy"
    kept = shard.read_bytes()
    foreign = (targets.build(other) / "view000" / "00002.npy").read_bytes()
    for content in (kept[:-200] + bytes(100) + kept[-100:], foreign):
        assert len(content) == len(kept) and content != kept
        shard.write_bytes(content)
        with pytest.raises(ValueError, match=r"view000/00002.npy: not the file that the bank was written with"):
            pretrain(own)
    shard.unlink()  # as the message says
    assert pretrain(own).exists() and shard.read_bytes() == kept
    assert not list(path.rglob("*.sha256"))
    (path / "bank.pt").write_bytes((tmp_path / "other" / "bank.pt").read_bytes())
    with pytest.raises(ValueError, match=r"bank.pt: not the file that the bank was written with"):
        Bank(path)


def test_a_shard_is_hashed_once_by_all_processes_that_load_images(banked, small_files, monkeypatch):
    bank = Bank(targets.build(banked("optim.epochs=1")))
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=bank.read, args=(127, 0))
    worker.start()
    worker.join(60)
    monkeypatch.setattr(hashes, "hash_file", lambda path: pytest.fail(f"{path} was hashed again"))
    assert worker.exitcode == 0 and bank.read(126, 0) is not None


def test_a_shard_that_does_not_fit_the_disk_names_its_file(tmp_path, a_full_disk):
    def into(part):
        with part.open("wb") as handle:
            np.save(handle, np.ones(100_000))

    with a_full_disk(20_000), pytest.raises(OSError, match="the disk is full") as caught:
        write_atomically(tmp_path / "00000.npy", into)
    assert caught.value.filename == str(tmp_path / "00000.npy") and not list(tmp_path.iterdir())


def test_features_that_float16_cannot_hold_are_named():
    values = torch.tensor([[1.0, float("nan"), -7e4]])
    with pytest.raises(ValueError, match="features reach 7e\\+04, and float16 65,504: use bank.code=int8"):
        encode(values, "float16", torch.ones(3))
    assert encode(values[:, :2], "float16", torch.ones(2))[0, 0] == 1
