"""Edit every kind of file that kdep reads at random, read it again, and count what is not held.

    python -m tools.checks.faults.edits --edits 20000 --seed 0 --out docs/figures/faults_edits.json

An edit is held if the file is read (the edit did no harm, or a damaged result was left out and named), or refused by a
ValueError that names the file. It is not held if another error comes out, if the file is not named, if something
outside of the world changes, or if the reader takes longer than `SLOW` seconds. With --minutes it stops early. Runs of
other seeds are added to --out, so several may run at once.
"""

import argparse
import collections
import contextlib
import io
import json
import logging
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdep.files import write_text
from tools.checks.faults.changes import edit_bytes

GROUPS = ("results", "settings", "sets", "runs")
SLOW = 10.0  # CPU seconds for one edit
OUTSIDE = Path("/tmp/kdep_outside")


def try_edit(door: Any, content: bytes, draw: random.Random) -> tuple[str, str]:
    """Edit, read, restore; return how it ended (read, refused, or escaped) and what escaped."""
    try:
        changed = door.edit(content, draw)
    except (RecursionError, RuntimeError, TypeError, ValueError, OverflowError):  # no file can hold the drawn edit
        changed = edit_bytes(content, draw)
    door.path.write_bytes(changed)
    began = cpu()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            door.use()
        ended, said = "read", ""
    except ValueError as error:
        named = door.path.name in str(error) or str(door.path.parent) in str(error)
        ended, said = ("refused", "") if named else ("escaped", f"not named: {type(error).__name__}: {error}")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        ended, said = "escaped", f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    finally:
        door.path.write_bytes(content)
    if cpu() - began > SLOW:
        return "escaped", f"{cpu() - began:.0f} s"
    return ended, said


def cpu() -> float:
    """CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(edits: int, seed: int, minutes: float, folder: Path, *, groups: Sequence[str] = GROUPS) -> dict[str, Any]:
    """Try so many edits, kind after kind, in a world made in a folder."""
    from tools.checks.faults.doors import make_doors

    world = folder / "world"
    world.mkdir()
    doors = make_doors(world, groups)
    contents = {door.kind: door.path.read_bytes() for door in doors}
    for door in doors:
        door.use()  # unedited, everything is read
    before, tried = listing(folder), {door.kind: collections.Counter() for door in doors}
    escapes: list[dict[str, Any]] = []
    began = time.monotonic()
    for number in range(edits):
        door = doors[number % len(doors)]
        if time.monotonic() - began > 60 * minutes:
            break
        draw = random.Random(f"{seed}-{door.kind}-{number}")
        ended, said = try_edit(door, contents[door.kind], draw)
        if ended != "escaped" and (OUTSIDE.exists() or listing(folder) != before):
            ended, said = "escaped", f"files outside: {sorted(listing(folder) ^ before)[:3]}"
            before = listing(folder)
        tried[door.kind][ended] += 1
        if ended == "escaped":
            escapes.append({"kind": door.kind, "number": number, "said": said[:400]})
    return {
        "seed": seed,
        "edits": sum(sum(counts.values()) for counts in tried.values()),
        "escapes": escapes,
        "cpu_seconds": round(cpu(), 1),
        "by_kind": {kind: dict(counts) for kind, counts in tried.items()},
    }


def listing(folder: Path) -> set[str]:
    """Files below a folder, but those that a board writes into its own."""
    return {str(path) for path in folder.parent.glob(f"{folder.name}/*")}


def add(found: dict[str, Any], out: Path) -> None:
    """Add what was found to a file; a seed that it has already counts once."""
    known = json.loads(out.read_text()) if out.exists() else {"seeds": {}}
    known["seeds"][str(found["seed"])] = {name: value for name, value in found.items() if name != "seed"}
    runs = known["seeds"].values()
    totals: dict[str, collections.Counter] = {}
    for run_ in runs:
        for kind, counts in run_["by_kind"].items():
            totals.setdefault(kind, collections.Counter()).update(counts)
    known |= {name: sum(run_[name] for run_ in runs) for name in ("edits", "cpu_seconds")}
    known |= {"escaped": sum(len(run_["escapes"]) for run_ in runs), "by_kind": totals}
    write_text(out, json.dumps(known, indent=1) + "\n")


def table(found: dict[str, Any]) -> str:
    """Tried, read, refused and escaped by kind of file."""
    lines = [f"{'file':24s} {'tried':>7s} {'read':>7s} {'refused':>8s} {'escaped':>8s}"]
    for kind, counts in found["by_kind"].items():
        own = [sum(counts.values()), *(counts.get(name, 0) for name in ("read", "refused", "escaped"))]
        lines.append(f"{kind:24s} {own[0]:7,} {own[1]:7,} {own[2]:8,} {own[3]:8,}")
    lines.append(f"{found['edits']:,} edits, {len(found['escapes'])} escaped, {found['cpu_seconds']} CPU seconds")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Try, print the table and what escaped; the exit code is 1 if something did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=2000, metavar="N", help="[2000]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so many [60]")
    parser.add_argument("--groups", default=",".join(GROUPS), help="[results,settings,sets,runs]")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.edits, args.seed, args.minutes, Path(folder), groups=args.groups.split(","))
    for escape in found["escapes"]:
        sys.stdout.write(json.dumps(escape) + "\n")
    sys.stdout.write(table(found))
    if args.out:
        with FileLock(f"{args.out}.lock"):
            add(found, args.out)
    return 1 if found["escapes"] else 0


if __name__ == "__main__":
    sys.exit(main())
