import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from kdep.data.loading.loader import Loader, LoaderError, Quiet, end_silently, lost_loader
from kdep.data.loading.views import Batch
from kdep.run.distributed.processes import Process


class Numbers:
    """Numbers from 0, some of which cannot be read."""

    def __init__(self, count, *, wrong=None):
        self.count, self.wrong = count, wrong

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if self.wrong is not None and number == 3:
            raise self.wrong
        return torch.full((4,), number)


def loader(count=400, workers=2, wrong=None):
    return Loader(Numbers(count, wrong=wrong), num_workers=workers, batch_size=2, collate_fn=torch.stack)


def children():
    found = []
    for task in os.listdir("/proc/self/task"):  # noqa: PTH208 - names
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children") as file:  # noqa: PTH123
            found += map(int, file.read().split())  # a thread may have ended meanwhile
    return found


def workers_of(make):
    before = {*children()}
    batches = iter(make)
    return batches, sorted({*children()} - before)


@pytest.fixture
def torch_looks(monkeypatch):
    """The seconds between two looks of torch at the workers of which nothing was heard: 5 without this fixture."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 60.0)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (60.0,))
    return 60.0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_a_killed_worker_is_one_sentence_and_leaves_no_other(number, pause, torch_looks):
    batches, workers = workers_of(loader())
    next(batches)
    # By another process: a worker of torch that its own main process terminates ends as one that has finished.
    subprocess.run(["kill", f"-{number:d}", str(workers[0])], check=True)
    time.sleep(pause)  # the signal is met while waiting, or long before
    began = time.monotonic()
    with pytest.raises(LoaderError, match=r"a process that loads images was \w+ \(.*\)$"):
        list(batches)
    assert time.monotonic() - began < 0.9 * torch_looks
    assert not {*workers} & {*children()}


@pytest.mark.parametrize("killed", [True, False])
def test_a_lock_that_a_killed_worker_took_along_keeps_nobody_waiting(killed, torch_looks):
    batches, workers = workers_of(loader())
    next(batches)
    batches.gi_frame.f_locals["iterator"]._workers_done_event._event._cond.acquire()  # and nobody releases it
    began = time.monotonic()
    if killed:
        os.kill(workers[0], signal.SIGKILL)
        with pytest.raises(LoaderError, match=r"a process that loads images was \w+ \(.*\)$"):
            list(batches)
    else:
        batches.close()
    assert time.monotonic() - began < 0.9 * torch_looks
    assert not {*workers} & {*children()}


def test_a_worker_killed_when_its_batches_are_not_wanted_any_more_is_no_error():
    code = (
        "import os, signal, time\n"
        "from tests.kdep.data.loading.test_loader import loader, workers_of\n"
        "batches, workers = workers_of(loader())\n"
        "next(batches)\n"
        "os.kill(workers[1], signal.SIGKILL)\n"
        "time.sleep(0.3)\n"
        "[number for number in range(10**6)]\n"
        "batches.close()\n"
        "batches, workers = workers_of(loader())\n"
        "next(batches)\n"
        "os.kill(workers[1], signal.SIGKILL)\n"  # collected with the process, as behind a run that has ended
        "print('done')\n"
    )
    # torch warns of two workers where there is one core
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("wrong", [ValueError("3: no such number"), FileNotFoundError(2, "gone", "three")])
def test_an_error_of_a_worker_arrives_as_it_is(wrong):
    for workers in (0, 2):
        with pytest.raises(type(wrong)) as error:
            list(loader(8, workers=workers, wrong=wrong))
        assert str(error.value) == str(wrong) and error.value.args == wrong.args


def test_a_fault_of_the_program_keeps_the_traceback_of_the_worker():
    with pytest.raises(RuntimeError, match=r"in __getitem__\n"):
        list(loader(8, wrong=RuntimeError("a fault")))


def test_ctrl_c_is_left_to_the_main_process():
    batches, workers = workers_of(loader(60))
    for worker in workers:  # at once, and after they have begun
        os.kill(worker, signal.SIGINT)
    first = next(batches)
    for worker in workers:
        os.kill(worker, signal.SIGINT)
    assert torch.equal(torch.cat([first, *batches])[:, 0], torch.arange(60))
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_full_shared_memory_is_one_sentence_and_no_waiting_for_ever(monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # the workers are forked
    with pytest.raises(LoaderError, match=r"share \(/dev/shm\) is full: .*--shm-size=8g.* \(unable to allocate"):
        list(loader())


def test_the_parts_of_a_batch_arrive_in_shared_memory():
    parts = Loader(Numbers(2), num_workers=1, batch_size=2, collate_fn=lambda rows: Batch(rows[0], rows[1], []))
    assert [part.is_shared() for part in (lambda batch: (batch.images, batch.colour))(next(iter(parts)))] == [True] * 2


def test_a_handler_of_the_program_hears_of_its_own_children():
    code = (
        "import signal, subprocess\n"
        "heard = []\n"
        "signal.signal(signal.SIGCHLD, lambda *_: heard.append(1))\n"
        "from tests.kdep.data.loading.test_loader import loader\n"
        "batches = iter(loader())\n"
        "next(batches)\n"
        "subprocess.run(['true'])\n"
        "assert heard\n"
        "batches.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def error_of(work):
    with pytest.raises(Exception) as error:  # noqa: PT011 - several
        work()
    return error.value


def reset():
    here, there = Pipe()
    here.send("what nobody reads")
    there.close()
    here.recv()


def ended():
    here, there = Pipe()
    there.close()
    here.recv()


def no_socket():
    from multiprocessing.connection import Client

    Client("/no/such/socket")


def within_a_message():
    here, there = Pipe()
    os.write(there.fileno(), b"\0\0\1\0half")
    there.close()
    here.recv()


def said(text):
    def work():
        raise RuntimeError(text)

    return work


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (reset, "lost (Connection reset by peer)"),
        (ended, "lost (it does not answer)"),
        (no_socket, "lost (No such file or directory)"),
        (within_a_message, "lost (got end of file during message)"),
        (said("DataLoader worker (pid 7) is killed by signal: Killed. "), "killed (DataLoader worker (pid 7) is kil"),
        (said("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "killed (DataLoader worker (pid(s) 7, 8) exit"),
        (said("Pin memory thread exited unexpectedly"), "killed (Pin memory thread exited unexpectedly)"),
    ],
)
def test_every_way_in_which_torch_tells_that_a_worker_is_lost_is_known(work, reason):
    error = error_of(work)
    assert f"a process that loads images was {reason}" in lost_loader(error)
    assert lost_loader(LoaderError(lost_loader(error))) == lost_loader(error)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), FileNotFoundError(2, "gone", "x"), EOFError("x")])
def test_other_errors_are_not_taken_for_a_lost_worker(error):
    def work():
        raise error

    assert lost_loader(error_of(work)) == ""


def test_a_lost_worker_of_one_of_several_processes_is_not_taken_for_a_lost_process():
    with pytest.raises(LoaderError), Process(torch.device("cpu"), 0, 2).exchanging("step 3: loading images"):
        raise LoaderError("a process that loads images was lost (Connection reset by peer)")


def test_threads_of_the_exchange_end_without_a_traceback_and_others_with_theirs(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.append(error))
    end_silently(0)
    for error in (ConnectionResetError(), EOFError(), BrokenPipeError(), fault := ValueError("a fault")):
        sys.excepthook(type(error), error, None)
    assert shown == [fault]
    monkeypatch.setattr(threading, "excepthook", Quiet(lambda failed: shown.append(failed.exc_value)))

    def _pin_memory_loop(error):
        raise error

    for error in (ConnectionResetError(), EOFError(), ValueError("another")):
        thread = threading.Thread(target=_pin_memory_loop, args=(error,))
        thread.start()
        thread.join()
    assert [str(error) for error in shown] == ["a fault", "another"]
