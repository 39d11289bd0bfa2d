"""Training checkpoints as the tools themselves write them: the weights are read, all else runs nothing."""

import argparse
import collections
import os
import pathlib
import subprocess
import sys

import pytest
import torch
from torch import nn

from kdep.models.backbones.backbone import create_network
from kdep.models.checkpoints.checkpoint import LoadError
from kdep.models.checkpoints.foreign import read_weights
from kdep.models.weights import open_checkpoint

ARCH = "test_resnet"
NAMESPACE = argparse.Namespace(model=ARCH, lr=0.1, out=pathlib.Path("runs"))
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def test_timms_own_checkpoint_opens_with_every_tensor(tmp_path):
    from timm.utils import CheckpointSaver

    network = create_network(ARCH)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    saver = CheckpointSaver(network, optimizer, args=NAMESPACE, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=12.5)
    opens_completely(tmp_path / "checkpoint-0.pth.tar", network)


@pytest.mark.openmmlab
def test_mmengines_own_checkpoint_opens_with_every_tensor(tmp_path):
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = create_network(ARCH)

        def forward(self, inputs, mode):
            return {"loss": self.backbone(inputs).mean()}

    runner = Runner(
        Model(),
        work_dir=str(tmp_path),
        train_dataloader=torch.utils.data.DataLoader([{"inputs": torch.ones(3, 32, 32)}] * 2, batch_size=2),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.1}},
        experiment_name=tmp_path.name,
        log_level="ERROR",
    )
    runner.train()
    with pytest.raises(Exception, match="HistoryBuffer"):
        torch.load(tmp_path / "epoch_1.pth", weights_only=True)
    opens_completely(tmp_path / "epoch_1.pth", runner.model.backbone)


@FORMATS
def test_a_checkpoint_with_arguments_and_paths_opens_with_every_tensor(tmp_path, zipped):
    network = create_network(ARCH)
    content = {
        "state_dict": network.state_dict(),
        "args": NAMESPACE,
        "hyper_parameters": {"root": pathlib.Path("photos"), "best": torch.ones(2).numpy()[0], "gpus": frozenset({1})},
    }
    torch.save(content, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    opens_completely(tmp_path / "last.ckpt", network)
    assert not vars(read_weights(tmp_path / "last.ckpt")["args"])


def opens_completely(path, network):
    weights = open_checkpoint(str(path), arch=ARCH).weights
    assert set(weights) == set(network.state_dict())
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


@FORMATS
def test_tensors_in_a_tools_own_dictionary_are_read(tmp_path, monkeypatch, zipped):
    module = type(sys)("easydict")
    module.EasyDict = type("EasyDict", (dict,), {"__module__": "easydict"})
    monkeypatch.setitem(sys.modules, "easydict", module)
    weights = collections.defaultdict(dict, {"weight": torch.ones(2)})
    given = module.EasyDict(weights=weights, last=collections.deque([1, 2], 3))
    given.note = "as an attribute"
    torch.save(given, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "easydict")
    content = read_weights(tmp_path / "w.pth")
    assert isinstance(content, dict) and content["last"] == [1, 2]
    assert torch.equal(content["weights"]["weight"], torch.ones(2))


class Call:
    """Calls something when a loader that trusts it makes it."""

    def __init__(self, called, *arguments):
        self.called, self.arguments = called, arguments

    def __reduce__(self):
        return self.called, self.arguments


@FORMATS
@pytest.mark.parametrize(
    ("called", "command"),
    [
        (os.system, "touch {}"),
        (eval, "__import__('os').mkdir('{}')"),
        (subprocess.Popen, ["touch", "{}"]),
        (pathlib.Path.mkdir, pathlib.Path("{}")),  # a class of the list, a method of it
    ],
    ids=["os.system", "eval", "Popen", "Path.mkdir"],
)
def test_code_beside_what_is_stood_in_for_is_refused_and_does_not_run(tmp_path, called, command, zipped):
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    kinds = {list: lambda: [part.format(trace) for part in command], str: lambda: command.format(trace)}
    argument = kinds.get(type(command), lambda: trace)()
    content = {"args": NAMESPACE, "weight": torch.ones(2), "trap": Call(called, argument)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(LoadError, match="evil.pth: refused, "):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.openmmlab
def test_a_tools_function_is_refused_and_does_not_run(tmp_path):
    from mmengine.utils import mkdir_or_exist

    torch.save({"args": NAMESPACE, "trap": Call(mkdir_or_exist, str(tmp_path / "ran"))}, tmp_path / "evil.pth")
    with pytest.raises(LoadError, match="holds mmengine.utils.path.mkdir_or_exist"):
        read_weights(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_a_whole_network_beside_arguments_is_refused_by_name(tmp_path):
    torch.save({"args": NAMESPACE, "network": nn.Linear(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(LoadError, match="holds torch.nn.modules.linear.Linear"):
        read_weights(tmp_path / "w.pth")


def test_nothing_of_it_stays_with_torch(tmp_path):
    torch.save({"args": NAMESPACE}, tmp_path / "w.pth")
    with torch.serialization.safe_globals([nn.Linear]):
        before = torch.serialization.get_safe_globals()
        read_weights(tmp_path / "w.pth")
        assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(Exception, match="argparse.Namespace"):
        torch.load(tmp_path / "w.pth", weights_only=True)
