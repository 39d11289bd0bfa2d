"""Build a board of many results of which some are damaged, and compare it with the board of the whole ones alone.

    python -m tools.checks.damaged_board OUT.json --results 5000 --damaged 50

The command must end with 0, name every damaged file, and show the same scores. Prints CPU seconds of both boards.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from kdep import cli
from kdep.files import write_text
from kdep_benchmarks.results import read_result, result_paths
from tools.checks.faults.changes import edit_json
from tools.speed.board import write_made


def damage(path: Path, draw: random.Random) -> None:
    """Edit a file until it is no result."""
    content = path.read_bytes()
    while True:
        path.write_bytes(edit_json(content, draw))
        try:
            read_result(path)
        except ValueError:
            return


def board(folder: Path) -> tuple[float, str, str]:
    """Run `kdep leaderboard`; return its CPU seconds, what it printed, and leaderboard.csv."""
    output, began = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        code = cli.main(["leaderboard", str(folder)])
    if code:
        raise SystemExit(f"exit code {code}")
    return time.process_time() - began, output.getvalue(), (folder / "leaderboard.csv").read_text()


def main() -> int:
    """Compare the two boards; the exit code is 1 if they differ or a file is not named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--results", type=int, default=5000)
    parser.add_argument("--damaged", type=int, default=50)
    args = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_made(args.results, folder)
        paths = draw.sample(result_paths(folder), args.damaged)
        for path in paths:
            damage(path, draw)
        seconds, said, with_damaged = board(folder)
        page = (folder / "leaderboard.html").read_text()
        for path in paths:
            path.unlink()
        alone, _, without = board(folder)
    found = {
        "results": args.results,
        "damaged": args.damaged,
        "said": all(f"Left out: {args.damaged} files." in text for text in (said, page)),
        "same_scores": with_damaged == without,
        "cpu_seconds": round(seconds, 2),
        "cpu_seconds_of_the_whole_ones": round(alone, 2),
    }
    write_text(args.out, json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{found}\n")
    return 0 if found["said"] and found["same_scores"] else 1


if __name__ == "__main__":
    sys.exit(main())
