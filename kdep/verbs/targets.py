"""`kdep targets RECIPE [key.sub=value ...]`."""

import argparse
import sys

from kdep.shipped import find
from kdep.verbs.pretrain import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep targets`."""
    add_config(
        parser,
        "change a key of it, such as bank.path=banks/lite0 bank.views=5; the recipe needs a bank: section or "
        "bank.path=FOLDER. The same command resumes an interrupted bank, and with more views adds them",
    )


def run(args: argparse.Namespace) -> int:
    """Make the bank; the first process prints its size and which students can read it."""
    from kdep.bank.prepare import build
    from kdep.bank.read import Bank
    from kdep.config import load_config
    from kdep.run.distributed.processes import join

    config = load_config(find("pretrain", args.config), args.overrides)
    path = build(config)
    if not join(config.device).is_first:
        return 0
    about = Bank(path).description
    views = len(list(path.glob("view*")))
    size = sum(file.stat().st_size for file in path.rglob("*.npy"))
    sys.stdout.write(
        f"{path}: {views} view(s) of {about.images} images on {about.axes} axes, {about.code}, {size / 1e6:.1f} MB\n"
        f"  any student up to {about.axes} channels, any scaler:  kdep pretrain RECIPE bank.path={path}\n"
    )
    return 0
