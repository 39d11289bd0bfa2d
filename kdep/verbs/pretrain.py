"""`kdep pretrain [RECIPE] [key.sub=value ...]`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdep.shipped import find

if TYPE_CHECKING:
    from kdep.config import Config


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


def read_config(recipe: str | None, overrides: list[str]) -> "Config":
    """Read a recipe by name or path, with the command line's changes; `default` without one.

    Without a name of its own, a run of the default recipe is called after its student and its images.
    """
    from kdep.config import load_config

    changed = list(overrides)
    if recipe is not None and "=" in recipe:  # no recipe was given, only keys
        recipe, changed = None, [recipe, *changed]
    given = dict(change.split("=", 1) for change in changed if "=" in change)
    source = given.get("data.source", "").strip("\"'")
    if recipe in (None, "default") and "name" not in given and source:
        student = given.get("student.arch", "resnet18").strip("\"'").rpartition(":")[2]
        changed.append(f"name={student}-{Path(source.partition(':')[0]).stem}")
    return load_config(find("pretrain", recipe or "default"), changed)


def run(args: argparse.Namespace) -> int:
    """Pretrain, and say what to do next."""
    from kdep.config import as_yaml

    given = {"data.source": args.data, "student.arch": args.student}
    changes = [*args.overrides, *(f"{key}={value}" for key, value in given.items() if value is not None)]
    config = read_config(args.config, changes)
    if args.dry_run:
        from kdep.run.dry import problems

        found = problems(config)
        sys.stdout.write(as_yaml(config))
        sys.stderr.write("".join(f"kdep: {problem}\n" for problem in found))
        return 2 if found else 0
    from kdep.models.names import TORCHVISION_NAMES
    from kdep.pretrain import pretrain

    student, arch = pretrain(config), config.student.arch
    sys.stdout.write(
        f"{student}\n  measure it:  kdep transfer {student} random:{arch} --suite probe --seeds 0,1,2\n"
        f"  use it:      kdep export {student} --to {'mmseg' if arch in TORCHVISION_NAMES else 'timm'}\n"
    )
    return 0
