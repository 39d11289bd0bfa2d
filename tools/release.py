"""Make the folder of a release: students as files that timm opens, with model cards, scores and checksums.

    python -m tools.release runs/NAME/student.pth [...] --results results --license apache-2.0 [--out release]

RELEASE/NAME has config.json and model.safetensors (timm's `local-dir:NAME`), README.md (the card, with the scores),
student.pth (for kdep itself) and scores.csv (a row for each run and metric). SHA256SUMS covers all files. The folder
appears when it is complete.
"""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

from kdep.cli import main as kdep
from kdep.files import digest_of, write_text
from kdep.models.weights import open_checkpoint
from kdep_benchmarks.board.frame import csv_text, results_frame
from kdep_benchmarks.data.checks.overlap import read_with_overlap
from kdep_benchmarks.result import Result

LIMIT = 2 * 2**30  # bytes of one file of a release on GitHub


def release(students: list[Path], results: list[Path], out: Path, *, licence: str) -> list[Path]:
    """Write the folder and return its files.

    Raises:
        ValueError: the folder is there, a student is no file or has no finished result, two have one name, or a file is
            too large.
    """
    if out.exists():
        raise ValueError(f"{out} is there already: move it, or choose another --out")
    scored = [result for result in read_with_overlap(results).results if result.status == "ok"]
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for student in students:
            _add(student, scored, results, part, licence)
        files = sorted(path for path in part.rglob("*") if path.is_file())
        for path in files:
            if path.stat().st_size >= LIMIT:
                raise ValueError(
                    f"{path.relative_to(part)}: {path.stat().st_size:,} bytes, and a release takes {LIMIT:,}"
                )
        write_text(part / "SHA256SUMS", "".join(f"{_sha256(path)}  {path.relative_to(part)}\n" for path in files))
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(path for path in out.rglob("*") if path.is_file())


def _add(student: Path, scored: list[Result], results: list[Path], part: Path, licence: str) -> None:
    if not student.is_file():  # the file itself is a part of the release
        raise ValueError(f"{student}: no such file, expected the student.pth of a run")
    checkpoint = open_checkpoint(str(student))
    own = [result for result in scored if result.checkpoint.sha256 == checkpoint.identity]
    if not own:
        folders = ", ".join(map(str, results))
        raise ValueError(f"{student}: no finished result in {folders}; run kdep transfer {student} first")
    folder = part / checkpoint.name
    if folder.exists():
        raise ValueError(f"{student}: another student of this release is named {checkpoint.name} too")
    words = ["export", str(student), "--to", "timm", "--card", "--license", licence, "--out", str(folder)]
    if kdep([*words, "--results", *map(str, results)]) != 0:
        raise ValueError(f"{student}: not exported, see above")
    shutil.copyfile(student, folder / "student.pth")
    write_text(folder / "scores.csv", csv_text(results_frame(own)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return digest_of(file, hashlib.sha256()).hex()


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("students", nargs="+", type=Path, metavar="STUDENT", help="student.pth of a run")
    parser.add_argument("--results", nargs="+", type=Path, default=[Path("results")], metavar="DIR", help="[results]")
    parser.add_argument("--license", required=True, metavar="NAME", help="the hub's name, such as apache-2.0")
    parser.add_argument("--out", type=Path, default=Path("release"), metavar="DIR", help="new folder [release]")
    args = parser.parse_args()
    try:
        files = release(args.students, args.results, args.out, licence=args.license)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for path in files:
        sys.stdout.write(f"{path.stat().st_size / 2**20:8.2f} MiB  {path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
