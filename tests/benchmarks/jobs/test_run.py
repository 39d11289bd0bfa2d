"""How a suite runs its cells: several at once, time limits, memory, locks, interruption. Most cells here are stand-ins,
see conftest.py.
"""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kdep import cli
from kdep_benchmarks.jobs.cell import run_cell
from kdep_benchmarks.jobs.engines import local, process
from kdep_benchmarks.jobs.engines.engine import Slot
from kdep_benchmarks.jobs.engines.local import Local
from kdep_benchmarks.jobs.engines.process import run_module
from kdep_benchmarks.jobs.locks import remove_parts, try_lock
from kdep_benchmarks.jobs.run import run_plan
from kdep_benchmarks.jobs.screen import Screen
from kdep_benchmarks.results import read_results

IMPORTED = ("kdep",)


def go(plan, engine=None):
    engine, said = engine or Local(modules=IMPORTED), io.StringIO()
    return run_plan(plan, engine, {}, Screen(said), jobs=engine.jobs), said.getvalue()


@pytest.fixture(params=[(), IMPORTED], ids=["started", "forked"])
def engine(request):
    """One slot; each cell is an interpreter of its own, or a fork of one."""
    return Local(modules=request.param)


def states(statuses):
    return sorted(status.state for status in statuses)


def gone(pid):
    """Whether a process has ended, within the moment that a kill may take."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
        if not listed.strip() or listed.startswith("Z"):
            return True
        time.sleep(0.02)
    return False


def worker_of(suite):
    end = time.monotonic() + 300
    while not (suite.shared / "worker").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return int((suite.shared / "worker").read_text())


def with_timeout(plan, seconds):
    from dataclasses import replace

    return [replace(planned, cell=replace(planned.cell, timeout=seconds)) for planned in plan]


def count_looks(monkeypatch, file):
    """Let a second pass at each look at the time limit of a cell, but none before a file is there; return the looks."""
    looks = []
    clock = SimpleNamespace(monotonic=lambda: looks.append(file.exists()) or float(sum(looks)))
    monkeypatch.setattr(process, "time", clock)
    return looks


def failure_of(suite):
    (failed,) = [found for found in read_results(suite.results) if found.status == "failed"]
    return failed.error


def test_cells_run_at_once_each_with_its_threads_its_cores_and_its_gpu(suite, monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 7)
    statuses, _ = go(suite("meet", seeds=2), Local(2, threads=4, devices=("5", "7")))
    assert states(statuses) == ["done", "done"]
    assert {(note["threads"], note["cores"]) for note in suite.notes()} == {("4", "3")}
    assert sorted(note["gpu"] for note in suite.notes() if note["event"] == "start") == ["5", "7"]


def test_no_more_cells_than_slots_run_at_once_and_one_alone_has_what_the_user_gave_it(suite, engine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert states(go(suite("sleep", seeds=2, seconds=0.2), engine)[0]) == ["done", "done"]
    assert [note["event"] for note in suite.notes()] == ["start", "end"] * 2
    assert {note["threads"] for note in suite.notes()} == {"6"}


def test_slots_share_the_visible_gpus_and_the_cores(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert local.visible_devices("auto") == local.visible_devices("cuda") == ("5", "7")
    assert local.visible_devices("cuda:1") == local.visible_devices("cpu") == ()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert local.visible_devices("auto") == ("0", "1")
    monkeypatch.setattr(local, "cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [local.threads_for(jobs) for jobs in (1, 2, 9)] == [7, 3, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [local.threads_for(jobs) for jobs in (1, 9)] == [2, 1]


def test_a_cell_that_hangs_is_stopped_with_its_workers_and_the_rest_goes_on(suite, engine, monkeypatch):
    looks = count_looks(monkeypatch, suite.shared / "worker")
    statuses, said = go(with_timeout(suite("hang"), 3) + suite("sleep", name="next", seconds=0), engine)
    assert states(statuses) == ["done", "failed"] and "next-finetune  seed 0  top1 50.00" in said
    assert failure_of(suite)["log"].splitlines()[-1].strip() == "stopped after 3 s (--timeout)"
    assert sum(looks) in (5, 6)  # four after the worker, one when the next cell began, perhaps one when this one did
    assert gone(worker_of(suite)) and not list(suite.results.rglob("*.part"))


def test_a_cell_that_ignores_sigterm_is_killed_and_not_tried_again(suite, engine, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.3)
    count_looks(monkeypatch, suite.shared / "deaf")
    ((status,), _) = go(with_timeout(suite("deaf"), 1), engine)
    assert status.code == -signal.SIGKILL and len(suite.notes()) == 1
    assert "--timeout" in failure_of(suite)["log"] and "halved" not in failure_of(suite)


def test_workers_of_a_failed_cell_are_killed_and_its_log_is_the_reason(suite, engine):
    assert states(go(suite("leave"), engine)[0]) == ["failed"]
    assert failure_of(suite)["log"].strip().endswith("gone without its worker")
    assert gone(worker_of(suite))


@pytest.mark.parametrize(
    ("do", "because"), [("memory", "out of memory"), ("counted kill", "killed by the kernel, out of memory")]
)
def test_a_cell_that_ran_out_of_memory_is_tried_once_more_with_half_the_batch(suite, engine, do, because):
    (planned,) = suite(do, fits=True)
    statuses, said = go([planned], engine)
    assert states(statuses) == ["done"] and f"top1 50.00  (half the batch: {because})" in said
    assert [note["event"] for note in suite.notes()] == ["start", "start", "end"]
    assert planned.cell.log.read_text() == "attempt with all\nattempt with half\n"


def test_a_kill_that_the_kernel_did_not_count_is_a_failure_and_no_proof_of_too_little_memory(suite, engine):
    ((status,), _) = go(suite("kill", fits=True), engine)
    assert status.code == -signal.SIGKILL and len(suite.notes()) == 1
    assert "the kernel counted no out-of-memory kill" in failure_of(suite)["log"]


def test_twice_out_of_memory_is_a_failure_that_says_so(suite):
    assert states(go(suite("memory"))[0]) == ["failed"] and len(suite.notes()) == 2
    assert failure_of(suite)["halved"] == "out of memory" and "attempt with half" in failure_of(suite)["log"]


def test_cells_that_would_wait_for_features_come_last(suite):
    probes = suite("sleep", kind="knn", seconds=0) + suite("sleep", kind="linear", seconds=0)
    others = suite("sleep", kind="knn", name="wide", size=64, seconds=0) + suite("sleep", seconds=0)
    # Of two slots both may be free at the same moment: the order in which one slot takes them is what two would begin.
    statuses = run_plan(probes + others, Local(1, modules=IMPORTED), {}, Screen(io.StringIO()), jobs=2)
    assert states(statuses) == ["done"] * 4
    began = [note["cell"] for note in suite.notes() if note["event"] == "start"]
    assert began[-1] == "seed0-tiny-linear"  # other pixels, or no features at all, need not wait


def test_cells_import_kdep_in_a_folder_that_holds_one_of_that_name(suite, engine, tmp_path, monkeypatch):
    (tmp_path / "mine" / "kdep").mkdir(parents=True)
    (tmp_path / "mine" / "kdep" / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    monkeypatch.chdir(tmp_path / "mine")
    statuses, _ = go(suite("import"), engine)
    assert states(statuses) == ["done"]


def test_two_suites_in_one_folder_share_the_cells_and_lose_none(suite):
    plan, ended = suite("sleep", seeds=6, seconds=0.1), []
    threads = [threading.Thread(target=lambda: ended.append(go(plan))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [states(statuses) for statuses, _ in ended] == [["done"] * 6] * 2
    assert len([note for note in suite.notes() if note["event"] == "start"]) == 6
    assert sum(said.count("by another suite") for _, said in ended) == 6
    assert len(read_results(suite.results)) == 6


def test_two_suites_with_other_settings_in_one_folder_do_not_take_each_others_results(suite):
    first, second = suite("sleep", seconds=0), suite("sleep", seconds=0.01)
    go(first)
    statuses, said = go(second)  # planned before the first had finished
    assert (
        states(statuses) == ["failed"] and "measured with other settings than the task has now (seconds: 0, now" in said
    )
    (kept,) = read_results(suite.results)
    assert (kept.status, kept.settings["seconds"]) == ("ok", 0)


def test_an_interrupted_suite_leaves_no_process_no_half_file_no_failure_and_no_lock(suite, engine):
    (planned,) = suite("hang")

    def interrupt():
        worker_of(suite)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        go([planned], engine)
    assert all(map(gone, [suite.notes()[0]["pid"], worker_of(suite)]))
    assert not list(suite.results.rglob("*.part")) and not list(suite.results.rglob("seed*.json"))
    with try_lock(planned.cell.work / "lock") as held:
        assert held


HANG = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
try:
    print(worker.pid, flush=True)
    time.sleep(600)
finally:
    print("tidied", flush=True)
"""
PARENT = """
import sys
from pathlib import Path
from kdep_benchmarks.jobs.engines.local import Local
from kdep_benchmarks.jobs.engines.process import run_module
list(Local(modules=tuple(sys.argv[2:])).run([lambda slot: run_module("hang", [], Path(sys.argv[1]), slot)]))
"""


@pytest.mark.parametrize("modules", [(), ("json",)])
def test_a_killed_parent_leaves_no_process_behind(tmp_path, monkeypatch, modules):
    (tmp_path / "hang.py").write_text(HANG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(log), *modules])
    while not log.exists() or "\n" not in log.read_text():
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 60
    while "tidied" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.02)
    assert "tidied" in log.read_text()  # the child unwound before its group was killed
    worker = int(log.read_text().split()[0])
    assert gone(worker)


FORK = """
import os, sys
about = [os.getppid(), os.getpid() == os.getpgrp(), "colorsys" in sys.modules, os.environ["OMP_NUM_THREADS"]]
print(*about, *sys.argv)
sys.exit(7)
"""


def test_jobs_are_forks_of_one_process_with_its_imports_and_threads(tmp_path, monkeypatch):
    (tmp_path / "about_me.py").write_text(FORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    jobs = [partial(run_module, "about_me", ["a b"], tmp_path / f"log{number}") for number in range(2)]
    ended = list(Local(2, threads=3, modules=("colorsys",)).run(jobs))
    assert [(number, one.code) for number, one in sorted(ended)] == [(0, 7), (1, 7)]
    first, second = ((tmp_path / f"log{number}").read_text().split(maxsplit=1) for number in range(2))
    assert first == second and int(first[0]) != os.getpid()
    assert first[1].split(maxsplit=3)[:3] == ["True", "True", "3"] and first[1].endswith("about_me.py a b\n")


def test_jobs_do_without_a_server_that_was_killed_and_one_that_it_forked_before_counts_as_killed(suite):
    def kill():
        worker_of(suite)
        server = int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(suite.notes()[0]["pid"])]))
        os.kill(server, signal.SIGKILL)

    threading.Thread(target=kill).start()
    plan = suite("hang") + suite("sleep", name="next", seconds=0)
    hung, following = go(plan, Local(modules=IMPORTED))[0]
    assert (hung.state, hung.code) == ("failed", -signal.SIGKILL) and following.state == "done"
    assert all(map(gone, [suite.notes()[0]["pid"], worker_of(suite)]))


def test_what_a_killed_cell_left_half_written_is_removed_when_it_runs_again(suite):
    (planned,) = suite("sleep", seconds=0)
    parts = [planned.cell.work / ".last.pth.1.part", planned.cell.path.parent / ".seed0.json.1.part"]
    other = planned.cell.path.parent / ".seed1.json.1.part"
    planned.cell.work.mkdir(parents=True)
    for path in (*parts, other):
        path.touch()
    assert states(go([planned])[0]) == ["done"]
    assert not any(path.exists() for path in parts) and other.exists()


def test_a_folder_that_another_cell_removes_while_half_written_files_are_sought_is_no_hindrance(tmp_path, monkeypatch):
    other, part, scan = tmp_path / "seed1.work", tmp_path / ".seed0.json.1.part", os.scandir

    def removed_before(folder):
        if str(folder) == str(other):  # it may be a descriptor
            other.rmdir()
        return scan(folder)

    other.mkdir()
    part.touch()
    monkeypatch.setattr(os, "scandir", removed_before)
    remove_parts(tmp_path, ".seed0.*.part")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_job_is_raised_and_stops_the_others():
    stopped = []

    def waits(slot):
        stopped.append(slot.stop.wait(300))

    def fails(slot):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        list(Local(2).run([waits, fails]))
    assert stopped == [True]


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
    for split, shade in (("train", 0), ("test", 6)):
        for label, colour in enumerate([(220, 40, 40), (40, 40, 220)]):
            folder = tmp_path / "colours" / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(6):
                Image.fromarray(np.full((32, 32, 3), colour, np.uint8) + np.uint8(shade + number)).save(
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
    assert "(half the batch: out of memory)" in capsys.readouterr().out
    (found,) = read_results(tmp_path / "results")
    expected = {"because": "out of memory", "images_at_once": 6, "before": 12, "accumulate": 2}
    assert found.chosen["out_of_memory"] == expected and found.counts["test"] == 12


def test_a_verb_of_a_study_is_logged_with_its_threads(tmp_path):
    from kdep_benchmarks.studies.work import run_verb

    log = Path(tmp_path / "a run.log")
    assert run_verb(["ls", "no such kind"], log, Slot(threads=3)) == 2
    assert log.read_text().startswith("OMP_NUM_THREADS=3 kdep ls 'no such kind'\n") and "invalid choice" in (
        log.read_text()
    )


SUPERVISE = """
import pickle, sys
from kdep_benchmarks.jobs import cell
from kdep_benchmarks.jobs.engines.engine import Slot
cell.MEASURE = "stand_in"
print(*(pickle.load(sys.stdin.buffer)(Slot()).state for _ in range(2)))
print(*sorted({"torch", "timm", "torchvision", "PIL", "pandas", "matplotlib", "mmengine"} & set(sys.modules)))
"""


def test_the_process_that_supervises_a_cell_on_a_cluster_imports_neither_torch_nor_timm(suite):
    jobs = b"".join(pickle.dumps(partial(run_cell, suite(do, seconds=0)[0].cell)) for do in ("sleep", "fail"))
    ended = subprocess.run([sys.executable, "-c", SUPERVISE], input=jobs, capture_output=True, check=True)
    assert ended.stdout.decode().splitlines() == ["done failed", ""]
