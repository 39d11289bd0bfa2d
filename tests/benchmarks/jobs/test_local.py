"""How a suite runs its cells: several at once, time limits, memory, locks, interruption. Most cells here are stand-ins.

A stand-in is a small script that does what its task's settings say and writes a result as a cell does.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdep import cli
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.data.cards import Dataset, fingerprint
from kdep_benchmarks.jobs import cell as cells
from kdep_benchmarks.jobs import local as running
from kdep_benchmarks.jobs import locks, plan, progress
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.local import Limits, run_plan
from kdep_benchmarks.jobs.memory import halve, is_out_of_memory
from kdep_benchmarks.jobs.plan import Planned
from kdep_benchmarks.jobs.progress import Row, Screen
from kdep_benchmarks.results import read_results
from kdep_benchmarks.tasks.task import Task
from tests.helpers.made_results import result

ROOT = Path(__file__).parents[3]
STAND_IN = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from kdep_benchmarks.results import CheckpointCard, Protocol, Result, TaskCard, write_result

path = Path(sys.argv[1])
cell = json.loads(path.read_text())
task, here = cell["task"], path.parent.name.split(".")[0] + "-" + cell["task"]["name"]
do, shared = task["settings"]["do"], Path(task["settings"]["shared"])

def note(**more):
    about = {"cell": here, "threads": os.environ.get("OMP_NUM_THREADS"), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    with (shared / "notes").open("a") as file:
        file.write(json.dumps({**about, "pid": os.getpid(), "time": time.monotonic(), **more}) + "\\n")

def wait_for(count):
    end = time.monotonic() + 8
    while len(list(shared.glob("met-*"))) < count:
        if time.monotonic() > end:
            sys.exit("alone")
        time.sleep(0.01)

note(event="start")
print("attempt", "with half" if cell["halved"] else "with all", flush=True)
if do == "meet":
    (shared / f"met-{here}").touch()
    wait_for(task["settings"]["count"])
elif do == "sleep":
    time.sleep(task["settings"]["seconds"])
elif do == "hang":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    part = path.parent / ".half.1.part"
    part.touch()
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (shared / "worker").write_text(str(worker.pid))
    try:
        time.sleep(60)
    finally:
        part.unlink()
elif do == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
elif do == "leave":
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (shared / "worker").write_text(str(worker.pid))
    sys.exit("gone without its worker")
elif do == "fail":
    sys.exit("this cell always fails")
elif do in ("killed", "memory") and not (cell["halved"] and task["settings"].get("fits")):
    if do == "memory":
        sys.exit(4)
    os.kill(os.getpid(), signal.SIGKILL)
note(event="end")
sha256 = path.parents[3].name.ljust(64, "0")
write_result(Result(
    CheckpointCard("stand-in", sha256, "test_resnet", 1), TaskCard(task["name"], task["kind"], "classification", "d"),
    Protocol(task["protocol"], task["version"]), cell["data_fingerprint"], cell["seed"], "ok", "2026-01-01T00:00:00",
    metrics={"top1": 50.0}, cost={"seconds": 2.0, "device": "cpu x1"},
    chosen={"out_of_memory": {"because": cell["halved"]}} if cell["halved"] else {},
), Path(cell["results"]))
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Make plans of stand-ins: `suite("sleep", seeds=2, seconds=1)`."""
    script, shared = tmp_path / "stand_in.py", tmp_path / "shared"
    script.write_text(STAND_IN)
    shared.mkdir()
    monkeypatch.setattr(running, "COMMAND", (sys.executable, str(script)))
    checkpoint = open_checkpoint("random:test_resnet")

    def make(do, *, kind="finetune", seeds=1, name="tiny", size=32, **settings):
        dataset = Dataset("tiny", "imagefolder", tmp_path, {"train": "a", "test": "b"})
        given = {"do": do, "shared": str(shared), "size": size, **settings}
        task = Task(f"{name}-{kind}", kind, dataset, settings=given)
        return [
            plan.plan_cell(
                Cell("random:test_resnet", None, task, seed, "cpu", tmp_path / "results", data_fingerprint="f" * 64),
                checkpoint,
                "",
            )
            for seed in range(seeds)
        ]

    make.notes = lambda: [json.loads(line) for line in (shared / "notes").read_text().splitlines()]
    make.shared, make.results = shared, tmp_path / "results"
    return make


def go(planned, **limits):
    said = io.StringIO()
    return run_plan(planned, Limits(**limits), {}, Screen(said)), said.getvalue()


def gone(pid):
    """Whether a process has ended, within the moment that a kill may take."""
    end = time.monotonic() + 3
    while time.monotonic() < end:
        listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
        if not listed.strip() or listed.startswith("Z"):
            return True
        time.sleep(0.02)
    return False


def failures(folder):
    return [found for found in read_results(folder) if found.status == "failed"]


def test_cells_run_at_once_and_share_the_cores(suite, monkeypatch):
    monkeypatch.setattr(running, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    codes, _ = go(suite("meet", seeds=2, count=2), jobs=2)
    assert codes == [0, 0]
    assert [note["threads"] for note in suite.notes()] == ["4"] * 4


def test_no_more_cells_than_jobs_run_at_once_and_one_alone_has_what_the_user_gave_it(suite, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert go(suite("sleep", seeds=2, seconds=0.2))[0] == [0, 0]
    assert [note["event"] for note in suite.notes()] == ["start", "end"] * 2
    assert {note["threads"] for note in suite.notes()} == {"6"}


def test_every_cell_has_a_gpu_of_its_own(suite, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert running.visible_devices("auto") == ("5", "7")
    assert running.visible_devices("cuda:1") == running.visible_devices("cpu") == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert running.visible_devices("auto") == ("0", "1")
    assert go(suite("meet", seeds=2, count=2), jobs=2, devices=("5", "7"))[0] == [0, 0]
    assert sorted(note["gpu"] for note in suite.notes() if note["event"] == "start") == ["5", "7"]


def test_a_cell_that_hangs_is_stopped_with_its_workers_and_the_rest_goes_on(suite):
    codes, said = go(suite("hang") + suite("sleep", name="next", seconds=0), timeout=1.0)
    assert sorted(codes) == [0, 143] and "next-finetune  seed 0  top1 50.00" in said
    (failed,) = failures(suite.results)
    assert failed.error["log"].splitlines()[-1].strip() == "stopped after 1 s (--timeout)"
    assert gone(int((suite.shared / "worker").read_text()))
    assert not list(suite.results.rglob("*.part"))


def test_what_a_failed_cell_leaves_running_is_killed(suite):
    assert go(suite("leave"))[0] == [1]
    assert failures(suite.results)[0].error["log"].strip().endswith("gone without its worker")
    assert gone(int((suite.shared / "worker").read_text()))


def test_a_cell_that_does_not_listen_is_killed(suite, monkeypatch):
    monkeypatch.setattr(running, "GRACE", 0.3)
    codes, _ = go(suite("deaf"), timeout=3)
    assert codes == [-signal.SIGKILL]
    (failed,) = failures(suite.results)
    assert "--timeout" in failed.error["log"] and "halved" not in failed.error


@pytest.mark.parametrize(("do", "because"), [("killed", "killed by signal 9"), ("memory", "out of memory")])
def test_without_memory_a_cell_is_tried_once_more_with_half_the_batch(suite, do, because):
    (planned,) = suite(do, fits=True)
    codes, said = go([planned])
    assert codes == [0] and f"{because}" in said and "top1 50.00  (half the batch)" in said
    assert [note["event"] for note in suite.notes()] == ["start", "start", "end"]
    assert planned.path.with_suffix(".log").read_text() == "attempt with all\nattempt with half\n"


def test_twice_without_memory_is_a_failure_that_says_so(suite):
    codes, _ = go(suite("killed"))
    assert codes == [-signal.SIGKILL] and len(suite.notes()) == 2
    (failed,) = failures(suite.results)
    assert "killed by signal 9" in failed.error["halved"] and "attempt with half" in failed.error["log"]


def test_features_are_extracted_by_one_cell_and_the_others_wait_for_it(suite):
    probes = suite("sleep", kind="knn", seconds=0.4) + suite("sleep", kind="linear", seconds=0.4)
    others = suite("sleep", kind="knn", name="wide", size=64, seconds=0.1) + suite("sleep", seconds=0.1)
    assert go(probes + others, jobs=4)[0] == [0] * 4
    at = {(note["cell"], note["event"]): note["time"] for note in suite.notes()}
    assert at["seed0-tiny-linear", "start"] > at["seed0-tiny-knn", "end"]
    for name in ("seed0-wide-knn", "seed0-tiny-finetune"):  # other pixels, and no features at all
        assert at[name, "start"] < at["seed0-tiny-knn", "end"]


def test_once_the_features_are_there_probes_run_at_once(suite):
    first, second, third = suite("meet", kind="knn", seeds=3, count=2)
    done = replace(first, state="done")
    assert go([done, second, third], jobs=2)[0] == [0, 0]


def test_a_failed_extraction_is_left_to_one_other_cell(suite):
    probes = [
        suite(do, kind=kind, seconds=0.3) for do, kind in (("fail", "knn"), ("sleep", "linear"), ("sleep", "fewshot"))
    ]
    assert sorted(go(sum(probes, []), jobs=3)[0]) == [0, 0, 1]
    at = {(note["cell"], note["event"]): note["time"] for note in suite.notes()}
    assert at["seed0-tiny-fewshot", "start"] > at["seed0-tiny-linear", "end"]


def test_two_suites_in_one_folder_share_the_cells_and_lose_none(suite):
    planned, ended = suite("sleep", seeds=6, seconds=0.1), []
    threads = [threading.Thread(target=lambda: ended.append(go(planned))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [codes for codes, _ in ended] == [[0] * 6] * 2
    assert len([note for note in suite.notes() if note["event"] == "start"]) == 6
    assert sum(said.count("by another suite") for _, said in ended) == 6
    assert len(read_results(suite.results)) == 6


def test_an_interrupted_suite_leaves_no_process_no_half_file_no_failure_and_no_lock(suite):
    (planned,) = suite("hang")

    def interrupt():
        while not (suite.shared / "worker").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt), running.ended_like_ctrl_c():
        go([planned])
    pids = [note["pid"] for note in suite.notes()] + [int((suite.shared / "worker").read_text())]
    assert all(map(gone, pids))
    assert not list(suite.results.rglob("*.part")) and not list(suite.results.rglob("seed*.json"))
    assert locks.take(planned.path.with_suffix(".work") / "lock") is not None


ORPHAN = """
import sys, time
from kdep_benchmarks.jobs import cell
cell.leave_when_told()
cell.end_with_suite()
try:
    print("here", flush=True)  # inside: the signal may come as soon as this is read
    time.sleep(60)
finally:
    print("tidied", flush=True)
"""


def test_a_cell_ends_tidily_when_its_suite_is_killed():
    command = [sys.executable, "-c", ORPHAN]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    child = subprocess.Popen(command, **pipes, start_new_session=True, cwd=ROOT)
    assert child.stdout.readline() == "here\n"
    child.stdin.close()  # as the kernel does when the process that holds it is killed
    assert child.stdout.read() == "tidied\n" and child.wait() == 143


SHORT_OF_MEMORY = """
import torch
inner = torch.nn.functional.cross_entropy

def limited(scores, *args, **others):
    if torch.is_grad_enabled() and len(scores) > 6:
        torch.empty(1 << 50)  # a petabyte: the allocator's own words
    return inner(scores, *args, **others)

torch.nn.functional.cross_entropy = limited
"""


def test_fine_tuning_that_does_not_fit_is_done_with_half_the_batch_and_the_result_says_so(
    tmp_path, monkeypatch, capsys
):
    for split in ("train", "test"):
        for label, colour in enumerate([(220, 40, 40), (40, 40, 220)]):
            folder = tmp_path / "colours" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(np.full((32, 32, 3), colour, np.uint8) + np.uint8(number)).save(
                    folder / f"{number}.png"
                )
    files = {"train": "train", "test": "test"}
    dataset = f"{{name: colours, layout: imagefolder, root: colours, files: {json.dumps(files)}}}"
    settings = "{size: 32, epochs: 1, batch_size: 12, lr: 0.01, weight_decay: 0.0}"
    task = f"{{name: colours-finetune, kind: finetune, dataset: {dataset}, settings: {settings}}}"
    (tmp_path / "suite.yaml").write_text(f"tasks: [{task}]")
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "patch"))
    arguments = ["transfer", "random:test_resnet", "--suite", str(tmp_path / "suite.yaml"), "--device", "cpu"]
    assert cli.main([*arguments, "--data-root", str(tmp_path), "--results", str(tmp_path / "results")]) == 0
    assert "out of memory, once more with half the batch" in capsys.readouterr().out
    (found,) = read_results(tmp_path / "results")
    expected = {"because": "out of memory", "images_at_once": 6, "before": 12, "accumulate": 2}
    assert found.chosen["out_of_memory"] == expected and found.counts["test"] == 12


def allocate(make):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        make()
    return caught.value


def test_what_says_out_of_memory():
    assert is_out_of_memory(allocate(lambda: torch.empty(1 << 50)))
    assert is_out_of_memory(allocate(lambda: np.empty(1 << 50)))
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    wrapped = ValueError("could not score")
    wrapped.__cause__ = MemoryError()
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(ValueError("no room: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("kind", "given", "changed"),
    [
        ("knn", {}, {"batch_size": 32}),
        ("fewshot", {"share": 0.1, "batch_size": 5}, {"batch_size": 2}),
        ("finetune", {"batch_size": 32}, {"accumulate": 2}),
        ("finetune", {"batch_size": 32, "accumulate": 4}, {"accumulate": 8}),
    ],
)
def test_half_as_many_images_at_once(kind, given, changed, tmp_path):
    task = Task("a-b", kind, Dataset("a", "imagefolder", tmp_path, {"train": "a", "test": "b"}), settings=given)
    assert halve(task)[0].settings == {**given, **changed}


def test_one_image_cannot_be_halved(tmp_path):
    dataset = Dataset("a", "imagefolder", tmp_path, {"train": "a", "test": "b"})
    for kind, given in (("knn", {"batch_size": 1}), ("finetune", {"batch_size": 2, "accumulate": 2})):
        with pytest.raises(ValueError, match="nothing is left to halve"):
            halve(Task("a-b", kind, dataset, settings=given))


def planned_like(task, arch="resnet18", kind="linear"):
    dataset = Dataset("d", "imagefolder", Path("nowhere"), {"train": "a", "test": "b"})
    of = Cell("x", None, Task(task, kind, dataset), 0, "cpu", Path("results"), data_fingerprint="f" * 64)
    return Planned(of, type("Weights", (), {"arch": arch, "name": "x", "identity": "0" * 64})(), None, "to run")


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
    assert plan.estimate(planned_like("a-linear"), times) == 12.0  # this task and network
    assert plan.estimate(planned_like("a-linear", "vgg11"), times) == 14.0  # this task: 10, 14, 30
    assert plan.estimate(planned_like("c-linear"), times) == 10.0  # this kind and network: 2, 10, 14
    assert plan.estimate(planned_like("c-linear", "vgg11"), times) == 12.0  # this kind: 2, 10, 14, 30
    assert plan.estimate(planned_like("a-knn", kind="knn"), times) is None
    todo = [planned_like("a-linear"), planned_like("b-linear"), planned_like("a-knn", kind="knn")]
    assert plan.remaining(todo, times, jobs=1) == (14.0, 1)
    assert plan.remaining(todo, times, jobs=2) == (12.0, 1)  # no shorter than the longest


def test_a_students_card_says_how_it_was_pretrained():
    config = {"seed": 4, "optim": {"epochs": 90}}
    provenance = {"kind": "student", "config": config, "commit": "c0ffee", "images_seen": 640}
    summary = cells.describe(replace(open_checkpoint("random:test_resnet"), provenance=provenance)).summary
    names = ("role", "pretrain_epochs", "pretrain_seed", "pretrain_commit", "images_seen")
    assert [summary[name] for name in names] == ["student", 90, 4, "c0ffee", 640]


def test_time_that_running_cells_have_spent_is_taken_off(monkeypatch):
    times = plan.measured_times([result(task="a-linear", cost={"seconds": 600.0, "device": "cpu x1"})], cpu=True)
    first, second, unknown = planned_like("a-linear"), planned_like("a-linear"), planned_like("a-knn", kind="knn")
    start = running.now()
    monkeypatch.setattr(running, "now", lambda: start + timedelta(seconds=480))
    busy = running.Running(first, None, Path("log"), start, (), None)
    assert running.cell_left(busy, times) == 120.0
    assert running.time_left([], [busy], times, Limits()) == ", about 2 min left"
    assert running.time_left([second, unknown], [busy], times, Limits()) == ", about 12 min left"  # 600 + 120
    assert running.time_left([second], [busy], times, Limits(jobs=2)) == ", about 10 min left"
    monkeypatch.setattr(running, "now", lambda: start + timedelta(seconds=900))  # longer than any before
    assert running.time_left([second], [busy], times, Limits()) == ", about 10 min left"
    assert running.time_left([], [busy], times, Limits()) == ""


def test_the_plan_says_time_and_disk(suite, tmp_path):
    for folder, count in (("a", 3), ("b", 2)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.png").touch()
    probes = suite("sleep", kind="knn", seeds=2)
    text = plan.describe_plan(probes, {}, jobs=1, results=suite.results)
    assert text.count("time unknown") == 2 and "time: unknown, nothing like it" in text
    dim = plan.outline("test_resnet").num_features
    assert plan.feature_bytes(probes) == (5 * dim * 2 * 4, [])  # once, though two cells read them
    assert plan.feature_bytes([replace(probes[0], state="done"), probes[1]])[0] == 0
    times = plan.measured_times([result(task="tiny-knn", cost={"seconds": 90.0, "device": "cpu x1"})], cpu=True)
    text = plan.describe_plan(probes, times, jobs=2, results=suite.results)
    assert "tiny-knn  seed 1  about 2 min" in text
    assert "time: about 2 min for 2 cells, 2 at once, by the cells measured here" in text and " free" in text


def test_a_cell_trusts_the_suites_fingerprint_while_the_data_stays_as_it_was(tmp_path, monkeypatch):
    for folder in ("a/x", "a/y", "b/x", "b/y"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(b"1")
    dataset = Dataset("d", "imagefolder", tmp_path, {"train": "a", "test": "b"})
    found = plan.look_up(dataset)
    assert found.fingerprint == fingerprint(dataset)
    cell = Cell("x", None, Task("d-knn", "knn", dataset), 0, "cpu", tmp_path)
    cell = replace(cell, data_fingerprint="of the suite", data_stamp=found.stamp)
    assert cells.fingerprint_now(Cell.from_json(cell.to_json())) == "of the suite"
    (tmp_path / "b/x" / "1.png").rename(tmp_path / "b/x" / "2.png")
    assert cells.fingerprint_now(cell) == fingerprint(dataset) != found.fingerprint
    started_alone = replace(cell, data_fingerprint=None, data_stamp=cells.data_stamp(dataset))
    assert cells.fingerprint_now(started_alone) == fingerprint(dataset)


def test_what_a_killed_suite_left_half_written_is_removed_only_by_one_that_is_alone(tmp_path):
    part, folder = tmp_path / "a" / ".seed0.json.1.part", tmp_path / "a" / "features" / ".key.2.part"
    (folder / "deep").mkdir(parents=True)
    part.touch()
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(locks.suite_in(tmp_path))
        assert not part.exists() and not folder.exists()
        part.touch()
        second.enter_context(locks.suite_in(tmp_path))
        first.close()
        with locks.suite_in(tmp_path):  # beside the second
            assert part.exists()
    with locks.suite_in(tmp_path):
        assert not part.exists()


@pytest.mark.parametrize(
    ("log", "share"),
    [
        ("features:  10%|#   | 1/10\rfeatures:  40%|####  | 4/10", 0.4),
        ("lr 0.1: 100%|####| 9/9\nlr 0.3:  11%|#   | 1/9", 0.11),
        ("x Iter(train) [ 15/60]  lr: 1e-3\n x Iter(train) [ 30/60]  lr: 1e-3", 0.5),
        ("nothing to see", None),
    ],
)
def test_progress_is_that_of_the_last_bar(tmp_path, log, share):
    (tmp_path / "log").write_text(log)
    assert progress.share_done(tmp_path / "log") == share
    assert progress.share_done(tmp_path / "none") is None


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


def test_the_table_is_drawn_anew_below_the_lines_that_stay():
    stream = Terminal()
    screen = Screen(stream)
    screen.say("plan")
    screen.show([Row("a", "running", 0.5, 61.0, 59.0), Row("bb", "waiting")], "0 of 2")
    expected = [
        "cell  state    progress  time   left",
        "a     running  50 %      1 min  59 s",
        "bb    waiting",
        "0 of 2",
    ]
    assert shown(stream.getvalue()) == ["plan", *expected]
    screen.say("a is done")
    screen.show([Row("bb", "running")], "1 of 2")
    assert shown(stream.getvalue()) == [
        "plan",
        "a is done",
        "cell  state    progress  time  left",
        "bb    running",
        "1 of 2",
    ]


def test_elsewhere_there_are_only_lines():
    stream = io.StringIO()
    Screen(stream).show([Row("a", "running")], "0 of 1")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("option", [("--jobs", "0"), ("--timeout", "0"), ("--timeout", "nan")])
def test_impossible_limits_are_refused(option, capsys):
    assert cli.main(["transfer", "random:test_resnet", "--suite", "demo", *option]) == 2
    assert option[0] in capsys.readouterr().err
