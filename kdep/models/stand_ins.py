"""What training tools leave beside the weights (settings, paths, log histories) -> stand-ins that run nothing.

torch's safe reader knows tensors and plain values, and refuses a file that holds anything else. A training checkpoint
does: timm's and DINO's have their arguments, mmengine's its smoothed losses, Lightning's the hyper-parameters. Under
each such name the reader is given a class of ours that takes whatever it is built from and keeps none of it. The tool's
own class is never looked up, so nothing of it runs, and the tool need not be installed.

A stand-in for every name would be as safe. But a file that reaches for `subprocess` was made to harm its readers, and
one that holds a whole network has no state dict: both are better refused by name. Hence the list. Of the tools it has
every class, known by its capital, and no function: those do something when a less careful reader calls them.
"""

import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

TOOLS = (
    *("addict", "easydict", "fvcore", "omegaconf", "yacs", "mmcv", "mmengine"),
    *("lightning", "lightning_fabric", "pytorch_lightning"),
)
# What their objects are made of. Of `builtins` types alone, and getattr: so pickle writes a method such as
# HistoryBuffer.min. What the stand-in for it gives cannot be called, the reader sees to that.
OTHERS = {
    "_codecs": ("encode",),
    "argparse": ("Namespace",),
    "builtins": (
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object"),
        *("range", "set", "slice", "str", "tuple"),
    ),
    "collections": ("defaultdict", "deque"),
    "datetime": ("date", "datetime", "time", "timedelta"),
    **dict.fromkeys(
        ("pathlib", "pathlib._local"),
        ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    ),
    "numpy": ("dtype", "ndarray"),
    **dict.fromkeys(("numpy.core.multiarray", "numpy._core.multiarray"), ("_reconstruct", "scalar")),
    "torch.torch_version": ("TorchVersion",),
    "types": ("SimpleNamespace",),
    "typing": ("Any",),
}
# Filled item by item, which the reader does to plain ones only; so these keep what they hold, tensors as well.
PLAIN = {
    **dict.fromkeys(("AttributeDict", "CfgNode", "ConfigDict", "Dict", "EasyDict", "defaultdict"), OrderedDict),
    "deque": list,
}


def load(path: Path) -> Any:
    """Open a .pth file with torch's safe reader, with stand-ins where a known tool left objects of its own.

    Raises:
        pickle.UnpicklingError: the file holds something else, which the message names.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error):
            raise
    with _only(stand_ins(path)):
        return torch.load(path, map_location="cpu", weights_only=True)


def stand_ins(path: Path) -> list[type]:
    """Stand-ins for what known tools left in a file, and for all that such objects are made of."""
    found = {(m, name) for m, name in _names(path) if m.partition(".")[0] in TOOLS and name[:1].isupper()}
    found |= {(module, name) for module, listed in OTHERS.items() for name in listed}
    return [_stand_in(*names) for names in sorted(found)]


def _stand_in(module: str, name: str) -> type:
    if plain := PLAIN.get(name):
        behaviour = {"__new__": lambda cls, *parts: plain()}
    else:
        behaviour = {"__init__": lambda self, *parts: None, "__setstate__": lambda self, state: None}
    return type(name, (), {"__module__": module, **behaviour})


def _names(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of all that a file's pickle refers to, read without following any of it."""
    with path.open("rb") as file:
        if file.peek(4)[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                content = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                yield from _globals(archive.open(content))
            return
        # Before torch 1.6: a magic number, a version, the machine, and then the content, each a pickle of its own.
        for _ in range(4):
            if file.peek(1):  # a lone pickle ends here; torch has the words for it
                yield from _globals(file)


def _globals(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            module, _, name = argument.partition(" ")
            yield module, name


@contextmanager
def _only(classes: Sequence[type]) -> Iterator[None]:
    """Let torch's reader know these classes; not those that a package in this process may have allowed it."""
    others = list(torch.serialization.get_safe_globals())
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(classes))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)
