"""Run a suite and a study on a real Slurm: a controller and two nodes on this machine, from Debian's packages.

    apt-get install slurm-wlm munge; pip install '.[slurm]'
    python -m tools.checks.engines.slurm [docs/figures/engines.json]

Needs root. Starts munged, slurmctld and two slurmd in a temporary folder and ends them.
"""

import argparse
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.checks.engines import suite
from tools.checks.engines.study import study_on

CONF = """
ClusterName=kdep
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldPort=26817
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=30
MinJobAge=86400
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port=27001 CPUs=1 RealMemory=4000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port=27002 CPUs=1 RealMemory=4000
PartitionName=cpu Nodes=node1,node2 Default=YES MaxTime=60 State=UP
"""
OPTIONS = ("--engine", "slurm", "--engine-option", "partition=cpu", "--engine-option", "time=30")
OPTIONS = (*OPTIONS, "--engine-option", "cpus_per_task=1")


def out(*command: str) -> str:
    """Output of a command."""
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise ValueError(f"{' '.join(command)}: {ended.stderr}")
    return ended.stdout


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A controller and two nodes."""
    (folder / "slurm.conf").write_text(CONF.format(host=socket.gethostname(), folder=folder))
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "state").mkdir()
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    files = [f"--{option}={folder}/munge.{name}" for option, name in names.items()]
    running = [subprocess.Popen(["munged", "--foreground", "--force", *files], stderr=subprocess.DEVNULL)]
    try:
        suite.wait_for((folder / "munge.socket").exists, "munged")
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "node1"], ["slurmd", "-D", "-N", "node2"]):
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        suite.wait_for(lambda: idle_nodes() == 2, "two idle nodes")
        yield
    finally:
        subprocess.run(["scancel", "--me"], capture_output=True)
        time.sleep(1)
        for process in reversed(running):
            process.terminate()
            process.wait()


def idle_nodes() -> int:
    """Nodes that wait for work."""
    shown = subprocess.run(["sinfo", "--noheader", "--Node", "--format=%T"], capture_output=True, text=True)
    return shown.stdout.split().count("idle")


def job_of(pid: int) -> str:
    """The job of a process, as squeue names it."""
    own = suite.environment_of(pid)
    if "SLURM_ARRAY_JOB_ID" in own:
        return f"{own['SLURM_ARRAY_JOB_ID']}_{own['SLURM_ARRAY_TASK_ID']}"
    return own["SLURM_JOB_ID"]


def queue_is_empty() -> bool:
    """Whether no job waits or runs."""
    return not out("squeue", "--noheader").strip()


def field(job: str, name: str) -> str:
    """A field of `scontrol show job`."""
    return next(
        part.split("=", 1)[1] for part in out("scontrol", "show", "job", job).split() if part.startswith(f"{name}=")
    )


def suite_with_kills(folder: Path) -> dict[str, Any]:
    """Six cells; the fine-tuning gets the signal that Slurm sends shortly before a job's time is over."""
    began, process = time.monotonic(), suite.start(folder, "slurm", *OPTIONS)
    pid = suite.wait_for(lambda: suite.training_process(folder / "slurm"), "the fine-tuning to begin")
    job = job_of(pid)
    subprocess.run(["scancel", "--signal=USR2", job], capture_output=True)  # fails where the job requeues itself first
    suite.wait_for(lambda: other(suite.training_process(folder / "slurm"), pid), "the requeued job")
    code = process.wait()
    found = suite.compared(folder, "slurm")
    main = job.partition("_")[0]
    nodes = sorted({field(f"{main}_{index}", "NodeList") for index in range(6)})
    found |= {"exit_code": code, "restarts": int(field(job, "Restarts")), "nodes": nodes}
    held = found["table_equals_local"] and code == 1 and found["restarts"] == 1 and not found["left_over"]
    held = held and found["cells"] == 6 and found["failed_on_purpose"] == ["broken-knn"]
    tried = "six cells on two nodes; one fails, one gets the signal of its time limit and is requeued"
    return suite.row(tried, held, began, **found)


def other(pid: int | None, before: int) -> int | None:
    """A process, unless it is the one before."""
    return pid if pid != before else None


def cancelled_by_an_operator(folder: Path) -> dict[str, Any]:
    """Cancel a running job behind the suite's back."""
    began = time.monotonic()
    process = suite.start(folder, "cancelled", "--tasks", "scenes-finetune", *OPTIONS)
    pid = suite.wait_for(lambda: suite.training_process(folder / "cancelled"), "the fine-tuning to begin")
    out("scancel", job_of(pid))
    code = process.wait()
    said = [line.strip() for line in (folder / "cancelled.log").read_text().splitlines() if "FAILED" in line]
    held = code == 1 and len(said) == 1 and "ended without a result" in said[0]
    return suite.row("a job cancelled with scancel: the suite ends and says so", held, began, exit_code=code)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/figures/engines.json"))
    parser.add_argument("--folder", type=Path, help="work here, and use the local table that is here [temporary]")
    parser.add_argument("--only", nargs="*", default=["suite", "cancelled", "interrupted", "study"])
    args = parser.parse_args()
    why = suite.missing(["slurmctld", "slurmd", "munged", "sbatch"], ["submitit"])
    if why or os.getuid() != 0:
        sys.stdout.write(f"{why or 'skipped: Slurm with nodes on one machine is started as root'}\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="kdep-slurm-") as temporary, suite.one_thread():
        folder = args.folder or Path(temporary)
        suite.prepare(folder)
        with cluster(Path(temporary)):
            checks = {
                "suite": lambda: suite_with_kills(folder),
                "cancelled": lambda: cancelled_by_an_operator(folder),
                "interrupted": lambda: suite.interrupted(folder, *OPTIONS, gone=queue_is_empty),
                "study": lambda: study_on(folder, OPTIONS, queue_is_empty),
            }
            about = {"version": out("sinfo", "--version").strip(), "nodes": 2}
            return max(suite.record(args.out, "slurm", about, checks[name]()) for name in args.only)


if __name__ == "__main__":
    sys.exit(main())
