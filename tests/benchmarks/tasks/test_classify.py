"""The classification kinds on a dozen tiny images, and their parts against slow or hand-made answers."""

import dataclasses
import re
import shutil
import threading
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from kdep.models.backbones.backbone import build_backbone
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.data.cards import Dataset, fingerprint
from kdep_benchmarks.data.images import open_split, open_splits
from kdep_benchmarks.jobs import measure as measuring
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.plan import checkpoint_card
from kdep_benchmarks.tasks import classify, features, finetune
from kdep_benchmarks.tasks.classify import (
    Data,
    accuracy,
    best_on_val,
    gives_up,
    probe_knn,
    probe_linear,
    run_finetune,
    run_knn,
    run_linear,
)
from kdep_benchmarks.tasks.features import as_input, cache_key, centre, extract, feature_folder, frozen, frozen_features
from kdep_benchmarks.tasks.settings import Finetune, Knn, Pixels, read_settings
from kdep_benchmarks.tasks.task import Task
from kdep_benchmarks.tasks.training_state import Trainings
from tests.helpers.made_results import answered
from tests.kdep.probe.test_knn import clouds

CPU = torch.device("cpu")
COLOURS = [(220, 60, 60), (60, 220, 60), (60, 60, 220)]
QUICK = {"size": 32, "epochs": 3, "batch_size": 8, "lr": 0.02, "weight_decay": 1e-4, "crop_scale": [0.5, 1.0]}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Ten train and five test images in each of three classes that differ in colour."""
    root, draw = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 5)):
        for label, colour in enumerate(COLOURS):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + draw.normal(0, 25, (36, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return Dataset("colours", "imagefolder", root, {"train": "train", "test": "test"})


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint("random:test_resnet")


def task(dataset, kind, **settings):
    return Task(f"colours-{kind}", kind, dataset, settings={"size": 32, **settings})


def measure(run, checkpoint, dataset, tmp_path, seed=0, **settings):
    work_dir = tmp_path / checkpoint.identity[:8] / "colours" / "fair-v1" / f"seed{seed}.work"
    kind = run.__name__.removeprefix("run_")
    return run(checkpoint, task(dataset, kind, **settings), seed=seed, work_dir=work_dir, device=CPU)


@pytest.mark.parametrize("run", [run_knn, run_linear])
def test_features_of_broken_weights_are_refused(run, checkpoint, colours, tmp_path):
    broken = checkpoint.weights | {"conv1.0.weight": torch.full_like(checkpoint.weights["conv1.0.weight"], torch.nan)}
    broken = dataclasses.replace(checkpoint, weights=broken, sha256="b" * 64)
    with pytest.raises(ValueError, match="features are not finite"):
        measure(run, broken, colours, tmp_path)


@pytest.mark.parametrize("run", [run_knn, run_linear])
def test_a_probe_tells_colours_apart_and_reports_all_it_chose(run, checkpoint, colours, tmp_path):
    outcome = measure(run, checkpoint, colours, tmp_path)
    assert list(outcome.metrics) == ["top1", "top1_macro", "top1_pre", "top1_post"]
    assert outcome.metrics["top1"] == 100.0 and answered(outcome.answers)["top1"] == 100.0
    assert outcome.counts == {"train": 24, "val": 6, "test": 15}
    assert outcome.load["coverage"] == 100.0 and outcome.load["tensors"] == outcome.load["expected"] > 0
    assert outcome.chosen["tap"] in ("pre", "post") and set(outcome.curves) == {"pre", "post"}


def test_the_score_is_that_of_the_tap_chosen_on_select(checkpoint, colours, tmp_path, monkeypatch):
    def probe(data, **_):
        post = bool((data.pool >= 0).all())
        truth = torch.arange(3).repeat_interleave(5)
        return classify.Probed(90.0 if post else 80.0, 0.0, truth * 0 if post else truth, {})

    monkeypatch.setattr(classify, "probe_knn", probe)
    outcome = measure(run_knn, checkpoint, colours, tmp_path)
    assert outcome.chosen == {"tap": "post"}
    assert outcome.metrics == {
        "top1": pytest.approx(100 / 3),
        "top1_macro": pytest.approx(100 / 3),
        "top1_pre": 100.0,
        "top1_post": pytest.approx(100 / 3),
    }
    assert answered(outcome.answers)["top1"] == pytest.approx(100 / 3)  # those of the tap that was chosen


def test_of_equally_good_taps_the_one_with_the_lower_cross_entropy_is_chosen(
    checkpoint, colours, tmp_path, monkeypatch
):
    loss = iter([2.0, 1.0])  # before the activation, then after it
    truth = torch.arange(3).repeat_interleave(5)
    monkeypatch.setattr(classify, "probe_linear", lambda *a, **k: classify.Probed(80.0, next(loss), truth, {}))
    assert measure(run_linear, checkpoint, colours, tmp_path).chosen["tap"] == "post"


def test_of_equal_top1_on_val_the_lower_cross_entropy_is_chosen():
    assert best_on_val([50.0, 60.0, 60.0, 40.0], [0.1, 3.0, 2.0, 0.2]) == 2


def test_an_image_goes_through_the_network_once_for_all_probes_of_a_checkpoint(
    checkpoint, colours, tmp_path, monkeypatch
):
    seen, plain = [], features.as_input
    monkeypatch.setattr(features, "as_input", lambda batch, device: seen.append(len(batch)) or plain(batch, device))
    for seed in (0, 1):
        measure(run_knn, checkpoint, colours, tmp_path, seed=seed)
        measure(run_linear, checkpoint, colours, tmp_path, seed=seed)
    assert sum(seen) == 45
    measure(run_knn, checkpoint, colours, tmp_path, size=40)  # other pixels are other features
    assert sum(seen) == 90


def test_cached_features_are_the_features(checkpoint, colours, tmp_path):
    images, pixels = open_split(colours, "train"), Pixels(size=32)
    first = extract(checkpoint, images, pixels=pixels, cache=tmp_path, device=CPU)
    again = extract(checkpoint, images, pixels=pixels, cache=tmp_path, device=CPU)
    fresh = frozen_features(build_backbone(checkpoint), images, tmp_path, pixels=pixels, device=CPU)
    assert len(first.taps["pre"]) == len(images) and first.seconds > 0 and again.seconds is None
    for tap in ("pre", "post"):
        assert torch.equal(first.taps[tap], again.taps[tap]) and np.allclose(first.taps[tap], fresh[tap], atol=1e-5)
    assert (first.taps["pre"] < 0).any() and (first.taps["post"] >= 0).all()


def test_features_are_extracted_once_while_others_wait(checkpoint, colours, tmp_path, monkeypatch):
    calls, own, found = [], features.frozen_features, []

    def slow(*given, **options):
        calls.append(1)
        time.sleep(0.5)
        return own(*given, **options)

    monkeypatch.setattr(features, "frozen_features", slow)
    given = {"pixels": Pixels(size=32), "cache": tmp_path, "device": CPU}
    images = open_split(colours, "train")
    work = [threading.Thread(target=lambda: found.append(extract(checkpoint, images, **given))) for _ in range(2)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(calls) == 1 and sorted(one.seconds is None for one in found) == [False, True]
    assert not list(tmp_path.rglob("*.part"))


def clock(monkeypatch, module, *times):
    """A module's clock, which shows these times, one after the other."""
    monkeypatch.setattr(module, "time", types.SimpleNamespace(perf_counter=iter(times).__next__))


def test_the_speed_of_a_probe_is_that_of_the_extraction_that_it_did_itself(checkpoint, colours, tmp_path, monkeypatch):
    clock(monkeypatch, features, 0.0, 2.0, 10.0, 13.0)  # 30 images in 2 s, 15 in 3 s
    assert measure(run_knn, checkpoint, colours, tmp_path).cost == {"images_per_second": 9.0}
    assert measure(run_linear, checkpoint, colours, tmp_path).cost == {}
    clock(monkeypatch, features, 0.0, 5.0, 20.0, 22.5)
    pixels, cache = Pixels(size=40), tmp_path / checkpoint.identity[:8] / "features"
    extract(checkpoint, open_split(colours, "train"), pixels=pixels, cache=cache, device=CPU)
    cost = measure(run_knn, checkpoint, colours, tmp_path, size=40).cost
    assert cost == {"images_per_second": 6.0}  # of the 15 that were not there


def test_whatever_shapes_the_features_is_in_their_key(checkpoint, colours):
    images, pixels = open_split(colours, "train").fingerprint, Pixels(size=32)
    changes = {
        "sha256": "0" * 64,
        "arch": "test_resnet2",
        "tap": "post",
        "resample": 64,
        "mean": (0,) * 3,
        "std": (1,) * 3,
        "code": "1" * 64,
    }
    keys = {
        cache_key(dataclasses.replace(checkpoint, **{key: value}), images, pixels) for key, value in changes.items()
    }
    keys |= {cache_key(checkpoint, images, p) for p in (pixels, Pixels(size=31), Pixels(size=32, resize=40))}
    keys.add(cache_key(checkpoint, open_split(colours, "test").fingerprint, pixels))
    assert len(keys) == len(changes) + 4
    assert cache_key(checkpoint, images, Pixels(size=32, batch_size=3)) in keys


def test_the_feature_folder_stands_beside_the_tasks_of_its_checkpoint(checkpoint, tmp_path):
    sha8 = checkpoint.identity[:8]
    assert feature_folder(tmp_path / sha8 / "t" / "p" / "seed0.work", checkpoint) == tmp_path / sha8 / "features"
    assert feature_folder(tmp_path / "elsewhere", checkpoint) == tmp_path / "elsewhere" / "features"


def test_features_do_not_depend_on_batches_or_workers(checkpoint, colours, tmp_path):
    images, backbone = open_split(colours, "train"), build_backbone(checkpoint).train()
    one = frozen_features(backbone, images, tmp_path, pixels=Pixels(size=32, batch_size=7), device=CPU)["pre"].copy()
    pixels = Pixels(size=32, batch_size=30, workers=1)
    assert np.allclose(one, frozen_features(backbone, images, tmp_path, pixels=pixels, device=CPU)["pre"], atol=1e-5)


def test_an_extraction_that_stops_leaves_nothing_behind(checkpoint, colours, tmp_path, monkeypatch):
    def stop(batch, device):
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "as_input", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(checkpoint, open_split(colours, "train"), pixels=Pixels(size=32), cache=tmp_path, device=CPU)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_network_that_changes_while_frozen_is_found_out(checkpoint):
    backbone = build_backbone(checkpoint)
    with pytest.raises(RuntimeError, match="running_mean"), frozen(backbone):
        backbone.train()
        backbone(torch.rand(4, 3, 32, 32))


def test_the_short_side_is_resized_and_the_middle_kept():
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 28:52] = 200  # the middle of the width
    image = centre(Image.fromarray(pixels), size=10, resize=20)
    assert image.shape == (3, 10, 10) and (image == 200).all()
    assert centre(Image.fromarray(pixels), size=20, resize=20)[0, 10].tolist()[:3] == [0, 0, 0]


def test_the_middle_is_kept_of_tall_images_too_and_sides_are_rounded():
    pixels = np.zeros((80, 40, 3), np.uint8)
    pixels[28:52] = 200
    assert (centre(Image.fromarray(pixels), size=10, resize=20) == 200).all()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 39, 3), np.uint8))  # 39 / 2 becomes 20
    expected = np.asarray(image.resize((20, 10), Image.Resampling.BILINEAR).crop((5, 0, 15, 10))).transpose(2, 0, 1)
    assert np.array_equal(centre(image, size=10, resize=10), expected)


def test_white_is_1():
    assert as_input(torch.tensor([0, 51, 255], dtype=torch.uint8), CPU).tolist() == pytest.approx([0, 0.2, 1])


def test_an_image_that_cannot_be_read_stops_the_extraction_by_name(checkpoint, colours, tmp_path, capsys):
    for file in colours.root.rglob("*.png"):
        copy = tmp_path / file.relative_to(colours.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    copy.write_bytes(b"no image")
    broken = dataclasses.replace(colours, root=tmp_path)
    with pytest.raises(ValueError, match=rf"{copy.parent.name}/{copy.name} cannot be read"):
        measure(run_knn, checkpoint, broken, tmp_path, workers=1)
    assert capsys.readouterr().err.endswith("\n")  # of the bar: the error stands on a line of its own


def planted():
    """Features of `clouds` as a probe gets them."""
    pool, labels = clouds(150)
    where = torch.arange(150)
    return Data(pool, labels, where[:120], where[120:], clouds(30, seed=3)[0], 3)


@pytest.mark.parametrize(
    "probe",
    [lambda d: probe_knn(d, ks=(1, 30), temperatures=(0.1,)), lambda d: probe_linear(d, path=(1e-6, 1e-2, 10.0))],
)
def test_the_choice_is_the_best_on_select_and_blind_to_score(probe):
    data = planted()
    result, blind = probe(data), probe(dataclasses.replace(data, test=torch.zeros(30, 8)))
    curve = result.curves["val_top1"]
    assert result.val_top1 == max(curve) and blind.chosen == result.chosen
    first = next(iter(result.chosen))
    assert curve[result.curves[first].index(result.chosen[first])] == max(curve)


def test_the_answers_come_from_fit_and_select_together():
    x = torch.eye(4)
    data = Data(x, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1]), torch.tensor([2, 3]), x[3:], 2)
    assert probe_knn(data, ks=(1,), temperatures=(0.1,)).predicted.tolist() == [1]  # image 3 stands in val


def test_a_penalty_at_the_end_of_its_path_is_flagged():
    labels = (torch.arange(150) % 7).clamp(max=2)  # one common class, which a large penalty always answers
    pool = torch.eye(3, 60)[labels] * 2 + 0.9 * torch.randn(150, 60, generator=torch.Generator().manual_seed(0))
    data = dataclasses.replace(planted(), pool=pool, labels=labels, test=pool[:9])
    wide = probe_linear(data, path=(1e-6, 1e-4, 1e-2, 1.0, 100.0)).chosen
    assert 1e-6 < wide["lambda"] < 100.0 and wide["lambda_at_edge"] is False
    cut = probe_linear(data, path=(wide["lambda"], 100.0)).chosen
    assert cut == {"lambda": wide["lambda"], "lambda_at_edge": True}


@pytest.mark.parametrize(
    ("top1", "loss", "given_up"),
    [
        ([50, 49, 49], [1, 2, 2], False),  # too few to say
        ([50, 49, 49, 49], [1, 2, 3, 4], True),
        ([50, 50, 50, 50], [1, 1, 1, 1], True),  # as good is no better
        ([50, 49, 51, 49], [1, 2, 3, 4], False),  # better answers
        ([50, 49, 49, 49], [2, 3, 1, 4], False),  # surer ones
        ([50, 51, 50, 50, 50], [4, 3, 3, 3, 3], True),  # three behind the best
        ([60, 55, 40, 50, 59], [2, 3, 5, 4, 3], True),  # on the mend, but worse than long before
    ],
)
def test_a_probe_gives_up_after_three_penalties_no_better_than_any_before(top1, loss, given_up):
    assert gives_up(top1, loss) is given_up


def test_a_probe_leaves_out_the_weak_end_of_its_path_and_chooses_as_if_it_had_not(monkeypatch):
    labels = torch.arange(300) % 3
    pool = torch.eye(3, 60)[labels] + torch.randn(300, 60, generator=torch.Generator().manual_seed(0))
    data = dataclasses.replace(
        planted(), pool=pool, labels=labels, train=torch.arange(200), val=torch.arange(200, 300), test=pool[:9]
    )
    path = tuple(10.0**-power for power in range(-1, 8))
    early = probe_linear(data, path=path)
    monkeypatch.setattr(classify, "PATIENCE", 99)
    whole = probe_linear(data, path=path)
    assert whole.curves["lambda"] == sorted(path) and 3 < len(early.curves["lambda"]) < len(path)
    for name, values in early.curves.items():
        assert values == whole.curves[name][-len(values) :]
    assert early.chosen == whole.chosen and early.chosen["lambda_at_edge"] is False
    assert early.predicted.tolist() == whole.predicted.tolist()


def test_a_class_counts_the_same_in_macro_accuracy_however_large_it_is():
    truth = torch.tensor([0] * 8 + [1] * 2)
    predicted = torch.tensor([0] * 8 + [0, 1])
    assert accuracy(predicted, truth, classes=2) == {"top1": 90.0, "top1_macro": 75.0}


def test_finetuning_tells_colours_apart(checkpoint, colours, tmp_path):
    outcome = measure(run_finetune, checkpoint, colours, tmp_path, **QUICK | {"epochs": 8})
    assert answered(outcome.answers) == pytest.approx(outcome.metrics)
    assert outcome.metrics["top1"] > 80 and outcome.counts == {"train": 30, "val": 0, "test": 15}
    fixed = {"lr_fixed": True, "weight_decay_fixed": True}
    # Precision "auto" is float32 on a CPU.
    assert outcome.chosen == {"lr": 0.02, "weight_decay": 1e-4, **fixed, "precision": "float32"}


def test_a_value_that_the_task_fixes_is_no_edge_and_an_edge_is_not_fixed():
    settings = Finetune(size=32, lr=(0.1, 0.2), weight_decay=(1e-3,))
    flags = {"lr_at_edge": True, "weight_decay_fixed": True}
    assert finetune.flagged((0.2, 1e-3), settings) == {"lr": 0.2, "weight_decay": 1e-3, **flags}


def test_a_grid_is_chosen_on_select_and_its_curve_kept(checkpoint, colours, tmp_path):
    outcome = measure(run_finetune, checkpoint, colours, tmp_path, **QUICK | {"lr": [1e-7, 0.02, 1e9]})
    curve = outcome.curves["val_top1"]
    flags = {"lr_at_edge": False, "weight_decay_fixed": True}
    assert outcome.chosen == {"lr": 0.02, "weight_decay": 1e-4, **flags, "precision": "float32"}
    assert outcome.counts == {"train": 24, "val": 6, "test": 15}
    assert curve[1] == max(value for value in curve if value is not None)


def test_the_speed_of_finetuning_is_that_of_its_training(checkpoint, colours, tmp_path, monkeypatch):
    clock(monkeypatch, finetune, 0.0, 1.5, 100.0, 102.5, 200.0)  # saving its state is no training
    settings = QUICK | {"epochs": 2, "batch_size": 10, "lr": 0.01}
    assert measure(run_finetune, checkpoint, colours, tmp_path, **settings).cost == {"images_per_second": 15.0}


def test_warm_up_takes_half_of_the_epochs_at_most():
    warm = [finetune.as_optim(Finetune(epochs=n), (0.1, 0.0), images=9).warmup_epochs for n in (1, 2, 30)]
    assert warm == [0.5, 1, 1]


GRID = QUICK | {"lr": [1e-7, 0.02], "optimizer": "sgd"}  # 2 x 9 steps on train, 9 on train and val
STEPS = 27


@pytest.fixture
def finetuning(checkpoint, colours, tmp_path, monkeypatch):
    """Fine-tune in a folder, stopped before a step where one is given: what came out, its scores, steps trained."""
    own, noisy, made = finetune._set_rate, features.as_input, []
    # Noise from torch's random numbers, as of a network with dropout.
    monkeypatch.setattr(
        finetune, "as_input", lambda batch, device: noisy(batch, device) + 0.1 * torch.rand(batch.shape)
    )
    predict = finetune.predict
    monkeypatch.setattr(finetune, "predict", lambda *a, **k: made.append(predict(*a, **k)) or made[-1])

    def run(folder, *, stop=None, **settings):
        steps = []

        def step(*given):
            if len(steps) == stop:
                raise KeyboardInterrupt
            steps.append(own(*given))

        monkeypatch.setattr(finetune, "_set_rate", step)
        if stop is None:
            outcome = measure(run_finetune, checkpoint, colours, tmp_path / folder, **GRID | settings)
            return outcome, made[-1], len(steps)
        with pytest.raises(KeyboardInterrupt):
            measure(run_finetune, checkpoint, colours, tmp_path / folder, **GRID | settings)
        return None

    return run


@pytest.mark.parametrize(("optimizer", "workers"), [("sgd", "auto"), ("adamw", 1)])
def test_interrupted_finetuning_goes_on_behind_its_last_epoch_as_if_it_had_not_stopped(finetuning, optimizer, workers):
    settings = {"optimizer": optimizer, "workers": workers, "precision": "float32"}
    whole, expected, steps = finetuning("whole", **settings)
    assert steps == STEPS
    finetuning("parts", stop=4, **settings)  # in the second epoch of the first point
    finetuning("parts", stop=12, **settings)  # 6 to the end of that point, 6 of the second
    finetuning("parts", stop=11, **settings)  # 3 to the end of the second, 8 of the last training
    outcome, scores, steps = finetuning("parts", **settings)
    assert steps == 3
    assert torch.equal(scores, expected)
    assert (outcome.metrics, outcome.chosen, outcome.curves) == (whole.metrics, whole.chosen, whole.curves)


def test_finetuning_starts_anew_on_a_card_that_computes_in_another_precision(finetuning, monkeypatch):
    finetuning("one", stop=4, precision="auto")
    monkeypatch.setattr(finetune, "choose_precision", lambda *_: torch.bfloat16)
    assert finetuning("one", precision="auto")[2] == STEPS
    monkeypatch.undo()


def test_a_network_whose_scoring_failed_is_scored_again_without_training_after_its_test_image_was_repaired(
    checkpoint, colours, tmp_path, monkeypatch
):
    shutil.copytree(colours.root, tmp_path / "data")
    dataset = dataclasses.replace(colours, root=tmp_path / "data")
    settings = QUICK | {"epochs": 1, "lr": [0.01, 0.02]}
    whole = measure(run_finetune, checkpoint, colours, tmp_path / "whole", **settings)
    image = tmp_path / "data" / "test" / "class0" / "0.png"
    content = image.read_bytes()
    image.write_bytes(content[:60])
    with pytest.raises(ValueError, match="class0/0.png cannot be read"):
        measure(run_finetune, checkpoint, dataset, tmp_path / "work", **settings)
    image.write_bytes(content)
    monkeypatch.setattr(finetune, "_set_rate", None)  # a step of training would fail
    again = measure(run_finetune, checkpoint, dataset, tmp_path / "work", **settings)
    assert (again.metrics, again.answers.sha256) == (whole.metrics, whole.answers.sha256)


def test_a_point_that_diverged_is_not_tried_again(finetuning):
    finetuning("parts", stop=4, lr=[1e30, 0.02], warmup_epochs=0)  # ends after the first epoch, of 3 steps
    outcome, _, steps = finetuning("parts", lr=[1e30, 0.02], warmup_epochs=0)
    assert outcome.curves["val_top1"][0] is None and steps == 18


@pytest.mark.parametrize("change", [{"epochs": 2}, {"lr": [1e-6, 0.02]}, {"crop_scale": [0.6, 1.0]}])
def test_what_another_cell_has_left_is_not_gone_on_from(finetuning, change, caplog):
    finetuning("parts", stop=12)
    assert finetuning("parts", **change)[2] == (18 if "epochs" in change else STEPS)
    assert "ended.json: belongs to another cell" in caplog.text and "last.pth: belongs to" in caplog.text


def test_the_state_of_one_training_is_not_that_of_another(tmp_path):
    kept = Trainings(tmp_path)
    kept.save("a", {"step": 1})
    assert kept.state("a")["step"] == 1 and kept.state("b") is None  # as after a stop between two files' writing
    kept.end("a", None)
    assert "a" in Trainings(tmp_path) and kept.state("a") is None


def test_one_bar_shows_the_whole_grid_from_where_it_goes_on(finetuning, capsys):
    finetuning("parts", stop=17)
    capsys.readouterr()
    finetuning("parts")
    shown = re.findall(r"(\d+)/(\d+) \[", capsys.readouterr().err)
    assert shown[0] == ("0", "27") and shown[-1] == ("27", "27") and {total for _, total in shown} == {"27"}
    assert next(at for at, _ in shown if at not in ("0", "9")) == "15"


def test_unfinished_work_stays_until_the_result_is_written(finetuning, colours, tmp_path, monkeypatch):
    card = checkpoint_card(open_checkpoint("random:test_resnet"))
    one = Cell("random:test_resnet", None, card, task(colours, "finetune", **GRID), 0, "cpu", tmp_path)
    one = dataclasses.replace(one, data_fingerprint=fingerprint(colours))
    work, described = one.work, one.work / "cell.in.json"
    work.mkdir(parents=True)
    described.write_bytes(TypeAdapter(Cell).dump_json(one))
    written = measuring.write_result

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "write_result", stop)
    with pytest.raises(KeyboardInterrupt):
        measuring.main(str(described))
    assert (work / "last.pth").exists() and (work / "ended.json").exists()
    monkeypatch.setattr(measuring, "write_result", written)
    monkeypatch.setattr(finetune, "_set_rate", stop)  # nothing is left to train
    assert measuring.main(str(described)) == 0
    assert work.with_name("seed0.json").exists()
    assert not (work / "last.pth").exists() and not (work / "ended.json").exists()


def trained(checkpoint, colours, **changes):
    splits = open_splits(colours, seed=0)
    settings = Finetune(**{"size": 32, "epochs": 1, "batch_size": 8, "crop_scale": (0.5, 1.0), **changes})
    return finetune.train_and_predict(checkpoint, splits, settings, (0.01, 0.0), final=True, seed=0, device=CPU)[0]


def test_the_same_seed_gives_the_same_finetuned_network(checkpoint, colours):
    assert torch.equal(trained(checkpoint, colours), trained(checkpoint, colours))


def test_finetuning_trains_the_backbone_and_its_batchnorm(checkpoint, colours):
    images = open_split(colours, "train")
    backbone = build_backbone(checkpoint, tap="post")
    model = torch.nn.Sequential(backbone, torch.nn.Linear(backbone.dim, 3))
    settings = Finetune(size=32, epochs=1, batch_size=8)
    finetune.train(model, images, np.arange(30), settings, (0.01, 0.0), seed=0, device=CPU)
    after = backbone.network.state_dict()
    assert all(not torch.equal(after[n], t) for n, t in checkpoint.weights.items() if t.ndim == 4 or "running" in n)


def test_parts_of_a_batch_add_up_to_its_gradient_whatever_their_sizes(colours):
    images, found = open_split(colours, "train"), []
    for accumulate in (1, 3):  # 8 images in parts of 3, 3 and 2
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
        settings = Finetune(size=32, epochs=2, batch_size=8, accumulate=accumulate, precision="float32")
        finetune.train(model, images, np.arange(30), settings, (0.5, 0.0), seed=0, device=CPU)
        found.append(model[-1].weight.detach())
    assert torch.allclose(*found, atol=1e-6)


def test_the_seed_draws_the_order_and_the_views_of_finetuning(colours, monkeypatch):
    model, images, seen = torch.nn.Linear(2, 3), open_split(colours, "train"), []

    def stop(views, batches, **_):
        seen.append((views.seed, list(batches)))
        raise InterruptedError

    monkeypatch.setattr(finetune, "load", stop)
    settings = Finetune(size=32, epochs=1, batch_size=8)
    for seed in (0, 1, 1):
        with pytest.raises(InterruptedError):
            finetune.train(model, images, np.arange(30), settings, (0.1, 0.0), seed=seed, device=CPU)
    assert [seed for seed, _ in seen] == [0, 1, 1] and seen[1][1] == seen[2][1] != seen[0][1]


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_finetuning_beside_a_gpu_decodes_ahead_in_pinned_memory(checkpoint, colours, monkeypatch, kind):
    asked = []

    def stop(*_, **options):
        asked.append(options)
        raise InterruptedError

    monkeypatch.setattr(finetune, "load", stop)
    model, images = torch.nn.Linear(2, 3), open_split(colours, "train")
    settings = Finetune(size=32, epochs=1, batch_size=8, precision="float32")
    with pytest.raises(InterruptedError):
        finetune.train(model, images, np.arange(30), settings, (0.01, 0.0), seed=0, device=torch.device(kind))
    assert asked == [{"workers": "auto", "pin": kind == "cuda"}]


def test_select_is_scored_by_fit_alone_and_score_by_fit_and_select(checkpoint, colours, monkeypatch):
    splits, seen = open_splits(colours, seed=0), []
    monkeypatch.setattr(finetune, "train", lambda _m, _i, positions, *_a, **_k: seen.append(list(positions)))
    for final in (False, True):
        finetune.train_and_predict(checkpoint, splits, Finetune(size=32), (0.1, 0.0), final=final, seed=0, device=CPU)
    assert seen == [splits.train.tolist(), list(range(30))]


@pytest.mark.parametrize("tap", ["pre", "post"])
def test_finetuning_is_behind_the_last_activation_whatever_the_tap_of_the_checkpoint(
    checkpoint, colours, monkeypatch, tap
):
    splits, taps, own = open_splits(colours, seed=0), [], dataclasses.replace(checkpoint, tap=tap)
    monkeypatch.setattr(finetune, "train", lambda model, *_a, **_k: taps.append(model[0].tap))
    finetune.train_and_predict(own, splits, Finetune(size=32), (0.1, 0.0), final=True, seed=0, device=CPU)
    assert taps == ["post"]


def test_scores_of_a_trained_network_do_not_depend_on_the_batch(checkpoint, colours):
    images = open_split(colours, "test")
    model = build_backbone(checkpoint, tap="post").train()
    one, other = (
        finetune.predict(model, images, np.arange(15), Finetune(size=32, batch_size=size), device=CPU)
        for size in (4, 15)
    )
    assert torch.allclose(one, other, atol=1e-5)


def test_a_part_of_the_images_is_read_by_position(colours):
    images = open_split(colours, "train")
    part = finetune.Part(images, np.array([25, 3]))
    assert part.read(0).tobytes() == images.read(25).tobytes() and part.names[1] == images.names[3]


def test_a_diverging_grid_says_so(checkpoint, colours, tmp_path):
    with pytest.raises(ValueError, match=r"diverges at every lr of \[1e\+19, 1e\+20\]"):
        measure(run_finetune, checkpoint, colours, tmp_path, **QUICK | {"lr": [1e19, 1e20], "warmup_epochs": 0})


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Knn, {"sise": 3}, "unknown key sise .did you mean size.*; there are size, resize"),
        (Knn, {"k": [0]}, "k.0 must be greater than or equal to 1, got 0"),
        (Finetune, {"lr": []}, "lr must have at least 1 item"),
        (Finetune, {"optimizer": "adam"}, "optimizer must be 'sgd' or 'adamw', got 'adam'"),
        (Finetune, {"crop_scale": [0.5, 0.1]}, "crop_scale: expected 0 < low <= high <= 1"),
        (Pixels, {"size": 64, "resize": 32}, "resize 32 is smaller than size 64"),
    ],
)
def test_settings_that_cannot_be_are_explained(colours, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        read_settings(kind, Task("zoo", "knn", colours, settings=settings))


def test_a_single_value_is_a_grid_of_one(colours):
    assert read_settings(Finetune, Task("zoo", "finetune", colours, settings={"lr": 0.01})).lr == (0.01,)
