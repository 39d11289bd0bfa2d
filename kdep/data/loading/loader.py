"""Load batches in worker processes. A worker that is lost, or that fails, ends the loading with one sentence.

torch tells that a worker was killed from a signal handler, which raises between any two lines of the main thread, also
where Python can only print an error with its traceback. Here the handler raises only while a batch is waited for.
"""

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

TORCHS = "torch.utils.data._utils.signal_handling"  # the module of its handler
PATIENCE = 1.0  # seconds that a worker may hold a lock which it needs for microseconds
EXCHANGE = (RuntimeError, OSError, EOFError)  # what torch raises where a worker is lost
ENDED = (ConnectionError, EOFError)  # what a thread meets whose other process has ended

NO_MEMORY = (
    "the memory that processes share (/dev/shm) is full: give it more, such as docker run --shm-size=8g, or load with "
    "fewer processes (data.workers, in a task settings.workers; 0: none)"
)


class LoaderError(RuntimeError):
    """A process that loads images was lost."""


class Failed(NamedTuple):
    """The error of a worker, in the place of an entry or a batch."""

    error: Exception


class Loader:
    """A DataLoader whose iterator can be closed, with its worker processes.

    Raises:
        LoaderError: a worker was killed, or does not answer.
    """

    def __init__(self, dataset: Any, *, num_workers: int, collate_fn: Callable[..., Any], **options: Any) -> None:
        from torch.utils.data import DataLoader  # here: the command line reads this module without torch

        self.num_workers = num_workers
        options |= {"num_workers": num_workers, "worker_init_fn": end_silently, "collate_fn": Collate(collate_fn)}
        self._loader = DataLoader(Careful(dataset), **options)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        return self._batches(start(self._loader))  # the workers start now, not with the first batch

    def _batches(self, iterator: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    with waiting():
                        batch = next(iterator)
                except StopIteration:
                    return
                except EXCHANGE as error:
                    if not (said := lost_loader(error)):
                        raise
                    raise LoaderError(said) from error
                if isinstance(batch, Failed):
                    raise batch.error
                yield batch
        finally:
            if self.num_workers:
                with contextlib.suppress(*EXCHANGE), waiting():  # here, because Python prints the errors of __del__
                    iterator._shutdown_workers()


class Careful:
    """A data set that returns its errors, which a DataLoader would wrap in the traceback of a worker."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, at: Any) -> Any:
        try:
            return self.dataset[at]
        except (ValueError, OSError, RuntimeError) as error:
            if type(error) is RuntimeError:  # not one of ours: its traceback is wanted
                raise
            return Failed(error)


class Collate:
    """Make a batch of entries in the memory that processes share; the first error stands for all entries.

    torch moves a batch there in a thread, whose error would leave the main process waiting for ever.
    """

    def __init__(self, collate: Callable[..., Any]) -> None:
        self.collate = collate

    def __call__(self, entries: Any) -> Any:
        from torch.utils.data import get_worker_info

        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, Failed):
                return entry
        batch = self.collate(entries)
        try:
            if get_worker_info() is not None:
                share(batch)
        except RuntimeError as error:
            if "shared memory" not in str(error) and "No space left" not in str(error):
                raise
            return Failed(LoaderError(f"{NO_MEMORY} ({error})"))
        return batch


def share(batch: Any) -> None:
    """Move the tensors of a batch to shared memory: a tensor, or the attributes of an object."""
    from torch import Tensor

    for part in [batch] if isinstance(batch, Tensor) else vars(batch).values():
        if isinstance(part, Tensor):
            part.share_memory_()


def start(loader: Any) -> Any:
    """Start the workers of a DataLoader, and make torch's handler of SIGCHLD a `Patient` one."""
    before = signal.getsignal(signal.SIGCHLD)
    # Ctrl-C reaches the whole process group. The workers inherit the mask, and leave it to the main process.
    unmasked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)
    if loader.num_workers:
        iterator._workers_done_event = Done(iterator._workers_done_event, iterator._workers)
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "") == TORCHS and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, Patient(handler, before if before is not handler else None))
    if loader.pin_memory and not isinstance(threading.excepthook, Quiet):
        threading.excepthook = Quiet(threading.excepthook)
    return iterator


class Done:
    """torch's event that tells workers to end, in the main process, which never waits for its lock.

    A worker looks at the event for each batch. One that is killed in that moment takes the lock along, and torch would
    wait for it for ever.
    """

    def __init__(self, event: Any, workers: list[Any]) -> None:
        self._event, self._workers, self._is_set = event, workers, False

    def is_set(self) -> bool:
        """Whether `set` was called: only the main process calls it."""
        return self._is_set

    def set(self) -> None:
        """Set the event, or kill the workers, which would wait for the lock too."""
        self._is_set = True
        if self._event._cond.acquire(timeout=PATIENCE):
            self._event._cond.release()
            self._event.set()
        else:
            for worker in self._workers:
                worker.kill()


class Patient:
    """torch's handler of SIGCHLD, which raises if a worker has failed, but only within `waiting`."""

    def __init__(self, handler: Any, other: Any) -> None:
        self._handler, self._other, self.waiting = handler, other, 0

    def __call__(self, number: int, frame: Any) -> None:
        if self.waiting:
            self._handler(number, frame)
        elif callable(self._other):  # of the program that uses kdep; torch's calls it too
            self._other(number, frame)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Raise a RuntimeError if a worker fails meanwhile, or has failed before."""
    handler = signal.getsignal(signal.SIGCHLD)
    if not isinstance(handler, Patient) or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler.waiting += 1
    try:
        handler(signal.SIGCHLD, None)
        yield
    finally:
        handler.waiting -= 1


class Quiet:
    """A `threading.excepthook` that leaves torch's thread for pinned memory its end; the main thread says it."""

    def __init__(self, hook: Callable[[Any], object]) -> None:
        self._hook = hook

    def __call__(self, failed: Any) -> None:
        if not (isinstance(failed.exc_value, (*ENDED, OSError)) and "_pin_memory_loop" in str(failed.thread)):
            self._hook(failed)


def end_silently(_: int) -> None:
    """Let the threads of a worker end without a traceback when the process that they serve has ended."""
    plain = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not isinstance(error, ENDED):
            plain(kind, error, trace)

    sys.excepthook = hook


def lost_loader(error: BaseException) -> str:
    """Say that a process which loads images was lost, where that is what an error is about; else nothing."""
    text = str(error).partition("\n")[0].strip().rstrip(".")
    if isinstance(error, LoaderError) or text.startswith("Too many open files. Communication"):
        return text
    if isinstance(error, RuntimeError):
        ours = ("DataLoader worker" in text and "pid" in text) or text.startswith("Pin memory thread exited")
        return f"a process that loads images was killed ({text})" if ours else ""
    frames = traceback.extract_tb(error.__traceback__)
    if not (frames and "multiprocessing" in Path(frames[-1].filename).parts):
        return ""
    # No socket of that name, or an end within a message: without the name of a file.
    lost = isinstance(error, (*ENDED, FileNotFoundError)) or (isinstance(error, OSError) and error.errno is None)
    reason = getattr(error, "strerror", None) or text or "it does not answer"
    return f"a process that loads images was lost ({reason})" if lost and not getattr(error, "filename", None) else ""
