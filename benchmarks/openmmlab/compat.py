"""Prepare the import of mmengine, mmcv, mmdet and mmseg with current torch and Python."""

import functools
import importlib.metadata
import multiprocessing.reduction
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch

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


def peak_memory(device: torch.device | None = None) -> int:
    """Largest memory of tensors on a GPU so far, in MiB; 0 in a process without CUDA, which stays so."""
    return torch.cuda.max_memory_allocated(device) // 2**20 if torch.cuda.is_initialized() else 0


def carry_into_workers(dataset_class: type) -> None:
    """Let spawned data-loader workers unpickle a dataset of mmdet or mmseg.

    Unpickling imports the dataset's class, which needs the stand-in for mmcv's operators. The dataset is therefore sent
    as bytes with a function of this module that calls `prepare` first. Forked workers do not need this.
    """
    multiprocessing.reduction.ForkingPickler.register(dataset_class, _reduce)


def _reduce(dataset: Any) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
    return _restore, (pickle.dumps(dataset),)


def _restore(content: bytes) -> Any:
    prepare()
    return pickle.loads(content)
