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


def add_config(parser: argparse.ArgumentParser, config: str, overrides: str) -> None:
    """CONFIG [key.sub=value ...] with their help; also for `kdep targets`."""
    parser.add_argument("config", type=Path, help=config)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help=overrides)


def run(args: argparse.Namespace) -> int:
    """Pretrain, and say what to do next."""
    from kdep.config import load_config
    from kdep.pretrain import pretrain

    student = pretrain(load_config(args.config, args.overrides))
    sys.stdout.write(
        f"{student}\n  measure it:  tools/transfer.sh {student} --suite probe\n"
        f"  use it:      kdep export {student} --to mmseg\n"
    )
    return 0
