"""Run two suites at once through two mounts of one folder, and check the locks there. Needs root, for the mounts.

    python -m tools.checks.engines.shared_folder [docs/figures/engines.json]

A bind mount shares the file system of this machine. It is no network: NFS is not tried.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tools.checks.engines import suite

HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])  # kept: it ends with its object
lock.acquire()
print("held", flush=True)
time.sleep(99)
"""


@contextlib.contextmanager
def two_mounts(folder: Path) -> Iterator[list[Path]]:
    """Two mounts of one folder."""
    (folder / "real").mkdir()
    mounts = [folder / "one", folder / "two"]
    for mount in mounts:
        mount.mkdir()
        subprocess.run(["mount", "--bind", folder / "real", mount], check=True)
    try:
        yield mounts
    finally:
        for mount in mounts:
            subprocess.run(["umount", "--lazy", mount], check=True)


def lock_of_a_killed_process(mounts: list[Path]) -> dict[str, Any]:
    """Hold a lock through one mount, ask through the other, kill the holder."""
    began = time.monotonic()
    command = [sys.executable, "-c", HOLD, str(mounts[0] / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        excluded = False
        try:
            FileLock(mounts[1] / "lock").acquire(timeout=0)
        except Timeout:
            excluded = True
        holder.kill()
        holder.wait()
    killed = time.monotonic()
    FileLock(mounts[1] / "lock").acquire(timeout=60)
    free = round(time.monotonic() - killed, 3)
    tried = "a lock held through one mount excludes the other, and is free after SIGKILL of its holder"
    return suite.row(tried, excluded and free < 1, began, seconds_until_free=free)


def two_suites(folder: Path, mounts: list[Path]) -> dict[str, Any]:
    """The same suite through both mounts at once: every cell is measured once, and both write the local table."""
    began = time.monotonic()
    both = [suite.start(folder, str(mount)) for mount in mounts]
    codes = [process.wait() for process in both]
    others = sum(Path(f"{mount}.log").read_text().count("(by another suite)") for mount in mounts)
    found = suite.compared(folder, "real") | {"exit_codes": codes, "done_by_the_other_suite": others}
    # A failed cell is no result, so the second suite tries it again.
    held = found["table_equals_local"] and codes == [1, 1] and others == 5 and not found["left_over"]
    return suite.row("two suites at once through two mounts of one folder", held, began, **found)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/figures/engines.json"))
    parser.add_argument("--folder", type=Path, help="work here, and use the local table that is here [temporary]")
    args = parser.parse_args()
    if os.getuid() != 0:
        sys.stdout.write("skipped: mounts need root\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="kdep-mounts-") as temporary, suite.one_thread():
        folder = args.folder or Path(temporary)
        suite.prepare(folder)
        with two_mounts(folder) as mounts:
            code = suite.record(args.out, "two mounts", {}, lock_of_a_killed_process(mounts))
            return max(code, suite.record(args.out, "two mounts", {}, two_suites(folder, mounts)))


if __name__ == "__main__":
    sys.exit(main())
