"""tools/gpu.sh on the CPU with tiny networks: its own logic. No GPU was at hand; no test asserts a speed."""

import json

import pandas as pd
import pytest
import torch

from tools.gpu import machine, main, whole
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
