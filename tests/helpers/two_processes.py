"""One of two processes that train together; see tests/kdep/run/distributed/test_distributed.py.

python -m tests.helpers.two_processes RANK PORT CONFIG FOLDER [key=value ...]: a whole run; one that is interrupted in
both at its sixth step, and goes on; errors; a death.
"""

import gc
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from kdep.bank import file as bank
from kdep.config import load_config
from kdep.data.loading.training import open_views
from kdep.data.loading.views import Batch
from kdep.features import open_features
from kdep.files import save
from kdep.method.loss import mse
from kdep.method.rivals import Learner, QueueKL
from kdep.method.scale import make_scaler
from kdep.method.target import Target
from kdep.models.student import open_student
from kdep.pretrain import prepare, pretrain, train
from kdep.run.distributed.processes import gathered, join
from kdep.run.folder import RunFolder


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
    run = RunFolder(config, process)
    run.bind()
    views, student = open_views(config), open_student(config).to(memory_format=torch.channels_last)
    source = open_features(config, student, views, process)
    target = Target(source.statistics(run), student.dim, aligner="svd", scaler=make_scaler("none", {}))
    training = prepare(config, Learner(student, None), mse, process, source.sources)
    train(config, training, source, Interrupting(target, at), views, run)
    return student


def error_of(work):
    try:
        work()
    except (ValueError, RuntimeError) as error:
        said.append(f"{type(error).__name__}: {error}")


rank, port, file, out, *overrides = sys.argv[1:]
os.environ |= {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
file, out, said = Path(file), Path(out), []
process = join("cpu")
own = out / f"machine{process.rank}"
own.mkdir()
os.chdir(own)


def config_of(*more):
    return load_config(file, ["runs=runs", *overrides, *more])


pretrain(config_of("name=whole"))
config = config_of("name=halves", "log.checkpoint_every=4")
try:
    go(config, at=6)
except KeyboardInterrupt:
    gc.collect()
dist.barrier()
student = go(config, at=0)
bank.SHARD = 40
pretrain(config_of("name=banked", "optim.epochs=2", f"bank.path={out}/bank"))
queue = QueueKL(2, 5, 0.1, gathered)
for step in range(2):  # the second process lacks an image each time
    rows = torch.eye(2)[[process.rank]].repeat(2 - process.rank, 1) * (step + 1)
    queue(rows, rows)
save(queue.state_dict(), out / f"queue{process.rank}.pt")
save({"trained": dict(student.network.named_parameters())}, out / f"{process.rank}.pt")

error_of(lambda: pretrain(config_of("name=other", f"optim.lr={0.1 + process.rank}")))
error_of(lambda: pretrain(config_of("name=far", "bank.path=bank")))
run = RunFolder(config_of("name=lost"), process)
batch = Batch(torch.zeros(1), None, [(f"gone{process.rank}.jpg", "cut off")])
run.note_unreadable(batch, 1, images=128)  # one is allowed
error_of(lambda: run.share_unreadable(images=128))
error_of(lambda: process.alone(lambda: int("seven")))
(out / f"said{process.rank}.txt").write_text("\n".join(said))
if process.rank == 1:
    os._exit(9)  # while the other one waits
error_of(process.wait)
(out / "lost.txt").write_text(said[-1])
os._exit(0)
