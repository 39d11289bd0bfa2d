"""Read the commands of a shell script by running it in bash with stubs, so that loops, quotes and variables count."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

STUB = """#!/usr/bin/env bash
if [[ "${0##*/}" == ssh ]]; then exec bash -c "${@:2}"; fi
printf '%s\\0' "${0#"$HERE/"}" "$@" > "$HERE/calls/$(printf %06d "$(ls "$HERE/calls" | wc -l)")"
"""
# The folders and files that a page goes to are not there.
PREAMBLE = "set -euo pipefail; cd() { :; }; source() { :; }; export -f cd source\n"


def commands_of(script: str, folder: Path, programs: Sequence[str]) -> list[list[str]]:
    """The words of every command that a script runs; every program that it may name is a stub in `folder`.

    `ssh HOST COMMAND` counts as the command. A program without a stub is an error.
    """
    (folder / "calls").mkdir(parents=True)
    for name in ("ssh", *programs):
        stub = folder / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(STUB)
        stub.chmod(0o755)
    environment = {**os.environ, "HERE": str(folder), "PATH": f"{folder}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", "-c", f"{PREAMBLE}{script}\nwait"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    return [path.read_text().split("\0")[:-1] for path in sorted((folder / "calls").iterdir())]
