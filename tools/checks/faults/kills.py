"""Kill kdep commands at random moments, start them again, and compare what they leave with an undisturbed command.

    python -m tools.checks.faults.kills --minutes 10 --seed 0 --out docs/figures/faults_kills.json

Signals (KILL, TERM, INT) go to the command, to a process below it, or to both. Other trials run two commands in one
folder, fill the disk, forbid writing, or remove the folder. After each, the same command must end as if nothing had
happened, with no process left, no part file, and no file outside its folder; nothing prints a traceback, and errors
name the file. Trials are drawn from the seed; with --out the next call goes on where the last one ended.

Commands and their processes are forks of this one, which saves most of the time. With --anew each command is a new
Python, and the server that forks a suite's cells is kdep's own.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdep.files import write_text
from tools.checks.faults.forked import Box, Command, adopt_orphans, below, collect, fork_children, send, start
from tools.checks.faults.scenarios import SCENARIOS, Scenario, write_inputs

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
VICTIMS = ("parent", "child", "both")
KILLS = [f"{name} {victim}" for name in SIGNALS for victim in VICTIMS]
OTHERS = ("two at once", "full disk", "small disk", "read-only folder", "folder gone")
LONGEST = 600.0  # seconds that any command may take, also on a machine with more to do
LEAVING = 60.0  # seconds that a command may take to end after TERM or INT
ORPHANS = 30.0  # seconds that the processes below a killed one may live on
SHOWN = 1200  # characters of a log that a broken trial keeps


class BrokenError(AssertionError):
    """A command did not do what it must."""


class Trial:
    """One scenario in an empty folder: disturbed a few times, then left alone."""

    def __init__(
        self, scenario: Scenario, folder: Path, draw: random.Random, durations: dict[str, float], *, anew: bool = False
    ) -> None:
        self.scenario, self.folder, self.draw, self.anew = scenario, folder, draw, anew
        self.work, self.durations = folder / "work", durations
        self.commands: list[Command] = []
        self.environment = {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "home" / "cache")}
        clear(self.work)
        self.work.mkdir()
        self.before = listing(folder)

    def start(self, **limits: Any) -> Command:
        """Start the command."""
        command = start(self.scenario.command, Box(self.folder, self.environment, **limits), anew=self.anew)
        self.commands.append(command)
        return command

    def moment(self) -> float:
        """A random moment of the command, in seconds from its start."""
        return self.draw.uniform(0.0, 1.1 * self.durations.get(self.scenario.name, 3.0))

    def kill(self, kind: str) -> bool:
        """Send a signal to the command at a random moment; whether it still ran."""
        name, victim = kind.split()
        command, number = self.start(), SIGNALS[name]
        if command.wait(self.moment()):
            return False
        children = below(command.pid)
        chosen = [self.draw.choice(children)] if children and victim != "parent" else []
        targets = [*chosen, *([command.pid] if victim != "child" or not chosen else [])]
        there = [send(pid, number) for pid in targets]
        self.finish(command, LEAVING if number != signal.SIGKILL and command.pid in targets else LONGEST)
        if number != signal.SIGKILL:
            refuse_traceback(command)
        if number == signal.SIGINT and targets == [command.pid] and command.code not in (0, 130, 1):
            raise BrokenError(f"exit code {command.code} after SIGINT\n{command.said()[-SHOWN:]}")
        if self.draw.random() < 0.5:  # the other half starts again at once
            self.refuse_orphans()
        return any(there)

    def two_at_once(self, _: str) -> bool:
        """Run the command twice in one folder; each does its share, waits, or says that the folder is in use."""
        first = self.start()
        time.sleep(self.draw.choice((0.0, 0.1, self.moment())))
        second = self.start()
        for command in (first, second):
            self.finish(command, 2 * LONGEST)
            refuse_traceback(command)
            if command.code and not (command.code == 2 and "in use by another process" in command.said()):
                raise BrokenError(f"exit code {command.code} of two at once\n{command.said()[-SHOWN:]}")
        return True

    def full_disk(self, _: str) -> bool:
        """Let no file of the command grow beyond a random size."""
        command = self.start(largest_file=int(10 ** self.draw.uniform(1.5, 6.5)))
        self.finish(command, LONGEST)
        self.refuse_riddle(command)
        return bool(command.code)

    def small_disk(self, _: str) -> bool:
        """Run the command on a disk of a random size, which then grows."""
        size = int(10 ** self.draw.uniform(4.0, 7.0))
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.work)]
        subprocess.run(mount, check=True)
        command = self.start()
        self.finish(command, LONGEST)
        self.refuse_riddle(command)
        subprocess.run(["mount", "-o", "remount,size=200m", str(self.work)], check=True)
        return bool(command.code)

    def read_only(self, _: str) -> bool:
        """Interrupt the command at a random moment, and run it again in a folder that may not be written."""
        begun = self.start()
        if not begun.wait(self.moment()):
            send(begun.pid, signal.SIGTERM)
        self.finish(begun, LEAVING)
        self.refuse_orphans()
        subprocess.run(["mount", "--bind", str(self.work), str(self.work)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self.work)], check=True)
        command = self.start()
        self.finish(command, LONGEST)
        subprocess.run(["umount", "-l", str(self.work)], check=True)
        self.refuse_riddle(command)
        return bool(command.code)

    def gone(self, _: str) -> bool:
        """Remove the command's folder at a random moment."""
        command = self.start()
        ended = command.wait(self.moment())
        clear(self.work)
        self.finish(command, LONGEST)
        self.refuse_riddle(command)
        self.refuse_orphans()
        clear(self.work)
        self.work.mkdir()
        return not ended

    def finish(self, command: Command, seconds: float) -> None:
        """Wait for the end of a command."""
        if not command.wait(seconds):
            for pid in (*below(command.pid), command.pid):
                send(pid, signal.SIGUSR1)
            time.sleep(1)
            said = (
                f"still runs after {seconds:.0f} s, {len(below(command.pid))} below it\n{command.said()[-2 * SHOWN :]}"
            )
            send(command.pid, signal.SIGKILL)
            command.wait(10)
            raise BrokenError(said)

    def refuse_riddle(self, command: Command) -> None:
        """A failed command says without a traceback which file is concerned."""
        refuse_traceback(command)
        if command.code and "work" not in command.said():
            raise BrokenError(f"the message names no file\n{command.said()[-SHOWN:]}")

    def refuse_orphans(self) -> None:
        """No process of the command lives on."""
        end = time.monotonic() + ORPHANS
        while below(os.getpid()):
            collect()
            if time.monotonic() > end:
                raise BrokenError(f"{len(below(os.getpid()))} processes live on after {ORPHANS:.0f} s")
            time.sleep(0.05)

    def undisturbed(self) -> Any:
        """Run the command to its end; its outcome."""
        began = time.monotonic()
        command = self.start()
        self.finish(command, LONGEST)
        refuse_traceback(command)
        if command.code != 0:
            raise BrokenError(f"exit code {command.code} when nothing disturbed it\n{command.said()[-SHOWN:]}")
        self.refuse_orphans()
        if parts := [str(path) for path in self.work.rglob("*.part")]:
            raise BrokenError(f"part files are left: {parts[:3]}")
        if odd := sorted(listing(self.folder) ^ self.before):
            raise BrokenError(f"files outside the folder changed: {odd[:3]}")
        self.durations.setdefault(self.scenario.name, time.monotonic() - began)
        return self.scenario.outcome(self.work)


def refuse_traceback(command: Command) -> None:
    """Nothing prints a traceback."""
    said = command.said()
    if (at := said.find("Traceback (most recent call last)")) >= 0:
        raise BrokenError(f"a traceback\n{said[max(0, at - 200) : at + 2 * SHOWN]}\n...\n{said[-SHOWN:]}")


def clear(folder: Path) -> None:
    """Remove a folder, and what is mounted there."""
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)
    for _ in range(100):  # a process may still be writing there
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def listing(folder: Path) -> set[str]:
    """Files beside `work`, with size and time; without the user's cache."""
    found = set()
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in ("work", "home")]
        for path in (Path(parent) / name for name in names):
            found.add(f"{path}|{path.stat().st_size}|{path.stat().st_mtime_ns}")
    return found


def one_trial(trial: Trial, expected: Any) -> tuple[list[str], str]:
    """Disturb a command and let it end; the kinds of fault that met it, and what broke, else nothing."""
    draw = trial.draw
    ways: dict[str, Callable[[str], bool]] = dict.fromkeys(KILLS, trial.kill)
    own = (trial.two_at_once, trial.full_disk, trial.small_disk, trial.read_only, trial.gone)
    ways |= dict(zip(OTHERS, own, strict=True))
    others = [draw.choice(OTHERS)] if draw.random() < 0.2 else []
    kinds = others or [draw.choice(KILLS) for _ in range(draw.randint(1, 4))]
    met: list[str] = []
    try:
        for kind in kinds:
            if ways[kind](kind):
                met.append(kind)
        if trial.undisturbed() != expected:
            raise BrokenError("another outcome than undisturbed")
    except BrokenError as error:
        return met or kinds, f"{error}\n{last_of_logs(trial.work)}"
    finally:
        for pid in below(os.getpid()):
            send(pid, signal.SIGKILL)
        time.sleep(0.02)
        collect()
        clear(trial.work)
        for command in trial.commands:
            command.close()
    return met, ""


def last_of_logs(work: Path) -> str:
    """The ends of the logs below a folder."""
    return "\n".join(f"{path}:\n{path.read_text(errors='replace')[-SHOWN:]}" for path in sorted(work.rglob("*.log")))


class Record:
    """Counts by kind of fault and by command, and the broken trials; written after every trial."""

    def __init__(self, path: Path | None, seed: int, *, anew: bool = False) -> None:
        self.path = path
        drawn = {"seed": seed, "processes": "anew" if anew else "forked"}
        self.content: dict[str, Any] = drawn | {"trials": 0, "seconds": 0.0, "faults": {}, "commands": {}, "broken": []}
        if path is not None and path.exists():
            found = json.loads(path.read_text())
            other = {key: found.get(key) for key in drawn}
            if other != drawn:
                raise ValueError(f"{path}: was drawn with {other}, not {drawn}; take another file")
            self.content = found

    def add(self, scenario: Scenario, kinds: Sequence[str], broken: str, seconds: float) -> None:
        """Count a trial."""
        for table, names in (("faults", kinds), ("commands", [scenario.name] * len(kinds))):
            for name in names:
                tried, held = self.content[table].get(name, [0, 0])
                self.content[table][name] = [tried + 1, held + (not broken)]
        if broken:
            where = {"trial": self.content["trials"], "command": scenario.name, "faults": list(kinds)}
            self.content["broken"].append(where | {"said": broken})
        self.content["trials"] += 1
        self.content["seconds"] = round(self.content["seconds"] + seconds, 1)
        if self.path is not None:
            write_text(self.path, json.dumps(self.content, indent=1) + "\n")

    def lines(self) -> list[str]:
        """Tried and held, by kind of fault and by command."""
        rows = [*sorted(self.content["faults"].items()), *sorted(self.content["commands"].items())]
        return [f"{name:32s} {tried:5d} tried {held:5d} held" for name, (tried, held) in rows]


def run(
    minutes: float, seed: int, out: Path | None, names: Sequence[str], *, trials: int | None = None, anew: bool = False
) -> Record:
    """Draw trials until the time is over."""
    adopt_orphans()
    if not anew:
        fork_children()
    record, end = Record(out, seed, anew=anew), time.monotonic() + 60 * minutes
    chosen = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    durations: dict[str, float] = {}
    expected: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kdep-kills-") as temporary:
        folder = Path(temporary)
        write_inputs(folder)
        while time.monotonic() < end and record.content["trials"] != trials:
            began, draw = time.monotonic(), random.Random(f"{seed}:{record.content['trials']}")
            scenario = draw.choices(chosen, [one.weight for one in chosen])[0]
            if scenario.name not in expected:
                expected[scenario.name] = Trial(scenario, folder, draw, durations, anew=anew).undisturbed()
                began = time.monotonic()
            trial = Trial(scenario, folder, draw, durations, anew=anew)
            kinds, broken = one_trial(trial, expected[scenario.name])
            record.add(scenario, kinds, broken, time.monotonic() - began)
            if broken:
                print(f"BROKEN {scenario.name}: {', '.join(kinds)}: {broken}", flush=True)  # noqa: T201 - what it was run for
    return record


def main() -> None:
    """Read the arguments, run, and print tried and held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", action="append", default=[], help="a command of scenarios.py; may be repeated")
    parser.add_argument("--anew", action="store_true", help="start each command as a new Python")
    args = parser.parse_args()
    if not args.anew:
        import_everything()
    record = run(args.minutes, args.seed, args.out, args.only, anew=args.anew)
    print("\n".join(record.lines()))  # noqa: T201
    sys.exit(bool(record.content["broken"]))


def import_everything() -> None:
    """Import what commands would import, once for all of them."""
    import importlib

    names = ("kdep.pretrain", "kdep.bank.prepare", "kdep_benchmarks.jobs.measure", "kdep_benchmarks.transfer")
    names += ("kdep_benchmarks.studies.study", "kdep_benchmarks.studies.work", "kdep_benchmarks.tasks.classify")
    names += ("kdep_benchmarks.tasks.dense.segment", "kdep_benchmarks.tasks.dense.box", "matplotlib.figure")
    names += ("kdep_benchmarks.openmmlab.tasks.segment", "kdep_benchmarks.openmmlab.tasks.detect")
    for name in names:
        importlib.import_module(name)
    importlib.import_module("kdep_benchmarks.openmmlab.compat").prepare()
    for name in ("mmseg.models", "mmdet.models"):
        importlib.import_module(name)
    importlib.import_module("kdep.bank.file").SHARD = 40  # several files in a small bank


if __name__ == "__main__":
    main()
