"""The speed measurements run on tiny cases; no test asserts a speed."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdep.method.loss import distill_loss
from kdep.method.scale import make_scaler
from kdep.method.statistics import Moments, finish
from kdep.method.target import Target
from kdep.models.student import open_student
from kdep.models.teacher import open_teacher
from tools.speed import clock
from tools.speed import measure as speed
from tools.speed.photographs import photographs
from tools.speed.pretraining import moments, reference_loop, references
from tools.speed.pretraining.ceilings import CASES
from tools.speed.pretraining.runs import ceiling, configure, growth, make_bank, on_device, run
from tools.speed.row import Row, Setting
from tools.speed.transfer import probes

FIELDS = set(
    ["name", "what", "against", "unit", "ours", "theirs", "ratio", "target", "met", "batch", "resolution", "images"]
)


@pytest.fixture
def setting(tmp_path, monkeypatch):
    return Setting(tmp_path, torch.device("cpu"), repeats=1, quick=True)


def measure(tmp_path, *options):
    return speed.main(
        ["--quick", "--repeats", "1", "--out", f"{tmp_path}/speed.json", "--work", f"{tmp_path}/work", *options]
    )


def test_every_measurement_has_its_function():
    for known in speed.MEASUREMENTS.values():
        module, _, function = known.function.partition(":")
        assert callable(getattr(importlib.import_module(f"tools.speed.{module}"), function))


def test_cheap_rows_give_a_table_a_file_and_a_picture_and_are_not_measured_twice(tmp_path, capsys):
    assert measure(tmp_path, "--rows", "probe,lightly") == 0
    said = capsys.readouterr().out
    assert "linear-probe" in said and "CUDA not run" in said and "--lightly-python" in said
    document = json.loads((tmp_path / "speed.json").read_text())
    (line,) = document["rows"]["probe"]["lines"]
    assert set(line) >= FIELDS and line["ratio"] == pytest.approx(line["theirs"] / line["ours"], rel=1e-6)
    assert line["met"] == (line["ratio"] >= line["target"])
    assert set(line["growth"]["images"]) == {"unit", "1x", "2x", "4x"}
    assert document["device"]["torch"] == torch.__version__ and document["sizes"] == "quick"
    assert Image.open(tmp_path / "speed.png").size[0] > 800
    tables = (tmp_path / "speed.md").read_text()
    assert "| linear-probe | path of 3 penalties, 300 x 16, 5 classes |" in tables
    assert "- linear-probe, images (s): 1x: " in tables
    # Measured rows stay as they are; a skipped one is tried again.
    assert measure(tmp_path, "--rows", "probe,lightly") == 0
    assert "1 measurements" in capsys.readouterr().out
    assert json.loads((tmp_path / "speed.json").read_text())["rows"]["probe"] == document["rows"]["probe"]


def test_figures_of_other_sizes_never_stand_beside_those_of_a_file(tmp_path):
    document = {"format": speed.FORMAT, "sizes": "full", "device": {}, "rows": {}}
    (tmp_path / "speed.json").write_text(json.dumps(document))
    with pytest.raises(SystemExit, match="sizes full, now quick"):
        measure(tmp_path, "--rows", "probe")
    assert json.loads((tmp_path / "speed.json").read_text()) == document


@pytest.mark.parametrize(
    ("options", "said"), [(["--rows", "warp"], "there are bank-64"), (["--repeats", "0"], "at least 1")]
)
def test_a_wrong_option_is_answered_with_what_would_be_right(tmp_path, options, said):
    with pytest.raises(SystemExit, match=said):
        measure(tmp_path, *options)


def test_the_ratio_of_a_limit_or_of_seconds_is_above_one_where_ours_is_better():
    assert Row("a", "", "", ours=2.0, theirs=4.0, ratio=2.0, target=2.0).met is True
    assert Row("a", "", "", ours=2.0, theirs=3.9, ratio=1.95, target=2.0).met is False
    assert Row("a", "", "", skipped="no").met is None
    row = Row("a", "b", "c", ratio=1.0, growth={"images": {"unit": "s", "1x": 1.0}})
    assert Row.from_dict(json.loads(json.dumps(row.as_dict()))) == row


def test_the_reference_loop_learns_the_same_target_as_kdep_on_the_same_pixels(setting):
    case = on_device(CASES[64], setting)
    config = configure(case, setting, name="a", bank=False)
    teacher, student = open_teacher(config), open_student(config)
    images = torch.rand(200, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    counted = Moments(teacher.dim)
    with torch.no_grad():
        counted.add(teacher(images))
    statistics = finish(counted, teacher="", data="")
    target = Target(statistics, student.dim, aligner="svd", scaler=make_scaler("pts", {}))
    aligned = reference_loop.AlignedTeacher(teacher, statistics.mean, statistics.axes[:, : student.dim])
    student.eval()  # BatchNorm's running statistics must not move between the two
    with torch.no_grad():
        wanted = target(teacher(images[:8]))[:, None]
    ours = distill_loss(student, wanted, images[:8], config.loss)
    theirs = reference_loop.loss_of(student, aligned, images[:8], config.loss.weight)
    assert ours.item() > 0.1 and theirs.item() == pytest.approx(ours.item(), rel=1e-5)


def test_the_reference_loop_trains_on_the_photographs(setting):
    folder = photographs(setting.work, 16, sides=(40, 30))
    case = on_device(CASES[64], setting)
    config = configure(case, setting, name="a", bank=False)
    teacher, student = open_teacher(config), open_student(config)
    before = [parameter.clone() for parameter in student.parameters()]
    frozen = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    aligned = reference_loop.AlignedTeacher(teacher, torch.zeros(teacher.dim), torch.eye(teacher.dim)[:, : student.dim])
    loader = reference_loop.make_loader(folder, size=32, batch=8, workers=0)
    steps = reference_loop.steps(student, aligned, loader, device=setting.device)
    found = [next(steps) for _ in range(3)]
    assert all(np.isfinite(loss) and seconds > 0 for loss, seconds in found)
    assert all(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert all(torch.equal(frozen[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_run_from_the_bank_is_timed_by_its_own_log_and_its_ceiling_by_the_same_step(setting):
    case = on_device(CASES[64], setting)
    assert make_bank(case, setting) == make_bank(case, setting) > 0  # made once, its time kept
    config = configure(case, setting, name="bank", bank=True, workers=0)
    found = run(config)
    steps = case.images // case.batch * case.epochs
    assert len(found.cumulated) == steps and found.cumulated == sorted(found.cumulated)
    assert found.rate > 0 and 0 <= found.waited <= 1 and found.whole > found.cumulated[-1]
    assert growth(found)["4x"] == round(found.cumulated[-1], 3)
    assert growth(found)["1x"] == round(found.cumulated[steps // 4 - 1], 3)
    assert ceiling(config, 2)() > 0


def test_turns_alternate_and_the_figure_is_the_median():
    order, values = [], iter([1.0, 10.0, 5.0, 20.0, 2.0, 90.0])

    def contender(name):
        return lambda: order.append(name) or next(values)

    figures = clock.interleave({"a": contender("a"), "b": contender("b")}, 3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert clock.medians(figures) == {"a": 2.0, "b": 20.0}


def test_peak_memory_counts_what_was_allocated_and_freed():
    assert 95 < clock.in_child("tests.helpers.peak:peak_of", megabytes=100) < 160


def test_streamed_axes_equal_those_of_the_whole_matrix(tmp_path):
    for kind in ("stream", "whole"):
        moments.measure(kind, 1000, 24, str(tmp_path / kind), threads=1)
    same = moments.compare_axes(tmp_path / "stream", tmp_path / "whole", 12)
    assert same["one_minus_cos"] < 1e-8 and same["angle"] < 1e-4
    turned = torch.load(tmp_path / "whole", weights_only=True)
    # Other axes of the same space: apart one by one, not as spaces.
    within = turned.clone()
    within[:, :12] = turned[:, :12] @ torch.linalg.qr(torch.randn(12, 12))[0]
    torch.save(within, tmp_path / "turned")
    same = moments.compare_axes(tmp_path / "stream", tmp_path / "turned", 12)
    assert same["one_minus_cos"] > 0.1 and same["angle"] < 1e-4
    turned[:, [2, 3]] = turned[:, [3, 2]]
    torch.save(turned, tmp_path / "turned")
    assert moments.compare_axes(tmp_path / "stream", tmp_path / "turned", 12)["one_minus_cos"] > 0.9
    turned[:, [3, 20]] = turned[:, [20, 3]]
    torch.save(turned, tmp_path / "turned")
    assert moments.compare_axes(tmp_path / "stream", tmp_path / "turned", 12)["angle"] > 1.5


def test_both_probes_are_judged_by_the_same_objective():
    features, labels = probes.make_features(60, 4, 3)
    x, mean, deviation = probes.standardise(features)
    assert np.allclose(x.mean(0), 0, atol=1e-6) and np.allclose(x.std(0), 1)
    weight, bias = np.arange(12.0).reshape(4, 3) / 10, np.array([0.1, 0.0, -0.2])
    scores = x @ weight + bias
    slow = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(scores, labels.tolist(), strict=True)]
    expected = np.mean(slow) + 0.5 / 2 * 5.06
    assert probes.objective(weight, bias, x, labels, 0.5) == pytest.approx(expected, rel=1e-9)


def test_a_bank_is_paid_back_at_the_rates_of_its_own_precision():
    case = CASES[224]  # 544 images
    middle = {"online": 10.0, "bank": 20.0, "online-auto": 25.0, "bank-auto": 50.0, "reference": 8.0}
    # An epoch of float32 saves 544 (1 / 10 - 1 / 20) = 27.2 s, one of auto 544 (1 / 25 - 1 / 50) = 10.88 s.
    assert references.explain(case, "bank", 54.4, middle, 8.0).endswith("the live teacher after 2.0 epochs")
    assert references.explain(case, "bank-auto", 54.4, middle, 8.0).endswith("the live teacher after 5.0 epochs")
    # Without a live teacher the reference is the rival: 544 (1 / 8 - 1 / 50) = 57.12 s.
    alone = {"bank": 20.0, "bank-auto": 50.0, "reference": 8.0}
    assert references.explain(case, "bank-auto", 57.12, alone, 8.0).endswith("the reference after 1.0 epochs")


def test_the_published_tables_and_notes_are_those_of_the_published_figures():
    document = json.loads(speed.PUBLISHED.read_text())
    written = speed.PUBLISHED.with_suffix(".md").read_text()
    assert written == speed.markdown(document)
    table = "".join(line for line in written.splitlines(keepends=True) if line.startswith("|"))
    assert f"<!-- speed -->\n\n{table}\n<!-- /speed -->" in Path("docs/speed.md").read_text()
    found = 0
    for content in (line for row in document["rows"].values() for line in row["lines"]):
        detail = content["detail"]
        if "bank_seconds" in detail:
            mode, *_ = content["name"].split("-")
            mode += "-auto" if content["name"].endswith("-auto") else ""
            case = replace(CASES[224], images=detail["bank_images"])
            middle = clock.medians(detail["figures"])
            making, best = detail["bank_seconds"], content["theirs"]
            assert content["note"] == references.explain(case, mode, making, middle, best)
            found += 1
    assert found == 10


@pytest.mark.openmmlab
def test_what_a_cell_costs_once_is_kept_apart_from_what_it_costs_at_every_iteration():
    pytest.importorskip("mmengine")
    from tools.speed.transfer.overhead import summarise

    # Iterations end at these seconds; the first three and the last, which saves for 5 s, are not among the intervals.
    ends, spent = [7.0, 8.0, 9.0, 10.0, 12.0, 15.0, 17.0, 24.0], [9.0, 9.0, 9.0, 9.0, 0.1, 0.2, 0.3, 9.0]
    found = summarise(4.0, ends, spent)
    assert found["intervals"] == [2.0, 3.0, 2.0]
    assert found["once"] == pytest.approx(3.0 + 7.0 - 2.0) and found["hooks"] == pytest.approx(0.2)
