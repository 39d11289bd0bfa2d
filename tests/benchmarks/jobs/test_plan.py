"""Planning: times by similar cells, fingerprints, and what a running suite shows."""

import errno
import hashlib
import io
import os
import pickle
import re
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from kdep.models.weights import open_checkpoint
from kdep.shipped import FOLDER
from kdep_benchmarks.data.cards import KEYS, Dataset, fingerprint
from kdep_benchmarks.jobs import plan, run
from kdep_benchmarks.jobs.cell import Cell, lost, read_cell, run_cell
from kdep_benchmarks.jobs.engines.engine import Slot
from kdep_benchmarks.jobs.measure import measure_cell
from kdep_benchmarks.jobs.plan import Planned
from kdep_benchmarks.jobs.screen import Line, Screen
from kdep_benchmarks.openmmlab.backbones import backbone_config
from kdep_benchmarks.result import CheckpointCard
from kdep_benchmarks.results import write_result
from kdep_benchmarks.tasks.progress import Bar, clear_progress, read_progress, write_progress
from kdep_benchmarks.tasks.task import Task, config_sha256, parse_task
from tests.helpers.made_results import result


def cell_like(task, arch="resnet18", kind="linear", results="results", seed=0):
    dataset = Dataset("d", "imagefolder", Path("nowhere"), {"train": "a", "test": "b"})
    card = CheckpointCard("x", "0" * 64, arch, 1)
    return Cell("x", None, card, Task(task, kind, dataset), seed, "cpu", Path(results), "f" * 64)


def test_time_is_that_of_the_cells_most_like_it():
    def took(task, arch, seconds, **others):
        return result(task=task, arch=arch, cost={"seconds": seconds, "device": "cpu x2"}, **others)

    made = [
        took("a-linear", "resnet18", 10.0),
        took("a-linear", "resnet18", 14.0, seed=1),
        took("a-linear", "resnet50", 30.0),
        took("b-linear", "resnet18", 2.0),
        took("b-linear", "resnet18", 9999.0, budget="smoke"),
        result(task="a-linear", arch="resnet18", cost={"seconds": 0.1, "device": "NVIDIA H100"}),
    ]
    times = plan.measured_times(made, cpu=True)
    assert plan.estimate(cell_like("a-linear"), times) == 12.0  # this task and network
    assert plan.estimate(cell_like("a-linear", "vgg11"), times) == 14.0  # this task: 10, 14, 30
    assert plan.estimate(cell_like("c-linear"), times) == 10.0  # this kind and network: 2, 10, 14
    assert plan.estimate(cell_like("c-linear", "vgg11"), times) == 12.0  # this kind: 2, 10, 14, 30
    assert plan.estimate(cell_like("a-knn", kind="knn"), times) is None
    assert plan.at_once([12.0, 2.0, None], jobs=1) == (14.0, 1)
    assert plan.at_once([12.0, 2.0, None], jobs=2) == (12.0, 1)  # no shorter than the longest


def test_times_of_a_cpu_are_not_those_of_a_gpu():
    costs = [{"seconds": 90.0, "device": "cpu x2"}, {"seconds": 3.0, "device": "NVIDIA H100"}]
    made = [result(task="a-linear", seed=seed, cost=cost) for seed, cost in enumerate(costs)]
    estimates = [plan.estimate(cell_like("a-linear"), plan.measured_times(made, cpu=cpu)) for cpu in (True, False)]
    assert estimates == [90.0, 3.0]


def test_the_plan_says_states_and_time():
    todo = [Planned(cell_like("a-knn", kind="knn", seed=seed), "to run") for seed in range(2)]
    gone = Planned(cell_like("b-knn", kind="knn"), "absent", "b is not there")
    text = plan.describe_plan([*todo, gone], {}, jobs=1)
    assert text.startswith("3 cells: 2 to run, 0 done, 1 without data\n") and "  absent  b-knn: b is not there" in text
    assert text.count("time unknown") == 2 and "time: unknown, this results folder has no similar cell" in text
    times = plan.measured_times([result(task="a-knn", cost={"seconds": 90.0, "device": "cpu x1"})], cpu=True)
    text = plan.describe_plan(todo, times, jobs=2)
    assert "a-knn  seed 1  about 2 min" in text
    assert "time: about 2 min for 2 cells, 2 at once, by cells measured before" in text


@pytest.mark.parametrize("kind", ["segment", "detect-frozen"])
def test_a_plan_leaves_out_a_network_that_the_task_would_refuse_and_says_why(kind, tmp_path):
    cells = [cell_like(f"a-{kind}", arch, kind, tmp_path, seed) for arch in ("test_vit", "resnet18") for seed in (0, 1)]
    planned = [plan.plan_cell(cell, plan.Found("f" * 64)) for cell in [*cells, cell_like("a-knn", "test_vit", "knn")]]
    assert [one.state for one in planned] == ["refused", "refused", "to run", "to run", "to run"]
    text = plan.describe_plan(planned, {}, jobs=1)
    assert text.startswith("5 cells: 3 to run, 0 done, 0 without data, 2 refused\n")
    assert text.count(f"  refused x  a-{kind}: test_vit has maps at strides [16]; segmentation and detection need") == 1
    with pytest.raises(ValueError, match="test_vit has maps at strides"):  # the check of the cell itself
        backbone_config("test_vit", "mmseg")


def test_time_that_running_cells_have_spent_is_taken_off(tmp_path, monkeypatch):
    times = plan.measured_times([result(task="a-linear", cost={"seconds": 600.0, "device": "cpu x1"})], cpu=True)
    busy, next_one = cell_like("a-linear", results=tmp_path), cell_like("a-linear", results=tmp_path, seed=1)
    began = time.time()
    monkeypatch.setattr(run.time, "time", lambda: began + 480)
    write_progress(busy.work, "features", 0.25, began=began)
    assert run.time_left([busy], times, jobs=1) == ", about 2 min left"
    assert run.time_left([busy, next_one], times, jobs=1) == ", about 12 min left"  # 600 + 120
    assert run.time_left([busy, next_one], times, jobs=2) == ", about 10 min left"
    shown = run.lines([Planned(busy, "to run"), Planned(next_one, "to run")], times)
    assert [line.texts[1:] for line in shown] == [
        ("features", "25 %", "8 min", "2 min"),
        ("waiting", "", "", "10 min"),
    ]
    run.clear_stale_progress([Planned(busy, "to run")])  # nobody holds its lock: it was killed
    assert read_progress(busy.work) is None
    clear_progress(busy.work)  # twice is fine


def test_a_bar_writes_how_far_it_is_and_keeps_the_time_at_which_the_cell_began(tmp_path, capsys):
    write_progress(tmp_path, "starting", began=12.5)
    with Bar(tmp_path, total=4, desc="features") as bar:
        assert read_progress(tmp_path) == (12.5, "features", 0.0)
        bar.update(3)
        bar.refresh()
        assert read_progress(tmp_path) == (12.5, "features", 0.75)
    with Bar(None, total=4) as bar:
        bar.update(4)
    assert "3/4" in capsys.readouterr().err


def test_a_full_disk_loses_only_how_far_a_cell_is(tmp_path, monkeypatch):
    write_progress(tmp_path, "starting", began=12.5)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    write_progress(tmp_path, "features", 0.5, began=12.5)
    assert read_progress(tmp_path) == (12.5, "starting", None)


def test_a_students_card_says_how_it_was_pretrained():
    config = {"seed": 4, "optim": {"epochs": 90}}
    provenance = {"kind": "student", "config": config, "commit": "c0ffee", "images_seen": 640, "loss": 1.5}
    summary = plan.checkpoint_card(replace(open_checkpoint("random:test_resnet"), provenance=provenance)).summary
    names = ("role", "pretrain_epochs", "pretrain_seed", "pretrain_commit", "images_seen", "pretrain_loss")
    assert [summary[name] for name in names] == ["student", 90, 4, "c0ffee", 640, 1.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "knn"},
            "seed0.json: measured as knn, and the task is now linear; rename the task or raise its version",
        ),
        ({"sha256": "0" * 8 + "1" * 56}, r"the result of other weights \(0000000011111111\), .* use another --results"),
        ({"settings": {"size": 32}}, r"measured with other settings than the task has now \(size: 32, now None\)"),
        ({"data": "e" * 64}, "measured on other data"),
        ({"arch": "vgg11"}, "these weights were measured as vgg11, not x"),
        ({}, None),
    ],
)
def test_a_result_at_the_place_of_a_cell_is_done_only_where_it_is_of_the_same_measurement(tmp_path, change, message):
    cell = cell_like("d-linear", results=tmp_path)
    own = {"sha256": "0" * 64, "data": "f" * 64, "version": 2}
    write_result(result(task="d-linear", **own | change), tmp_path)
    assert cell.path.is_file()
    found = plan.Found("f" * 64)
    job = run_cell(cell, Slot())  # of another suite that planned it before
    lost_job = lost(cell, "its machine is gone")
    if message is None:
        assert plan.plan_cell(cell, found).state == job.state == lost_job.state == "done"
        return
    with pytest.raises(ValueError, match=message):
        plan.plan_cell(cell, found)
    assert (job.state, lost_job.state) == ("failed", "failed") and job.text == lost_job.text
    assert re.search(message, job.text)


@pytest.mark.parametrize("place", ["base.py", "deeper/base.py"])
def test_files_that_an_own_config_includes_are_part_of_it(place, tmp_path):
    config, base, inner = tmp_path / "mine.py", tmp_path / place, tmp_path / "inner.py"
    base.parent.mkdir(exist_ok=True)
    shipped = FOLDER / "transfer" / "segment_fcn.py"
    config.write_text(f"_base_ = ['mmseg::_base_/default_runtime.py', '{place}', '{shipped}', 'missing.py']\n")
    base.write_text(f"_base_ = '{inner}'\n")
    inner.write_text(f"_base_ = '{config}'\nchannels = 64\n")  # a circle, which mmengine refuses
    settings = {"config": str(config)}
    before = config_sha256(settings)
    assert config_sha256(settings) == before
    inner.write_text(f"_base_ = '{config}'\nchannels = 32\n")
    assert config_sha256(settings) != before
    config.write_text("_base_ = [\n")  # mmengine says what is wrong
    assert config_sha256(settings) == hashlib.sha256(config.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("from .base import *", "own/base.py"),
        ("from .deeper.base import model, channels", "own/deeper/base.py"),
        ("from ..above.base import *", "above/base.py"),
    ],
)
def test_files_that_an_own_config_imports_by_read_base_are_part_of_it_as_they_are_for_mmengine(line, place, tmp_path):
    Config = pytest.importorskip("mmengine.config").Config  # noqa: N806 - a class
    config, base = tmp_path / "own" / "mine.py", tmp_path / place
    for path in (config, base):
        path.parent.mkdir(exist_ok=True)
    opened = "from mmengine.config import read_base\nwith read_base():\n    "
    config.write_text(f"{opened}{line}\nmodel.update(dict(heads=2))\n")
    base.write_text(f"{opened}from .inner import *\nmodel = dict(channels=channels)\n")
    found = []
    for channels in (64, 32):
        base.with_name("inner.py").write_text(f"channels = {channels}\n")
        found.append(config_sha256({"config": str(config)}))
        assert Config.fromfile(config).model == {"channels": channels, "heads": 2}
    text = b"".join(path.read_bytes() for path in (config, base, base.with_name("inner.py")))
    assert found[0] != found[1] == hashlib.sha256(text).hexdigest()


def test_the_content_of_an_own_config_is_part_of_the_settings(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text("channels = 64\n")
    dataset = {"name": "d", "layout": "ade20k", "root": "d", "files": dict.fromkeys(KEYS["ade20k"], "x")}
    content = {"name": "d-segment", "kind": "segment", "dataset": dataset, "settings": {"config": str(config)}}
    cell = replace(cell_like("d-segment", results=tmp_path), task=parse_task(content, tmp_path, "suite"))
    sha256 = hashlib.sha256(b"channels = 64\n").hexdigest()
    assert cell.task.plain_settings == {"config": str(config), "config_sha256": sha256}
    own = {"data": "f" * 64, "sha256": "0" * 64, "version": 2, "settings": cell.task.plain_settings}
    write_result(result(task="d-segment", **own), tmp_path)
    found = plan.Found("f" * 64)
    assert plan.plan_cell(cell, found).state == "done"
    config.write_text("channels = 32\n")
    again = replace(cell, task=parse_task(content, tmp_path, "suite"))
    with pytest.raises(ValueError, match=f"config_sha256: {sha256}, now {again.task.config_sha256}"):
        plan.plan_cell(again, found)
    # A cell that was planned before the file changed is neither measured nor recorded with what it says now.
    assert cell.task.plain_settings["config_sha256"] == sha256
    card = plan.checkpoint_card(open_checkpoint("random:test_resnet"))
    with pytest.raises(ValueError, match="mine.py has changed since the run was planned"):
        measure_cell(replace(cell, spec="random:test_resnet", checkpoint=card))
    shipped = parse_task(content | {"settings": {"config": "segment_fcn"}}, tmp_path, "suite")
    assert shipped.plain_settings == {"config": "segment_fcn"}  # as in results that are published


def test_other_images_of_equal_names_sizes_and_dates_are_another_data_set(tmp_path):
    for folder in ("a/x", "a/y", "b/x", "b/y"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(folder.encode())
    task = Task("d-knn", "knn", Dataset("d", "imagefolder", tmp_path, {"train": "a", "test": "b"}))
    found, image = plan.look_up(task), tmp_path / "b/x" / "1.png"
    assert plan.look_up(task) == found and found.fingerprint == fingerprint(task.dataset)
    before = image.stat()
    image.write_bytes(b"B/X")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert plan.look_up(task).fingerprint != found.fingerprint


def test_a_cell_is_read_as_it_was_written(tmp_path):
    from pydantic import TypeAdapter

    cell = replace(cell_like("a-linear"), timeout=60.0, halved="out of memory")
    (tmp_path / "cell.json").write_bytes(TypeAdapter(Cell).dump_json(cell))
    assert read_cell(tmp_path / "cell.json") == cell
    job = pickle.loads(pickle.dumps(partial(run_cell, cell)))  # as an engine for a cluster sends it
    assert job.args == (cell,)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(written):
    """What stands on a terminal after these characters: cursor up n lines, clear to the end."""
    lines = [""]
    while written:
        if written.startswith("\x1b["):
            count, written = written[2:].split("F\x1b[J", 1)
            lines = [*lines[: len(lines) - 1 - int(count)], ""]
        else:
            lines, written = (
                (([*lines, ""]) if written[0] == "\n" else [*lines[:-1], lines[-1] + written[0]]),
                written[1:],
            )
    return lines[:-1]


def test_the_table_is_redrawn_below_the_lines_that_stay_on_a_terminal_only():
    stream, file = Terminal(), io.StringIO()
    screen = Screen(stream)
    screen.say("plan")
    screen.show([Line("a", "features", 0.5, 61.0, 59.0), Line("bb", "waiting")], "0 of 2")
    expected = [
        "cell  state     progress  time   left",
        "a     features  50 %      1 min  59 s",
        "bb    waiting",
        "0 of 2",
    ]
    assert shown(stream.getvalue()) == ["plan", *expected]
    screen.say("a is done")
    screen.show([Line("bb", "features")], "1 of 2")
    expected = ["cell  state     progress  time  left", "bb    features", "1 of 2"]
    assert shown(stream.getvalue()) == ["plan", "a is done", *expected]
    Screen(file).show([Line("a", "features")], "0 of 1")
    assert file.getvalue() == ""
