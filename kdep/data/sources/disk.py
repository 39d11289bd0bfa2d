"""Read from a disk that may be away for seconds: retry with growing pauses, then stop.

An image that cannot be decoded is skipped. An error of the disk says nothing about the image, and in a bank its target
would be missing for good.
"""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("kdep")

PAUSES = (0.1, 1.0, 5.0, 25.0)  # seconds: a remount, a server that restarts
# What a path says about itself: there is no such file, or it is not one.
OF_THE_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
# Waiting does not help. The image may be good, so it is not skipped: a ticket of the network disk may have expired.
DENIED = {errno.EACCES, errno.EPERM}

T = TypeVar("T")


class DiskError(RuntimeError):
    """The disk did not answer in half a minute, or denied permission.

    Not an OSError, so that it is not taken for an unreadable image.
    """


def retried(read: Callable[[], T], what: str) -> T:
    """Read something; retry errors of the disk.

    Raises:
        DiskError: the last try failed too, or the file may not be read; names the file.
        OSError: the path leads to no file, or the decoder refuses the content (an OSError without a number).
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except OSError as error:
            if error.errno is None or error.errno in OF_THE_PATH:
                raise
            said = f"{what}: {error.strerror or error} ({errno.errorcode.get(error.errno, error.errno)})"
            if error.errno in DENIED:
                raise DiskError(f"{said}. Allow reading it; the same command then resumes the run") from error
            if pause is None:
                raise DiskError(
                    f"{said}, {len(PAUSES) + 1} tries in half a minute. Look at the disk or its mount; the same "
                    "command then resumes the run"
                ) from error
            logger.warning("%s: %s; trying again in %g s", what, error.strerror or error, pause)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")
