"""Engines: the seam by one that runs in this process, Slurm's adapter by commands that only look like Slurm's."""

import contextlib
import importlib.util
import io
import os
import pickle
import shutil
import signal
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from submitit.core.utils import cloudpickle_dump

from kdep_benchmarks import transfer
from kdep_benchmarks.jobs import run
from kdep_benchmarks.jobs.cell import run_and_return_files
from kdep_benchmarks.jobs.engines import choose
from kdep_benchmarks.jobs.engines.choose import choose_engine, parse_options
from kdep_benchmarks.jobs.engines.engine import Lost, Slot
from kdep_benchmarks.jobs.engines.local import Local
from kdep_benchmarks.jobs.engines.slurm_job import value_of
from kdep_benchmarks.jobs.locks import try_lock
from kdep_benchmarks.jobs.run import run_plan
from kdep_benchmarks.jobs.screen import Screen
from kdep_benchmarks.results import read_results, write_result
from tests.helpers import fake_slurm


@dataclass
class Elsewhere:
    """An engine whose machine has folders of its own; it loses the jobs of some seeds."""

    folder: Path
    loses: tuple[int, ...] = ()
    jobs: int | None = None
    shares_folders: bool = False

    def run(self, jobs, *, after=(), meanwhile=None, say=None):
        for position, job in enumerate(jobs):
            sent = pickle.loads(pickle.dumps(job))
            (cell,) = sent.args
            if cell.seed in self.loses:
                yield position, Lost("the node is gone")
            else:
                yield position, sent.func(replace(cell, results=self.folder), Slot())


def files_of(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".work" not in str(p)
    }


def test_results_failures_and_logs_come_back_from_a_machine_with_other_folders(suite, tmp_path):
    plan, said = suite("sleep", seeds=1, seconds=0) + suite("fail", name="broken"), io.StringIO()
    statuses = run_plan(plan, Elsewhere(tmp_path / "node"), {}, Screen(said), jobs=2)
    assert sorted(status.state for status in statuses) == ["done", "failed"]
    assert files_of(suite.results) == files_of(tmp_path / "node") != {}
    assert sorted(found.status for found in read_results(suite.results)) == ["failed", "ok"]


def test_a_result_of_other_settings_on_such_a_machine_is_measured_again(suite, tmp_path):
    node, (planned,) = Elsewhere(tmp_path / "node"), suite("sleep", seconds=0)
    (before,) = suite("sleep", seconds=0.01)
    for plan in ([before], [planned]):
        shutil.rmtree(suite.results, ignore_errors=True)
        assert [status.state for status in run_plan(plan, node, {}, Screen(io.StringIO()), jobs=1)] == ["done"]
    (kept,) = read_results(suite.results)
    assert kept.settings["seconds"] == 0 and len(suite.notes()) == 4


@pytest.mark.parametrize("state", ["failed", "busy"])
def test_a_result_of_other_settings_on_such_a_machine_does_not_come_back(suite, tmp_path, state):
    node = Elsewhere(tmp_path / "node")
    run_plan(suite("sleep", seconds=0), node, {}, Screen(io.StringIO()), jobs=1)
    shutil.rmtree(suite.results)
    (planned,) = suite("fail")
    cell = replace(planned.cell, results=node.folder)
    with try_lock(cell.work / "lock") if state == "busy" else contextlib.nullcontext():
        status, files = run_and_return_files(cell, Slot())
    assert status.state == state
    assert not [name for name in files if name.endswith((".npz", "seed0.json"))]
    assert len(read_results(node.folder)) == 1  # it stays there


def test_the_example_images_of_a_cell_come_back_with_its_result(suite, tmp_path):
    node = Elsewhere(tmp_path / "node")
    run_plan(suite("sleep", seconds=0), node, {}, Screen(io.StringIO()), jobs=1)
    (planned,) = suite("sleep", seconds=0)
    cell = replace(planned.cell, results=node.folder)
    cell.path.with_suffix(".sheet.png").write_bytes(b"a picture")
    _, files = run_and_return_files(cell, Slot())
    assert [content for name, content in files.items() if name.endswith("seed0.sheet.png")] == [b"a picture"]


def test_a_result_that_was_finished_here_meanwhile_stays(suite, tmp_path):
    class Slow(Elsewhere):
        def run(self, jobs, **_):
            returned = list(super().run(jobs))
            finished = replace(read_results(self.folder)[0], metrics={"top1": 77.0})
            write_result(finished, suite.results)
            return (one for one in returned)

    run_plan(suite("sleep", seconds=0), Slow(tmp_path / "node"), {}, Screen(io.StringIO()), jobs=1)
    assert [found.score for found in read_results(suite.results)] == [77.0]


def test_a_lost_cell_has_failed_unless_its_result_is_there(suite, tmp_path):
    plan = suite("sleep", seeds=2, seconds=0)
    run_plan(plan[1:], Local(), {}, Screen(io.StringIO()), jobs=1)
    statuses = run_plan(plan, Elsewhere(tmp_path / "node", loses=(0, 1)), {}, Screen(io.StringIO()), jobs=2)
    assert [(status.state, status.code) for status in statuses] == [("failed", 1), ("done", 0)]
    (failed,) = [found for found in read_results(suite.results) if found.status == "failed"]
    assert failed.error == {"exit_code": 1, "log": "the node is gone"} and failed.seed == 0


@dataclass
class Queue:
    """A cluster's engine that counts the jobs that it is given, while another suite holds the locks of all cells."""

    held: contextlib.ExitStack
    given: list = field(default_factory=list)
    jobs: int | None = None
    shares_folders: bool = True

    def run(self, jobs, *, after=(), meanwhile=None, say=None):
        self.given.append([job.args[0].seed for job in jobs])
        for position, job in enumerate(jobs):
            yield position, job(Slot())


@pytest.mark.parametrize("written", [False, True])
def test_a_cell_that_another_suite_holds_costs_one_job_however_long_it_is_held(suite, monkeypatch, written):
    plan, pauses, said = suite("sleep", seeds=2, seconds=0), [], io.StringIO()
    if written:
        run_plan(plan, Local(), {}, Screen(io.StringIO()), jobs=1)

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 5:
            engine.held.close()

    monkeypatch.setattr(run, "time", SimpleNamespace(sleep=pause, time=time.time))
    with contextlib.ExitStack() as held:
        for planned in plan:
            assert held.enter_context(try_lock(planned.cell.work / "lock"))
        engine = Queue(held)
        statuses = run_plan(plan, engine, {}, Screen(said), jobs=2)
    assert [status.state for status in statuses] == ["done"] * 2 and pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert [given for given in engine.given if given] == [[0, 1]] * (1 if written else 2)
    assert said.getvalue().count("by another suite") == (2 if written else 0)


def test_a_checkpoint_is_named_by_an_absolute_path_for_nodes_with_another_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.pth").touch()
    for spec in ("a.pth", "a.pth@64", "a.pth#student", "a.pth#student@64"):
        assert transfer.absolute(spec) == f"{tmp_path}/{spec}"
    for spec in (f"{tmp_path}/a.pth", "random:test_resnet#1@64", "timm:resnet18.a1_in1k"):
        assert transfer.absolute(spec) == spec


@pytest.mark.parametrize("slots", [1, 3])
def test_a_job_here_starts_after_those_it_waits_for_and_lower_ones_come_first(slots):
    began, first_ended = [], threading.Event()

    def job(position, slot):
        began.append(position)
        if position == 0:
            first_ended.wait(0.2)
            first_ended.set()
        assert position not in (2, 3) or first_ended.is_set()
        return position

    jobs = [partial(job, position) for position in range(5)]
    ended = list(Local(slots).run(jobs, after=[(), (), (0,), (0, 2), ()]))
    assert sorted(ended) == [(position, position) for position in range(5)]
    assert began == [0, 1, 2, 3, 4] if slots == 1 else began.index(2) < began.index(3)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_slot_is_filled_while_the_caller_still_has_the_last_result(slots):
    began = [threading.Event() for _ in range(slots + 1)]

    def job(position, slot):
        began[position].set()
        assert position != 1 or slots == 1 or began[2].wait(300)  # of two, one goes on until the third has begun

    ended = Local(slots).run([partial(job, position) for position in range(slots + 1)])
    assert next(ended)[0] == 0 and began[-1].wait(300)
    assert len(list(ended)) == slots


def test_no_job_starts_after_one_has_raised():
    began = []

    def job(position, slot):
        began.append(position)
        if position == 0:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(Local(1).run([partial(job, position) for position in range(3)]))
    assert began == [0]


def refused(name, options, match, **others):
    own = {"jobs": None, "device": "auto", "folder": Path("unused")} | others
    with pytest.raises(ValueError, match=match):
        choose_engine(name, options, **own)


def test_engines_refuse_what_they_cannot_do(monkeypatch):
    assert parse_options(["partition=on", "time=30", "sbatch.x-y=1", "gpus-per-node=2", "exclusive=true"]) == {
        "partition": "on", "time": 30, "sbatch.x-y": 1, "gpus_per_node": 2, "exclusive": True,
    }  # fmt: skip
    assert parse_options(["account=0123", "constraint=1.10"]) == {"account": "0123", "constraint": "1.10"}  # names
    with pytest.raises(ValueError, match="--engine-option gpu: expected KEY=VALUE, such as partition=gpu"):
        parse_options(["gpu"])
    refused("pbs", {}, "--engine pbs: there are local, slurm, ray")
    refused("local", {"partition": "gpu"}, "--engine-option partition: local has no options")
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    refused("slurm", {}, r"--engine slurm needs the package submitit: pip install '\.\[slurm\]'")
    refused("ray", {}, r"--engine ray needs the package ray: pip install '\.\[ray\]'")
    monkeypatch.setattr(choose, "find_spec", lambda name: True)
    refused("slurm", {}, "--device cuda:1: with --engine slurm the scheduler chooses the GPU", device="cuda:1")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """An engine whose Slurm is four scripts; `slurm.state` is where these keep the queue."""
    pytest.importorskip("submitit", reason="the adapter for Slurm needs submitit: pip install '.[slurm]'")
    from kdep_benchmarks.jobs.engines import slurm as adapter

    state = tmp_path / "state"
    state.mkdir()
    fake_slurm.write_commands(tmp_path)
    monkeypatch.setenv("FAKE_SLURM", str(state))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(adapter, "LOOK", 0.05)
    monkeypatch.setattr(adapter, "LOOK_AT_QUEUE", 0.1)

    def make(**options):
        return adapter.Slurm(tmp_path / "logs", options.pop("jobs", None), options)

    make.state = state
    return make


def test_slurm_gets_an_array_of_jobs_and_those_that_wait_and_lost_ones_are_named(slurm, tmp_path):
    note = partial(partial, fake_slurm.note, tmp_path)
    jobs = [note("bank"), note("one"), note("two"), fake_slurm.fail, fake_slurm.die]
    engine = slurm(partition="cpu", jobs=3, cpus_per_task=3, **{"sbatch.reservation": "kdep"})
    ended = dict(engine.run(jobs, after=[(), (0,), (0,), (), ()]))
    assert [ended[0], ended[1], ended[2]] == [("bank", 3), ("one", 3), ("two", 3)]
    assert (tmp_path / "notes").read_text().split()[0] == "bank"
    assert ended[3].reason.endswith("ValueError: no such GPU")
    assert ended[4].reason.endswith("0_log.err: slurmstepd: error: killed")
    first, second = ((slurm.state / f"script-{number}").read_text() for number in (1, 2))
    (command,) = [line for line in first.splitlines() if line.startswith("srun ")]
    assert "#SBATCH --cpus-per-task=3" in first and " --cpus-per-task=3 " in command  # some srun do not take its job's
    assert "--array=0-2%3" in first and "--partition=cpu" in first and "--reservation=kdep" in first
    assert "--array=0-1%2" in second and "--dependency=afterany:1_0" in second


def test_a_result_that_a_network_file_system_shows_when_its_folder_is_opened_is_not_lost(slurm, tmp_path, monkeypatch):
    from submitit.core.utils import JobPaths

    opened, path_of = [], JobPaths.result_pickle.fget
    monkeypatch.setattr("kdep_benchmarks.jobs.engines.slurm.look_anew", opened.append)
    hidden = property(lambda paths: path_of(paths) if paths.folder in opened else tmp_path / "not yet seen")
    monkeypatch.setattr(JobPaths, "result_pickle", hidden)
    assert list(slurm().run([partial(fake_slurm.note, tmp_path, "one")])) == [(0, ("one", 3))]


def test_a_job_that_failed_says_why_before_its_log_does(tmp_path):
    paths = SimpleNamespace(result_pickle=tmp_path / "result.pkl", stderr=tmp_path / "log.err")
    job = SimpleNamespace(paths=paths, job_id="1_1", stderr=lambda: None)
    assert "1_1 ended without a result" in value_of(job).reason and value_of(job).reason.endswith(
        "visible on the node?"
    )
    cloudpickle_dump(("error", "Traceback (most recent call last):\nValueError: no such GPU\n"), paths.result_pickle)
    assert value_of(job).reason.endswith("log.err: ValueError: no such GPU")
    cloudpickle_dump(("success", 3), paths.result_pickle)
    assert value_of(job) == 3


def test_a_job_that_slurm_ended_says_how_and_not_only_its_exit_code(tmp_path):
    log = """slurmstepd-node1: error: *** STEP 36.0 ON node1 CANCELLED AT 2026-12-03T12:00:00 DUE TO PREEMPTION ***
srun: error: node1: task 0: Exited with exit code 143
submitit WARNING (2026-12-03 15:45:21,564) - Bypassing signal SIGCONT
slurmstepd-node2: error: *** STEP 36.0 ON node2 CANCELLED AT 2026-12-03T15:45:21 ***
srun: forcing job termination
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
srun: error: node2: task 0: Exited with exit code 143
"""
    paths = SimpleNamespace(result_pickle=tmp_path / "none", stderr=tmp_path / "log.err")
    job = SimpleNamespace(paths=paths, job_id="35_0", stderr=lambda: log)
    assert value_of(job).reason.endswith("error: *** STEP 36.0 ON node2 CANCELLED AT 2026-12-03T15:45:21 ***")
    job.stderr = lambda: log + "a line\n" * 7 + "OSError: [Errno 28] No space left on device\n"
    assert value_of(job).reason.endswith("log.err: OSError: [Errno 28] No space left on device")


def test_a_job_whose_time_is_over_too_often_says_which_options_give_it_more(tmp_path, monkeypatch):
    from submitit.core.job_environment import SignalHandler
    from submitit.core.utils import DelayedSubmission, UncompletedJobError

    paths = SimpleNamespace(submitted_pickle=tmp_path / "in", result_pickle=tmp_path / "out", stderr=tmp_path / "err")
    over = DelayedSubmission(fake_slurm.fail)
    over.set_timeout(3, 0)  # minutes, requeues that are left
    with pytest.raises(UncompletedJobError) as raised:
        SignalHandler(SimpleNamespace(global_rank=0), paths, over).checkpoint_and_try_requeue(signal.SIGUSR2)
    cloudpickle_dump(
        ("error", f"Traceback\nsubmitit.core.utils.UncompletedJobError: {raised.value}\n"), paths.result_pickle
    )
    said = value_of(SimpleNamespace(paths=paths, job_id="1_1", stderr=lambda: None)).reason
    assert said.endswith("timed-out too many times. Give it more --engine-option time=MINUTES, or more requeues.")


def test_ctrl_c_cancels_what_was_submitted(slurm, tmp_path):
    def interrupt():
        if (tmp_path / "asleep").exists():
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        list(slurm().run([partial(fake_slurm.sleep, tmp_path)] * 2, meanwhile=interrupt))
    assert (slurm.state / "cancelled").read_text() == "1" and not list(slurm.state.glob("queued-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_while_sbatch_runs_cancels_what_it_submits(slurm, tmp_path, number):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f"{sbatch.read_text()}os.kill(os.getppid(), {int(number)})\n")
    try:
        with pytest.raises(KeyboardInterrupt):
            list(slurm().run([partial(fake_slurm.sleep, tmp_path)]))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (slurm.state / "cancelled").read_text() == "1" and not list(slurm.state.glob("queued-*"))


WAITING = """
import os
from pathlib import Path
reasons = {"1_2": "Nodes required for job are DOWN, DRAINED", "1_3": "Resources", "1_4": "Dependency"}
for path in Path(os.environ["FAKE_SLURM"]).glob("queued-*"):
    name = path.name.partition("-")[2]
    print(name, *(["RUNNING", "None"] if name == "1_5" else ["PENDING", reasons.get(name, "PartitionTimeLimit")]))
"""


def test_jobs_that_slurm_may_never_start_are_named_once_with_the_reason(slurm, tmp_path):
    squeue, said, looks = tmp_path / "squeue", [], []
    squeue.write_text(f"{squeue.read_text().splitlines()[0]}\n{WAITING}")

    def interrupt():
        looks.append(len(said))
        if looks.count(2) == 20:  # a second, ten looks at the queue
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        list(slurm().run([partial(fake_slurm.sleep, tmp_path)] * 6, meanwhile=interrupt, say=said.append))
    assert sorted(said) == [
        "Slurm does not start job 1_0 and 1 more: PartitionTimeLimit (--engine-option time=MINUTES is more than the "
        "partition allows). More: scontrol show job 1_0; Ctrl-C cancels the jobs",
        "Slurm does not start job 1_2: Nodes required for job are DOWN, DRAINED. More: scontrol show job 1_2; Ctrl-C "
        "cancels the jobs",
    ]


def test_what_an_engine_says_is_on_the_screen(suite):
    class Full(Elsewhere):
        def run(self, jobs, *, after=(), meanwhile=None, say=None):
            say("no node is free")
            return super().run(jobs)

    said = io.StringIO()
    run_plan(suite("sleep", seconds=0), Full(suite.results), {}, Screen(said), jobs=1)
    assert said.getvalue().startswith("no node is free\n[1/1]")


def test_what_sbatch_refuses_is_one_sentence_and_what_was_submitted_is_cancelled(slurm, tmp_path):
    sbatch = tmp_path / "sbatch"
    refusing = 'if list(state.glob("script-*")): sys.exit("sbatch: error: Invalid partition name specified")\n'
    sbatch.write_text(sbatch.read_text().replace("text = script", f"{refusing}text = script"))
    said = "--engine slurm: sbatch refused the jobs: sbatch: error: Invalid partition name specified"
    with pytest.raises(ValueError, match=said):
        list(slurm().run([partial(fake_slurm.sleep, tmp_path)] * 2, after=[(), (0,)]))
    assert (slurm.state / "cancelled").read_text() == "1" and not list(slurm.state.glob("queued-*"))


def test_slurm_refuses_options_that_it_does_not_have(slurm, monkeypatch):
    with pytest.raises(ValueError, match=r"--engine-option: Slurm's are account, .*requeues and sbatch.NAME; got"):
        slurm(partiton="gpu")
    with pytest.raises(ValueError, match="--engine-option time=4:00:00: expected whole minutes, such as 240"):
        slurm(time="4:00:00")
    with pytest.raises(ValueError, match="--engine-option time=2: expected at least 3 minutes; .* 90 seconds early"):
        slurm(time=2)
    slurm(time=3)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="--engine slurm: no srun here"):
        slurm()


def test_a_job_that_is_preempted_stops_its_cell_and_leaves_no_value_behind():
    pytest.importorskip("submitit", reason="the adapter for Slurm needs submitit: pip install '.[slurm]'")
    from kdep_benchmarks.jobs.engines.slurm_job import OnNode

    def job(slot):
        os.kill(os.getpid(), signal.SIGTERM)
        return slot.stop.wait(300)

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):  # not an error, which submitit would write down as the job's result
            OnNode(job)()
    finally:
        signal.signal(signal.SIGTERM, before)
    requeued = OnNode(fake_slurm.fail).checkpoint()
    assert requeued.function == OnNode(fake_slurm.fail) and requeued.args == ()


needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed; see tools/checks/engines/ray_cluster"
)


@needs_ray
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_no_ray_listens_is_refused_at_once(scheme, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray would try for minutes"))
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"{scheme}127.0.0.1:{port.getsockname()[1]}"
        engine = choose_engine("ray", {"address": address}, jobs=None, device="cpu", folder=Path("unused"))
        with pytest.raises(ValueError, match=f"--engine ray: no cluster at {address}: .*refused"):
            list(engine.run([fake_slurm.fail]))


@needs_ray
def test_sigterm_cancels_the_cells_although_ray_takes_that_signal_when_it_connects(monkeypatch):
    import ray

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", lambda *_, **__: signal.signal(signal.SIGTERM, lambda *_: pytest.fail("Ray's")))
    monkeypatch.setattr(ray, "cluster_resources", lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    engine = choose_engine("ray", {}, jobs=None, device="auto", folder=Path("unused"))
    try:
        with pytest.raises(KeyboardInterrupt):
            list(engine.run([fake_slurm.fail]))
    finally:
        signal.signal(signal.SIGTERM, before)


@needs_ray
def test_what_no_node_of_a_ray_cluster_has_is_told():
    from kdep_benchmarks.jobs.engines.ray import has, resources

    wanted = resources({"address": "auto", "num_gpus": 0.5, "max_retries": 1, "resources": {"fast": 2}})
    assert wanted == {"CPU": 1, "GPU": 0.5, "fast": 2}
    node = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "fast": 2.0, "node:a": 1.0}}
    assert has(node, wanted) and not has({**node, "Alive": False}, wanted)
    for name in wanted:
        assert not has({**node, "Resources": {**node["Resources"], name: 0.25}}, wanted)


@needs_ray
def test_ray_refuses_options_that_it_does_not_have():
    with pytest.raises(ValueError, match="--engine-option: Invalid option keyword num_gpuz"):
        choose_engine("ray", {"num_gpuz": 1}, jobs=None, device="cpu", folder=Path("unused"))
