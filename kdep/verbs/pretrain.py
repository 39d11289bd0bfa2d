"""`kdep pretrain CONFIG [key.sub=value ...]`."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep pretrain`."""
    add_config(
        parser,
        "a YAML file such as configs/pretrain/demo.yaml",
        "change a key of it, such as optim.lr=0.1, name=other or data.source=/photos; the same command "
        "after an interruption goes on where it stopped",
    )
    parser.add_argument("--dry-run", action="store_true", help="print every key with its value, and stop")


def add_config(parser: argparse.ArgumentParser, config: str, overrides: str) -> None:
    """CONFIG [key.sub=value ...] with their help; also for `kdep targets`."""
    parser.add_argument("config", type=Path, help=config)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=overrides)


def run(args: argparse.Namespace) -> int:
    """Pretrain, and say what to do next."""
    from kdep.config import as_yaml, load_config

    config = load_config(args.config, args.overrides)
    if args.dry_run:
        sys.stdout.write(as_yaml(config))
        return 0
    from kdep.export.names import TORCHVISION_NAMES
    from kdep.pretrain import pretrain

    student, arch = pretrain(config), config.student.arch
    sys.stdout.write(
        f"{student}\n  measure it:  kdep transfer {student} random:{arch} --suite probe --seeds 0,1,2\n"
        f"  use it:      kdep export {student} --to {'mmseg' if arch in TORCHVISION_NAMES else 'timm'}\n"
    )
    return 0
