"""Count how often early stopping along the penalties changes the choice of a linear probe.

    python -m tools.checks.patience results/ablation_small --out docs/figures/patience.json

Reads results of linear probes whose curves have the whole path of penalties (made before decision 0014). For each
task it reports how many penalties the probe tries and how often its choice would differ.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdep.files import write_text
from kdep_benchmarks.result import Result
from kdep_benchmarks.results import read_results
from kdep_benchmarks.tasks.classify import PATIENCE, best_on_val, gives_up

PATH = 13  # penalties of the default path; a curve with fewer was cut short


def replay(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """Count by task: complete curves, penalties in them, penalties tried, and choices that differ."""
    found: dict[str, dict[str, int]] = {}
    for result in results:
        curves = [curve for curve in result.curves.values() if len(curve["lambda"]) == PATH]
        for curve in curves if result.task.kind == "linear" else []:
            row = found.setdefault(result.task.name, {"curves": 0, "penalties": 0, "tried": 0, "other_choices": 0})
            top1, loss = curve["val_top1"][::-1], curve["val_loss"][::-1]
            tried = next((n for n in range(1, PATH) if gives_up(top1[:n], loss[:n])), PATH)
            row["curves"] += 1
            row["penalties"] += PATH
            row["tried"] += tried
            row["other_choices"] += best_on_val(top1, loss) != best_on_val(top1[:tried], loss[:tried])
    return dict(sorted(found.items()))


def main() -> None:
    """Read, replay and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="folders of results")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    rows = replay(read_results(args.results))
    content: dict[str, Any] = {"patience": PATIENCE, "path": PATH, "tasks": rows}
    write_text(args.out, json.dumps(content, indent=1) + "\n")
    print(args.out)  # noqa: T201 - the script's answer


if __name__ == "__main__":
    main()
