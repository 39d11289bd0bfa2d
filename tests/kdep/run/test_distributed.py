import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kdep.bank import prepare as targets
from kdep.bank import read as bank
from kdep.bank import write as target_writer
from kdep.config import load_config
from kdep.files import read
from kdep.models.checkpoint import fingerprint
from kdep.pretrain import pretrain
from tests.conftest import TINY

# Both processes: a whole run; then one that is interrupted in both at its sixth step, and goes on.
SCRIPT = """
import gc, sys
from pathlib import Path
import torch
import torch.distributed as dist
from kdep.files import save
from kdep.config import load_config
from kdep.bank import read as bank
from kdep.bank import write as target_writer
from kdep.method.target import Target
from kdep.data.views import *
from kdep.method.loss import mse
from kdep.method.rivals import Learner, QueueKL
from kdep.method.scale import make_scaler
from kdep.pretrain import *

class Interrupting(torch.nn.Module):
    def __init__(self, target, at):
        super().__init__()
        self.target, self.left = target, at
    def forward(self, features):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.target(features)

def go(config, at):
    run = RunFolder(config, is_first=process.is_first)
    run.bind()
    views, student = open_views(config), open_student(config).to(memory_format=torch.channels_last)
    source = open_features(config, student, views, process)
    target = Target(source.statistics(run), student.dim, aligner="svd", scaler=make_scaler("pts", {}))
    training = prepare(config, Learner(student, None), mse, process, source.sources)
    train(config, training, source, Interrupting(target, at), views, run, process)
    return student

file, out = Path(sys.argv[1]), Path(sys.argv[2])
process = join("cpu")
pretrain(load_config(file, ["name=whole"]))
config = load_config(file, ["name=halves"])
try:
    go(config, at=6)
except KeyboardInterrupt:
    gc.collect()
dist.barrier()
student = go(config, at=0)
network = student.network
bank.SHARD = target_writer.SHARD = 40
pretrain(load_config(file, ["name=banked", f"bank.path={out}/bank"]))
queue = QueueKL(2, 5, 0.1, gathered)
for step in range(2):  # the second process lacks an image each time
    rows = torch.eye(2)[[process.rank]].repeat(2 - process.rank, 1) * (step + 1)
    queue(rows, rows)
save(queue.state_dict(), out / f"queue{process.rank}.pt")
save({"all": network.state_dict(), "trained": dict(network.named_parameters())}, out / f"{process.rank}.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def root(photos, tmp_path_factory):
    """A folder with runs by one process ("alone") and by two ("whole", "halves"), and both processes' last weights."""
    root = tmp_path_factory.mktemp("distributed")
    (root / "tiny.yaml").write_text(TINY.format(photos=photos, runs=root))
    (root / "script.py").write_text(SCRIPT)
    repository = Path(__file__).parents[3]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, root / "script.py", root / "tiny.yaml", root],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pretrain(load_config(root / "tiny.yaml", ["name=alone"]))
    return root


def test_statistics_of_two_processes_equal_those_of_one(root):
    one, two = (read(root / name / "statistics.pt") for name in ("alone", "whole"))
    assert one["count"] == two["count"] == 128 and one["data"] == two["data"]
    assert torch.allclose(one["mean"], two["mean"], rtol=1e-10, atol=1e-12)
    assert torch.allclose(one["variances"], two["variances"], rtol=0, atol=1e-10 * float(one["variances"][0]))


def test_a_bank_that_two_processes_fill_is_that_of_one(root, monkeypatch):
    for module in (bank, target_writer):
        monkeypatch.setattr(module, "SHARD", 40)
    alone = targets.build(load_config(root / "tiny.yaml", [f"bank.path={root / 'one'}"]))
    files = sorted(path.relative_to(alone) for path in alone.rglob("*.npy"))
    assert files == sorted(path.relative_to(root / "bank") for path in (root / "bank").rglob("*.npy"))
    assert len(files) == 2 * 4
    for file in files:
        one, two = (torch.from_numpy(np.load(folder / file)).float() for folder in (alone, root / "bank"))
        assert torch.allclose(one, two, rtol=2e-3, atol=1e-3 * float(one.abs().max()))
    assert (root / "banked" / "student.pth").exists()


def test_both_processes_end_with_the_same_weights(root):
    first, second = (read(root / f"{rank}.pt")["trained"] for rank in (0, 1))
    assert fingerprint(first) == fingerprint(second)


def test_a_distributed_run_goes_on_and_ends_with_the_weights_of_an_uninterrupted_one(root):
    whole, halves = read(root / "whole" / "student.pth"), read(root / "0.pt")
    assert fingerprint(halves["all"]) == fingerprint(whole["state_dict"])
    assert whole["provenance"]["images_seen"] == 2 * 128


def test_a_queue_holds_the_features_of_both_processes_and_is_the_same_in_each(root):
    first, second = (read(root / f"queue{rank}.pt") for rank in (0, 1))
    by_hand = torch.eye(2)[[0, 0, 1, 0, 0]]  # the second step's three, then two of the first's
    assert torch.equal(first["queue"], by_hand) and torch.equal(second["queue"], by_hand)
    assert int(first["filled"]) == int(second["filled"]) == 5


def test_a_distributed_run_lowers_the_loss(root):
    # Not as far as one process does: BatchNorm sees half of the batch in each.
    losses = [json.loads(line)["loss"] for line in (root / "whole" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 2 / 3 * losses[0]
