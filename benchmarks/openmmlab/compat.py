"""What mmengine, mmcv, mmdet and mmseg need before their first import on current torch and Python."""

import importlib.metadata
import multiprocessing.reduction
import pickle
import warnings
from collections.abc import Callable
from typing import Any

from kdep_benchmarks.openmmlab import ops

# Known and harmless; each would be printed once per process into every cell's log.
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
    """Make mmdet and mmseg importable and their configs readable. Call it before importing them; twice does no harm.

    Nothing is done to torch's refusal to unpickle arbitrary objects: our own training checkpoints (see `hooks`) hold
    only tensors and plain values, so that no class needs to be declared safe.
    """
    for message, module in NOISE:
        warnings.filterwarnings("ignore", message=message, module=module)
    ops.install()
    from mmengine.config import utils

    # onedl-mmengine still looks for the distribution 'mmsegmentation' behind `mmseg::`, where it has another name.
    if not _installed("mmsegmentation"):
        utils.MODULE2PACKAGE["mmseg"] = "mmseg"


def carry_into_workers(dataset_class: type) -> None:
    """Let spawned data-loader workers read a dataset of mmdet or mmseg.

    A spawned process starts without the stand-in and imports the dataset's class before it runs anything of ours. So
    the dataset travels as bytes beside a function of this module, which prepares first. Forked workers need none of it.
    """
    multiprocessing.reduction.ForkingPickler.register(dataset_class, _reduce)


def _reduce(dataset: Any) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
    return _restore, (pickle.dumps(dataset),)


def _restore(content: bytes) -> Any:
    prepare()
    return pickle.loads(content)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
