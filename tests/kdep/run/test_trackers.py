"""A run's numbers reach TensorBoard, W&B and MLflow, once each, in one run of theirs however often it stops."""

import json
import logging
import resource
import shutil
import struct
import sys
import threading
import types
from collections import defaultdict
from importlib.util import find_spec

import pytest

from kdep import cli
from kdep.config import differences
from kdep.pretrain import pretrain
from kdep.run import trackers
from kdep.run.distributed.processes import Process
from kdep.run.folder import RunFolder
from kdep.run.journal import TRACKED, Journal
from kdep.run.trackers import check_installed

needs = {
    name: pytest.mark.skipif(find_spec(name) is None, reason=f"needs the extra {name}: pip install '.[{name}]'")
    for name in ("wandb", "mlflow")
}
OFTEN = ("log.every=1", "log.checkpoint_every=4", "optim.epochs=1")  # eight steps, run.pt at four and eight


def folder(config):
    return config.runs / config.name


def log_of(config):
    return [json.loads(line) for line in (folder(config) / "log.jsonl").read_text().splitlines()]


def stop_after(step, monkeypatch):
    """Interrupt a run when it has logged a step."""
    plain = Journal.flush

    def flush(journal, look=None):
        plain(journal, look)
        if journal._step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "flush", flush)
    return lambda: monkeypatch.setattr(Journal, "flush", plain)


def stopped_and_resumed(config, monkeypatch):
    """Stop after step 6, whose last checkpoint is that of step 4, and go on to the end."""
    again = stop_after(6, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    yield
    again()
    pretrain(config)
    yield


def test_tensorboard_alone_is_the_default_and_none_is_a_choice(tiny):
    assert tiny().log.trackers == ("tensorboard",) and tiny("log.trackers=[]").log.trackers == ()
    config = tiny("log.trackers=[]", "optim.epochs=1")
    pretrain(config)
    assert not (folder(config) / "tensorboard").exists() and len(log_of(config)) == 2


def test_tensorboard_holds_what_the_log_holds(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny(*OFTEN)
    pretrain(config)
    events = EventAccumulator(str(folder(config) / "tensorboard")).Reload()
    for name in TRACKED:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(record["step"], pytest.approx(record[name], rel=1e-6)) for record in log_of(config)]


def test_tensorboard_shows_the_steps_of_a_resumed_run_once(tiny, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny(*OFTEN)
    for _ in stopped_and_resumed(config, monkeypatch):
        pass
    assert len(list((folder(config) / "tensorboard").iterdir())) == 2
    events = EventAccumulator(str(folder(config) / "tensorboard")).Reload().Scalars("loss")
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_run_whose_folder_vanishes_ends_with_one_sentence(tiny, monkeypatch, capsys):
    config, plain, failed = tiny(*OFTEN), Journal.flush, []

    def flush(journal, look=None):
        if journal._step == 3:
            shutil.rmtree(folder(config))
        plain(journal, look)

    monkeypatch.setattr(Journal, "flush", flush)
    monkeypatch.setattr(threading, "excepthook", failed.append)
    assert cli.guarded(lambda args: pretrain(config), None) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kdep: ")]
    assert said == [f"kdep: {folder(config) / 'log.jsonl'}: No such file or directory"] and not failed


def test_a_disk_that_is_full_names_the_event_file(tiny, tmp_path):
    tracker, (soft, hard) = trackers.TensorBoard(tiny(), tmp_path, 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    (file,) = (tmp_path / "tensorboard").iterdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, hard))
    try:
        with pytest.raises(OSError, match=f"File too large: '{file}'"):
            tracker.log({"loss": 1.0}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tracker.close(failed=True)


def test_a_tracker_named_twice_is_opened_once_and_an_unknown_one_is_refused(tiny, tmp_path):
    assert len(trackers.open_trackers(tiny("log.trackers=[tensorboard, tensorboard]"), tmp_path, 0)) == 1
    with pytest.raises(ValueError, match="log.trackers.0 must be 'tensorboard', 'wandb' or 'mlflow', got"):
        tiny("log.trackers=[aim]")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_stops_the_run_before_it_starts_and_says_what_to_install(tiny, monkeypatch, name):
    monkeypatch.setattr("kdep.run.trackers.find_spec", lambda package: None if package == name else find_spec(package))
    config = tiny(f"log.trackers=[tensorboard, {name}]")  # can be read: that of a run made elsewhere
    with pytest.raises(ValueError, match=rf"{name} is not installed: pip install '.\[{name}\]'"):
        pretrain(config)
    assert not folder(config).exists()


def test_a_folder_of_the_packages_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "kdep_no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="kdep_no_such_package is not installed"):
        check_installed("kdep_no_such_package")
    check_installed("tensorboard")


def test_trackers_may_differ_when_a_run_is_resumed(tiny):
    before = tiny().model_dump(mode="json")
    assert differences(before, tiny("log.trackers=[]").model_dump(mode="json")) == []
    del before["log"]["trackers"]  # a run of before there were any
    assert differences(before, tiny().model_dump(mode="json")) == []


def test_only_the_first_process_writes(tiny, monkeypatch):
    opened = []
    monkeypatch.setattr("kdep.run.journal.open_trackers", lambda *given: opened.append(given) or [])
    config = tiny()
    run = RunFolder(config)
    for process in (Process(None, 0, 2), Process(None, 1, 2)):
        run.process = process
        with Journal(config, run, 8, step=0, seen=0):
            pass
    assert len(opened) == 1


class FakeRun:
    starting_step = 7

    def __init__(self):
        self.logged, self.ended = [], None

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.ended = exit_code


def fake_wandb(monkeypatch, run, refuses=None):
    """A module in the place of wandb that notes how runs are opened."""
    opened, error = [], type("Error", (Exception,), {})

    def init(**given):
        if refuses:
            raise error(refuses)
        opened.append(given)
        return run

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Error=error))
    return opened


def test_wandb_is_asked_for_the_same_run_again_and_told_no_step_twice(tiny, tmp_path, monkeypatch):
    run = FakeRun()
    opened = fake_wandb(monkeypatch, run)
    for step in (0, 4):
        tracker = trackers.WandB(tiny(), tmp_path, step)
    for step in (5, 6, 7, 8):  # it knows the steps before 7
        tracker.log({"loss": 1.0}, step)
    tracker.close(failed=True)
    assert [(given["id"], given["resume"]) for given in opened] == [((tmp_path / "wandb.id").read_text(), "allow")] * 2
    assert opened[0]["config"] == tiny().model_dump(mode="json")
    assert [step for step, _ in run.logged] == [7, 8] and run.ended == 1


def test_a_server_that_refuses_is_a_clear_message(tiny, tmp_path, monkeypatch):
    fake_wandb(monkeypatch, None, refuses="No API key configured")
    with pytest.raises(
        ValueError, match="log.trackers: wandb: No API key configured. Use `wandb login` or WANDB_MODE=off"
    ):
        trackers.WandB(tiny(), tmp_path, 0)


@needs["mlflow"]
def test_a_uri_that_mlflow_does_not_know_is_a_clear_message(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://bar")
    with pytest.raises(ValueError, match=r"log.trackers: mlflow: .*foo://bar.*MLFLOW_TRACKING_URI names the server"):
        trackers.MLflow(tiny(), tmp_path, 0)


def wandb_records(path):
    """Records of a .wandb file: blocks of 32 KiB of (crc, length, kind, bytes), after a header of 7 bytes."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits for its process, which may still be writing when a run has finished
    content, at, part, found = path.read_bytes(), 7, b"", defaultdict(list)
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        part, at = part + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            record = Record()
            record.ParseFromString(part)
            name, part = record.WhichOneof("record_type"), b""
            found[name].append(getattr(record, name))
    return found


def named(item):
    return item.key or ".".join(item.nested_key)


@needs["wandb"]
def test_a_stopped_run_is_one_run_of_wandb(tiny, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = tiny(*OFTEN, "log.trackers=[wandb, tensorboard]")
    told = {}
    for part, _ in enumerate(stopped_and_resumed(config, monkeypatch)):
        files = set((folder(config) / "wandb").glob("offline-run-*/*.wandb")) - set(told)
        (file,) = files
        told[file] = found = wandb_records(file)
        assert found["run"][0].run_id == (folder(config) / "wandb.id").read_text()
        assert (found["run"][0].project, found["run"][0].display_name) == ("kdep", "tiny")
        assert found["exit"][0].exit_code == (1, 0)[part]
    settings = {named(item): json.loads(item.value_json) for item in found["run"][0].config.update}
    assert settings["optim"] == config.model_dump(mode="json")["optim"]
    losses = [
        {named(item): json.loads(item.value_json) for item in line.item} for f in told.values() for line in f["history"]
    ]
    assert [line["_step"] for line in losses] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8]  # offline it cannot know what it knows
    assert [line["loss"] for line in losses[-4:]] == [record["loss"] for record in log_of(config)[-4:]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Where MLflow keeps its runs: making the tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def mlflow_client(store, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return mlflow.MlflowClient(store)


@needs["mlflow"]
def test_a_stopped_run_is_one_run_of_mlflow_with_every_step_once(tiny, monkeypatch, mlflow_client):
    config = tiny(*OFTEN, "log.trackers=[mlflow]")
    states = []
    for _ in stopped_and_resumed(config, monkeypatch):
        run = mlflow_client.get_run((folder(config) / "mlflow.id").read_text())
        states.append(run.info.status)
    assert states == ["FAILED", "FINISHED"]
    experiment = mlflow_client.get_experiment_by_name("kdep")
    assert [run.info.run_name for run in mlflow_client.search_runs([experiment.experiment_id])] == ["tiny"]
    assert run.data.params["optim.lr"] == "0.002" and run.data.params["log.trackers"] == "['mlflow']"
    told = mlflow_client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in told] == [(r["step"], r["loss"]) for r in log_of(config)]
    assert set(run.data.metrics) == set(TRACKED)


@needs["mlflow"]
def test_a_server_that_goes_away_costs_its_charts_and_not_the_run(tiny, monkeypatch, mlflow_client, caplog):
    import mlflow

    plain = mlflow.MlflowClient.log_batch

    def gone(client, run, metrics=(), **others):
        if metrics and metrics[0].step > 3:
            raise mlflow.MlflowException("connection refused")
        return plain(client, run, metrics, **others)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", gone)
    config = tiny(*OFTEN, "log.trackers=[mlflow]", "name=alone")
    with caplog.at_level(logging.WARNING, "kdep"):
        assert pretrain(config).exists()
    assert caplog.text.count("mlflow: logging stopped (connection refused)") == 1
    told = mlflow_client.get_metric_history((folder(config) / "mlflow.id").read_text(), "loss")
    assert [metric.step for metric in told] == [1, 2, 3] and len(log_of(config)) == 8


@needs["mlflow"]
def test_a_run_that_mlflow_no_longer_has_is_refused_with_the_file_that_names_it(tiny, tmp_path, mlflow_client):
    (tmp_path / "mlflow.id").write_text("0" * 32)
    with pytest.raises(ValueError, match=r"log.trackers: mlflow: Run with id=0+ not found.*rm .*mlflow.id"):
        trackers.MLflow(tiny(), tmp_path, 0)
