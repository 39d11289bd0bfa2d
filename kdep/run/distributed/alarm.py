"""Say which process holds up the others, and where, before the time-out of an exchange ends the run.

NCCL ends a process from a thread of its own, so no exception could say it.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator

from kdep.run.distributed.processes import LIMIT, Process

logger = logging.getLogger("kdep")


class Alarm:
    """A thread beside the training loop of one of several processes; no thread beside a single one."""

    def __init__(self, process: Process, *, limit: float = LIMIT.total_seconds()) -> None:
        self._process, self._limit = process, limit
        self._doing, self._since = "", time.monotonic()
        self._ended = threading.Event()

    def __enter__(self) -> "Alarm":
        if self._process.world > 1:
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def during(self, step: int, doing: str) -> Iterator[None]:
        """Do a part of a step.

        Raises:
            LostError: another process was lost meanwhile.
        """
        self._doing, self._since = f"step {step}: {doing}", time.monotonic()
        with self._process.exchanging(self._doing):
            yield
        self._doing = ""

    def _look(self) -> None:
        """Speak once in each part of a step that lasts nine tenths of the time-out."""
        spoken = 0.0
        while not self._ended.wait(min(1.0, self._limit / 20)):
            since, doing = self._since, self._doing
            waited = time.monotonic() - since
            if doing and waited > 0.9 * self._limit and since != spoken:
                spoken = since
                logger.error(
                    "rank %d of %d on %s has been in %s for %.0f s; after %.0f s the run ends. A process that is "
                    "elsewhere than the others holds them up",
                    *(self._process.rank, self._process.world, socket.gethostname(), doing, waited, self._limit),
                )
