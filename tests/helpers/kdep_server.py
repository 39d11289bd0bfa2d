"""Run `kdep` commands as forks of one process that has imported torch: a start takes milliseconds, not eight seconds.

`python kdep_server.py SOCKET MODULE ...` imports the modules and serves. The command that `write_command` writes sends
its words, its folder and its standard streams there and takes the exit code. One command runs at a time.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMAND = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [json.dumps([os.getcwd(), sys.argv]).encode()], [0, 1, 2])
sys.exit(int(server.recv(9) or 1))
"""


def write_command(path: Path, address: Path) -> None:
    """Write an executable that stands in the place of `kdep`, or of `python SCRIPT` under another name."""
    path.write_text(COMMAND.format(python=sys.executable, address=str(address)))
    path.chmod(0o755)


def start_server(address: Path, modules: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server and wait until it has imported its modules."""
    command = [sys.executable, __file__, str(address), *modules]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)  # it ends when this closes
    while not address.exists():
        assert server.poll() is None, f"the server of {address} has ended"
        time.sleep(0.02)
    return server


def collect(*_: object) -> None:
    """Collect the children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def serve(address: str) -> list[str]:
    """Fork for each command until standard input closes. Return the command's words in its fork."""
    signal.signal(signal.SIGCHLD, collect)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{address}.part")
        door.listen()
        Path(f"{address}.part").rename(address)  # whoever sees it can connect
        while 0 not in select.select([door, 0], [], [])[0]:
            client, _ = door.accept()
            with client:
                request, streams, *_ = socket.recv_fds(client, 1 << 16, 3)
                if os.fork() == 0:  # waits for the command, which may start another one
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    pid = os.fork()
                    if pid == 0:
                        break
                    client.send(b"%d" % (os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256))
                    os._exit(0)
            for stream in streams:
                os.close(stream)
        else:
            sys.exit()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    folder, words = json.loads(request)
    os.chdir(folder)
    return words


def main(address: str, modules: Sequence[str]) -> None:
    """Serve; in a fork, run `kdep` as its console script does, or a script of Python."""
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # forks share the pages of what is imported
    name, *words = serve(address)
    sys.path.insert(0, str(Path(name).parent))
    sys.stdout, sys.stderr = (open(number, "w") for number in (1, 2))  # noqa: PTH123, SIM115 - of descriptors
    if Path(name).name == "kdep":
        sys.argv = [name, *words]
        sys.exit(importlib.import_module("kdep.cli").main())
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    del sys.path[0]  # the folder of helpers
    main(sys.argv[1], sys.argv[2:])
