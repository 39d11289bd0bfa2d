"""Read weight files that other tools wrote, without running anything in them.

torch's safe reader accepts tensors and plain values and refuses all other objects. Training checkpoints hold some: timm
and DINO store their arguments, mmengine its smoothed losses, Lightning its hyper-parameters. For each such class the
reader is given an empty stand-in of the same name. The tool's own class is never imported, so none of its code runs and
the tool need not be installed.

The classes are listed, although a stand-in for any name would be as safe: a file that refers to `subprocess` was made
to do harm, and a file that holds a whole network has no state dict. Both are better refused by name. Of a known tool
every class is accepted (a capital first letter) and no function.
"""

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from kdep.guard import RefusedError, refuse_bomb, refuse_growth
from kdep.models.checkpoints.checkpoint import LoadError

TOOLS = (
    *("addict", "easydict", "fvcore", "omegaconf", "yacs", "mmcv", "mmengine"),
    *("lightning", "lightning_fabric", "pytorch_lightning"),
)
# The classes that their objects consist of. `getattr` is how pickle writes a method such as HistoryBuffer.min; the
# stand-in that it yields cannot be called.
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
# Containers keep their items, which may be tensors: torch's reader fills only plain dictionaries and lists.
PLAIN = {
    **dict.fromkeys(("AttributeDict", "CfgNode", "ConfigDict", "Dict", "EasyDict", "defaultdict"), OrderedDict),
    "deque": list,
}


def read_weights(path: Path) -> Any:
    """Read a .pth or .safetensors file on the CPU; objects of known training tools become empty stand-ins.

    Raises:
        ValueError: there is no such file, it is not a file of weights, or it expands beyond `guard.max_expanded`.
        LoadError: the file holds objects whose loading could run code; names the first.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, expected a file of weights' if path.is_dir() else 'no such file'}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        refuse_bomb(path, path)
        content = _load(path)
        refuse_growth(_tensor_bytes(content), path.stat().st_size, path)
        return content
    except RefusedError:
        raise
    except pickle.UnpicklingError as error:
        if name := _refused(error):
            raise LoadError(
                f"{path}: refused, it holds {name}, whose loading can run code. Only tensors, plain values and the "
                "settings that known training tools store beside them are read. Save the state dict alone: "
                "torch.save(model.state_dict(), path)"
            ) from error
        # torch's own message would advise to load the file unsafely.
        raise LoadError(f"{path}: refused, a pickle of more than plain tensors, numbers and strings") from error
    except Exception as error:  # torch and safetensors raise a dozen types for damaged files
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"{path}: not a checkpoint, or a damaged one ({reason})") from error


def _tensor_bytes(content: Any) -> int:
    """Bytes that the tensors of nested dicts and lists take once they are copied.

    A tensor can have more elements than the file stores: one with a stride of 0 repeats a single value.
    """
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(map(_tensor_bytes, inner))


def _load(path: Path) -> Any:
    """Call torch's safe reader again with a stand-in for each class that it refuses, as long as the class is known."""
    classes: list[type] = []
    known = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()  # classes that a package in this process allowed are not looked up either
    try:
        while True:
            try:
                with torch.serialization.safe_globals(classes):
                    return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                module, _, name = _refused(error).rpartition(".")
                if not classes:
                    classes += [_stand_in(module, name) for module, names in OTHERS.items() for name in names]
                elif any(vars(c)["__module__"] == module and c.__name__ == name for c in classes):
                    raise
                if module.partition(".")[0] in TOOLS and name[:1].isupper():
                    classes.append(_stand_in(module, name))
                elif name not in OTHERS.get(module, ()):
                    raise
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)


def _refused(error: pickle.UnpicklingError) -> str:
    """Module and name of the object that torch's safe reader refused; empty where it refused something else."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found[1] if found else ""


def _stand_in(module: str, name: str) -> type:
    if plain := PLAIN.get(name):
        behaviour = {"__new__": lambda cls, *parts: plain()}
    else:
        behaviour = {"__init__": lambda self, *parts: None, "__setstate__": lambda self, state: None}
    return type(name, (), {"__module__": module, **behaviour})
