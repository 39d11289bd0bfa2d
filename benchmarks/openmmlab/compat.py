"""Prepare the import of mmengine, mmcv, mmdet and mmseg with current torch and Python."""

import contextlib
import functools
import importlib.metadata
import warnings

import torch
from filelock import FileLock

from kdep.data.sources.contents import cache_folder
from kdep_benchmarks.openmmlab import ops

# Known, harmless warnings, which would fill every cell's log.
NOISE = (
    ("pkg_resources is deprecated", ""),  # mmengine 0.10.7 still uses it
    ("", "mmcv.*"),
    ("", "mmengine.*"),
    ("", "mmseg.*"),
    ("", "mmdet.*"),
    ("", "timm.*"),
    ("__floordiv__ is deprecated", ""),
    ("torch.meshgrid", ""),  # mmdet's anchors
)


def prepare() -> None:
    """Make mmdet and mmseg importable and their configs readable. Call it before importing them; repeating is safe."""
    for message, module in NOISE:
        warnings.filterwarnings("ignore", message=message, module=module)
    import_yapf()  # first: to look for mmcv's operators imports mmengine too
    ops.install()
    from mmengine.config import utils

    # onedl-mmengine still looks for the distribution 'mmsegmentation' behind `mmseg::`, where it has another name.
    try:
        importlib.metadata.version("mmsegmentation")
    except importlib.metadata.PackageNotFoundError:
        utils.MODULE2PACKAGE["mmseg"] = "mmseg"
    # For each `_base_` mmengine reads the toolbox's whole index again, half a second of YAML.
    if not hasattr(utils.load, "cache_info"):
        utils.load = functools.cache(utils.load)
    # mmengine's own function resets the peak at every line of its log. A cell would report the peak since the last one.
    from mmengine.runner import log_processor

    log_processor.get_max_cuda_memory = peak_memory


def import_yapf() -> None:
    """Import yapf, which mmengine imports, while no other process does.

    A new installation of yapf writes its grammar into the user's cache when it is first imported. Of two cells that
    start at once one would read half a file.
    """
    with contextlib.ExitStack() as stack, contextlib.suppress(ImportError):
        with contextlib.suppress(OSError):  # a cache that cannot be written; yapf writes none then
            folder = cache_folder("locks")
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(folder / "yapf.lock"))
        import yapf  # noqa: F401


def peak_memory(device: torch.device | None = None) -> int:
    """Largest memory of tensors on a GPU so far, in MiB; 0 in a process without CUDA, which stays so."""
    return torch.cuda.max_memory_allocated(device) // 2**20 if torch.cuda.is_initialized() else 0
