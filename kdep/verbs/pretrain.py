"""`kdep pretrain [RECIPE] [key.sub=value ...]`."""

import argparse
import importlib
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep pretrain`."""
    add_config(
        parser,
        "change a key of it, such as optim.lr=0.1, name=other or data.source=/photos; the same command resumes an "
        "interrupted run",
        nargs="?",
    )
    parser.add_argument("--data", metavar="SOURCE", help="the images: data.source=SOURCE")
    parser.add_argument("--student", metavar="ARCH", help="the student, any timm architecture: student.arch=ARCH")
    parser.add_argument(
        "--dry-run", action="store_true", help="print every key with its value, check data and networks, and stop"
    )


def add_config(parser: argparse.ArgumentParser, overrides: str, *, nargs: str | None = None) -> None:
    """RECIPE [key.sub=value ...] with their help; also for `kdep targets`."""
    parser.add_argument(
        "config",
        nargs=nargs,
        metavar="RECIPE",
        help="a shipped recipe such as demo (`kdep ls recipes`), or a YAML file" + (" [default]" if nargs else ""),
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=overrides)


def draw_scenes(source: str) -> None:
    """Draw the images of the recipe `demo` if they are missing; other sources are left alone."""
    folder = Path(source)
    if folder.parts[-2:] == ("scenes", "images") and not folder.exists():
        prepare = importlib.import_module("kdep_benchmarks.data.preparation.prepare").prepare
        prepare("scenes", folder.parents[1], show=sys.stderr.isatty())


def run(args: argparse.Namespace) -> int:
    """Pretrain, and print the next commands."""
    from kdep.config import as_yaml, in_quotes, read_config

    given = {"data.source": args.data, "student.arch": args.student}
    changes = [*args.overrides, *(f"{key}={in_quotes(value)}" for key, value in given.items() if value is not None)]
    config = read_config(args.config, changes)
    if args.dry_run:
        from kdep.probe import watch
        from kdep.run import dry

        found = [*dry.problems(config), *watch.problems(config)]
        sys.stdout.write(as_yaml(config))
        sys.stderr.write("".join(f"kdep: {problem}\n" for problem in found) or "kdep: no problem found\n")
        return 2 if found else 0
    from kdep.pretrain import pretrain
    from kdep.run.distributed.processes import join

    process = join(config.device)
    process.per_machine(lambda: draw_scenes(config.data.source))
    student, arch = pretrain(config), config.student.arch
    if not process.is_first:
        return 0
    sys.stdout.write(
        f"{student}\n  measure it:  kdep transfer {student} random:{arch} --suite probe\n"
        f"               (or --data FOLDER, labelled images of your own in class folders)\n"
        f"  compare:     kdep compare {config.name} random:{arch}\n"
        f"  use it:      kdep export {student} --to {library_of(arch)}\n"
    )
    return 0


def library_of(arch: str) -> str:
    """A library that has the network: a student of one's own is in none, and ONNX holds any."""
    from kdep.models.backbones.own import PREFIX
    from kdep.models.checkpoints.names import TORCHVISION_NAMES

    if arch in TORCHVISION_NAMES:
        return "mmseg"
    return "onnx" if arch.startswith(PREFIX) else "timm"
