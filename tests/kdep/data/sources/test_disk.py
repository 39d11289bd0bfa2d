import errno

import pytest
from PIL import UnidentifiedImageError

from kdep.data.decoding.opening import UNREADABLE
from kdep.data.loading.views import Augmentation, Views
from kdep.data.sources import disk
from kdep.data.sources.disk import DiskError, retried
from kdep.data.sources.source import open_source


def failing(*errors):
    """A function that raises these, then answers; and its calls so far."""
    left, calls = list(errors), []

    def read():
        calls.append(None)
        if left:
            raise left.pop(0)
        return "content"

    return read, calls


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    slept = []
    monkeypatch.setattr(disk.time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_disk_that_comes_back_is_waited_for(pauses, number):
    read, _ = failing(OSError(number, "away"), OSError(number, "away"))
    assert retried(read, "a.jpg") == "content"
    assert pauses == list(disk.PAUSES[:2])


def test_a_disk_that_stays_away_ends_the_run_and_makes_no_image_unreadable(pauses, photos, monkeypatch):
    read, calls = failing(*[OSError(errno.EIO, "Input/output error")] * 9)
    with pytest.raises(
        DiskError, match=r"a.jpg: Input/output error \(EIO\), 5 tries in half a minute. Look at the disk"
    ):
        retried(read, "a.jpg")
    assert len(calls) == 5 and not issubclass(DiskError, UNREADABLE)
    away = failing(*[OSError(errno.EIO, "Input/output error")] * 9)[0]
    monkeypatch.setattr("kdep.data.sources.source.read_regular", lambda *_: away())
    with pytest.raises(DiskError):
        Views(open_source(str(photos)), Augmentation(32), 0)[(0, 0)]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_an_image_that_may_not_be_read_ends_the_run_at_once(pauses, number):
    read, calls = failing(PermissionError(number, "Permission denied"))
    with pytest.raises(DiskError, match=r"a.jpg: Permission denied \(E\w+\). Allow reading it; the same command then"):
        retried(read, "a.jpg")
    assert len(calls) == 1 and pauses == []


@pytest.mark.parametrize(
    "error", [OSError("image file is truncated"), UnidentifiedImageError("no"), FileNotFoundError(2, "no")]
)
def test_what_is_no_error_of_the_disk_is_not_tried_again(pauses, error):
    read, calls = failing(error)
    with pytest.raises(type(error)):
        retried(read, "a.jpg")
    assert len(calls) == 1 and pauses == []
