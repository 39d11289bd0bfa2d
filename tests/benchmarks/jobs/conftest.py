"""A suite of stand-ins: small modules in the place of `kdep_benchmarks.jobs.measure` that do what their task says."""

import json

import pytest

from kdep_benchmarks.data.cards import Dataset
from kdep_benchmarks.jobs import cell as cells
from kdep_benchmarks.jobs import memory
from kdep_benchmarks.jobs.cell import Cell
from kdep_benchmarks.jobs.plan import Planned
from kdep_benchmarks.result import CheckpointCard, Protocol, Result, TaskCard
from kdep_benchmarks.results import write_result
from kdep_benchmarks.tasks.task import Task

STAND_IN = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
path = Path(sys.argv[1])
cell = json.loads(path.read_text())
task, here = cell["task"], path.parent.name.split(".")[0] + "-" + cell["task"]["name"]
do, shared = task["settings"]["do"], Path(task["settings"]["shared"])

def note(**more):
    about = {"cell": here, "threads": os.environ.get("OMP_NUM_THREADS"), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    about["cores"] = os.environ.get("KDEP_CORES")
    with (shared / "notes").open("a") as file:
        file.write(json.dumps({**about, "pid": os.getpid(), "time": time.monotonic(), **more}) + "\\n")

def start_worker():
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (shared / "worker.part").write_text(str(worker.pid))
    (shared / "worker.part").rename(shared / "worker")

note(event="start")
print("attempt", "with half" if cell["halved"] else "with all", flush=True)
if do == "meet":
    (shared / f"met-{here}").touch()
    end = time.monotonic() + 300
    while len(list(shared.glob("met-*"))) < 2:
        if time.monotonic() > end:
            sys.exit("alone")
        time.sleep(0.01)
elif do == "sleep":
    time.sleep(task["settings"]["seconds"])
elif do == "import":
    import kdep
elif do == "hang":
    part = path.parent / ".half.1.part"
    part.touch()
    start_worker()
    try:
        time.sleep(600)
    finally:
        part.unlink()
elif do == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (shared / "deaf").touch()
    time.sleep(600)
elif do == "leave":
    start_worker()
    sys.exit("gone without its worker")
elif do == "fail":
    sys.exit("this cell always fails")
elif do in ("memory", "counted kill", "kill") and not (cell["halved"] and task["settings"].get("fits")):
    if do == "memory":
        sys.exit(4)
    if do == "counted kill":
        (shared / "vmstat").write_text("pgfault 7\\noom_kill 4\\n")
    os.kill(os.getpid(), signal.SIGKILL)
note(event="end")
made = json.loads((shared / f"{here}.json").read_text()) | {"settings": task["settings"]}
if cell["halved"]:
    made["chosen"] = {"out_of_memory": {"because": cell["halved"]}}
part, place = path.parent / "result.part", path.parent.with_suffix(".json")
part.write_text(json.dumps(made))
part.rename(place)
place.with_suffix(".failed.json").unlink(missing_ok=True)
"""


def result_of(cell):
    task, cost = cell.task, {"seconds": 2.0, "device": "cpu x1"}
    about = (
        cell.checkpoint,
        TaskCard(task.name, task.kind, "classification", "d"),
        Protocol(task.protocol, task.version),
    )
    own = {"settings": task.settings, "metrics": {"top1": 50.0}, "cost": cost}
    return Result(*about, cell.data_fingerprint, cell.seed, "ok", "2026-01-01T00:00:00", **own)


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """Make plans of stand-ins: `suite("sleep", seeds=2, seconds=1)`."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (shared / "vmstat").write_text("pgfault 7\noom_kill 3\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(cells, "MEASURE", "stand_in")
    monkeypatch.setattr(memory, "counters", lambda: [shared / "vmstat", shared / "not there"])

    def make(do, *, kind="finetune", seeds=1, name="tiny", **settings):
        dataset = Dataset("tiny", "imagefolder", tmp_path, {"train": "a", "test": "b"})
        task = Task(f"{name}-{kind}", kind, dataset, settings={"do": do, "shared": str(shared), **settings})
        card = CheckpointCard("stand-in", "5" * 64, "test_resnet", 1)
        own = {"results": tmp_path / "results", "data_fingerprint": "f" * 64}
        plan = [Planned(Cell("random:x", None, card, task, seed, "cpu", **own), "to run") for seed in range(seeds)]
        for planned in plan:  # a stand-in would spend half a second on importing what makes a result
            made = write_result(result_of(planned.cell), tmp_path / "made", force=True)
            made.rename(shared / f"{made.stem}-{task.name}.json")
        return plan

    make.notes = lambda: [json.loads(line) for line in (shared / "notes").read_text().splitlines()]
    make.shared, make.results = shared, tmp_path / "results"
    return make
