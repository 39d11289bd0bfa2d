"""Build a network with a user's own Python function, named as python:package.module:function.

The function takes no arguments and returns an nn.Module that maps images (B, 3, H, W) to features (B, D) or to a map
(B, D, h, w), whose mean is taken. Images are RGB in [0, 1], normalised with ImageNet's mean and std unless the module
has a `pretrained_cfg`, as timm's networks have, with another `mean` and `std`.
"""

import hashlib
import importlib
import modulefinder
import sys
import traceback
from pathlib import Path

from torch import nn

PREFIX = "python:"
DEFAULTS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "input_size": (3, 224, 224)}


def make_own(entry: str) -> nn.Module:
    """Import the module and call the function.

    Raises:
        ValueError: there is no such module or function, or one of them fails, or the function does not return an
            nn.Module.
    """
    name, _, function = entry.removeprefix(PREFIX).partition(":")
    if not name or not function.isidentifier():
        raise ValueError(f"{entry}: expected python:package.module:function")
    # A student.pth names its entry too, and no weight file may call os.abort.
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{entry}: {name} is part of Python's standard library, not a module with networks")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{entry}: cannot import {name} ({error}); install it, or put the folder that holds it on PYTHONPATH"
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"{entry}: the import of {name} failed: {described(error, entry)}") from error
    make = getattr(module, function, None)
    if not callable(make):
        raise ValueError(f"{entry}: {module.__file__} has no function {function}")
    try:
        network = make()
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"{entry}: the function failed without arguments: {described(error, entry)}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{entry}: returned {type(network).__name__}, expected an nn.Module")
    network.pretrained_cfg = {**DEFAULTS, **getattr(network, "pretrained_cfg", {}), "architecture": entry}
    return network


def described(error: Exception, entry: str) -> str:
    """Describe an error that a user's code raised, with the last line of it that is in the package of `entry`."""
    package = entry.removeprefix(PREFIX).partition(":")[0].partition(".")[0]
    frames = traceback.walk_tb(error.__traceback__)
    own = [(frame, line) for frame, line in frames if frame.f_globals.get("__name__", "").partition(".")[0] == package]
    where = [f" ({last.filename}, line {last.lineno}: {last.line})" for last in traceback.StackSummary.extract(own)]
    return f"{type(error).__name__}: {error}{where[-1] if where else ''}"


def code_of(entry: str) -> str | None:
    """Hash of a user's code, hex: the file that holds the function, and what it imports of the files beside it.

    Imports are followed as they are written, below the folder in which Python found the module. Installed packages do
    not count, nor kdep, nor what is imported by a computed name. None for a network of timm, and where the function is
    in no file.
    """
    if not entry.startswith(PREFIX):
        return None
    name = entry.removeprefix(PREFIX).partition(":")[0]
    file = getattr(importlib.import_module(name), "__file__", None)
    if not file:
        return None
    root = Path(file).parents[name.count(".") + (Path(file).name == "__init__.py")]
    files = {Path(file), *_imported(name, root)}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(b"" if len(files) == 1 else f"|{path.relative_to(root)}|".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _imported(name: str, root: Path) -> set[Path]:
    """Files below a folder that a module and its imports are in; empty for an installed one, or one not to be read."""
    if root.name in ("site-packages", "dist-packages"):
        return set()
    finder = modulefinder.ModuleFinder(path=[str(root)], excludes=["kdep"])
    try:
        finder.import_hook(name)
    except (ImportError, SyntaxError, AttributeError, TypeError):  # such as a folder without __init__.py
        return set()
    return {Path(module.__file__) for module in finder.modules.values() if module.__file__}
