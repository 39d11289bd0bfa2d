"""Run a suite on a Ray cluster of two nodes on this machine, the second of which does not see the results folder.

    pip install '.[ray]'
    python -m tools.checks.engines.ray_cluster [docs/figures/engines.json]

The second node runs below `unshare --mount` with an empty file system over the results, so what it measures can only
come back through Ray. That needs root; without, both nodes share the folder, and the report says so.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdep_benchmarks.results import result_paths
from tools.checks.engines import suite

ADDRESS = "127.0.0.1:26379"
OPTIONS = ("--engine", "ray", "--engine-option", f"address={ADDRESS}")


def ray(*arguments: str, own_mounts: Path | None = None) -> "subprocess.Popen[bytes]":
    """Start a node that stays in the foreground, with a file system of its own over a folder."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", *arguments]
    if own_mounts is not None:
        script = f'mount -t tmpfs none {own_mounts} && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]
    own = {**os.environ, "RAY_worker_niceness": "0"}  # Ray's own 15 starves on a busy machine
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=own, start_new_session=True, **quiet)


@contextlib.contextmanager
def cluster(temporary: Path, hidden: Path | None) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """A head and a second node, with one CPU each."""
    port, where = ADDRESS.rpartition(":")[2], "--node-ip-address=127.0.0.1"
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={temporary}", where]
    nodes = [ray(*head, "--object-store-memory=100000000")]
    try:
        suite.wait_for(lambda: nodes_alive() == 1, "the head")
        second = [f"--address={ADDRESS}", where, "--object-store-memory=100000000"]
        nodes.append(ray(*second, own_mounts=hidden))
        suite.wait_for(lambda: nodes_alive() == 2, "the second node")
        yield nodes
    finally:
        for node in reversed(nodes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)


def nodes_alive() -> int:
    """Nodes that the cluster counts as alive."""
    code = f"import ray; ray.init('{ADDRESS}', logging_level='error'); print(sum(n['Alive'] for n in ray.nodes()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return int(shown.stdout) if shown.stdout.strip().isdigit() else 0


def suite_with_kill(folder: Path, nodes: list["subprocess.Popen[bytes]"], hidden: bool) -> dict[str, Any]:
    """Six cells; the worker of the fine-tuning is killed in the middle, and Ray starts it again."""
    began, process = time.monotonic(), suite.start(folder, "ray", *OPTIONS)
    roots = ["/", f"/proc/{nodes[1].pid}/root"]

    def look() -> int | None:
        pids = [suite.training_process(folder / "ray", root=root) for root in roots]
        return next(filter(None, pids), None)

    pid = suite.wait_for(look, "the fine-tuning")
    worker = parent(pid)
    name = Path(f"/proc/{worker}/cmdline").read_bytes().split(b"\0")[0].decode()
    os.kill(worker, signal.SIGKILL)
    code = process.wait()
    found = suite.compared(folder, "ray")
    on_second = len(result_paths(Path(f"{roots[1]}{folder / 'ray'}"))) if hidden else None
    found |= {"exit_code": code, "killed": name, "measured_without_the_folder": on_second}
    held = found["table_equals_local"] and code == 1 and found["cells"] == 6 and not found["left_over"]
    held = held and found["failed_on_purpose"] == ["broken-knn"] and on_second != 0
    tried = "six cells on two nodes; one fails, one's worker is killed with SIGKILL; one node does not see the results"
    return suite.row(tried, held, began, **found)


def parent(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def no_task_runs(folder: Path) -> bool:
    """Whether no cell of the suite that was interrupted is measured any more."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return str(folder / "interrupted") not in listed


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/figures/engines.json"))
    parser.add_argument("--folder", type=Path, help="work here, and use the local table that is here [temporary]")
    args = parser.parse_args()
    if why := suite.missing([], ["ray"]):
        sys.stdout.write(f"{why}\n")
        return 0
    import ray as library

    with tempfile.TemporaryDirectory(prefix="kdep-ray-") as temporary, suite.one_thread():
        folder = args.folder or Path(temporary)
        suite.prepare(folder)
        (folder / "ray").mkdir(exist_ok=True)
        hidden = os.getuid() == 0 and shutil.which("unshare") is not None
        with cluster(Path(temporary), folder / "ray" if hidden else None) as nodes:
            about = {"version": library.__version__, "nodes": 2}
            code = suite.record(args.out, "ray", about, suite_with_kill(folder, nodes, hidden))
            found = suite.interrupted(folder, *OPTIONS, gone=lambda: no_task_runs(folder))
            return max(code, suite.record(args.out, "ray", about, found))


if __name__ == "__main__":
    sys.exit(main())
