import json
import signal

import pytest
import torch

from kdep.config import load_config
from kdep.files import read, save
from kdep.method.loss import distill_loss
from kdep.models.checkpoints.checkpoint import fingerprint
from kdep.pretrain import pretrain
from kdep.run.optim import make_optimizer
from kdep.run.resume import Training, load_optimizer
from tests.conftest import TINY


def start_and_kill(forks, config_file, step):
    """Run in a process of its own, which is killed as by kill -9 after the step."""
    log = config_file.with_suffix(".log")
    with log.open("wb") as output:
        process = forks.start(["tests.helpers.killed_run", str(config_file), str(step)], output)
    assert process.wait(600) == -signal.SIGKILL, log.read_text()


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory, forks):
    """Folders of an uninterrupted run and of one that was killed three times."""
    root = tmp_path_factory.mktemp("resume")
    text = TINY.format(photos=photos, runs=root).replace("epochs: 2", "epochs: 5")
    text = text.replace("every: 4, checkpoint_every: 4", "every: 1, checkpoint_every: 5")
    for name in ("whole", "killed"):
        (root / f"{name}.yaml").write_text(text.replace("name: tiny", f"name: {name}"))
    folder = root / "killed"
    for step in (0, 7, 21):
        start_and_kill(forks, root / "killed.yaml", step)
        assert (folder / "config.yaml").exists() and not (folder / "student.pth").exists()
        logged = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []
        assert len(logged) == step
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


def test_the_random_numbers_of_an_interrupted_run_go_on(tiny, monkeypatch):
    """As of a student with dropout."""
    drawn, left = [], [99]

    def noted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        drawn.append(torch.rand(1).item())
        return distill_loss(*arguments)

    monkeypatch.setattr("kdep.pretrain.distill_loss", noted)
    pretrain(tiny("name=whole", "optim.epochs=1", "log.trackers=[]"))
    whole = drawn[:]
    assert len(set(whole)) == 8
    left[0] = 6  # saved at the fourth step
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny("name=halves", "optim.epochs=1", "log.trackers=[]"))
    drawn.clear()
    pretrain(tiny("name=halves", "optim.epochs=1", "log.trackers=[]"))
    assert drawn == whole[4:]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
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


@pytest.mark.parametrize(("clip", "moved"), [(None, [3.0, 4.0]), (0.5, [0.3, 0.4]), (9.0, [3.0, 4.0])])
def test_a_gradient_keeps_its_direction_and_at_most_the_norm_that_is_given(clip, moved):
    layer = torch.nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    training = Training(layer, None, torch.optim.SGD(layer.parameters(), lr=9.0), scaler, torch.float32, {})
    training.update(layer(torch.tensor([[3.0, 4.0]])).sum(), 1.0, clip=clip)
    assert (before - layer.weight.detach())[0].tolist() == pytest.approx(moved, abs=1e-6)
