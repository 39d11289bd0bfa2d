"""The processes of one run: their devices, what they agree on, and how long they wait for each other.

The first process (rank 0) alone looks at the run folder, and tells the others what it finds: machines may have separate
folders. Two groups connect the processes. The default one exchanges gradients, and ends after `LIMIT`. A second one, of
gloo, carries everything else and has `PATIENCE`: its processes wait while others read images or fill a bank.
"""

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from kdep.config import Config
from kdep.data.loading.loader import LoaderError
from kdep.run.device import find_device, keep_freed_memory

LIMIT = timedelta(minutes=10)
PATIENCE = timedelta(hours=12)

# gloo raises plain RuntimeErrors.
OF_AN_EXCHANGE = re.compile("gloo|pair closure|[Tt]imed out waiting|Connection (closed|reset|refused)")

T = TypeVar("T")


class LostError(RuntimeError):
    """Another process has ended or does not answer."""


@dataclass(frozen=True)
class Process:
    """One of `world` processes, and its device.

    Attributes:
        device: where it computes.
        rank: its number, from 0.
        world: number of processes.
        local: its number among the processes of its machine.
        patient: the group of all processes in which they wait for hours; None for torch's default group.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    local: int = 0
    patient: Any = field(default=None, repr=False, compare=False)

    @property
    def is_first(self) -> bool:
        """The one that reads and writes the run folder and shows progress."""
        return self.rank == 0

    def gather(self, own: T) -> list[T]:
        """Collect what every process has, in the order of their ranks."""
        if self.world == 1:
            return [own]
        everyone: list[Any] = [None] * self.world
        with self.exchanging("waiting for the other processes"):
            dist.all_gather_object(everyone, own, group=self.patient)
        return everyone

    def total(self, own: torch.Tensor) -> torch.Tensor:
        """Sum a CPU tensor over the processes, in place; the same bits in each."""
        if self.world > 1:
            with self.exchanging("summing over the processes"):
                dist.all_reduce(own, group=self.patient)
        return own

    def wait(self) -> None:
        """Return when every process has come here."""
        self.gather(None)

    def together(self, work: Callable[[], T]) -> T:
        """Do something in every process. Where it fails in one, all stop.

        Raises:
            ValueError: it failed in another process; names that one.
        """
        if self.world == 1:
            return work()
        done, error = None, None
        try:
            done = work()
        except Exception as caught:  # the others wait: they are told whatever it is, and it is raised below
            error = caught
        reasons = self.gather(None if error is None else f"rank {self.rank} on {socket.gethostname()}: {error}")
        if error is not None:
            raise error
        failed = next((reason for reason in reasons if reason is not None), None)
        if failed is not None:
            raise ValueError(f"stopped together with {failed}")
        return done  # type: ignore[return-value]

    def alone(self, work: Callable[[], T]) -> T | None:
        """Do something in the first process; returns None in the others. Where it fails, all stop."""
        return self.together(lambda: work() if self.is_first else None)

    def told(self, find: Callable[[], T]) -> T:
        """Let the first process find something and tell the others. Where it fails, all stop."""
        found: list[Any] = [self.alone(find)]
        if self.world > 1:
            with self.exchanging("waiting for rank 0"):
                dist.broadcast_object_list(found, src=0, group=self.patient)
        return found[0]

    def per_machine(self, work: Callable[[], T]) -> T:
        """Do something in one process of each machine, then in its others, who find the files that it has made."""
        made = self.together(lambda: work() if self.local == 0 else None)
        return self.together(lambda: made if self.local == 0 else work())  # type: ignore[return-value]

    def agree(self, own: dict[str, Any]) -> None:
        """Check that all processes have the same values.

        Raises:
            ValueError: one differs from the first process; names the value, both and the machines.
        """
        hosts = self.gather((socket.gethostname(), own))
        for rank, (host, there) in enumerate(hosts):
            for name, value in hosts[0][1].items():
                if there[name] != value:
                    raise ValueError(
                        f"processes disagree on {name}: {value} for rank 0 on {hosts[0][0]}, {there[name]} for rank "
                        f"{rank} on {host}. Start every machine with the same command, on the same images and weights"
                    )

    @contextlib.contextmanager
    def exchanging(self, what: str) -> Iterator[None]:
        """Say in a sentence that another process was lost meanwhile.

        Raises:
            LostError: the exchange failed or took longer than the group allows.
        """
        try:
            yield
        except RuntimeError as error:
            alone = self.world == 1 or isinstance(error, LoaderError)
            if alone or not (isinstance(error, dist.DistError) or OF_AN_EXCHANGE.search(str(error))):
                raise
            raise LostError(
                f"rank {self.rank} of {self.world} on {socket.gethostname()}, {what}: another process has ended or "
                f"does not answer ({str(error).partition('. ')[0]}). Its own output says why; the same command on "
                "every machine resumes the run"
            ) from error


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """Collect the rows of every process in the order of their ranks, without gradient; counts may differ.

    Shape:
        (b, D) -> (sum of all b, D).
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    lengths = torch.cat(counts).tolist()  # at once: each number read from a GPU waits for it
    padded = torch.cat([rows, rows.new_zeros(max(lengths) - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


_patient: list[Any] = []  # torch keeps its default group for the process in the same way


def join(device: str) -> Process:
    """Find this process's place: torchrun's environment where there is one, else a single process.

    Raises:
        ValueError: as `find_device`; one GPU for several processes.
    """
    rank, world, local, beside = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    chosen = find_device(device)
    if chosen.startswith("cuda:") and beside > 1:
        raise ValueError(
            f"device {chosen}: {beside} processes on this machine would share one GPU. Use device=cuda, which gives "
            "each its own; CUDA_VISIBLE_DEVICES chooses among them"
        )
    if chosen == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"{beside} processes on this machine, for which torch sees {torch.cuda.device_count()} GPUs: start as "
                "many processes as there are GPUs (GPUS=N tools/pretrain.sh, torchrun --nproc-per-node N)"
            )
        chosen = f"cuda:{local}"
    if chosen.startswith("cuda:"):
        # Code that names no GPU uses the current one: torch's thread that pins memory, and mmengine.
        torch.cuda.set_device(int(chosen[5:]))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.startswith("cuda") else "gloo", timeout=LIMIT)
        _patient[:] = [dist.new_group(backend="gloo", timeout=PATIENCE)]
    if chosen == "cpu":
        keep_freed_memory()
    return Process(torch.device(chosen), rank, world, local, _patient[0] if world > 1 else None)


def computed_by(config: Config, process: Process) -> dict[str, Any]:
    """Describe the processes of a run: each of these values changes its bits, and most of them its result."""
    return {
        "world_size": process.world,
        "batch_per_process": config.optim.batch_size // process.world,
        "device": process.device.type,
        "precision": config.precision,
    }


def refuse_other_processes(there: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Raise a ValueError if other processes than these made the checkpoint of a run."""
    if there == now:
        return
    wrong = ", ".join(f"{key} {there.get(key)}, now {now[key]}" for key in now if there.get(key) != now[key])
    world = there["world_size"]
    raise ValueError(
        f"{path}: its checkpoint was made by other processes ({wrong}), which compute something else. Resume it with "
        f"{world} process{'es' if world > 1 else ''} on {there['device']} (GPUS per machine times NNODES = {world} "
        f"before tools/pretrain.sh), choose another name (name=...), or remove {path} to start again"
    )
