"""A watched run: what is logged, that nothing changes, and how it stops and goes on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from kdep.config import Probe, differences
from kdep.files import read
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.models.student import open_student
from kdep.pretrain import pretrain
from kdep.probe import watch as watching
from kdep.probe.labelled import read_masked
from kdep.probe.watch import Watch, dense_knn, drawn_positions, knn, open_watch
from kdep.run.curves import PROBES


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """Class folders of reddish and bluish noise, a VOC tree whose left half is class 1, and one of lines as masks."""
    root, random = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    for number in range(40):
        pixels = random.integers(0, 120, (40, 44, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2)] += 120
        path = root / "classes" / ("red", "blue")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    for tree in ("voc", "lines"):
        for folder in ("JPEGImages", "SegmentationClass"):
            (root / tree / folder).mkdir(parents=True)
    for number in range(10):
        pixels = random.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        pixels[:, :32] += 150
        mask = np.zeros((48, 64), np.uint8)
        mask[:, :32], mask[:4] = 1, 255
        Image.fromarray(pixels).save(root / "voc/JPEGImages" / f"{number}.jpg")
        Image.fromarray(mask).save(root / "voc/SegmentationClass" / f"{number}.png")
        mask[1:] = 255
        mask[:1] = 1
        Image.fromarray(pixels).save(root / "lines/JPEGImages" / f"{number}.jpg")
        Image.fromarray(mask).save(root / "lines/SegmentationClass" / f"{number}.png")
    return root


def log_of(config):
    return [json.loads(line) for line in (config.runs / config.name / "log.jsonl").read_text().splitlines()]


def test_looks_are_logged_and_change_neither_weights_nor_losses(tiny, labelled):
    probe = f"probe={{data: {labelled}/classes, masks: {labelled}/voc, every: 6}}"
    short = ("optim.epochs=1", "log.trackers=[]")
    plain, watched = tiny("name=plain", *short), tiny("name=watched", probe, *short)
    before, after = (torch.load(pretrain(config), weights_only=True) for config in (plain, watched))
    assert fingerprint(before["state_dict"]) == fingerprint(after["state_dict"])
    log = log_of(watched)
    looks = [record for record in log if set(PROBES) <= set(record)]
    assert [record["step"] for record in looks] == [6, 8]  # the last one after the last step
    assert all(0 <= record[name] <= 100 for record in looks for name in PROBES)
    assert [record["step"] for record in log] == [4, 6, 8]


def test_knn_is_the_slow_vote_over_all_train_images_in_eval_mode(tiny, labelled):
    config = tiny(f"probe={{data: {labelled}/classes}}")
    student = open_student(config).train()
    watch = open_watch(config, student)
    student.train()
    state, random = fingerprint(student.state_dict()), torch.get_rng_state()
    found = watch.scores(student)["probe_knn"]
    assert (
        student.training and fingerprint(student.state_dict()) == state and torch.equal(random, torch.get_rng_state())
    )
    data, right = watch._classes, 0
    assert len(data.train) == 32 and len(data.test) == 8 and data.classes == 2
    student.eval()
    with torch.no_grad():
        bank, queries = (F.normalize(student(images / 255)) for images in (data.train, data.test))
    for query, truth in zip(queries, data.test_labels, strict=True):
        near = sorted(range(32), key=lambda at: -float(query @ bank[at]))[:20]
        votes = [
            sum(np.exp(float(query @ bank[at]) / 0.05) for at in near if data.train_labels[at] == c) for c in (0, 1)
        ]
        right += int(np.argmax(votes)) == truth
    assert found == pytest.approx(100 * right / 8) == knn(student, data, torch.device("cpu"))


def test_positions_of_a_half_that_looks_different_are_told_apart(tiny, labelled):
    config = tiny(f"probe={{masks: {labelled}/voc, size: 64}}")
    student = open_student(config)
    watch = open_watch(config, student)
    assert len(watch._masked.train) == 8 and watch._masked.classes == 2
    miou = watch.scores(student)["probe_dense_knn"]
    swapped = watch._masked.test_labels[0].copy()
    assert miou > 75
    # The score is of the answers: with the classes of the test masks exchanged it falls below chance.
    swapped[swapped < 2] = 1 - swapped[swapped < 2]
    watch._masked.test_labels[:] = [swapped] * 2
    assert watch.scores(student)["probe_dense_knn"] < 25


def test_dense_neighbours_do_not_depend_on_the_batch(tiny, labelled, monkeypatch):
    student, device = open_student(tiny()).eval(), torch.device("cpu")
    data = read_masked(labelled / "voc", size=64, most=99)
    monkeypatch.setattr(watching, "POSITIONS", 100)  # of the 480 with a class
    drawn = drawn_positions(data)
    with torch.no_grad():
        whole = dense_knn(student, data, drawn, device)
        monkeypatch.setattr(watching, "BATCH", 3)
        assert dense_knn(student, data, drawn, device) == pytest.approx(whole)


def scored(monkeypatch, by_step):
    """Looks that find given scores."""
    monkeypatch.setattr(Watch, "scores", lambda self, student: {"probe_knn": next(by_step)})


def test_patience_stops_the_run_and_exports_the_best_look_also_after_a_resume(tiny, labelled, monkeypatch):
    probe = f"probe={{data: {labelled}/classes, every: 2, patience: 2}}"
    scored(monkeypatch, iter([10.0, 30.0, 20.0, 30.0]))
    whole = torch.load(pretrain(tiny("name=whole", probe, "log.trackers=[]")), weights_only=True)
    assert whole["provenance"]["stopped"].items() >= {"best_step": 4, "images_seen": 64, "score": 30.0}.items()
    assert whole["provenance"]["images_seen"] == 64

    config = tiny("name=killed", probe, "log.trackers=[]")
    scored(monkeypatch, iter([10.0, 30.0, 20.0]))  # then a look fails as a killed process does
    with pytest.raises(StopIteration):
        pretrain(config)
    assert read(config.runs / "killed" / "run.pt")["watch"]["step"] == 4
    scored(monkeypatch, iter([20.0, 30.0]))
    killed = torch.load(pretrain(config), weights_only=True)
    assert fingerprint(killed["state_dict"]) == fingerprint(whole["state_dict"])
    assert len(log_of(config)) == 4 and log_of(config)[-1]["step"] == 8


def test_a_higher_score_begins_the_count_of_looks_anew(tiny, labelled, monkeypatch):
    student = open_student(tiny())
    watch = Watch(Probe(data=labelled / "classes", every=1, patience=2), 32, torch.device("cpu"))
    scored(monkeypatch, iter([10.0, 5.0, 30.0, 20.0, 25.0]))
    stops = [bool(watch.look(student, step, 16 * step)) and watch.stops for step in range(1, 6)]
    assert stops == [False, False, False, False, True] and watch.best.step == 3


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("{every: 5}", "probe needs data"),
        ("{data: nowhere}", "probe.data: .*nowhere is not there; expected class folders"),
        ("{data: LABELLED/voc/JPEGImages}", "is in no class folder"),
        ("{masks: LABELLED/classes}", "expected JPEGImages/NAME.jpg and SegmentationClass"),
        ("{masks: LABELLED/lines}", "train masks: none of .* positions has a class in half of its pixels"),
    ],
)
def test_data_that_cannot_be_is_refused_before_training(tiny, labelled, keys, said):
    with pytest.raises(ValueError, match=said):
        pretrain(tiny("probe=" + keys.replace("LABELLED", str(labelled))))


def test_a_run_may_go_on_with_other_looks_unless_they_can_stop_it(tiny, labelled):
    def resolved(keys):
        return tiny(keys.replace("DATA", f"{labelled}/classes")).model_dump(mode="json")

    without, looks, patient = (
        resolved(k) for k in ("probe=null", "probe={data: DATA}", "probe={data: DATA, patience: 3}")
    )
    assert differences(without, looks) == []
    assert any("probe.patience" in line for line in differences(looks, patient))
