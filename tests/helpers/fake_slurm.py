"""Slurm's commands as small scripts that run jobs as processes of this machine, and jobs to run under them."""

import os
import sys
import time
from pathlib import Path

from kdep_benchmarks.jobs.engines.engine import Slot

SBATCH = """
import os, re, signal, subprocess, sys, time
from pathlib import Path
state, script = Path(os.environ["FAKE_SLURM"]), Path(sys.argv[-1])
text = script.read_text()
number = str(len(list(state.glob("script-*"))) + 1)
(state / f"script-{number}").write_text(text)
array = re.search(r"--array=0-(\\d+)", text)
before = re.search(r"--dependency='?afterany:([\\w:]+)", text)
print("Submitted batch job", number, flush=True)
for index in range(int(array[1]) + 1) if array else [None]:
    name = number if index is None else f"{number}_{index}"
    (state / f"queued-{name}").touch()
    if os.fork() == 0:
        os.setsid()
        (state / f"pid-{name}").write_text(str(os.getpid()))
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # who reads the output of sbatch waits for this: all jobs can be cancelled by then
            os.dup2(sink, stream)
        while before and any((state / f"queued-{one}").exists() for one in before[1].split(":")):
            time.sleep(0.01)
        own = {"SLURM_JOB_ID": number, "SLURM_CPUS_PER_TASK": "3"}
        own |= {} if index is None else {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
        subprocess.run(["bash", str(state / f"script-{number}")], env=os.environ | own)
        (state / f"queued-{name}").unlink(missing_ok=True)
        os._exit(0)
"""
SRUN = """
import os, sys
arguments, out = sys.argv[1:], {}
while arguments[0].startswith("--"):
    option = arguments.pop(0)
    if option in ("--output", "--error"):
        out[option] = arguments.pop(0)
own = os.environ
marks = {"%A": own.get("SLURM_ARRAY_JOB_ID", ""), "%a": own.get("SLURM_ARRAY_TASK_ID", ""), "%j": own["SLURM_JOB_ID"]}
for stream, option in ((1, "--output"), (2, "--error")):
    path = out[option].replace("%t", "0")
    for mark, value in marks.items():
        path = path.replace(mark, value)
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
os.execvp(arguments[0], arguments)
"""
SQUEUE = """
import os
from pathlib import Path
for path in Path(os.environ["FAKE_SLURM"]).glob("queued-*"):
    print(path.name.partition("-")[2], "RUNNING")
print("99 COMPLETED")
"""
SCANCEL = """
import contextlib, os, signal, sys
from pathlib import Path
state = Path(os.environ["FAKE_SLURM"])
(state / "cancelled").write_text(" ".join(sys.argv[1:]))
for number in sys.argv[1:]:
    for path in [*state.glob(f"pid-{number}"), *state.glob(f"pid-{number}_*")]:
        (state / path.name.replace("pid", "queued")).unlink(missing_ok=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)
"""


def write_commands(folder: Path) -> None:
    """Write the four commands."""
    for name, code in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        (folder / name).write_text(f"#!{sys.executable} -SE\n{code}")
        (folder / name).chmod(0o755)


def note(folder: Path, name: str, slot: Slot) -> tuple[str, int | None]:
    """A job that notes when it ran."""
    with (folder / "notes").open("a") as file:
        file.write(f"{name}\n")
    return name, slot.threads


def fail(slot: Slot) -> None:
    """A job that raises an error."""
    raise ValueError("no such GPU")


def die(slot: Slot) -> None:
    """A job that is killed."""
    sys.stderr.write("slurmstepd: error: killed\n")
    sys.stderr.flush()
    os._exit(9)


def sleep(folder: Path, slot: Slot) -> None:
    """A job that goes on until it is cancelled."""
    (folder / "asleep").touch()
    time.sleep(600)
