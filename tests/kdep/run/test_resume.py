import json
import os
import signal
import time

import pytest
import torch

from kdep.config import load_config
from kdep.files import read, save
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.pretrain import pretrain
from kdep.run.optim import make_optimizer
from kdep.run.resume import load_optimizer
from tests.conftest import TINY


def last_step(folder):
    lines = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []
    return len(lines)


def start_and_kill(forks, config_file, ready):
    """Run in a process of its own and kill -9 it as soon as `ready` says so."""
    log = config_file.with_suffix(".log")
    with log.open("wb") as output:
        process = forks.start(["kdep.cli", "pretrain", str(config_file)], output)
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, log.read_text()
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory, forks):
    """Folders of an uninterrupted run and of one that was killed three times."""
    root = tmp_path_factory.mktemp("resume")
    text = TINY.format(photos=photos, runs=root).replace("epochs: 2", "epochs: 5")
    text = text.replace("every: 4, checkpoint_every: 4", "every: 1, checkpoint_every: 5")
    for name in ("whole", "killed"):
        (root / f"{name}.yaml").write_text(text.replace("name: tiny", f"name: {name}"))
    folder = root / "killed"
    start_and_kill(forks, root / "killed.yaml", lambda: (folder / "config.yaml").exists())
    for step in (7, 21):
        start_and_kill(forks, root / "killed.yaml", lambda step=step: last_step(folder) >= step)
        assert not (folder / "student.pth").exists()
    (folder / ".run.pt.123.part").write_text("what a killed process was writing")
    for name in ("killed", "whole"):
        pretrain(load_config(root / f"{name}.yaml"))
    return root / "whole", folder


def test_a_run_killed_three_times_ends_with_the_weights_of_an_uninterrupted_one(runs):
    whole, killed = (read(folder / "student.pth") for folder in runs)
    assert fingerprint(killed["state_dict"]) == fingerprint(whole["state_dict"])
    assert killed["provenance"]["images_seen"] == whole["provenance"]["images_seen"] == 5 * 128


def test_the_log_of_a_killed_run_has_every_step_once_with_the_same_loss(runs):
    whole, killed = ([json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in runs)
    assert [record["step"] for record in killed] == list(range(1, 41))
    assert [record["loss"] for record in killed] == [record["loss"] for record in whole]


def test_a_killed_run_leaves_no_half_written_files(runs):
    assert list(runs[1].glob(".*.part")) == []


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_an_optimizer_goes_on_as_if_it_had_not_stopped(tiny, tmp_path, name):
    config = tiny(f"optim.name={name}").optim
    gradients = torch.randn(12, 4, 3, generator=torch.Generator().manual_seed(0))

    def step(layer, optimizer, rows):
        for row in rows:
            layer.weight.grad = row.clone()
            optimizer.step()

    whole, layer = (torch.nn.Linear(3, 4, bias=False) for _ in range(2))
    layer.load_state_dict(whole.state_dict())
    step(whole, make_optimizer(whole, config), gradients)
    optimizer = make_optimizer(layer, config)
    step(layer, optimizer, gradients[:5])
    save({"optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    optimizer = make_optimizer(layer, config)
    load_optimizer(optimizer, read(tmp_path / "run.pt")["optimizer"])
    step(layer, optimizer, gradients[5:])
    assert torch.equal(layer.weight, whole.weight)
