"""tools/gpu.sh on the CPU with tiny networks: its own logic. No GPU was at hand; no test asserts a speed."""

import itertools
import json
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from tools.gpu import agreement, loops, machine, main, whole
from tools.gpu.cases import check, distance


def run(tmp_path, *options):
    common = ("--device", "cpu", "--tiny", "--out", f"{tmp_path}/gpu.json", "--work", f"{tmp_path}/work")
    code = main.main([*common, *options])
    return code, json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()


def test_steps_are_recorded_one_after_the_other_and_a_failed_one_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "watts", lambda _: {}["the power"])
    code, document, table = run(tmp_path, "--here", "--steps", "device,watts,agree,memory,probes")
    steps = document["steps"]
    assert code == 1 and [steps[name]["status"] for name in steps] == ["done", "failed", "done", "done", "done"]
    assert "KeyError: 'the power'" in steps["watts"]["error"] and "| watts | failed |" in table
    # CPU against CPU: not even the last digit differs.
    assert [entry["value"] for entry in steps["agree"]["checks"]] == [0, 0, 0, 0]
    assert steps["memory"]["figures"] == {"first batch": 16, "batch that fits": 4, "halvings": 2}
    assert "| agree | targets, float32 | 0 | 0.01 | yes |" in table


def test_a_step_ends_at_its_limit_and_without_time_none_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "LEAST", 0.01)
    code, document, _ = run(tmp_path, "--steps", "device,forms", "--budget", "0.3")
    assert code == 1 and document["steps"]["device"]["status"].startswith("stopped after")
    assert document["steps"]["forms"]["status"] == "not run: no time left"


def test_all_limits_together_leave_room_and_every_step_has_its_function():
    import importlib

    for step in main.STEPS.values():
        module, _, function = step.function.partition(":")
        assert callable(getattr(importlib.import_module(f"tools.gpu.{module}"), function)) and step.limit <= main.BUDGET


def test_without_a_gpu_the_script_says_how_to_try_it(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "has_gpu", lambda: False)
    with pytest.raises(SystemExit, match="sees no CUDA device; --device cpu --tiny"):
        main.main([])
    with pytest.raises(SystemExit, match="no step nothing; there are device, agree"):
        main.main(["--steps", "nothing"])


def test_a_check_fails_above_its_limit_and_on_nan():
    assert (
        check("x", 1.0, 1.0)["holds"] and not check("x", 1.1, 1.0)["holds"] and not check("x", float("nan"), 1)["holds"]
    )
    assert distance(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)


def test_the_ladder_halves_only_what_ran_out_of_memory():
    def attempt(batch):
        if batch > 10:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    assert machine.ladder(attempt, 64) == {"first batch": 64, "batch that fits": 8, "halvings": 3}
    with pytest.raises(RuntimeError, match="illegal memory access"):
        machine.ladder(lambda _: (_ for _ in ()).throw(RuntimeError("CUDA error: an illegal memory access")), 64)


def test_scores_are_compared_task_by_task_and_a_missing_one_is_no_agreement():
    rows = [("scenes-knn", "top1", 40.0, True), ("scenes-knn", "top5", 80.0, False), ("scenes-box", None, None, None)]
    scores = whole.primary(pd.DataFrame(rows, columns=["task", "metric", "value", "main"]))
    assert scores == {"scenes-knn": 40.0}
    found = whole.compared(scores, {"scenes-knn": 41.5, "scenes-box": 1.0})
    assert [entry["holds"] for entry in found["checks"]] == [False] * 4


def test_the_record_of_a_step_is_found_before_what_libraries_write_at_the_end(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\necho '{\"noise\": 1}'\necho '{\"status\": \"done\"}'\necho 7\necho '{broken'\nexit 3\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert main.in_child("device", {}, 10) == {"status": "done"}
    script.write_text("#!/bin/sh\necho 7\nexit 3\n")
    assert main.in_child("device", {}, 10) == {"status": "failed with exit code 3", "error": "7\n"}


def test_nvidia_smi_is_asked_about_the_gpu_that_computes(monkeypatch):
    def answer(command, **_):
        return SimpleNamespace(returncode=0, stdout=f"{command[-2]} {command[-1]}\n", stderr="")

    monkeypatch.setattr(subprocess, "run", answer)
    monkeypatch.setattr(machine.shutil, "which", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda where: SimpleNamespace(uuid=f"0a-{where.index}"))
    assert machine.smi("power.draw", torch.device("cuda:1")) == "--query-gpu=power.draw --id=GPU-0a-1"
    assert machine.smi("power.draw", torch.device("cpu")) == "not readable: no GPU"


@pytest.mark.parametrize(("capability", "names"), [((7, 5), {"float16"}), ((8, 0), {"float16", "bfloat16"})])
def test_bfloat16_is_checked_on_gpus_that_have_units_for_it(monkeypatch, capability, names):
    setting = SimpleNamespace(device=torch.device("cuda"), quick=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(agreement, "setting_of", lambda asked: setting)
    monkeypatch.setattr(agreement, "config_of", lambda *given, **own: None)
    monkeypatch.setattr(agreement, "teacher_features", lambda *given: torch.ones(1, 2))
    monkeypatch.setattr(agreement, "target_of", lambda *given: lambda rows: rows)
    monkeypatch.setattr(agreement, "student_losses", lambda *given: [1.0])
    checks = [entry["what"] for entry in agreement.precision({})["checks"][1:]]
    assert {what.split()[-1] for what in checks} == names


def test_the_loader_is_timed_over_whole_rounds_after_its_processes_have_started(tmp_path, monkeypatch):
    clock = [0.0]

    class Batches:
        num_workers = 3

        def __iter__(self):
            for number in itertools.count():
                # Two batches of each process while they start; then in rounds of three, each after three seconds.
                clock[0] += 100 if number < 6 else 3 * (number % 3 == 0)
                yield SimpleNamespace(images=torch.zeros(2))

    monkeypatch.setattr(loops, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(loops, "config_of", lambda *given, **own: None)
    views = SimpleNamespace(source=SimpleNamespace(names=range(64)))
    monkeypatch.setattr(loops, "open_views", lambda *given, **own: views)
    monkeypatch.setattr(loops, "load", lambda *given, **own: Batches())
    monkeypatch.setattr(loops, "ceiling", lambda *given: lambda: 5.0)
    found = loops.loader({"device": "cpu", "work": str(tmp_path), "tiny": True})["figures"]
    # Four steps are two rounds of three batches: 12 images in 6 s.
    assert found == {"loader, images/s": 2.0, "student's step, images/s": 5.0, "limit": "the loader"}
