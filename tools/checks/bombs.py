"""Run the commands on files that were made to do harm, under limits of memory and time, and record what they cost.

    python -m tools.checks.bombs OUT.json [CASE ...]

Each case makes its files and runs one command in a child with a limit of 16 GB of address space and two minutes of CPU
time. It is held if the command ends by itself with an exit code and a message that name the file. Where an environment
variable lifts a limit, the same command also runs without it, which shows what the limit saves. `data check`,
`pretrain` and `transfer` on harmless files are the baselines.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from kdep.files import write_text

ADDRESS_SPACE, CPU_SECONDS, SECONDS = 16 * 2**30, 120, 600
LIFTED = {"KDEP_MAX_PIXELS": str(10**12), "KDEP_MAX_EXPANDED": str(10**15)}
SIDE = 13_300  # below Pillow's own limit of 178,956,970 pixels
POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
RECIPE = """
name: bomb
teacher: {{source: "random:test_efficientnet", tap: post, precision: float32}}
student: {{arch: test_resnet}}
data: {{source: "{source}", size: 32, max_unreadable: 0.5}}
optim: {{epochs: 2, batch_size: 8, lr: 2e-3}}
device: cpu
runs: "{runs}"
"""
SUITE = """
tasks:
- name: bomb-knn
  kind: knn
  dataset: {{name: bomb, layout: {layout}, root: "{root}", files: {{train: {train}, test: {test}}}}}
"""
DETECTION = """
tasks:
- name: bomb-detect
  kind: detect
  dataset:
    name: bomb
    layout: coco
    root: "{root}"
    files: {{train: train.json, train_images: train, test: test.json, test_images: test}}
  settings: {{config: detect_faster_rcnn, iterations: 1000, batch_size: 2, lr: 0.01, weight_decay: 0, scale: [64, 64]}}
"""


class Case(NamedTuple):
    """What is made and run, and how the command should end: exit codes, and words of its output."""

    command: Callable[[Path], list[str]]
    codes: tuple[int, ...]
    says: str
    lifted: bool = False


def kdep(*arguments: object) -> list[str]:
    """The command that a user would type."""
    return [sys.executable, "-m", "kdep.cli", *map(str, arguments)]


def photographs(folder: Path) -> Path:
    """Write train and test, two classes of 25 small pictures each."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            place = folder / split / label
            place.mkdir(parents=True)
            for number in range(25):
                pixels = draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((48, 40)).save(place / f"{number}.jpg")
    return folder


def suite(folder: Path, layout: str = "imagefolder", train: str = "train", test: str = "test") -> Path:
    """Write a suite file for a data set below the folder."""
    path = folder.parent / "suite.yaml"
    path.write_text(SUITE.format(layout=layout, root=folder, train=train, test=test))
    return path


def checked(make: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Check a data set after something was put into one of its class folders."""

    def command(folder: Path) -> list[str]:
        make(photographs(folder / "set") / "train" / "a")
        return kdep("data", "check", suite(folder / "set"))

    return command


def pretrained(make: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Pretrain on a folder after something was put into it."""

    def command(folder: Path) -> list[str]:
        make(photographs(folder / "set") / "train" / "a")
        (folder / "recipe.yaml").write_text(RECIPE.format(source=folder / "set", runs=folder / "runs"))
        return kdep("pretrain", folder / "recipe.yaml")

    return command


def measured(make: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Measure a file of weights."""

    def command(folder: Path) -> list[str]:
        photographs(folder / "set")
        make(folder / "bomb.pth")
        own = ("--tasks", "knn", "--device", "cpu", "--results", folder / "results")
        return kdep("transfer", folder / "bomb.pth", "--arch", "test_resnet", "--data", folder / "set", *own)

    return command


def packed(folder: Path) -> list[str]:
    """Check a pack whose archive expands to 1 GB."""
    (folder / "set").mkdir()
    zipped(folder / "set" / "bomb.npz", "train_blob.npy", "train_offsets.npy")
    return kdep("data", "check", suite(folder / "set", "npz", "bomb.npz:train", "bomb.npz:train"))


def detected(folder: Path) -> list[str]:
    """Train a detector; one test image is cut off."""
    photographs(folder / "set")
    for split in ("train", "test"):
        names = [f"a/{number}.jpg" for number in range(4)]
        images = [{"id": n, "file_name": name, "width": 48, "height": 40} for n, name in enumerate(names)]
        boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 20, 20]} for n in range(4)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
        (folder / "set" / f"{split}.json").write_text(json.dumps(content))
    cut = folder / "set" / "test" / "a" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    (folder / "suite.yaml").write_text(DETECTION.format(root=folder / "set"))
    own = ("--suite", folder / "suite.yaml", "--device", "cpu", "--results", folder / "results")
    return kdep("transfer", "random:test_resnet", *own)


def read_as_recipe(text: str) -> Callable[[Path], list[str]]:
    """Open a recipe."""

    def command(folder: Path) -> list[str]:
        (folder / "bomb.yaml").write_text(text)
        return kdep("pretrain", folder / "bomb.yaml", "--dry-run")

    return command


def zipped(path: Path, *names: str) -> None:
    """Write a zip file of members of 512 MB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(2**5):
                    file.write(bytes(2**24))


def compressed_weights(path: Path) -> None:
    """Save weights of 860 MB of zeros, and compress the archive."""
    torch.save({"conv1.weight": torch.zeros(215_000_000)}, path)
    stored = path.with_suffix(".stored")
    path.rename(stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            with old.open(entry) as source, new.open(entry.filename, "w") as target:
                while block := source.read(2**24):
                    target.write(block)
    stored.unlink()


def large_png(place: Path) -> None:
    """Write a PNG of 13,300 x 13,300 pixels in 21 kB."""
    Image.new("1", (SIDE, SIDE)).save(place / "bomb.png")


def link_up(place: Path) -> None:
    """Link to the folder above, and twice to the folder itself."""
    for name, target in (("up", ".."), ("one", "."), ("two", ".")):
        (place / name).symlink_to(target)


def hole(place: Path) -> None:
    """Write a file of a terabyte that takes no room on the disk."""
    with (place / "bomb.jpg").open("wb") as file:
        file.truncate(2**40)


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
NOT_REGULAR, ODD_FORMAT = "not a regular file", "or in another format than JPEG"
CASES: dict[str, Case] = {
    "harmless set": Case(checked(lambda place: None), (0,), "no defects"),
    "PostScript called .jpg": Case(
        checked(lambda place: (place / "bomb.jpg").write_text(POSTSCRIPT)),
        (1,),
        ODD_FORMAT,
    ),
    "named pipe called .jpg": Case(
        checked(lambda place: os.mkfifo(place / "bomb.jpg")), (1,), f"bomb.jpg: {NOT_REGULAR}"
    ),
    "link to /dev/zero": Case(
        checked(lambda place: (place / "bomb.png").symlink_to("/dev/zero")), (1,), f"bomb.png: {NOT_REGULAR}"
    ),
    "links to folders above": Case(checked(link_up), (0,), "50 train, 50 test"),
    "file of a terabyte": Case(checked(hole), (1,), "KDEP_MAX_EXPANDED allows"),
    "PNG of 177 million pixels": Case(checked(large_png), (1,), "13300 x 13300 pixels; KDEP_MAX_PIXELS allows", True),
    "pack of 1 GB in 1 MB": Case(packed, (1,), "KDEP_MAX_EXPANDED allows"),
    "YAML aliases": Case(read_as_recipe(ALIASES), (2,), "bomb.yaml: not YAML (more than 100,000 values"),
    "YAML merges": Case(read_as_recipe(MERGES), (2,), "bomb.yaml: not YAML (more than 100,000 values"),
    "YAML nesting": Case(read_as_recipe("a: " + "[" * 3000), (2,), "bomb.yaml: not YAML (nested too deeply"),
    "harmless pretraining": Case(pretrained(lambda place: None), (0,), "student.pth"),
    "pretraining with the PNG": Case(pretrained(large_png), (0,), "unreadable image skipped: train/a/bomb.png", True),
    "pretraining with a pipe": Case(pretrained(lambda place: os.mkfifo(place / "bomb.jpg")), (0,), "skipped 1: "),
    "name that is not UTF-8": Case(
        pretrained(lambda place: (place / os.fsdecode(b"caf\xe9\n.jpg")).write_text("no image")),
        (0,),
        "unreadable image skipped: train/a/caf\\udce9\\n.jpg",
    ),
    "cut-off test image of a detection set": Case(detected, (1,), "1 of 4 files of test cannot be read"),
    "harmless weights": Case(
        measured(lambda path: torch.save({"conv1.weight": torch.zeros(1)}, path)), (3,), "does not fit"
    ),
    "weights of 860 MB in a zip of 0.8 MB": Case(measured(compressed_weights), (2,), "KDEP_MAX_EXPANDED allows", True),
    "weights that repeat one value": Case(
        measured(lambda path: torch.save({"conv1.weight": torch.zeros(1).expand(10**11)}, path)),
        (2,),
        "KDEP_MAX_EXPANDED allows",
    ),
}


def run(case: Case, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a case; return its exit code, seconds, peak memory, and whether it was held."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = case.command(folder)
        log = folder / "output.txt"
        began = time.perf_counter()
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={**os.environ, **environment},
                preexec_fn=_limited,
            )
            status, usage = _wait(child, began)
        text = log.read_text(errors="replace").replace(str(folder), "...")
    code = os.waitstatus_to_exitcode(status)
    held = code in case.codes and case.says in " ".join(text.split()) and "Traceback" not in text
    return {
        "exit_code": code,
        "held": held,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 2**10),
        "said": _said(text, case.says),
    }


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def _wait(child: subprocess.Popen[bytes], began: float) -> tuple[int, resource.struct_rusage]:
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return status, usage
        if time.perf_counter() - began > SECONDS:
            child.kill()
        time.sleep(0.05)


def _said(text: str, says: str) -> str:
    lines = [line.rpartition("it/s]")[2].strip() for line in text.splitlines()]  # a progress bar may stand before it
    return next((line for line in lines if says[:20] in line), next(filter(None, reversed(lines)), ""))[:300]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("case", nargs="*", help="only these are run again in OUT.json [all]", metavar="CASE")
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.case and args.out.exists() else {}
    for name in args.case or CASES:
        found[name] = run(CASES[name], {})
        if CASES[name].lifted:
            lifted = run(CASES[name], LIFTED)
            found[name]["without_limit"] = {key: lifted[key] for key in ("exit_code", "cpu_seconds", "peak_mb")}
        print(name, json.dumps(found[name]), flush=True)  # noqa: T201 - the script's answer
    found = {name: found[name] for name in CASES if name in found}
    write_text(args.out, json.dumps(found, indent=1) + "\n")
    return 0 if all(case["held"] for case in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
